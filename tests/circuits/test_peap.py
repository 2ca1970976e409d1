"""Edges between spans against definitions written as loops, on learned and rotary positions; search and evaluation."""

from dataclasses import replace

import pytest
import torch

from circuits.component_states import mean_states
from circuits.components import ComponentError, Components
from circuits.eap import edge_scores
from circuits.edge_circuits import circuit_metric
from circuits.metrics import LogitDifference, measure
from circuits.peap import Attention, _exchanged, span_scores
from circuits.places import Places
from circuits.span_circuits import SpanCircuit, search_spans, span_circuit_metric
from tests.circuits.component_models import KINDS, component_model, uneven
from tests.circuits.plain_transformer import layout, run
from tests.saes.models_for_tests import tiny

METRIC = LogitDifference()
NAMES = ("first", "second", "third")


def in_spans(examples):
    """Position 0 has no span; the second span is empty in the last example."""
    starts = torch.tensor([[1, 3, 4, int(n)] for n in examples.ends])
    starts[-1, 1] = 4
    return replace(examples, places=Places.spans(NAMES, starts, examples.clean.shape[1]))


def far_attention(clean, patch, name, examples, end):
    """Queries, keys, values and pattern of a head at the end point."""
    here = clean[f"{name}:attention"]
    if end == "patch":
        return patch[f"{name}:attention"]
    if end == "zero":
        return [torch.zeros_like(x) for x in here]
    lengths = examples.ends.tolist()
    return [
        torch.stack([
            torch.stack([x[b, p] for b, n in enumerate(lengths) if p < n]).mean(0) for p in range(max(lengths))
        ]).expand_as(x)
        for x in here
    ]  # fmt: skip


def crossing_by_hand(model, examples, end):
    """Section 2.4 of the reference as loops over heads and pairs of positions: [layer, letter, head, example, d, u]."""
    with torch.no_grad():
        clean, patch = run(model, examples.clean)[1], run(model, examples.patch)[1]
    layers, heads = model.config.num_hidden_layers, len(layout(model, 0)[4])
    most = getattr(model.config, "attn_logit_softcapping", None)

    def cap(scores):
        return most * (scores / most).tanh() if most else scores

    batch, length = examples.clean.shape
    outputs = {}

    def attend(name, pattern, v):
        outputs[name] = (pattern @ v).requires_grad_()
        return outputs[name]

    logits, _ = run(model, examples.clean, attend=attend)
    total = METRIC(logits[torch.arange(batch), examples.position], examples).sum()
    gradients = dict(zip(outputs, torch.autograd.grad(total, list(outputs.values())), strict=True))
    made = torch.zeros(layers, 3, heads, batch, length, length, dtype=torch.float64)
    for name, g in gradients.items():
        i, h = (int(part[1:]) for part in name.split("."))
        q, k, v, pattern = clean[f"{name}:attention"]
        q2, k2, v2, _ = far_attention(clean, patch, name, examples, end)
        scale = q.shape[-1] ** -0.5
        z = pattern @ v
        for b in range(batch):
            for d in range(length):
                scores = cap(torch.stack([q[b, d] @ k[b, u] * scale for u in range(d + 1)]))
                for u in range(d + 1):
                    by_query, by_key = scores.clone(), scores.clone()
                    by_query[u] = cap(q2[b, d] @ k[b, u] * scale)
                    by_key[u] = cap(q[b, d] @ k2[b, u] * scale)
                    made[i, 0, h, b, d, u] = g[b, d] @ (by_query.softmax(0) @ v[b, : d + 1] - z[b, d])
                    made[i, 1, h, b, d, u] = g[b, d] @ (by_key.softmax(0) @ v[b, : d + 1] - z[b, d])
                    made[i, 2, h, b, d, u] = g[b, d] @ (pattern[b, d, u] * (v2[b, u] - v[b, u]))
    return made


