"""Position-aware edges between spans (PEAP, Haklay et al. 2025): within a span, and through attention across spans.

Edges within a span are EAP's products <change of the source, gradient at the destination>, position by position, made
into one number per span. Crossing edges lie inside one head, from source position u to destination position d, with g
the gradient at the head's output z[d]; what is replaced is the value v[u], the key k[u] (for this d) or the query q[d]
(for this u), and the softmax is taken anew:

    V: A[d, u] g . (v' - v)[u]        K and Q: g . (z'' - z)[d], where only the score [d, u] changes, by delta

With one score changed, z'' - z = w (v[u] - z[d]), w = A (e^delta - 1) / (1 + A (e^delta - 1)): no second softmax.
Gradients are those of the clean prompt.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.attention import attending, capped
from circuits.component_gradients import gradients
from circuits.component_states import ComponentStates, End, end_points, mean_states, read_states
from circuits.components import ComponentError, Components
from circuits.eap import Tally, tally_edges
from circuits.examples import Examples
from circuits.metrics import Metric
from circuits.places import EVERYWHERE, Places

Reduction = Literal["sum", "mean", "magnitude"]


@dataclass(frozen=True)
class SpanScores:
    """Scores of edges between spans, means over examples.

    `within[p]` holds the edges inside span p, `prompt` those of all spans together (its mean is over the length of the
    prompt, positions without a span included, as the original has it). `crossing[layer, letter, head, d, u]` holds the
    edges from span u to span d, letters as q, k, v. Sums over positions, means over the positions (pairs of positions)
    of the spans, or sums of magnitudes.
    """

    within: Float[Tensor, "spans sources destinations"]
    prompt: Float[Tensor, "sources destinations"]
    crossing: Float[Tensor, "layers letters heads spans spans"]
    spans: tuple[str, ...]


@dataclass(frozen=True)
class Attention:
    """One block's attention: queries and keys as they are multiplied, values, pattern, scale and cap of the scores.

    A mean has a batch axis of 1; its pattern is the mean of patterns.
    """

    q: Float[Tensor, "batch heads length d_head"]
    k: Float[Tensor, "batch heads length d_head"]
    v: Float[Tensor, "batch heads length d_head"]
    pattern: Float[Tensor, "batch heads length length"]
    scale: float
    cap: float | None = None

    def map(self, function: Callable[[Tensor], Tensor]) -> "Attention":
        q, k, v = function(self.q), function(self.k), function(self.v)
        return replace(self, q=q, k=k, v=v, pattern=function(self.pattern))

    def combine(self, other: "Attention", function: Callable[[Tensor, Tensor], Tensor]) -> "Attention":
        q, k, v = (function(a, b) for a, b in ((self.q, other.q), (self.k, other.k), (self.v, other.v)))
        return replace(self, q=q, k=k, v=v, pattern=function(self.pattern, other.pattern))

    def cut(self, length: int) -> "Attention":
        """The first positions."""
        q, k, v = (x[..., :length, :] for x in (self.q, self.k, self.v))
        return replace(self, q=q, k=k, v=v, pattern=self.pattern[..., :length, :length])


def attention_paths(graph: Components) -> list[str]:
    """The attention modules of an open graph, block by block."""
    if any(layer.heads is None for layer in graph.layers):
        raise ComponentError("spans cross inside heads: describe the model with heads, Components.of(model)")
    return [layer.heads.projections[0][0].module.rpartition(".")[0] for layer in graph.layers if layer.heads]


@torch.no_grad()
def read_attention(graph: Components, tokens: Tensor) -> list[Attention]:
    """Queries, keys, values and patterns of every block on an unmodified forward pass."""
    seen: dict[str, Attention] = {}
    cap = getattr(graph.model.config.get_text_config(), "attn_logit_softcapping", None)

    def watch(path: str):
        def attend(q: Tensor, k: Tensor, v: Tensor, pattern: Tensor, scale: float) -> Tensor:
            seen[path] = Attention(q, k, v, pattern, scale, cap)
            return pattern @ v

        return attend

    paths = attention_paths(graph)
    with attending(graph.model, {path: watch(path) for path in paths}):
        read_states(graph, tokens)
    missing = [path for path in paths if path not in seen]
    if missing:
        raise ComponentError(f"{missing[0]}: does not use transformers' attention interface, so it cannot be opened")
    return [seen[path] for path in paths]


def both_ends(
    graph: Components, examples: Examples, end: End, reference: Examples | None, batch_size: int
) -> tuple[Callable[[Examples], ComponentStates], Callable[[Examples], list[Attention] | None]]:
    """What components, and what queries, keys, values and patterns are moved to, for batches of examples; None is zero.

    A mean is over the clean prompts of `reference` (by default the examples), position by position.
    """
    if end != "mean" or reference is None:
        reference = examples
    if not len(reference):
        raise ComponentError("no examples to take a mean over: give at least one")
    states = end_points(graph, examples, mean_states(graph, reference, batch_size) if end == "mean" else end)
    if end == "mean":
        mean = _mean_attention(graph, reference, batch_size)
        return states, lambda batch: [block.cut(batch.clean.shape[1]) for block in mean]
    return (
        states,
        lambda batch: read_attention(graph, batch.patch) if end == "patch" and batch.patch is not None else None,
    )


def _mean_attention(graph: Components, examples: Examples, batch_size: int) -> list[Attention]:
    total: list[Attention] = []
    for batch in examples.batches(batch_size):
        mask = batch.mask()[:, None, :, None]
        part = [
            block.map(lambda x, m=mask: (x * m.to(x)).sum(0, keepdim=True))
            for block in read_attention(graph, batch.clean)
        ]
        total = [a.combine(b, torch.add) for a, b in zip(total, part, strict=True)] if total else part
    count = examples.mask().sum(0).clamp_min(1)[:, None]
    return [block.map(lambda x: x / count.to(x)) for block in total]


def span_scores(
    graph: Components,
    examples: Examples,
    metric: Metric,
    reductions: Sequence[Reduction] = ("sum",),
    *,
    end: End = "patch",
    reference: Examples | None = None,
    batch_size: int = 16,
) -> dict[Reduction, SpanScores]:
    """Signed scores (but for magnitudes) of all edges between the places of the examples, which are the spans.

    `graph` is made with open_attention=True. `end`, for every source, query, key and value: the counterfactual, zero,
    or the mean over the clean prompts of `reference` (by default the examples) at the same position.
    """
    ends, far = both_ends(graph, examples, end, reference, batch_size)
    names = examples.grouped.names
    within: dict[str, Tensor] = {}
    crossing: dict[str, Tensor] = {}
    for batch in examples.batches(batch_size):
        clean = read_states(graph, batch.clean)
        tallies = _tallies(graph, batch, clean, reductions, len(examples))
        every = [tally for pair in tallies.values() for tally in pair]
        tally_edges(graph, batch, metric, clean, ends(batch), every, method="eap", steps=1, rule="midpoint")
        across = _crossing(graph, batch, metric, far(batch), reductions)
        for name, (spans, prompt) in tallies.items():
            both = torch.cat([spans.values, prompt.values])
            within[name] = within[name] + both if name in within else both
            part = across[name] / len(examples)
            crossing[name] = crossing[name] + part if name in crossing else part
    return {
        name: SpanScores(within[name][:-1].cpu(), within[name][-1].cpu(), crossing[name].cpu(), names)
        for name in reductions
    }


def _tallies(
    graph: Components, batch: Examples, clean: ComponentStates, reductions: Sequence[Reduction], examples: int
) -> dict[str, tuple[Tally, ...]]:
    """By reduction: one tally by span and one for all spans together."""
    spans = batch.grouped
    everywhere = Places((EVERYWHERE,), spans.index.clamp_max(0))
    ones = clean.input.new_ones(batch.clean.shape)
    # at every position the size of its span, 1 where there is none
    counts = torch.cat([spans.sum(ones), ones[:, :1]], 1)
    size = counts.gather(1, spans.index.to(ones.device) % counts.shape[1])
    made = {}
    for name in reductions:
        lengths = (size, batch.ends.to(ones)[:, None] * ones) if name == "mean" else (ones, ones)
        made[name] = tuple(
            Tally.of(graph, places, 1 / (length * examples), absolute=name == "magnitude")
            for places, length in zip((spans, everywhere), lengths, strict=True)
        )
    return made


def _crossing(
    graph: Components, batch: Examples, metric: Metric, far: list[Attention] | None, reductions: Sequence[Reduction]
) -> Mapping[str, Float[Tensor, "layers letters heads spans spans"]]:
    """Sums over the examples of a batch."""
    clean = read_attention(graph, batch.clean)
    sites = [layer.heads.z for layer in graph.layers if layer.heads]
    _, found = gradients(graph, metric, batch.clean, batch, sites)
    spans = torch.nn.functional.one_hot(batch.grouped.index + 1, len(batch.grouped) + 1)[..., 1:].to(clean[0].v)
    causal = torch.ones(spans.shape[1], spans.shape[1]).tril().to(spans)
    pairs = spans.transpose(1, 2) @ causal @ spans  # [batch, d, u]
    made: dict[str, list[Tensor]] = {name: [] for name in reductions}
    for i, (site, here) in enumerate(zip(sites, clean, strict=True)):
        gradient = found.get(site)
        gradient = torch.zeros_like(here.v) if gradient is None else _by_head(gradient, here.v)
        products = _exchanged(here, None if far is None else far[i], gradient)
        for name in reductions:
            values = products.abs() if name == "magnitude" else products
            summed = torch.einsum("bdp,lbhdu,buq->lhbpq", spans, values, spans)
            made[name].append((summed / pairs.clamp_min(1) if name == "mean" else summed).sum(2))
    return {name: torch.stack(layers) for name, layers in made.items()}


def _by_head(gradient: Float[Tensor, "batch length width"], like: Tensor) -> Float[Tensor, "batch heads length d_head"]:
    return gradient.unflatten(-1, (like.shape[1], like.shape[3])).transpose(1, 2)


@torch.no_grad()
def _exchanged(
    here: Attention, far: Attention | None, gradient: Float[Tensor, "batch heads length d_head"]
) -> Float[Tensor, "letters batch heads d u"]:
    """Effects of one query, key or value replaced for one pair of positions; `far` None means zero."""
    far = here.map(torch.zeros_like) if far is None else far
    # g . (v[u] - z[d]) for every pair
    lift = gradient @ here.v.transpose(-1, -2) - (gradient * (here.pattern @ here.v)).sum(-1, keepdim=True)
    by_query, by_key = (
        _score(here, a, b) - _score(here, here.q, here.k) for a, b in ((far.q, here.k), (here.q, far.k))
    )
    by_value = here.pattern * (gradient @ (far.v - here.v).transpose(-1, -2))
    return torch.stack([_weight(here.pattern, by_query) * lift, _weight(here.pattern, by_key) * lift, by_value])


def _score(here: Attention, q: Tensor, k: Tensor) -> Float[Tensor, "batch heads d u"]:
    return capped(q @ k.transpose(-1, -2) * here.scale, here.cap)


def _weight(pattern: Tensor, delta: Tensor) -> Tensor:
    """A (e^delta - 1) / (1 + A (e^delta - 1)), the share of v[u] - z that is gained, without overflow."""
    down = -torch.expm1(-delta.abs())  # 1 - e^-|delta|, in [0, 1)
    gained = pattern * down / (1 - down + pattern * down)
    lost = -pattern * down / (1 - pattern * down)
    return torch.where(pattern > 0, torch.where(delta > 0, gained, lost), 0.0)
