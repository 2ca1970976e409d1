"""Edge and node scores against a transformer written out by hand, and the identities that they obey."""

from dataclasses import replace

import pytest
import torch

from circuits import eap
from circuits.component_nodes import component_scores, exact_component_scores
from circuits.component_states import read_states
from circuits.components import ComponentError, Components
from circuits.eap import edge_scores
from circuits.edge_patching import exact_edge_scores
from circuits.examples import Examples
from circuits.metrics import Divergence, LogitDifference, ProbeMargin, measure, with_reference
from circuits.places import Places
from saes.families import find_site
from tests.circuits.component_models import KINDS, component_model, uneven
from tests.circuits.plain_transformer import run
from tests.circuits.small import linear_model, pairs

METRIC = LogitDifference()


def plain_metric(model, examples, tokens, **options):
    """The metric of each example by the plain transformer."""
    logits, _ = run(model, tokens, **options)
    return METRIC(logits[torch.arange(len(tokens)), examples.position], examples)


def by_hand(model, graph, examples, tokens=None):
    """<change of the source, gradient of this destination's own input>, one backward pass of the plain transformer."""
    tokens = examples.clean if tokens is None else tokens
    with torch.no_grad():
        clean, patch = run(model, examples.clean)[1], run(model, examples.patch)[1]
    shape = clean["input"].shape
    add = {name: torch.zeros(shape, dtype=torch.float64, requires_grad=True) for name in graph.destinations}
    gradients = torch.autograd.grad(plain_metric(model, examples, tokens, add=add).sum(), list(add.values()))
    scores = torch.zeros(examples.clean.shape[1], *graph.real.shape, dtype=torch.float64)
    for u, v in graph.real.nonzero().tolist():
        source = graph.sources[u]
        products = ((patch[source] - clean[source]) * gradients[v]).sum(-1)
        scores[:, u, v] = (products * examples.mask()).sum(0) / len(examples)
    return scores


@pytest.mark.parametrize("kind", (*KINDS, "olmo2 grouped"))
def test_eap_is_the_directional_derivative_of_one_readers_input(kind):
    model, examples = component_model(kind), uneven()
    graph = Components.of(model)
    expected = by_hand(model, graph, examples)
    found = edge_scores(graph, examples.by_position(), METRIC, method="eap", batch_size=2)
    assert found.places == ("0", "1", "2", "3", "4", "5")
    assert torch.allclose(found.values, expected, atol=1e-12)
    assert torch.allclose(edge_scores(graph, examples, METRIC, method="eap").values[0], expected.sum(0), atol=1e-12)
    assert float(expected.abs().max()) > 1e-3
    ends = (expected + by_hand(model, graph, examples, examples.patch)) / 2
    both = edge_scores(graph, examples, METRIC, method="clean-corrupted")
    assert torch.allclose(both.total, ends.sum(0), atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_exact_scores_are_independent_runs(kind):
    model, examples = component_model(kind), uneven(2)
    graph = Components.of(model)
    clean, patch = run(model, examples.clean)[1], run(model, examples.patch)[1]
    base = plain_metric(model, examples, examples.clean)
    expected = torch.zeros(graph.real.shape, dtype=torch.float64)
    for u, v in graph.real.nonzero().tolist():
        change = patch[graph.sources[u]] - clean[graph.sources[u]]
        moved = plain_metric(model, examples, examples.clean, add={graph.destinations[v]: change})
        expected[u, v] = (moved - base).mean()
    found = exact_edge_scores(graph, examples, METRIC)
    assert torch.allclose(found.total, expected, atol=1e-12)
    assert torch.allclose(found.of("m0->m1"), expected[graph.sources.index("m0"), -2], atol=1e-12)


def test_exact_scores_by_place_and_of_chosen_edges():
    model, examples = component_model("gpt2"), uneven(2)
    graph = Components.of(model)
    change = run(model, examples.patch)[1]["a0.h1"] - run(model, examples.clean)[1]["a0.h1"]
    one = torch.zeros_like(graph.real)
    one[graph.sources.index("a0.h1"), graph.destinations.index("a1.h0<k>")] = True
    found = exact_edge_scores(graph, examples.by_position(), METRIC, edges=one)
    base = plain_metric(model, examples, examples.clean)
    for position in range(6):
        here = torch.zeros_like(change)
        here[:, position] = change[:, position]
        moved = plain_metric(model, examples, examples.clean, add={"a1.h0<k>": here})
        assert torch.allclose(found.of("a0.h1->a1.h0<k>")[position], (moved - base).mean(), atol=1e-12)
    assert bool((found.values[:, ~one] == 0).all())


@pytest.mark.parametrize("end", ["patch", "zero", "mean"])
def test_all_methods_agree_on_a_linear_model(end):
    model, examples = linear_model(), pairs()
    for block in model.transformer.h:
        block.ln_2 = torch.nn.Identity()  # a module of its own: reading ln_1 and ln_2 apart is the point
    graph = Components.of(model)
    exact = exact_edge_scores(graph, examples, METRIC, end=end).total
    for method in ("eap", "ig-inputs"):
        assert torch.allclose(edge_scores(graph, examples, METRIC, method=method, end=end).total, exact, atol=1e-10)
    # a moved output passes no gradient on to what lies before it: only edges into the end are exact
    moved = edge_scores(graph, examples, METRIC, method="ig-activations", end=end).total
    assert torch.allclose(moved[:, -1], exact[:, -1], atol=1e-10) and not torch.allclose(moved, exact, atol=1e-3)
    nodes = exact_component_scores(graph, examples, METRIC, end=end)
    assert torch.allclose(component_scores(graph, examples, METRIC, end=end).values, nodes, atol=1e-10)
    assert float(exact.abs().max()) > 1e-3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["eap", "ig-inputs", "ig-activations", "clean-corrupted"])
