"""scripts/check_golden.py eap-ig and peap: the references are met, damaged copies are not, and in one sentence."""

import json
import shutil
from functools import reduce
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from saes.files import FileError
from tests.golden_for_tests import check_golden

ROOT = Path(__file__).resolve().parents[2]


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
    result = check_golden(kind, shared / "golden" / kind.replace("-", "_"))
    assert result.returncode == 0, result.stdout + result.stderr
    assert len(result.stdout.splitlines()) > rows and not failed(result.stdout)
    for wrong in ("EAP_mean_BUGGY", "(MLPs)") if kind == "eap-ig" else ("metric_per_example",):
        assert f"{wrong} " in result.stdout and "left out: the original" in result.stdout


def spoil_json(path, change):
    stored = json.loads(path.read_text())
    change(stored)
    path.write_text(json.dumps(stored))


def spoil_tensors(path, change):
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def test_wrong_numbers_are_found_and_no_others(copied, checks, capsys):
    """One number each, a shape and a NaN; of those that are known to be wrong nothing is compared."""
    folder = copied / "eap_ig" / "gpt2"
    off = ["edge.EAP", "edge.EAP-IG-activations_s5", "edge.clean-corrupted", "node.EAP", "neuron.EAP-IG-inputs_s5"]

    def change(scores):
        for name in off:
            scores[name].view(-1)[1] += 1e-6
        scores["edge.exact"].view(-1)[0] = torch.nan
        scores["edge.EAP_zero"] = scores["edge.EAP_zero"][:, :21].clone()
        scores["in_graph.greedy.absTrue.0.2"][0, 0] ^= 1
        scores["node.EAP"][3] += 1  # m0
        scores["edge.EAP_mean_BUGGY"] += 1
        scores["node.exact"] = torch.ones(10)

    spoil_tensors(folder / "scores.safetensors", change)
    curve = ["eval", "curves_EAP-IG-inputs", "topn.absFalse", "faithfulness"]
    spoil_json(folder / "meta.json", lambda meta: reduce(dict.get, curve, meta).__setitem__(7, 1.35))
    assert checks["eap-ig"](copied / "eap_ig") is False
    printed = capsys.readouterr().out
    expected = [f"gpt2: {name}" for name in (*off, "edge.exact", "edge.EAP_zero")]
    expected += ["gpt2: topn.absFalse: faithfulness", "gpt2: greedy.absTrue: circuits"]
    assert sorted(name.split(" (")[0] for name in failed(printed)) == sorted(expected)
    assert "NOT within the limits" in printed


def test_wrong_span_scores_and_another_model_are_found(copied, checks, capsys):
    def change(stored):
        for crossing, kind in ((False, "r"), (True, "q"), (True, "v")):
            edge = [e for e in stored["edges"] if e["crossing"] == crossing and e["up"][0] == kind][-1]
            edge["avg"] = [x + 1e-3 for x in edge["avg"]] if isinstance(edge["avg"], list) else edge["avg"] + 1e-3

    (copied / "peap" / "gpt2_counterfactual.json").unlink()
    spoil_json(copied / "peap" / "gpt2_zero.json", change)
    assert checks["peap"](copied / "peap") is False
    wrong = ("crossing q, avg", "crossing v, avg", "whole prompt, avg", "within spans, avg")
    assert sorted(failed(capsys.readouterr().out)) == [f"gpt2_zero: {name}" for name in wrong]
    weights = copied / "eap_ig" / "gpt2" / "model_hf.safetensors"
    spoil_tensors(weights, lambda w: w["transformer.h.1.attn.c_attn.weight"][0, 0].add_(1e-3))
    assert checks["peap"](copied / "peap") is False
    assert len(failed(capsys.readouterr().out)) > 10


def scores(change):
    return lambda folder: spoil_tensors(folder / "scores.safetensors", change)


def inputs(change):
    return lambda folder: spoil_tensors(folder / "inputs.safetensors", change)


def weights(change):
    return lambda folder: spoil_tensors(folder / "model_hf.safetensors", change)


