"""Wrong commands end in one sentence on stderr, a non-zero status, and a folder that is as it was."""

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from boardgames.dictionaries import OTHELLO_DICTIONARIES
from boardgames.othello.rules import NO_MOVE, random_games
from kibitz.cli import main

DICTIONARY = OTHELLO_DICTIONARIES / "resid_1"


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A working folder with inputs that are wrong in one way each."""
    games = random_games(40, np.random.default_rng(0))
    np.savez(tmp_path / "few.npz", moves=games)
    illegal = games.copy()
    illegal[7, 5] = illegal[7, 4]
    np.savez(tmp_path / "illegal.npz", moves=illegal)
    np.savez(tmp_path / "other.npz", board=games)
    np.savez(tmp_path / "wide.npz", moves=games.astype(np.int64))
    np.savez(tmp_path / "none.npz", moves=np.full((0, 60), NO_MOVE, np.uint8))
    (tmp_path / "text.npz").write_text("1. e4 e5")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.tex").write_text("three years of work")
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for file in DICTIONARY.iterdir():
        (damaged / file.name).write_bytes(file.read_bytes())
    weights = damaged / "dictionary.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def contents(folder: Path) -> dict[str, bytes | None]:
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


WRONG = [
    (["demo", "--games", "illegal.npz"], "game 7, ply 5"),
    (["export", str(DICTIONARY), "out", "--to", "sparsify"], "sparsify cannot express relu"),
    (["export", str(DICTIONARY), "taken", "--to", "saelens"], "taken"),
    (["export", "damaged", "out", "--to", "saelens"], "dictionary.safetensors"),
    (["import", "nowhere", "out"], "nowhere: no such folder"),
    (["import", "taken", "out"], "taken"),
    (["import", str(DICTIONARY), "out", "--from", "saelens"], "cfg.json"),
    (["sweep", "--site", "resid_9"], "resid_9"),
    (["sweep", "--architecture", "topk", "--coefficients", "0.1"], "coefficient"),
    (["sweep", "--architecture", "magic"], "magic"),
    (["bench", "speed"], "speed"),
    (["bench", "recovery", "--recipes", "magic"], "magic"),
    (["bench", "recovery", "--seeds", "0"], "0"),
    (["demo", "--games", "missing.npz"], "missing.npz: no such file"),
    (["demo", "--games", "text.npz"], "text.npz: not a readable"),
    (["demo", "--games", "other.npz"], "'moves'"),
    (["demo", "--games", "wide.npz"], "int64"),
    (["demo", "--games", "none.npz"], "none.npz"),
    (["demo", "--games", "few.npz"], "40 different games"),
    (["demo", "--site", "resid_9"], "resid_9"),
    (["demo", "--site", ""], "no such site"),
    (["demo", "--out", "taken"], "not a run"),
    (["demo", "--out", "few.npz"], "is a file"),
    (["demo", "--seed", "-1"], "seed is -1"),
    (["demo", "--seed", "many"], "seed"),
    (["demo", "--gmaes", "few.npz"], "--gmaes"),
    (["eval", "nowhere"], "nowhere"),
    (["eval", "damaged"], "dictionary.safetensors"),
    (["eval", str(DICTIONARY), "--site", "mlp_hidden_1"], "width 512, the dictionary 128"),
    (["eval", str(DICTIONARY), "--model", "taken", "--games", "few.npz"], "taken"),
    (["eval", str(DICTIONARY), "--games", "few.npz"], "--no-boards leaves the boards out"),
    (["eval"], "dictionary"),
    (["dance"], "dance"),
    ([], "demo"),
]


@pytest.mark.parametrize(("command", "said"), WRONG, ids=[" ".join(c)[-40:] or "nothing" for c, _ in WRONG])
def test_wrong_command(folder, capfd, command, said):
    before = contents(folder)
    with pytest.raises(SystemExit) as leaving:
        main(command)
    complaint = capfd.readouterr().err
    assert leaving.value.code not in (0, None)
    assert complaint.startswith("kibitz: ") and said in complaint
    assert complaint.count("\n") == 1 and "Traceback" not in complaint
    assert contents(folder) == before


def start(folder: Path, **options) -> subprocess.Popen:
    command = [sys.executable, "-c", "from kibitz.cli import main; main()", "demo", "--quick", "--out", "demo"]
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # a shell in the background ignores Ctrl-C, and hands that on
        **{"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL), **options},
    )


def wait_for_training(process: subprocess.Popen) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("[3/7]"):
            time.sleep(1)
            return
    raise AssertionError("the demo ended before it trained")


def test_ctrl_c_leaves_the_earlier_run(tmp_path):
    (tmp_path / "demo").mkdir()
    process = start(tmp_path)
    wait_for_training(process)
    process.send_signal(signal.SIGINT)
    _, complaint = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted" in complaint.splitlines()[-1] and "Traceback" not in complaint
    assert contents(tmp_path) == {"demo": None}


def test_a_killed_run_leaves_nothing_that_the_next_one_keeps(tmp_path):
    process = start(tmp_path)
    wait_for_training(process)
    process.kill()
    process.communicate(timeout=60)
    assert not (tmp_path / "demo").exists()
    again = start(tmp_path)
    wait_for_training(again)
    staged = [p.name for p in tmp_path.iterdir()]
    again.send_signal(signal.SIGINT)
    again.communicate(timeout=60)
    assert len(staged) == 1 and str(again.pid) in staged[0]  # the dead run's staging folder is gone
    assert not list(tmp_path.iterdir())


def test_full_disk(tmp_path):
    """A limit on file size fails the write of the checkpoint as a full disk does."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))

    process = start(tmp_path, preexec_fn=limit)
    _, complaint = process.communicate(timeout=300)
    assert process.returncode == 1
    said = complaint.splitlines()[-1]
    assert said.startswith("kibitz: ") and ("disk" in said or "too large" in said) and "Traceback" not in complaint
    assert not list(tmp_path.iterdir())
