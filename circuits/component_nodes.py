"""Scores of components as nodes, and of the single dimensions of what they write ("neurons" in EAP-IG's language).

The score of a node is the effect on the metric of its whole output moving to the end point, through every reader:
<change, gradient at the output>. (The original takes the gradient at an MLP's *input* instead.) Nodes that are whole
sites, the residual stream and hidden layers (circuits/site_nodes.py), are scored by the same functions.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.component_gradients import Method, Pass, Rule, passes
from circuits.component_states import ComponentStates, End, Nodes, end_points, expand, read_states
from circuits.components import ComponentError
from circuits.eap import ROOM
from circuits.examples import Examples
from circuits.metrics import Metric, measure
from saes.sites import Edit, Site

_WHOLE = -1  # in the place of a dimension


@dataclass(frozen=True)
class ComponentScores:
    """Scores of all sources by dimension of what they write, means over examples.

    Of components and the residual stream d is the stream's width; of hidden layers a dimension is a neuron.
    """

    dimensions: Float[Tensor, "places sources d"]
    places: tuple[str, ...]
    sources: tuple[str, ...]

    @property
    def values(self) -> Float[Tensor, "places sources"]:
        """The scores of the nodes: sums over dimensions."""
        return self.dimensions.sum(-1)


def component_scores(
    nodes: Nodes,
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
    ends, places = end_points(nodes, examples, end, batch_size), examples.grouped
    total: Tensor = torch.zeros(len(places) + 1, len(nodes.sources), nodes.width)
    for batch in examples.batches(batch_size):
        clean, far = read_states(nodes, batch.clean), ends(batch)
        change = (far - clean).map(lambda x: x.flatten(0, 1))
        total = total.to(clean.input)
        index = batch.grouped.index.flatten().to(total.device) % (len(places) + 1)
        for one in passes(nodes, metric, batch, clean, far, nodes.written, method=method, steps=steps, rule=rule):
            _add(nodes, change, one, index, total)
    return ComponentScores(total[:-1].cpu() / len(examples), places.names, nodes.sources)


@torch.no_grad()
def _add(
    nodes: Nodes, change: ComponentStates, one: Pass, index: Tensor, total: Float[Tensor, "places_plus_1 sources d"]
) -> None:
    """Add change times gradient, position by position, to the place of each position."""
    chosen = [site for site, count in zip(nodes.written, nodes.counts, strict=True) if count]
    rows = len(change.input)
    absent = total.new_zeros(rows, nodes.width)
    found = [one.gradients[s].unflatten(0, (one.steps, -1)).mean(0).flatten(0, 1) if s in one.gradients else absent
             for s in chosen]  # fmt: skip
    counts = torch.tensor([count for count in nodes.counts if count])
    owner = torch.arange(len(chosen)).repeat_interleave(counts).to(total.device)
    gradient = torch.stack(found, 1)
    size = max(1, ROOM // (3 * nodes.width * len(nodes.sources)))
    for start in range(0, rows, size):
        piece = slice(start, start + size)
        sources = expand(nodes, change.map(lambda x, r=piece: x[r]))
        total.index_add_(0, index[piece], sources * gradient[piece][:, owner] * one.share)


def exact_component_scores(
    nodes: Nodes,
    examples: Examples,
    metric: Metric,
    *,
    end: End | ComponentStates = "patch",
    batch_size: int = 64,
) -> Float[Tensor, "places sources"]:
    """m(one source moved to its end point at one place) - m(clean), means over examples.

    `batch_size`: prompts in one run, for which as many sources and places are moved at once, each in a copy of the
    examples.
    """
    units = torch.cartesian_prod(torch.arange(len(nodes.sources)), torch.arange(len(examples.grouped)))
    units = torch.cat([units, torch.full_like(units[:, :1], _WHOLE)], 1)
    values = _exact(nodes, examples, metric, units, end, batch_size)
    return values.view(len(nodes.sources), -1).T


def exact_dimension_scores(
    nodes: Nodes,
    examples: Examples,
    metric: Metric,
    chosen: Bool[Tensor, "sources d"] | None = None,
    *,
    end: End | ComponentStates = "patch",
    batch_size: int = 64,
) -> Float[Tensor, "places sources d"]:
    """As `exact_component_scores`, of single dimensions (of hidden layers: neurons), by default all; others are 0."""
    shape = (len(nodes.sources), nodes.width)
    if chosen is not None and chosen.shape != shape:
        raise ComponentError(f"chosen dimensions are {list(chosen.shape)}; these nodes have {list(shape)}")
    which = (torch.ones(shape, dtype=torch.bool) if chosen is None else chosen.cpu()).nonzero()
    places = len(examples.grouped)
    units = torch.stack([which[:, :1].expand(-1, places), torch.arange(places).expand(len(which), -1),
                         which[:, 1:].expand(-1, places)], -1).flatten(0, 1)  # fmt: skip
    total = torch.zeros(places, *shape, dtype=torch.float64)
    total[units[:, 1], units[:, 0], units[:, 2]] = _exact(nodes, examples, metric, units, end, batch_size)
    return total


@torch.no_grad()
def _exact(
    nodes: Nodes,
    examples: Examples,
    metric: Metric,
    units: Int[Tensor, "units 3"],
    end: End | ComponentStates,
    batch_size: int,
) -> Float[Tensor, " units"]:
    """Effects of single moves: of a source, at a place, in one dimension or as a whole."""
    ends = end_points(nodes, examples, end, batch_size)
    total = torch.zeros(len(units), dtype=torch.float64)
    for batch in examples.batches(batch_size):
        change = ends(batch) - read_states(nodes, batch.clean)
        base = measure(nodes.model, metric, batch.clean, batch)
        size = max(1, batch_size // len(batch))
        for start in range(0, len(units), size):
            chunk = units[start : start + size]
            copies = batch.repeat(len(chunk))
            values = measure(nodes.model, metric, copies.clean, copies, _moves(nodes, batch, change, chunk))
            total[start : start + size] += (values.unflatten(0, (len(chunk), -1)) - base).sum(1).cpu()
    return total / len(examples)


def _moves(nodes: Nodes, batch: Examples, change: ComponentStates, units: Int[Tensor, "units 3"]) -> dict[Site, Edit]:
    """One move in each copy of the batch. Nothing before it is moved: adding the change leads to the end point."""
    position = [(i, within) for i, count in enumerate(nodes.counts) for within in range(count)]
    deltas: dict[int, Tensor] = {}
    for copy, (source, place, dimension) in enumerate(units.tolist()):
        index, within = position[source]
        moved = nodes.write(index, change.parts[index], slice(within, within + 1))[..., 0, :]
        moved = moved * (batch.grouped.index == place).to(moved)[..., None]
        delta = deltas.setdefault(index, moved.new_zeros(len(units), *moved.shape))
        if dimension == _WHOLE:
            delta[copy] = moved
        else:
            delta[copy, ..., dimension] = moved[..., dimension]
    return {nodes.written[i]: lambda x, d=delta: x + d.flatten(0, 1) for i, delta in deltas.items()}