def meta(change):
    return lambda folder: spoil_json(folder / "meta.json", change)


def zero(change):
    return lambda folder: spoil_json(folder / "gpt2_zero.json", change)


def row(prompt):
    return zero(lambda stored: stored["rows"][0].__setitem__(0, prompt))


def cut_off(name):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:999])


def gone(name):
    return lambda folder: (folder / name).unlink()


EAP_DAMAGE = {
    "scores cut off": cut_off("scores.safetensors"),
    "meta cut off": cut_off("meta.json"),
    "no meta": gone("meta.json"),
    "no inputs": gone("inputs.safetensors"),
    "no config": gone("config.json"),
    "no weights": gone("model_hf.safetensors"),
    "a weight is missing": weights(lambda w: w.pop("transformer.ln_f.bias")),
    "a weight of another shape": weights(lambda w: w.update({"lm_head.weight": torch.ones(3)})),
    "NaN in the weights": weights(lambda w: w["lm_head.weight"].fill_(torch.nan)),
    "labels are missing": inputs(lambda i: i.pop("labels_correct_incorrect")),
    "a token beyond the vocabulary": inputs(lambda i: i["clean_tokens"].fill_(999)),
    "an unknown score": scores(lambda s: s.update({"edge.magic": torch.ones(10, 22)})),
    "an unknown kind of score": scores(lambda s: s.update({"path.EAP": torch.ones(10, 22)})),
    "other names": meta(lambda m: m["src_nodes(rows)"].reverse()),
    "no curves": meta(lambda m: m.pop("eval")),
    "a mask is missing": scores(lambda s: s.pop("in_graph.topn.absTrue.0.1")),
}
PEAP_DAMAGE = {
    "no vocabulary": zero(lambda stored: stored.pop("vocab")),
    "an edge is missing": zero(lambda stored: stored["edges"].pop()),
    "an unknown word": row("The horse near The car"),
    "another length": row("The man near"),
    "an edge of no node": zero(lambda stored: stored["edges"][0].update({"up": ["h", 9, 0]})),
    "cut off": cut_off("gpt2_zero.json"),
    "no model": lambda folder: shutil.rmtree(folder.parent / "eap_ig"),
}


def shortened(copied):
    """The EAP-IG reference with one curve and the scores that it needs."""
    folder = copied / "eap_ig" / "gpt2"
    keep = ("edge.EAP", "edge.EAP-IG-inputs_s5")
    spoil_tensors(
        folder / "scores.safetensors",
        lambda s: [s.pop(name) for name in list(s) if name not in keep and "topn.absTrue" not in name],
    )

    def one_curve(stored):
        curves = stored["eval"]["curves_EAP-IG-inputs"]
        stored["eval"]["curves_EAP-IG-inputs"] = {"topn.absTrue": curves["topn.absTrue"]}

    spoil_json(folder / "meta.json", one_curve)
    return folder


@pytest.mark.parametrize("damage", EAP_DAMAGE)
def test_a_damaged_folder_of_edges_is_told_in_one_sentence(copied, checks, damage):
    folder = shortened(copied)
    EAP_DAMAGE[damage](folder)
    with pytest.raises(FileError) as told:
        checks["eap-ig"](folder)
    assert "\n" not in str(told.value) and str(copied) in str(told.value)


@pytest.mark.parametrize("damage", PEAP_DAMAGE)
def test_a_damaged_folder_of_spans_is_told_in_one_sentence(copied, checks, damage):
    (copied / "peap" / "gpt2_counterfactual.json").unlink()
    PEAP_DAMAGE[damage](copied / "peap")
    with pytest.raises(FileError) as told:
        checks["peap"](copied / "peap")
    assert "\n" not in str(told.value) and str(copied) in str(told.value)


@pytest.mark.parametrize("kind", ["eap-ig", "peap"])
def test_the_script_ends_with_one_sentence_for_a_folder_without_a_reference(tmp_path, kind):
    result = check_golden(kind, tmp_path)
    assert result.returncode == 1 and result.stderr.count("\n") == 1 and "name a folder of" in result.stderr
