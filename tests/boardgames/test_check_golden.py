"""scripts/check_golden.py on labels and metrics: equal to the reference, and one sentence for a folder that is not."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from saes.files import FileError
from tests.golden_for_tests import check_golden

ROOT = Path(__file__).resolve().parents[2]


def run(kind, folder):
    """As users do."""
    command = [sys.executable, str(ROOT / "scripts" / "check_golden.py"), kind, str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)


@pytest.mark.parametrize(("kind", "rows"), [("board-labels", 50), ("board-metrics", 70)])
def test_the_references_are_met(shared, kind, rows):
    result = check_golden(kind, shared / "golden" / "boardgames")
    assert result.returncode == 0, result.stdout + result.stderr
    assert len(result.stdout.splitlines()) > rows and "FAILED" not in result.stdout


def test_one_wrong_label_is_found(shared, tmp_path):
    folder = tmp_path / "chess"
    shutil.copytree(shared / "golden" / "boardgames" / "chess_labels", folder)
    arrays = dict(np.load(folder / "labels.npz"))
    arrays["board_to_pin_state"][17] ^= 1
    np.savez(folder / "labels.npz", **arrays)
    result = check_golden("board-labels", tmp_path)
    wrong = [line for line in result.stdout.splitlines() if "FAILED" in line]
    assert result.returncode == 1 and len(wrong) == 1 and wrong[0].split()[0] == "board_to_pin_state"
    assert "NOT equal" in result.stdout


def test_damaged_folders_are_told_in_one_sentence(shared, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    from golden import board_labels

    folder = tmp_path / "chess"
    shutil.copytree(shared / "golden" / "boardgames" / "chess_labels", folder)
    arrays = dict(np.load(folder / "labels.npz"))
    np.savez(folder / "labels.npz", board_to_unicorns=arrays["board_to_pin_state"])
    with pytest.raises(FileError, match="no property is known for the array 'board_to_unicorns'"):
        board_labels.check(folder)
    np.savez(folder / "labels.npz", board_to_pin_state=arrays["board_to_pin_state"][:9])
    with pytest.raises(FileError, match=r"board_to_pin_state is \[9\]; expected 800 rows"):
        board_labels.check(folder)
    (folder / "games.json").write_text('[";1.e4 e5 2.Ke3"]')
    with pytest.raises(FileError, match="game 0, ply 2: '2.Ke3': not legal"):
        board_labels.check(folder)


def test_a_truncated_file_is_told_in_one_line(shared, tmp_path):
    folder = tmp_path / "othello"
    shutil.copytree(shared / "golden" / "boardgames" / "othello_labels", folder)
    (folder / "games.npz").write_bytes((folder / "games.npz").read_bytes()[:1000])
    result = check_golden("board-labels", folder)
    assert result.returncode == 1 and result.stderr.startswith("check_golden: ") and result.stderr.count("\n") == 1
    assert "not a readable file of arrays" in result.stderr


@pytest.mark.parametrize(("kind", "called"), [("board-labels", run), ("board-metrics", check_golden)])
def test_a_folder_without_a_reference_is_refused(tmp_path, kind, called):
    result = called(kind, tmp_path)
    assert result.returncode == 1 and result.stderr.count("\n") == 1 and "name a " in result.stderr
