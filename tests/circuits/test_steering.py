"""Steering: exact predictions where the model is linear, and against ablation where both do the same."""

import json

import numpy as np
import pytest
import torch

from circuits.ablation import ablated_metric, replacements
from circuits.attribution import counterfactual
from circuits.circuit import Circuit, Node
from circuits.discover import CircuitConfig, find_circuit
from circuits.end_points import ToZero
from circuits.held_out import MeasureError
from circuits.metrics import LogitDifference, measure
from circuits.steering import ablate, amplify, steer, swap
from tests.circuits.small import dictionaries_for, linear_model, pairs, small_model

METRIC = LogitDifference()


def found_circuit(model, dictionaries, examples):
    config = CircuitConfig(nodes=60, edges=10_000, method="attribution")
    return find_circuit(model, dictionaries, examples, METRIC, config, progress=False).circuit


def test_predictions_are_exact_on_a_linear_model():
    """Singles and groups across sites, every action, at positions and summed."""
    model = linear_model()
    dictionaries = dictionaries_for(model)
    for examples in (pairs(), pairs().by_position()):
        circuit = found_circuit(model, dictionaries, examples)
        nodes = list(circuit.nodes)
        groups = [nodes[:1], nodes[5:6], [n for n in nodes if n.feature is None][:2], nodes[::5], nodes]
        actions = [swap(), swap(share=0.3), ablate(), amplify(2.0), amplify(-1.5), amplify(1.0)]
        found = steer(model, dictionaries, circuit, groups, actions, examples, METRIC, batch_size=2)
        assert len(found.rows) == 30
        for row in found.rows:
            assert row.measured.value == pytest.approx(row.gradient, abs=1e-9)
            if row.action.startswith("swap"):
                assert row.measured.value == pytest.approx(row.circuit, abs=1e-9)
            else:
                assert row.circuit is None
            if row.action == "times 1":
                assert row.measured.value == 0
        assert found.gradient_correlation == pytest.approx(1) and found.circuit_correlation == pytest.approx(1)
        assert max(abs(row.measured.value) for row in found.rows) > 0.1


@pytest.mark.parametrize("how", ["add", "set"])
def test_swapping_one_site_is_ablation_of_everything_else_there(how):
    model, examples = small_model(), pairs()
    site, dictionary = list(dictionaries_for(model).items())[3]
    dictionaries = {site: dictionary}
    nodes = {Node(site.name, f): 0.0 for f in range(0, 24, 3)} | {Node(site.name, None): 0.0}
    circuit = Circuit((site,), nodes, {}, {})
    for action, to in ((swap(), counterfactual), (ablate(), ToZero())):
        row = steer(model, dictionaries, circuit, [list(nodes)], [action], examples, METRIC, how=how).rows[0]
        rest = {s: ~k for s, k in circuit.kept(dictionaries).items()}
        states = replacements(dictionaries, to(model, dictionaries, examples))
        ablated = ablated_metric(model, dictionaries, examples, METRIC, rest, states)
        change = (ablated - measure(model, METRIC, examples.clean, examples)).mean()
        assert row.measured.value == pytest.approx(float(change), abs=1e-10) and abs(float(change)) > 1e-3


def test_set_swaps_everything_into_the_patch_prompt_and_add_goes_too_far():
    """All nodes of two residual sites: set gives the patch prompt, add moves the second one twice."""
    model, examples = linear_model(), pairs()
    dictionaries = {s: d for s, d in dictionaries_for(model).items() if s.name in ("resid_0", "resid_1")}
    nodes = {Node(s.name, f): 0.0 for s in dictionaries for f in [*range(24), None]}
    circuit = Circuit(tuple(dictionaries), nodes, {}, {})
    change = measure(model, METRIC, examples.patch, examples) - measure(model, METRIC, examples.clean, examples)
    total = float(change.mean())
    for how, factor in (("set", 1), ("add", 2)):
        row = steer(model, dictionaries, circuit, [list(nodes)], [swap()], examples, METRIC, how=how).rows[0]
        assert row.measured.value == pytest.approx(factor * total, abs=1e-9)
        assert row.gradient == pytest.approx(2 * total, abs=1e-9)  # what flows through both counts twice


def test_integrated_gradients_predict_large_moves_better():
    model, examples = small_model(), pairs()
    site = next(s for s in dictionaries_for(model) if s.name == "resid_0")
    dictionaries = {site: dictionaries_for(model)[site]}
    circuit = Circuit((site,), {Node(site.name, f): 0.0 for f in [*range(24), None]}, {}, {})
    misses = []
    for method in ("attribution", "ig"):
        row = steer(
            model, dictionaries, circuit, [list(circuit.nodes)], [swap()], examples, METRIC, method=method, steps=50
        ).rows[0]
        misses.append(abs(row.gradient - row.measured.value))
    assert misses[1] < 1e-2 * abs(row.measured.value) < misses[0]  # a whole site moves on the path that is integrated


def test_amplifying_is_multiplying():
    model, examples = small_model(), pairs()
    site, dictionary = list(dictionaries_for(model).items())[3]
    feature = int(dictionary.encode(torch.zeros(16, dtype=torch.float64)).argmax())
    circuit = Circuit((site,), {Node(site.name, feature): 0.0}, {}, {})
    row = steer(model, {site: dictionary}, circuit, [list(circuit.nodes)], [amplify(3.0)], examples, METRIC).rows[0]

    def tripled(x):
        return x + 2 * dictionary.encode(x)[..., feature, None] * dictionary.W_dec[feature]

    by_hand = measure(model, METRIC, examples.clean, examples, {site: tripled})
    base = measure(model, METRIC, examples.clean, examples)
    assert row.measured.value == pytest.approx(float((by_hand - base).mean()), abs=1e-10)


def test_the_table_is_plain_and_bad_requests_are_refused():
    model, examples = small_model(), pairs()
    dictionaries = dictionaries_for(model)
    circuit = found_circuit(model, dictionaries, examples)
    nodes = list(circuit.nodes)
    found = steer(model, dictionaries, circuit, [nodes[:3]], [swap(), amplify(2)], examples, METRIC)
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["rows"][0]["action"] == "swap"
    assert len(found.table().splitlines()) == 3 and "and 1 more" in found.table()
    assert found.circuit_correlation is None and np.isfinite(found.rows[0].gradient)
    for groups, said in (([[]], "without nodes"), ([[Node("embed", 999)]], "embed/999 is not in the circuit")):
        with pytest.raises(MeasureError, match=said):
            steer(model, dictionaries, circuit, groups, [swap()], examples, METRIC)
    with pytest.raises(MeasureError, match="places"):
        steer(model, dictionaries, circuit, [nodes[:1]], [swap()], examples.by_position(), METRIC)
