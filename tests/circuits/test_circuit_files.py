"""A circuit's folder holds all of it, says what it was found with, and is refused when it is not whole."""

import json
from dataclasses import replace

import pytest
import torch

from circuits import discover
from circuits.circuit import CircuitError
from circuits.circuit_files import load_circuit, save_circuit
from circuits.discover import CircuitConfig, find_circuit
from circuits.end_points import ToOther, ToZero
from circuits.metrics import LogitDifference, OfLogits
from circuits.provenance import check_dictionaries, provenance, tokens_digest
from saes.files import FileError
from tests.circuits.circuits_for_tests import HOSTILE, circuit_of
from tests.circuits.small import dictionaries_for, pairs, small_model

CONFIG = CircuitConfig(nodes=20, edges=30, steps=2, batch_size=2)


@pytest.fixture(scope="module")
def case():
    model = small_model()
    return model, dictionaries_for(model), pairs()


def contents(circuit):
    return circuit.sites, circuit.places, dict(circuit.nodes), dict(circuit.edges), dict(circuit.provenance)


def test_a_circuit_survives_its_file(case, tmp_path):
    model, dictionaries, examples = case
    found = find_circuit(model, dictionaries, examples.by_position(), LogitDifference(), CONFIG, progress=False).circuit
    found = found.with_provenance(provenance(model, dictionaries, examples, LogitDifference(), CONFIG))
    save_circuit(found, tmp_path)
    assert contents(load_circuit(tmp_path, dictionaries)) == contents(found)
    said = json.loads((tmp_path / "manifest.json").read_text())["provenance"]
    assert said["metric"] == {"name": "logit-difference"} and said["config"]["nodes"] == 20
    assert said["examples"]["count"] == len(examples) and set(said["dictionaries"]) == {s.name for s in dictionaries}
    assert set(said["versions"]) == {"kibitz", "torch", "transformers"}


def test_effects_that_are_not_kept_for_the_edges_are_measured_again_to_the_bit(case, monkeypatch):
    model, dictionaries, examples = case
    config = replace(CONFIG, batch_size=2)
    kept, again = [], []
    for found, held in ((kept, discover._HELD), (again, 0)):
        monkeypatch.setattr(discover, "_HELD", held)
        found.append(find_circuit(model, dictionaries, examples, LogitDifference(), config, progress=False).circuit)
    assert contents(kept[0]) == contents(again[0]) and again[0].edges


@pytest.mark.parametrize(
    "nodes, edges, places", [(0, 0, ("all",)), (1, 0, ("all",)), (30, 60, ("x\ny", "@all", "b/c"))]
)
def test_any_circuit_survives_its_file(nodes, edges, places, tmp_path):
    circuit = circuit_of(nodes, edges, places=places, note=HOSTILE)
    save_circuit(circuit, tmp_path)
    assert contents(load_circuit(tmp_path)) == contents(circuit)


def test_other_dictionaries_are_named(case, tmp_path):
    model, dictionaries, examples = case
    circuit = circuit_of(4, 2).with_provenance(provenance(model, dictionaries, examples, LogitDifference(), CONFIG))
    circuit = replace(circuit, sites=tuple(dictionaries), nodes={}, edges={})
    check_dictionaries(circuit, dictionaries)
    last = circuit.sites[-1]
    changed = dictionaries | {last: dictionaries_for(model)[last]}
    check_dictionaries(circuit, changed)  # the same weights in another object
    changed[last].W_dec[3] *= 1.5
    save_circuit(circuit, tmp_path)
    with pytest.raises(CircuitError, match=f"another dictionary at {last.name}"):
        load_circuit(tmp_path, changed)
    with pytest.raises(CircuitError, match=f"features of {last.name}, where no dictionary"):
        check_dictionaries(circuit, {site: d for site, d in dictionaries.items() if site != last})
    with pytest.raises(CircuitError, match="does not say which dictionaries"):
        check_dictionaries(replace(circuit, provenance={}), dictionaries)