@pytest.mark.parametrize(
    ("kind", "end"),
    [
        *((kind, end) for kind in KINDS for end in ("patch", "zero")),
        ("gpt2", "mean"),
        ("llama grouped", "mean"),
        ("gemma2 grouped capped", "patch"),
    ],
)
def test_crossing_edges_are_their_definition(kind, end):
    model, examples = component_model(kind), in_spans(uneven())
    graph = Components.of(model, open_attention=True)
    pairs = crossing_by_hand(model, examples, end)
    found = span_scores(graph, examples, METRIC, ("sum", "mean", "magnitude"), end=end, batch_size=2)
    index = examples.grouped.index
    shape = (*pairs.shape[:3], 3, 3)
    expected = {name: torch.zeros(shape, dtype=torch.float64) for name in found}
    for b in range(len(examples)):
        for p in range(3):
            for s in range(p + 1):
                there = [
                    (d, u) for d in (index[b] == p).nonzero()[:, 0] for u in (index[b] == s).nonzero()[:, 0] if u <= d
                ]
                values = [pairs[..., b, d, u] for d, u in there] or [torch.zeros(shape[:3], dtype=torch.float64)]
                expected["sum"][..., p, s] += sum(values) / len(examples)
                expected["mean"][..., p, s] += sum(values) / len(values) / len(examples)
                expected["magnitude"][..., p, s] += sum(v.abs() for v in values) / len(examples)
    for name, scores in found.items():
        assert torch.allclose(scores.crossing, expected[name], atol=1e-12), name
    assert float(expected["sum"].abs().amax((0, 2, 3, 4)).min()) > 1e-4  # queries, keys and values all matter


@pytest.mark.parametrize("kind", ["gpt2", "llama grouped"])
def test_edges_within_spans_are_edge_attribution_at_its_positions(kind):
    graph, examples = Components.of(component_model(kind), open_attention=True), in_spans(uneven())
    found = span_scores(graph, examples, METRIC, ("sum", "mean", "magnitude"), batch_size=2)
    shape = (3, *graph.real.shape)
    expected = {name: torch.zeros(shape, dtype=torch.float64) for name in found}
    prompt = {name: torch.zeros(shape[1:], dtype=torch.float64) for name in found}
    for b in range(len(examples)):
        one = examples.take(torch.tensor([b]))
        values = edge_scores(graph, one.by_position(), METRIC, method="eap").values
        inside = one.grouped.index[0] >= 0
        parts = {"sum": values[inside].sum(0), "mean": values[inside].sum(0) / int(one.ends[0])}
        parts["magnitude"] = values[inside].abs().sum(0)
        for name in found:
            prompt[name] += parts[name] / len(examples)
        for p in range(3):
            there = values[one.grouped.index[0] == p]
            expected["sum"][p] += there.sum(0) / len(examples)
            expected["mean"][p] += there.sum(0) / max(1, len(there)) / len(examples)
            expected["magnitude"][p] += there.abs().sum(0) / len(examples)
    for name, scores in found.items():
        assert torch.allclose(scores.within, expected[name], atol=1e-12), name
        assert torch.allclose(scores.prompt, prompt[name], atol=1e-12), name


def test_value_edges_over_all_positions_are_the_value_part_of_the_head():
    """Moving all values at once moves z linearly: summed over u and d, V edges are g . A (v' - v)."""
    model, examples = component_model("gpt2"), uneven()
    graph = Components.of(model, open_attention=True)
    found = span_scores(graph, examples, METRIC)["sum"].crossing[:, 2, :, 0, 0]
    change = {}
    for i in range(2):
        for h in range(2):
            name = f"a{i}.h{h}"

            clean, patch = run(model, examples.clean)[1], run(model, examples.patch)[1]
            change[name] = clean[f"{name}:attention"][3] @ (
                patch[f"{name}:attention"][2] - clean[f"{name}:attention"][2]
            )
            step = torch.zeros((), dtype=torch.float64, requires_grad=True)

            def attend(which, pattern, v, name=name, step=step):
                return pattern @ v + (step * change[name] if which == name else 0)

            logits, _ = run(model, examples.clean, attend=attend)
            total = METRIC(logits[torch.arange(3), examples.position], examples).mean()
            (slope,) = torch.autograd.grad(total, step)
            assert torch.allclose(found[i, h], slope, atol=1e-12), name


def test_scores_far_from_the_clean_ones_do_not_overflow():
    q = torch.tensor([[[[0.0], [1.0]]]], dtype=torch.float64)
    k, v = torch.ones(1, 1, 2, 1, dtype=torch.float64), torch.tensor([[[[1.0], [3.0]]]], dtype=torch.float64)
    pattern = torch.tensor([[[[1.0, 0.0], [0.5, 0.5]]]], dtype=torch.float64)
    for far in (1e4, -1e4):
        other = Attention(q, far * k, v, pattern, 1.0)
        products = _exchanged(Attention(q, k, v, pattern, 1.0), other, torch.ones_like(v))
        # the score of the last position goes to one, or to nothing: z from 2 to 3, or to 1
        assert float(products[1, 0, 0, 1, 1]) == (1.0 if far > 0 else -1.0)
        assert bool(products.isfinite().all())


