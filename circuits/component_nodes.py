"""Scores of components as nodes, and of the single dimensions of what they write ("neurons" in EAP-IG's language).

The score of a node is the effect on the metric of its whole output moving to the end point, through every reader:
<change, gradient at the output>. (The original takes the gradient at an MLP's *input* instead.)
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.component_gradients import Method, Pass, Rule, passes
from circuits.component_states import (
    ComponentStates,
    End,
    as_site,
    as_source,
    end_points,
    expand,
    read_states,
    source_sites,
)
from circuits.components import Components
from circuits.eap import ROOM
from circuits.examples import Examples
from circuits.metrics import Metric, measure
from saes.sites import Edit, Site


@dataclass(frozen=True)
class ComponentScores:
    """Scores of all sources by dimension of the residual stream, means over examples."""

    dimensions: Float[Tensor, "places sources d"]
    places: tuple[str, ...]
    sources: tuple[str, ...]

    @property
    def values(self) -> Float[Tensor, "places sources"]:
        """The scores of the nodes: sums over dimensions."""
        return self.dimensions.sum(-1)


def component_scores(
    graph: Components,
    examples: Examples,
    metric: Metric,
    *,
    method: Method = "ig-inputs",
    end: End | ComponentStates = "patch",
    steps: int = 5,
    rule: Rule = "midpoint",
    batch_size: int = 16,
) -> ComponentScores:
    """Signed scores of all sources by place; the methods are those of `passes`.

    EAP-IG's own end points are rule="left" for nodes, with either kind of path.
    """
    ends, places = end_points(graph, examples, end, batch_size), examples.grouped
    total: Tensor = torch.zeros(len(places) + 1, len(graph.sources), graph.width)
    sites = [graph.input] + [site for layer in graph.layers for site in (layer.attn, layer.mlp)]
    for batch in examples.batches(batch_size):
        clean = read_states(graph, batch.clean)
        change = (ends(batch) - clean).map(lambda x: x.flatten(0, 1))
        total = total.to(clean.input)
        index = batch.grouped.index.flatten().to(total.device) % (len(places) + 1)
        for one in passes(graph, metric, batch, clean, ends(batch), sites, method=method, steps=steps, rule=rule):
            _add(graph, change, one, sites, index, total)
    return ComponentScores(total[:-1].cpu() / len(examples), places.names, graph.sources)


@torch.no_grad()
def _add(
    graph: Components,
    change: ComponentStates,
    one: Pass,
    sites: list[Site],
    index: Tensor,
    total: Float[Tensor, "places_plus_1 sources d"],
) -> None:
    """Add change times gradient, position by position, to the place of each position."""
    absent = torch.zeros_like(change.input)
    found = [one.gradients[s].unflatten(0, (one.steps, -1)).mean(0).flatten(0, 1) if s in one.gradients else absent
             for s in sites]  # fmt: skip
    wide = torch.tensor([1] + [count for _ in graph.layers for count in (graph.per_layer, 1)])
    owner = torch.arange(len(sites)).repeat_interleave(wide)
    gradient = torch.stack(found, 1)
    size = max(1, ROOM // (3 * graph.width * len(graph.sources)))
    for start in range(0, len(absent), size):
        rows = slice(start, start + size)
        sources = expand(graph, change.map(lambda x, r=rows: x[r]))
        total.index_add_(0, index[rows], sources * gradient[rows][:, owner.to(gradient.device)] * one.share)


@torch.no_grad()
def exact_component_scores(
    graph: Components,
    examples: Examples,
    metric: Metric,
    *,
    end: End | ComponentStates = "patch",
    batch_size: int = 16,
) -> Float[Tensor, "places sources"]:
    """m(one source moved to its end point at one place) - m(clean), means over examples; a run per source and place."""
    ends, places = end_points(graph, examples, end, batch_size), examples.grouped
    total = torch.zeros(len(places), len(graph.sources), dtype=torch.float64)
    for batch in examples.batches(batch_size):
        moved = ends(batch)
        base = measure(graph.model, metric, batch.clean, batch)
        for node in range(len(graph.sources)):
            site, move = _move(graph, node, moved)
            for place in range(len(places)):
                inside = (batch.grouped.index == place).to(moved.input.device)
                edits: dict[Site, Edit] = {site: lambda x, m=move, i=inside: m(x, i)}
                value = measure(graph.model, metric, batch.clean, batch, edits)
                total[place, node] += (value - base).sum().cpu()
    return total / len(examples)


def _move(graph: Components, node: int, end: ComponentStates) -> tuple[Site, Callable[[Tensor, Tensor], Tensor]]:
    """The site of a source, and what sets it there to its end point at some positions [batch, length]."""
    layer, within = divmod(node - 1, graph.per_layer + 1)
    index = 0 if node == 0 else 2 * layer + (2 if within == graph.per_layer else 1)

    def move(x: Tensor, inside: Tensor) -> Tensor:
        if index % 2 == 0:
            return torch.where(inside[..., None], end.mlp[layer] if index else end.input, x)
        heads = as_source(graph, index, x)
        chosen = torch.arange(graph.per_layer, device=x.device)[:, None] == within
        return as_site(index, torch.where(inside[..., None, None] & chosen, end.attn[layer], heads))

    return source_sites(graph)[index], move