def test_provenance_tells_metrics_end_points_and_examples_apart(case):
    model, dictionaries, examples = case

    def said(metric=None, **options):
        return provenance(model, dictionaries, examples, metric or LogitDifference(), CONFIG, **options)

    def twice(output, _examples):
        return 2 * output[:, 0]

    assert said() == said() == json.loads(json.dumps(said()))
    assert said(OfLogits(twice))["metric"] == {"name": "OfLogits", "function": "twice", "reads": None}
    tokens = torch.arange(10).reshape(2, 5)
    ends = [said()["to"], said(to=ToZero())["to"], said(to=ToOther(tokens))["to"], said(to=ToOther(tokens + 1))["to"]]
    assert all(ends.count(end) == 1 for end in ends)
    lengths = torch.tensor([4, 5, 3])
    short = replace(examples, lengths=lengths, position=lengths - 1)
    behind = torch.arange(5) >= lengths[:, None]
    repadded = replace(short, clean=short.clean.masked_fill(behind, 9), patch=short.patch.masked_fill(behind, 8))
    assert tokens_digest(short) == tokens_digest(repadded) != tokens_digest(examples)
    changed = short.patch.clone()
    changed[1, 4] += 1
    assert tokens_digest(replace(short, patch=changed)) != tokens_digest(short)


def edited(folder, change):
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda m: m.update(format="kibitz-circuit-1"), "format 'kibitz-circuit-1'; expected 'kibitz-circuit-2'"),
        (lambda m: m["nodes"].pop(), "not a whole circuit"),
        (lambda m: m["nodes"].append(["embed", 1, "all"]), "not a whole circuit"),
        (lambda m: m["nodes"].__setitem__(0, m["nodes"][1]), "there twice"),
        (lambda m: m["nodes"].__setitem__(0, ["embed", 1, "verb"]), "does not list"),
        (lambda m: m["nodes"].__setitem__(0, ["resid_9", 1, "all"]), "does not list"),
        (lambda m: m["nodes"].__setitem__(0, ["embed", -3, "all"]), "feature -3 of embed is no"),
        (lambda m: m.pop("sites"), "not a whole circuit"),
        (lambda m: m.update(sites=3), "not a whole circuit"),
        (lambda m: m.pop("tensors"), "not the one of this manifest"),
    ],
)
def test_damaged_manifests(change, message, tmp_path):
    save_circuit(circuit_of(8, 9), tmp_path)
    edited(tmp_path, change)
    with pytest.raises(FileError, match=message):
        load_circuit(tmp_path)


def test_half_written_folders(tmp_path):
    with pytest.raises(FileError, match=r"manifest\.json: no such file"):
        load_circuit(tmp_path / "none")
    save_circuit(circuit_of(8, 9, seed=1), tmp_path / "one")
    save_circuit(circuit_of(8, 9, seed=2), tmp_path / "two")
    (tmp_path / "two" / "circuit.safetensors").replace(tmp_path / "one" / "circuit.safetensors")
    with pytest.raises(FileError, match="not the one of this manifest"):  # overwritten as far as the tensors
        load_circuit(tmp_path / "one")
    with pytest.raises(FileError, match=r"circuit\.safetensors: no such file"):
        load_circuit(tmp_path / "two")
    (tmp_path / "one" / "manifest.json").write_text("[1, 2]")
    with pytest.raises(FileError, match="format None"):
        load_circuit(tmp_path / "one")


@pytest.mark.parametrize("bad", [float("nan"), {1, 2}, torch.ones(1)])
def test_a_provenance_that_is_no_json_is_refused_before_anything_is_written(bad, tmp_path):
    with pytest.raises(FileError, match="provenance cannot be written as JSON"):
        save_circuit(circuit_of(2, 0, fact=bad), tmp_path / "c")
    assert not (tmp_path / "c").exists()
