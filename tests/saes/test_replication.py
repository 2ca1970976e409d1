"""scripts/check_golden.py: the references are met, and a reference that is not, or is broken, is said so."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tests.golden_for_tests import check_golden


@pytest.fixture
def references(shared: Path) -> Path:
    return shared / "golden" / "dictionary_learning"


@pytest.mark.slow
def test_every_case_is_within_its_limits(references):
    done = check_golden("dictionary-learning", references)
    assert done.returncode == 0 and "all within their limits" in done.stdout, done.stdout + done.stderr
    assert "FAILED" not in done.stdout and "nan" not in done.stdout
    for case in references.glob("*/config.json"):
        assert f"\n{case.parent.name} " in done.stdout


def copied(case: str, references: Path, tmp_path: Path) -> Path:
    shutil.copytree(references / case, tmp_path / case)
    for file in (tmp_path / case).iterdir():
        file.chmod(0o644)
    return tmp_path / case


@pytest.mark.parametrize(
    ("case", "key", "said"),
    [
        ("standard", "final.decoder.weight", "final W_dec"),
        ("standard", "loss", "loss"),
        ("p_anneal_smooth", "sparsity_coeff", "coefficient"),
        ("p_anneal_smooth", "p", "p"),
        ("top_k", "threshold", "threshold"),
    ],
)
def test_a_reference_that_is_a_little_different_is_not_met(case, key, said, references, tmp_path):
    folder = copied(case, references, tmp_path)
    outputs = load_file(folder / "outputs.safetensors")
    outputs[key] = outputs[key] * 1.0001
    save_file(outputs, folder / "outputs.safetensors")
    done = check_golden("dictionary-learning", folder)
    assert done.returncode == 1, done.stdout + done.stderr
    failed = [line.split(":")[0] for line in done.stdout.splitlines() if "FAILED" in line]
    assert failed == [f"  FAILED  {said}"]


def test_a_chaotic_case_is_held_to_single_steps(references, tmp_path):
    folder = copied("p_anneal_lp", references, tmp_path)
    stored = load_file(folder / "restarts.safetensors")
    (key,) = [key for key in stored if key.endswith("grad.encoder.weight") and "052" in key]
    stored[key] = stored[key] * 1.05
    save_file(stored, folder / "restarts.safetensors")
    done = check_golden("dictionary-learning", folder)
    assert done.returncode == 1 and "FAILED  gradient W_enc" in done.stdout, done.stdout + done.stderr


def truncated(folder: Path) -> None:
    file = folder / "outputs.safetensors"
    file.write_bytes(file.read_bytes()[:1000])


def without_weights(folder: Path) -> None:
    inputs = load_file(folder / "inputs.safetensors")
    save_file({"x": inputs["x"]}, folder / "inputs.safetensors")


def unknown_trainer(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "trainer": "MysteryTrainer"}))


@pytest.mark.parametrize(
    ("damage", "said"),
    [(truncated, "outputs.safetensors"), (without_weights, "standard"), (unknown_trainer, "MysteryTrainer")],
)
def test_a_broken_reference_is_one_sentence(damage, said, references, tmp_path):
    folder = copied("standard", references, tmp_path)
    damage(folder)
    done = check_golden("dictionary-learning", folder)
    assert done.returncode == 1 and said in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and len(done.stderr.strip().splitlines()) == 1


def test_a_folder_without_a_case_and_another_reference_are_refused(tmp_path):
    for arguments, said in (
        (("dictionary-learning", tmp_path), "holds no case"),
        (("sae-lens", tmp_path), "no reference 'sae-lens'"),
    ):
        done = check_golden(*arguments)
        assert done.returncode == 1 and said in done.stderr