def slow_search(graph, scores, count):
    """Best-first over a list of all abstract edges, then edges that a walk from the inputs meets."""
    edges = {}
    for s in range(len(scores.spans)):
        for u, v in graph.real.nonzero().tolist():
            name, _, letter = graph.destinations[v].partition("<")
            key = ((graph.sources[u], "out", s), (name, "in" if letter else "out", s))
            edges[key] = max(edges.get(key, 0.0), float(scores.within[s, u, v].abs()))
    layers, _, heads, spans, _ = scores.crossing.shape
    for i in range(layers):
        for h in range(heads):
            for d in range(spans):
                for u in range(d + 1):
                    key = ((f"a{i}.h{h}", "in", u), (f"a{i}.h{h}", "out", d))
                    edges[key] = float(scores.crossing[i, :, h, d, u].abs().max())
    reached, chosen = {("logits", "out", len(scores.spans) - 1)}, []
    while len(chosen) < count:
        open_edges = [e for e in edges if e[1] in reached and e not in chosen]
        if not open_edges:
            break
        best = max(open_edges, key=edges.__getitem__)
        chosen.append(best)
        reached.add(best[0])
    alive = {("input", "out", s) for s in range(len(scores.spans))}
    while any(up in alive and down not in alive for up, down in chosen):
        alive |= {down for up, down in chosen if up in alive}
    return {(up, down) for up, down in chosen if up in alive}


@pytest.mark.parametrize("kind", ["gpt2", "neox parallel"])
def test_the_search_is_a_slow_search(kind):
    graph, examples = Components.of(component_model(kind), open_attention=True), in_spans(uneven())
    scores = span_scores(graph, examples, METRIC)["sum"]
    for count in (0, 3, 12, 40, 10_000):
        circuit = search_spans(graph, scores, count)
        expected = slow_search(graph, scores, count)
        assert circuit.edges(graph) == len(expected)
        for i, h, d, u in circuit.crossing.nonzero().tolist():
            assert ((f"a{i}.h{h}", "in", u), (f"a{i}.h{h}", "out", d)) in expected
        for s, u, v in circuit.within.nonzero().tolist():
            name, _, letter = graph.destinations[v].partition("<")
            assert ((graph.sources[u], "out", s), (name, "in" if letter else "out", s)) in expected
    with pytest.raises(ComponentError, match="-1 edges"):
        search_spans(graph, scores, -1)


def test_sizes_count_edges_between_positions():
    graph = Components.of(component_model("gpt2"))
    circuit = SpanCircuit.none(graph, 2)
    lengths = torch.tensor([[2.0, 3.0]])
    circuit.within[1, 0, graph.destinations.index("m1")] = True
    assert circuit.size(graph, lengths).tolist() == [3] and circuit.edges(graph) == 1
    circuit.within[0, 0, [graph.destinations.index(f"a1.h0<{c}>") for c in "qkv"]] = True
    assert circuit.size(graph, lengths).tolist() == [3 + 6] and circuit.edges(graph) == 2
    circuit.crossing[0, 1, 1, 0] = True
    assert circuit.size(graph, lengths).tolist() == [9 + 18]
    circuit.crossing[0, 0, 1, 1] = True
    assert circuit.size(graph, lengths).tolist() == [27 + 18] and circuit.edges(graph) == 4


@pytest.mark.parametrize("kind", (*KINDS, "gemma2 grouped capped"))
def test_everything_is_the_model_and_nothing_the_counterfactual(kind):
    graph, examples = Components.of(component_model(kind), open_attention=True), in_spans(uneven())
    assert examples.patch is not None
    clean = measure(graph.model, METRIC, examples.clean, examples)
    assert torch.equal(span_circuit_metric(graph, examples, METRIC, SpanCircuit.all(graph, 3)), clean)
    nothing = span_circuit_metric(graph, examples, METRIC, SpanCircuit.none(graph, 3), batch_size=2)
    # the first position, of no span, is the same in both prompts
    assert torch.allclose(nothing, measure(graph.model, METRIC, examples.patch, examples), atol=1e-11)


