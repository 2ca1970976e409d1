"""scripts/check_golden.py eap-ig and peap: the references are met, damaged copies are not, and in one sentence."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from saes.files import FileError

ROOT = Path(__file__).resolve().parents[2]


def run(kind, folder):
    command = [sys.executable, str(ROOT / "scripts" / "check_golden.py"), kind, str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)


@pytest.fixture
def checks(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    from golden import eap_ig, peap

    return {"eap-ig": eap_ig.check, "peap": peap.check}


@pytest.fixture
def copied(shared, tmp_path):
    """Copies of both references side by side, as peap needs the models."""
    for name in ("eap_ig", "peap"):
        if not (shared / "golden" / name).is_dir():
            pytest.skip("the references of component circuits are not here")
        shutil.copytree(shared / "golden" / name, tmp_path / name)
    return tmp_path


def failed(text):
    return [line.split("  ")[0] for line in text.splitlines() if line.endswith("FAILED")]


@pytest.mark.parametrize(("kind", "rows"), [("eap-ig", 45), ("peap", 35)])
def test_the_references_are_met(shared, kind, rows):
    result = run(kind, shared / "golden" / kind.replace("-", "_"))
    assert result.returncode == 0, result.stdout + result.stderr
    assert len(result.stdout.splitlines()) > rows and not failed(result.stdout)
    for wrong in ("EAP_mean_BUGGY", "(MLPs)") if kind == "eap-ig" else ("metric_per_example",):
        assert f"{wrong} " in result.stdout and "left out: the original" in result.stdout


@pytest.mark.parametrize(
    "entry", ["edge.EAP", "edge.EAP-IG-activations_s5", "edge.exact", "node.EAP", "neuron.EAP-IG-inputs_s5"]
)
def test_one_wrong_score_is_found(copied, checks, capsys, entry):
    path = copied / "eap_ig" / "gpt2" / "scores.safetensors"
    scores = load_file(path)
    scores[entry].view(-1)[1] += 1e-6
    save_file(scores, path)
    assert checks["eap-ig"](copied / "eap_ig") is False
    assert [name for name in failed(capsys.readouterr().out) if entry in name]


def test_a_score_that_is_known_to_be_wrong_is_not_compared(copied, checks):
    path = copied / "eap_ig" / "gpt2" / "scores.safetensors"
    scores = load_file(path)
    scores["node.EAP"][3] += 1  # m0
    scores["edge.EAP_mean_BUGGY"] += 1
    scores["node.exact"] = torch.ones(10)
    save_file(scores, path)
    assert checks["eap-ig"](copied / "eap_ig" / "gpt2") is True


def test_a_wrong_circuit_and_a_wrong_curve_are_found(copied, checks, capsys):
    folder = copied / "eap_ig" / "gpt2"
    scores = load_file(folder / "scores.safetensors")
    scores["in_graph.greedy.absTrue.0.2"][0, 0] ^= 1
    save_file(scores, folder / "scores.safetensors")
    meta = json.loads((folder / "meta.json").read_text())
    meta["eval"]["curves_EAP-IG-inputs"]["topn.absFalse"]["faithfulness"][7] += 1e-6
    (folder / "meta.json").write_text(json.dumps(meta))
    assert checks["eap-ig"](folder) is False
    assert failed(capsys.readouterr().out) == ["gpt2: topn.absFalse: faithfulness", "gpt2: greedy.absTrue: circuits"]


def test_another_model_is_found(copied, checks, capsys):
    path = copied / "eap_ig" / "gpt2" / "model_hf.safetensors"
    weights = load_file(path)
    weights["transformer.h.1.attn.c_attn.weight"][0, 0] += 1e-5
    save_file(weights, path)
    assert checks["eap-ig"](copied / "eap_ig") is False
    assert len(failed(capsys.readouterr().out)) > 10


@pytest.mark.parametrize("edge", [{"crossing": False}, {"crossing": True, "up": "q"}, {"crossing": True, "up": "v"}])
def test_one_wrong_span_score_is_found(copied, checks, capsys, edge):
    path = copied / "peap" / "gpt2_zero.json"
    stored = json.loads(path.read_text())
    found = [e for e in stored["edges"] if e["crossing"] == edge["crossing"] and e["up"][0] == edge.get("up", "r")][-1]
    found["avg"] = [x + 1e-3 for x in found["avg"]] if isinstance(found["avg"], list) else found["avg"] + 1e-3
    path.write_text(json.dumps(stored))
    assert checks["peap"](copied / "peap") is False
    assert all("gpt2_zero" in name and "avg" in name for name in failed(capsys.readouterr().out))


def spoil_json(path, change):
    stored = json.loads(path.read_text())
    change(stored)
    path.write_text(json.dumps(stored))


def spoil_tensors(path, change):
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


DAMAGE = {
    "scores cut off": ("eap-ig", lambda f: (f / "scores.safetensors").write_bytes((f / "scores.safetensors").read_bytes()[:999])),
    "no meta": ("eap-ig", lambda f: (f / "meta.json").unlink()),
    "meta cut off": ("eap-ig", lambda f: (f / "meta.json").write_text("{")),
    "no inputs": ("eap-ig", lambda f: (f / "inputs.safetensors").unlink()),
    "no config": ("eap-ig", lambda f: (f / "config.json").unlink()),
    "no weights": ("eap-ig", lambda f: (f / "model_hf.safetensors").unlink()),
    "a weight is missing": (
        "eap-ig", lambda f: spoil_tensors(f / "model_hf.safetensors", lambda t: t.pop("transformer.ln_f.bias"))),
    "a weight of another shape": (
        "eap-ig", lambda f: spoil_tensors(f / "model_hf.safetensors", lambda t: t.update({"lm_head.weight": torch.ones(3)}))),
    "NaN in the weights": (
        "eap-ig", lambda f: spoil_tensors(f / "model_hf.safetensors", lambda t: t["lm_head.weight"].fill_(torch.nan))),
    "labels are missing": (
        "eap-ig", lambda f: spoil_tensors(f / "inputs.safetensors", lambda t: t.pop("labels_correct_incorrect"))),
    "a token beyond the vocabulary": (
        "eap-ig", lambda f: spoil_tensors(f / "inputs.safetensors", lambda t: t["clean_tokens"].fill_(999))),
    "an unknown score": (
        "eap-ig", lambda f: spoil_tensors(f / "scores.safetensors", lambda t: t.update({"edge.magic": torch.ones(10, 22)}))),
    "other names": ("eap-ig", lambda f: spoil_json(f / "meta.json", lambda m: m["src_nodes(rows)"].reverse())),
    "no curves": ("eap-ig", lambda f: spoil_json(f / "meta.json", lambda m: m.pop("eval"))),
    "a mask is missing": (
        "eap-ig", lambda f: spoil_tensors(f / "scores.safetensors", lambda t: t.pop("in_graph.topn.absTrue.0.1"))),
    "peap: no vocabulary": ("peap", lambda f: spoil_json(f / "gpt2_zero.json", lambda m: m.pop("vocab"))),
    "peap: an edge is missing": ("peap", lambda f: spoil_json(f / "gpt2_zero.json", lambda m: m["edges"].pop())),
    "peap: an unknown word": (
        "peap", lambda f: spoil_json(f / "gpt2_zero.json", lambda m: m["rows"][0].__setitem__(0, "The horse near The car"))),
    "peap: another length": (
        "peap", lambda f: spoil_json(f / "gpt2_zero.json", lambda m: m["rows"][0].__setitem__(0, "The man near"))),
    "peap: an edge of no node": (
        "peap", lambda f: spoil_json(f / "gpt2_zero.json", lambda m: m["edges"][0].update({"up": ["h", 9, 0]}))),
    "peap: cut off": ("peap", lambda f: (f / "gpt2_zero.json").write_text('{"edges": [')),
    "peap: no model": ("peap", lambda f: shutil.rmtree(f.parent / "eap_ig")),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_folders_are_told_in_one_sentence(copied, checks, damage):
    kind, spoil = DAMAGE[damage]
    folder = copied / "eap_ig" / "gpt2" if kind == "eap-ig" else copied / "peap"
    spoil(folder)
    with pytest.raises(FileError) as told:
        checks[kind](folder)
    assert "\n" not in str(told.value) and str(copied) in str(told.value)


def test_scores_of_another_shape_or_with_nan_fail(copied, checks, capsys):
    path = copied / "eap_ig" / "gpt2" / "scores.safetensors"
    spoil_tensors(path, lambda t: t.update({"edge.EAP": t["edge.EAP"][:, :21].clone()}))
    spoil_tensors(path, lambda t: t["edge.exact"].view(-1)[:1].fill_(torch.nan))
    assert checks["eap-ig"](copied / "eap_ig") is False
    assert len(failed(capsys.readouterr().out)) == 2


@pytest.mark.parametrize("kind", ["eap-ig", "peap"])
def test_the_script_ends_with_one_sentence_for_a_folder_without_a_reference(tmp_path, kind):
    result = run(kind, tmp_path)
    assert result.returncode == 1 and result.stderr.count("\n") == 1 and "name a folder of" in result.stderr
