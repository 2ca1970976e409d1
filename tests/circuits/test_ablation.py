"""Ablation, faithfulness and whole circuits."""

import pytest
import torch

from circuits.ablation import Kept, ablate_features, ablation_edits, keep_all, keep_none, replacements
from circuits.attribution import site_values
from circuits.circuit import Circuit, Node
from circuits.circuit_files import load_circuit, save_circuit
from circuits.discover import CircuitConfig, find_circuit
from circuits.faithfulness import faithfulness
from circuits.feature_acts import states_of
from circuits.metrics import LogitDifference
from saes.families import circuit_sites
from saes.files import FileError
from saes.sites import SiteError, intervene
from tests.circuits.small import dictionaries_for, pairs, small_model


@pytest.fixture(scope="module")
def case():
    model = small_model()
    return model, dictionaries_for(model), pairs()


def states_like(model, dictionaries, tokens):
    return replacements(dictionaries, site_values(model, list(dictionaries), tokens))


def logits(model, tokens, edits):
    with intervene(model, edits):
        return model(input_ids=tokens).logits


def test_ablating_nothing_changes_no_logit(case):
    model, dictionaries, examples = case
    plain = logits(model, examples.clean, {})
    clean = states_like(model, dictionaries, examples.clean)
    everything = ablation_edits(dictionaries, keep_all(dictionaries), clean, examples.grouped)
    assert torch.equal(logits(model, examples.clean, everything), plain)
    with_itself = ablation_edits(dictionaries, keep_none(dictionaries), clean, examples.grouped)
    assert len(with_itself) == len(dictionaries)
    torch.testing.assert_close(logits(model, examples.clean, with_itself), plain, rtol=0, atol=1e-10)
    no_features = {site: torch.zeros(0, dtype=torch.long) for site in dictionaries}
    assert not ablate_features(dictionaries, no_features)


def test_keeping_all_features_through_the_dictionary_changes_no_bit(case):
    """The edit runs, but what it adds is exactly zero."""
    model, dictionaries, examples = case
    clean = states_of(model, dictionaries, examples.clean)
    site = circuit_sites(model)[3]
    silent = (clean[site].acts == 0).all(0).all(0)  # never active: replacing them by zero is replacing nothing
    assert silent.any()
    edits = ablate_features(dictionaries, {site: silent.nonzero().flatten()})
    assert torch.equal(logits(model, examples.clean, edits), logits(model, examples.clean, {}))


def test_replacing_everything_by_the_patch_gives_the_patch_logits(case):
    model, dictionaries, examples = case
    patch = states_like(model, dictionaries, examples.patch)
    edits = ablation_edits(dictionaries, keep_none(dictionaries), patch, examples.grouped)
    patched = logits(model, examples.patch, {})
    assert (patched - logits(model, examples.clean, {})).abs().max() > 0.1
    torch.testing.assert_close(logits(model, examples.clean, edits), patched, rtol=0, atol=1e-9)


def test_zeroed_features_are_zero_and_the_error_stays(case):
    model, dictionaries, examples = case
    site = circuit_sites(model)[3]
    dictionary, state = dictionaries[site], states_of(model, dictionaries, examples.clean)[site]
    index = torch.tensor([int(state.acts.sum((0, 1)).argmax())])
    edited = ablate_features(dictionaries, {site: index})[site](state.compose(dictionary))
    acts = state.acts.clone()
    acts[..., index] = 0
    torch.testing.assert_close(edited, dictionary.decode(acts) + state.error)


def test_everything_is_faithful_and_nothing_is_not(case):
    model, dictionaries, examples = case

    def measured(kept):
        return faithfulness(
            model, dictionaries, kept, examples, examples, LogitDifference(), random_circuits=2, overlap=True
        )

    whole, none = measured(keep_all(dictionaries)), measured(keep_none(dictionaries))
    assert whole.faithfulness == pytest.approx(1, abs=1e-9) and whole.completeness == pytest.approx(0, abs=1e-9)
    assert none.faithfulness == pytest.approx(0, abs=1e-9) and none.completeness == pytest.approx(1, abs=1e-9)
    half = {s: Kept((torch.arange(24) < 12)[None], torch.tensor([True])) for s in dictionaries}
    assert measured(half).faithfulness not in (0, 1)


def test_a_found_circuit_survives_its_file(case, tmp_path):
    model, dictionaries, examples = case
    config = CircuitConfig(nodes=40, edges=60, steps=2, batch_size=2)
    found = find_circuit(model, dictionaries, examples, LogitDifference(), config, progress=False).circuit
    assert 0 < len(found.nodes) <= 40 and 0 < len(found.edges) <= 60
    assert any(node.feature is None for node in found.nodes)
    save_circuit(found, tmp_path / "c")
    again = load_circuit(tmp_path / "c")
    assert (again.sites, dict(again.nodes), dict(again.edges)) == (found.sites, dict(found.nodes), dict(found.edges))
    (tmp_path / "c" / "circuit.safetensors").write_bytes(b"short")
    with pytest.raises(FileError, match=r"circuit\.safetensors"):
        load_circuit(tmp_path / "c")


def test_batches_do_not_change_a_circuit(case):
    model, dictionaries, examples = case
    one, many = (
        find_circuit(
            model,
            dictionaries,
            examples,
            LogitDifference(),
            CircuitConfig(nodes=30, edges=50, steps=2, batch_size=size),
            progress=False,
        ).circuit
        for size in (1, 3)
    )
    assert one.nodes.keys() == many.nodes.keys()
    for edge, weight in one.edges.items():
        assert many.edges[edge] == pytest.approx(weight, abs=1e-10)


def test_pruning_keeps_what_reaches_the_output():
    sites = tuple(circuit_sites(small_model()))
    last, first = Node(sites[-1].name, 1), Node("embed", 0)
    middle, stray = Node("resid_0", 3), Node("mlp_0", 4)
    edges = {(first, middle): 3.0, (middle, last): -2.0, (first, stray): 1.0}
    pruned = Circuit(sites, dict.fromkeys([first, middle, stray, last], 1.0), edges, {}).pruned(3)
    assert set(pruned.nodes) == {first, middle, last}
    assert set(pruned.edges) == {(first, middle), (middle, last)}


def test_a_circuit_needs_the_last_site(case):
    model, dictionaries, examples = case
    without = {s: d for s, d in dictionaries.items() if s.name != "resid_1"}
    with pytest.raises(SiteError, match="resid_1"):
        find_circuit(model, without, examples, LogitDifference(), CircuitConfig())