@pytest.mark.parametrize("end", ["patch", "zero", "mean"])
def test_the_inputs_of_attention_are_really_cut(end):
    """One crossing edge, and then one edge into a head, against the transformer written out by hand."""
    model, examples = component_model("neox serial"), in_spans(uneven())
    graph = Components.of(model, open_attention=True)
    written = run(model, examples.patch)[1]
    circuit = SpanCircuit.all(graph, 3)
    circuit.crossing[1, 0, 2, 0] = False
    index = examples.grouped.index
    gone = (index[:, :, None] == 2) & (index[:, None, :] == 0)

    def attend(name, pattern, v):
        if name != "a1.h0":
            return pattern @ v
        _, _, v2, pattern2 = far_attention(run(model, examples.clean)[1], written, "a1.h0", examples, end)
        there = torch.where(gone, pattern2, 0.0) @ v2
        return torch.where(gone, 0.0, pattern) @ v + there

    logits, _ = run(model, examples.clean, attend=attend)
    expected = METRIC(logits[torch.arange(3), examples.position], examples)
    found = span_circuit_metric(graph, examples, METRIC, circuit, end=end)
    clean = measure(graph.model, METRIC, examples.clean, examples)
    assert torch.allclose(found, expected, atol=1e-11) and not torch.allclose(found, clean, atol=1e-4)

    circuit = SpanCircuit.all(graph, 3)
    circuit.within[1, 0, graph.destinations.index("a1.h1<k>")] = False
    now = run(model, examples.clean)[1]["input"]
    mean = mean_states(graph, examples).input.expand_as(now)
    far = {"patch": written["input"], "zero": torch.zeros_like(now), "mean": mean}[end]
    change = torch.where((index == 1)[..., None], far - now, 0.0)
    logits, _ = run(model, examples.clean, add={"a1.h1<k>": change})
    expected = METRIC(logits[torch.arange(3), examples.position], examples)
    found = span_circuit_metric(graph, examples, METRIC, circuit, end=end)
    assert torch.allclose(found, expected, atol=1e-11) and not torch.allclose(found, clean, atol=1e-6)


def test_a_mean_may_be_of_other_prompts():
    model = component_model("gpt2")
    graph = Components.of(model, open_attention=True)
    other, examples = uneven(5, length=7, seed=3), in_spans(uneven())
    options = {"end": "mean", "reference": other}
    circuit = SpanCircuit.none(graph, 3)
    nothing = span_circuit_metric(graph, examples, METRIC, circuit, batch_size=2, **options)
    # every reader gets what components write on average, whatever is inside the heads
    same = circuit_metric(graph, examples, METRIC, circuit.within, end=mean_states(graph, other))
    assert torch.allclose(nothing, same, atol=1e-11)
    whole = span_circuit_metric(graph, examples, METRIC, SpanCircuit.all(graph, 3), **options)
    assert torch.equal(whole, measure(graph.model, METRIC, examples.clean, examples))
    within = span_scores(graph, examples, METRIC, **options)["sum"].within
    plain = edge_scores(graph, examples, METRIC, method="eap", end=mean_states(graph, other)).values
    assert torch.allclose(within, plain, atol=1e-12)
    crossing = span_scores(graph, examples, METRIC, end="mean")["sum"].crossing
    assert not torch.allclose(span_scores(graph, examples, METRIC, **options)["sum"].crossing, crossing, atol=1e-3)
    with pytest.raises(ComponentError, match="no examples to take a mean over"):
        span_scores(graph, examples, METRIC, end="mean", reference=other.take(torch.arange(0)))


def test_what_cannot_be_is_told():
    model, examples = component_model("gpt2"), in_spans(uneven())
    with pytest.raises(ValueError, match="open copy"):
        span_scores(Components.of(model), examples, METRIC)
    with pytest.raises(ComponentError, match="describe the model with heads"):
        span_scores(Components.of(model, heads=False, open_attention=True), examples, METRIC)
    graph = Components.of(model, open_attention=True)
    with pytest.raises(ComponentError, match="a circuit of 2 spans, examples of 3"):
        span_circuit_metric(graph, examples, METRIC, SpanCircuit.all(graph, 2))
    with pytest.raises(ComponentError, match="no patch prompts"):
        span_scores(graph, replace(examples, patch=None), METRIC)
    with pytest.raises(ComponentError, match="does not use transformers' attention interface"):
        span_scores(Components.of(tiny("gpt_neo").double(), open_attention=True), examples, METRIC)
