"""The residual stream and single neurons as nodes: against runs by hand, and what their effects must add up to."""

from dataclasses import replace

import pytest
import torch

from circuits.component_nodes import component_scores, exact_component_scores, exact_dimension_scores
from circuits.component_states import mean_states
from circuits.components import ComponentError, Components
from circuits.metrics import LogitDifference, measure
from circuits.places import Places
from circuits.site_nodes import SiteNodes
from saes.families import FAMILIES, find_site
from saes.sites import capture, intervene
from tests.circuits.component_models import component_model, uneven

METRIC = LogitDifference()
KINDS = ("gpt2", "gemma2 grouped")


def in_spans(examples):
    """Position 0 has no span."""
    starts = torch.tensor([[1, 3, int(n)] for n in examples.ends])
    return replace(examples, places=Places.spans(("a", "b"), starts, examples.clean.shape[1]))


def at(model, name, tokens):
    with torch.no_grad(), capture(model, [find_site(model, name)]) as values:
        model(input_ids=tokens)
    return values[find_site(model, name)]


@pytest.mark.parametrize("end", ["patch", "zero", "mean"])
def test_exact_scores_are_single_runs(end):
    model, examples = component_model("gpt2"), in_spans(uneven())
    base = measure(model, METRIC, examples.clean, examples)

    def by_hand(name, place, dimension=None):
        clean = at(model, name, examples.clean)
        far = at(model, name, examples.patch)
        if end == "zero":
            far = torch.zeros_like(clean)
        if end == "mean":
            mask = examples.mask()[..., None]
            far = ((clean * mask).sum(0) / mask.sum(0).clamp_min(1)).expand_as(clean)
        chosen = (examples.grouped.index == place)[..., None].expand_as(clean)
        if dimension is not None:
            chosen = chosen & (torch.arange(clean.shape[-1]) == dimension)
        with intervene(model, {find_site(model, name): lambda x: torch.where(chosen, far, x)}):
            return float((measure(model, METRIC, examples.clean, examples) - base).mean())

    found = exact_component_scores(SiteNodes.residual(model), examples, METRIC, end=end, batch_size=7)
    for place in range(2):
        for source, name in enumerate(("embed", "resid_0", "resid_1")):
            assert float(found[place, source]) == pytest.approx(by_hand(name, place), abs=1e-11)
    nodes = SiteNodes.neurons(model)
    chosen = torch.zeros(2, 64, dtype=torch.bool)
    chosen[0, 5] = chosen[1, 63] = True
    neurons = exact_dimension_scores(nodes, examples, METRIC, chosen, end=end)
    assert neurons.shape == (2, 2, 64) and not neurons[:, ~chosen].any()
    for layer, neuron in chosen.nonzero().tolist():
        for place in range(2):
            expected = by_hand(f"mlp_hidden_{layer}", place, neuron)
            assert float(neurons[place, layer, neuron]) == pytest.approx(expected, abs=1e-11)


@pytest.mark.parametrize("kind", KINDS)
def test_the_whole_stream_carries_everything_and_integrated_gradients_find_it(kind):
    """All positions of the stream at their counterfactual are the counterfactual, whichever block they stand behind."""
    model, examples = component_model(kind), uneven()
    change = measure(model, METRIC, examples.patch, examples) - measure(model, METRIC, examples.clean, examples)
    nodes = SiteNodes.residual(model)
    assert nodes.sources == ("embed", "resid_0", "resid_1")
    exact = exact_component_scores(nodes, examples, METRIC)
    assert torch.allclose(exact, change.mean().expand_as(exact), atol=1e-10)
    steps = component_scores(nodes, examples, METRIC, method="ig-activations", steps=64).values
    # the embedding of the Gemma is so small that its norms turn within one step
    assert torch.allclose(steps[:, 1:], exact[:, 1:], rtol=2e-3)
    plain = component_scores(nodes, examples, METRIC, method="eap").values
    assert not torch.allclose(plain, exact, rtol=0.1)


def test_scores_are_change_times_gradient():
    model, examples = component_model("gpt2"), in_spans(uneven())
    for nodes in (SiteNodes.residual(model), SiteNodes.neurons(model)):
        found = component_scores(nodes, examples, METRIC, method="eap", batch_size=2)
        assert found.places == ("a", "b") and found.sources == nodes.sources
        for source, name in enumerate(nodes.sources):
            site, change = find_site(model, name), at(model, name, examples.patch) - at(model, name, examples.clean)
            moved = torch.zeros_like(change, requires_grad=True)
            with intervene(model, {site: lambda x, m=moved: x + m}):
                total = measure(model, METRIC, examples.clean, examples).sum()
            (gradient,) = torch.autograd.grad(total, moved)
            expected = examples.grouped.sum(change * gradient).mean(0)
            assert torch.allclose(found.dimensions[:, source], expected, atol=1e-12), name


@pytest.mark.parametrize("method", ["eap", "ig-inputs", "clean-corrupted"])
def test_neurons_add_up_to_their_mlp_where_its_output_is_linear_in_them(method):
    model, examples = component_model("gpt2"), uneven().by_position()
    neurons = component_scores(SiteNodes.neurons(model), examples, METRIC, method=method)
    layers = component_scores(Components.of(model), examples, METRIC, method=method)
    for i in range(2):
        assert torch.allclose(neurons.values[:, i], layers.values[:, layers.sources.index(f"m{i}")], atol=1e-12)


def test_a_hidden_layer_moves_as_its_mlp_and_integrated_gradients_find_it_behind_a_norm_too():
    model, examples = component_model("gemma2 grouped"), uneven()
    nodes, graph = SiteNodes.neurons(model), Components.of(model)
    exact = exact_component_scores(nodes, examples, METRIC)
    layers = exact_component_scores(graph, examples, METRIC)[:, [graph.sources.index(f"m{i}") for i in range(2)]]
    assert torch.allclose(exact, layers, atol=1e-11)
    steps = component_scores(nodes, examples, METRIC, method="ig-activations", steps=64).values
    assert torch.allclose(steps, exact, rtol=1e-2)


def test_what_cannot_be_is_told(monkeypatch):
    model, examples = component_model("gpt2"), uneven()
    nodes = SiteNodes.neurons(model)
    with pytest.raises(ComponentError, match=r"chosen dimensions are \[2, 3\]; these nodes have \[2, 64\]"):
        exact_dimension_scores(nodes, examples, METRIC, torch.ones(2, 3, dtype=torch.bool))
    short = mean_states(nodes, examples.take(torch.tensor([2]))).map(lambda x: x[:, :4])
    with pytest.raises(ComponentError, match="end points of 4 positions are given, and these examples have 6"):
        component_scores(nodes, examples, METRIC, end=short)
    monkeypatch.setitem(FAMILIES, "gpt2", replace(FAMILIES["gpt2"], neurons=None))
    with pytest.raises(ComponentError, match="gpt2: no neurons in its description"):
        SiteNodes.neurons(component_model("gpt2"))