def test_the_score_of_a_node_is_the_sum_of_its_edges(kind, method):
    graph, examples = Components.of(component_model(kind)), uneven()
    options = {"method": method, "steps": 3}
    nodes = component_scores(graph, examples.by_position(), METRIC, **options)
    edges = edge_scores(graph, examples.by_position(), METRIC, **options)
    assert torch.allclose(nodes.values, edges.values.sum(-1), atol=1e-12)
    assert torch.allclose(nodes.dimensions.sum(-1), nodes.values)


def test_integrated_gradients_of_the_input_become_the_whole_change():
    graph, examples = Components.of(component_model("gpt2")), uneven()
    assert examples.patch is not None
    change = (
        measure(graph.model, METRIC, examples.patch, examples) - measure(graph.model, METRIC, examples.clean, examples)
    ).mean()
    gaps = {}
    for rule in ("midpoint", "left", "right"):
        for steps in (8, 64):
            edges = edge_scores(graph, examples, METRIC, steps=steps, rule=rule)
            gaps[rule, steps] = abs(float(edges.total[0].sum() - change))
    assert gaps["midpoint", 64] < 1e-3 * abs(float(change)) and gaps["midpoint", 64] < gaps["midpoint", 8] / 8
    assert gaps["left", 64] < gaps["left", 8] and gaps["right", 64] < gaps["right", 8]
    plain = edge_scores(graph, examples, METRIC, method="eap").total[0].sum()
    assert abs(float(plain - change)) > 10 * gaps["midpoint", 64]


def test_exact_node_scores_are_independent_runs():
    model, examples = component_model("neox parallel"), uneven()
    graph = Components.of(model)
    found = exact_component_scores(graph, examples, METRIC, batch_size=2)
    clean, patch = run(model, examples.clean)[1], run(model, examples.patch)[1]
    base = plain_metric(model, examples, examples.clean)
    for u, source in enumerate(graph.sources):
        add = {name: patch[source] - clean[source] for v, name in enumerate(graph.destinations) if graph.real[u, v]}
        assert torch.allclose(
            found[0, u], (plain_metric(model, examples, examples.clean, add=add) - base).mean(), atol=1e-12
        )


