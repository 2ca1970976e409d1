"""Edge attribution patching (Syed et al. 2023) and EAP-IG (Hanna et al. 2024) between components.

The score of an edge is the effect on the metric of the source's change reaching this one destination, to first order:
the sum over positions of <change of the source, gradient at the destination's input>. For the query, key and value
input of single heads that gradient is the projection's, pulled back through W_Q, W_K or W_V and the norm, a few rows
at a time; sources are kept as z and expanded by W_O for the same rows.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.component_gradients import Method, Pass, Rule, passes
from circuits.component_states import ComponentStates, End, end_points, expand, read_states
from circuits.components import ComponentError, Components, Layer
from circuits.examples import Examples
from circuits.metrics import Metric
from circuits.places import Places
from saes.sites import Site

ROOM = 2**25
"""numbers that the expanded sources and gradients of a piece of rows may take"""


@dataclass(frozen=True)
class EdgeScores:
    """Scores of all edges, means over examples; entries that are no edges (`Components.real`) are zero."""

    values: Float[Tensor, "places sources destinations"]
    places: tuple[str, ...]
    sources: tuple[str, ...]
    destinations: tuple[str, ...]

    @property
    def total(self) -> Float[Tensor, "sources destinations"]:
        """Summed over places."""
        return self.values.sum(0)

    def of(self, edge: str) -> Float[Tensor, " places"]:
        """The scores of one edge, such as 'a0.h1->m2' or 'm0->a1.h0<q>', at every place."""
        source, _, destination = edge.partition("->")
        if source not in self.sources or destination not in self.destinations:
            raise ComponentError(f"edge {edge!r}: name it as {self.sources[0]}->{self.destinations[-1]}")
        return self.values[:, self.sources.index(source), self.destinations.index(destination)]


@dataclass(frozen=True)
class Tally:
    """A sum over positions that is being taken: of the products or their magnitudes, weighted, by place."""

    places: Places
    weight: Float[Tensor, "batch length"]
    absolute: bool
    sums: Float[Tensor, "places_plus_1 sources destinations"]  # the last place is no place

    @classmethod
    def of(cls, graph: Components, places: Places, weight: Tensor, *, absolute: bool = False) -> "Tally":
        return cls(places, weight, absolute, weight.new_zeros(len(places) + 1, *graph.real.shape))

    @property
    def values(self) -> Float[Tensor, "places sources destinations"]:
        """The sums so far."""
        return self.sums[:-1]

    def add(self, rows: slice, products: Float[Tensor, "rows sources destinations"]) -> None:
        index = self.places.index.flatten()[rows].to(products.device) % (len(self.places) + 1)
        values = products.abs() if self.absolute else products
        self.sums.index_add_(0, index, values * self.weight.flatten()[rows, None, None])


def edge_scores(
    graph: Components,
    examples: Examples,
    metric: Metric,
    *,
    method: Method = "ig-inputs",
    end: End | ComponentStates = "patch",
    steps: int = 5,
    rule: Rule = "midpoint",
    batch_size: int = 16,
) -> EdgeScores:
    """Signed scores of all edges by place: how the metric changes when the source moves to its end point for a reader.

    The methods are those of `passes`. EAP-IG's own end points are rule="right" for ig-inputs (the counterfactual
    counts, the clean prompt does not) and rule="left" for ig-activations.
    """
    ends, names = end_points(graph, examples, end, batch_size), examples.grouped.names
    sums = []
    for batch in examples.batches(batch_size):
        clean = read_states(graph, batch.clean)
        share = clean.input.new_full(batch.clean.shape, 1 / len(examples))
        tally = Tally.of(graph, batch.grouped, share)
        tally_edges(graph, batch, metric, clean, ends(batch), [tally], method=method, steps=steps, rule=rule)
        sums.append(tally.values)
    return EdgeScores(torch.stack(sums).sum(0).cpu(), names, graph.sources, graph.destinations)


def tally_edges(
    graph: Components,
    batch: Examples,
    metric: Metric,
    clean: ComponentStates,
    end: ComponentStates,
    tallies: Sequence[Tally],
    *,
    method: Method,
    steps: int,
    rule: Rule,
) -> None:
    """Add the products of a batch to all tallies."""
    if any(tally.absolute for tally in tallies) and method != "eap":
        raise ComponentError(f"magnitudes at single positions are defined for one gradient: method eap, not {method}")
    change = (end - clean).map(lambda x: x.flatten(0, 1))
    for one in passes(graph, metric, batch, clean, end, _read_sites(graph), method=method, steps=steps, rule=rule):
        for rows, products in _products(graph, change, one):
            for tally in tallies:
                tally.add(rows, products * one.share)


def _read_sites(graph: Components) -> list[Site]:
    sites = []
    for layer in graph.layers:
        heads = layer.heads
        sites += [layer.attn_in, *(site for site, _ in (heads.projections if heads else ())), layer.mlp_in]
    return [*sites, graph.end]


@torch.no_grad()
def _products(
    graph: Components, change: ComponentStates, one: Pass
) -> Iterator[tuple[slice, Float[Tensor, "rows sources destinations"]]]:
    """<change of the source, gradient at the destination>, for pieces of the rows batch * length."""
    count, width = change.input.shape
    readers = 1 if graph.layers[0].heads is None else 3 * graph.per_layer
    size = max(1, ROOM // (width * (len(graph.sources) + 4 * one.steps * readers)))
    for start in range(0, count, size):
        rows = slice(start, min(start + size, count))
        sources = expand(graph, change.map(lambda x, r=rows: x[r]))
        products = sources.new_zeros(len(sources), *graph.real.shape)
        for i, layer in enumerate(graph.layers):
            columns, before, after = graph.readers(i), graph.before_attention(i), graph.before_mlp(i)
            gradient = _at_attention(layer, one, rows)
            if gradient is not None:
                products[:, :before, columns] = sources[:, :before] @ gradient.transpose(1, 2)
            gradient = _mean_gradient(one, layer.mlp_in, rows)
            if gradient is not None:
                products[:, :after, columns.stop] = (sources[:, :after] @ gradient[:, :, None])[..., 0]
        gradient = _mean_gradient(one, graph.end, rows)
        if gradient is not None:
            products[:, :, -1] = (sources @ gradient[:, :, None])[..., 0]
        yield rows, products


def _by_step(one: Pass, x: Tensor, rows: slice) -> Float[Tensor, "steps rows *rest"]:
    return x.flatten(0, 1).unflatten(0, (one.steps, -1))[:, rows]


def _mean_gradient(one: Pass, site: Site, rows: slice) -> Float[Tensor, "rows d"] | None:
    gradient = one.gradients.get(site)
    return None if gradient is None else _by_step(one, gradient, rows).mean(0)


def _at_attention(layer: Layer, one: Pass, rows: slice) -> Float[Tensor, "rows readers d"] | None:
    """Gradients at the q, k and v inputs of all heads: pulled back through the projections and the norm."""
    heads = layer.heads
    if heads is None:
        gradient = _mean_gradient(one, layer.attn_in, rows)
        return None if gradient is None else gradient[:, None]
    if all(site not in one.gradients for site, _ in heads.projections):
        return None
    parts = []
    for site, letters in heads.projections:
        gradient = one.gradients.get(site)
        gradient = torch.zeros_like(one.values[site]) if gradient is None else gradient
        parts.append(heads.unpack(_by_step(one, gradient, rows), letters))
    projected = torch.cat(parts, -3)  # [steps, rows, letters, heads, d_head]
    normed = torch.einsum("snlhk,lhkd->snlhd", projected, heads.reads).flatten(2, 3)
    stream = _by_step(one, one.values[layer.attn_in], rows)[:, :, None].expand_as(normed).detach().requires_grad_()
    with torch.enable_grad():
        (pulled,) = torch.autograd.grad(heads.norm(stream), stream, normed)
    return pulled.mean(0)
