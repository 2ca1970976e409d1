"""scripts/check_golden.py feature-circuits: node effects, edges and faithfulness against the corrected references."""

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from saes.files import FileError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def check(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    from golden import feature_circuits

    return feature_circuits.check


@pytest.fixture
def cases(shared):
    return shared / "golden" / "feature_circuits"


def test_everything_is_within_its_limit(check, cases, capsys):
    passed, said = check(cases), capsys.readouterr().out
    assert passed and "FAILED" not in said, said
    for case in cases.iterdir():
        for kind in ("attrib.effect", "ig.effect", "exact.effect", "sum.edge", "none.edge"):
            assert said.count(f"{case.name}: {kind}") >= 10, (case.name, kind)


def test_a_reference_that_differs_fails(check, cases, tmp_path, capsys):
    case = shutil.copytree(cases / "parallel_nopair", tmp_path / "case")
    edges = load_file(case / "circuit_fixed.safetensors")
    edges["none.edge.embed->attn_0"] = edges["none.edge.embed->attn_0"] * (1 + 1e-7)
    save_file(edges, case / "circuit_fixed.safetensors")
    assert not check(case)
    failed = [line for line in capsys.readouterr().out.splitlines() if "FAILED" in line]
    assert len(failed) == 1 and "none.edge.embed->attn_0" in failed[0]


def test_damaged_folders_are_one_sentence(check, cases, tmp_path):
    with pytest.raises(FileError, match=r"holds no meta\.json"):
        check(tmp_path)
    case = shutil.copytree(cases / "parallel_nopair", tmp_path / "case")
    (case / "saes.safetensors").write_bytes(b"short")
    with pytest.raises(FileError, match=r"saes\.safetensors"):
        check(case)