def test_spans_positions_and_batches_add_up():
    graph, examples = Components.of(component_model("gpt2")), uneven(5)
    spans = Places.spans(("a", "b"), torch.tensor([[1, 3, int(n)] for n in examples.ends]), examples.clean.shape[1])
    grouped = replace(examples, places=spans)
    positions = edge_scores(graph, examples.by_position(), METRIC, method="eap").values
    found = edge_scores(graph, grouped, METRIC, method="eap", batch_size=2)
    assert torch.allclose(found.values[0], positions[1:3].sum(0), atol=1e-12)
    assert torch.allclose(found.values[1], positions[3:].sum(0), atol=1e-12)
    nodes = component_scores(graph, grouped, METRIC, batch_size=3).values
    assert torch.allclose(nodes.sum(0), component_scores(graph, examples.by_position(), METRIC).values[1:].sum(0))


def test_small_pieces_of_rows_change_nothing(monkeypatch):
    graph, examples = Components.of(component_model("gpt2")), uneven()
    edges, nodes = edge_scores(graph, examples, METRIC).values, component_scores(graph, examples, METRIC).values
    monkeypatch.setattr(eap, "ROOM", 1)
    monkeypatch.setattr("circuits.component_nodes.ROOM", 1)
    assert torch.allclose(edge_scores(graph, examples, METRIC).values, edges, atol=1e-12)
    assert torch.allclose(component_scores(graph, examples, METRIC).values, nodes, atol=1e-12)


def test_whole_attention_layers_are_the_sums_of_their_heads():
    model, examples = component_model("neox serial"), uneven()
    heads, layers = (Components.of(model, heads=h) for h in (True, False))
    fine = edge_scores(heads, examples, METRIC, method="eap").total
    coarse = edge_scores(layers, examples, METRIC, method="eap").total
    rows = torch.tensor([[s.split(".")[0] == name for s in heads.sources] for name in layers.sources]).double()
    columns = torch.tensor(
        [[d.split(".")[0] == name for d in heads.destinations] for name in layers.destinations]
    ).double()
    assert torch.allclose(rows @ fine @ columns.T, coarse, atol=1e-12)


def test_a_probe_ends_the_graph_where_it_reads():
    model, examples = component_model("gpt2"), uneven()
    site = find_site(model, "resid_0")
    probe = torch.nn.Linear(16, 1).double().requires_grad_(False)
    examples = replace(examples, fields={**examples.fields, "sign": torch.tensor([1.0, -1.0, 1.0])})
    graph = Components.of(model, end=site)
    found = edge_scores(graph, examples, ProbeMargin(probe, site), method="eap")
    change = read_states(graph, examples.patch).mlp[0] - read_states(graph, examples.clean).mlp[0]
    read = change[torch.arange(3), examples.position] @ probe.weight[0]
    assert torch.allclose(found.of("m0->resid_0")[0], (read * examples.fields["sign"]).mean(), atol=1e-12)


def test_a_gradient_that_vanishes_at_the_clean_prompt_is_seen_by_integrated_gradients():
    graph, examples = Components.of(component_model("gpt2")), uneven()
    examples = with_reference(graph.model, examples)
    assert float(edge_scores(graph, examples, Divergence(), method="eap").values.abs().max()) < 1e-12
    assert float(edge_scores(graph, examples, Divergence(), method="ig-inputs").values.abs().max()) > 1e-3


def test_steps_are_at_least_one():
    graph = Components.of(component_model("gpt2"))
    with pytest.raises(ComponentError, match="steps: 0; integrated gradients need at least one"):
        edge_scores(graph, uneven(), METRIC, steps=0)


def test_single_prompts_need_another_end_point():
    graph, examples = Components.of(component_model("gpt2")), replace(uneven(), patch=None)
    with pytest.raises(ComponentError, match="no patch prompts"):
        edge_scores(graph, examples, METRIC, method="eap")
    with pytest.raises(ComponentError, match="clean-corrupted needs"):
        edge_scores(graph, examples, METRIC, method="clean-corrupted", end="zero")
    assert edge_scores(graph, examples, METRIC, end="mean").values.abs().max() > 0
    empty = Examples(examples.clean[:0], None, examples.position[:0], {})
    with pytest.raises(ComponentError, match="no examples: components are measured on at least one"):
        edge_scores(graph, empty, METRIC, end="zero")
    with pytest.raises(ComponentError, match="'m0->a0': name it as input->logits"):
        edge_scores(graph, examples, METRIC, end="zero").of("m0->a0")
