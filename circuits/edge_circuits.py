"""Run a model with the edges outside a circuit moved to their end points, and measure how much of the metric is left.

A reader gets its clean input plus, for every source whose edge is cut, the change from what this source writes *in
this run* to its end point: what happens to sources inside the circuit goes on to their readers (Hanna et al. 2024).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.areas import Axis, cmd, cpr
from circuits.component_states import ComponentStates, End, end_points, expand
from circuits.components import ComponentError, Components, Heads, Layer
from circuits.eap import ROOM
from circuits.examples import Examples
from circuits.metrics import Metric, measure
from saes.sites import Edit, Site

Kept = Bool[Tensor, "sources destinations"] | Bool[Tensor, "places sources destinations"]


def circuit_metric(
    graph: Components,
    examples: Examples,
    metric: Metric,
    kept: Kept,
    *,
    end: End | ComponentStates = "patch",
    batch_size: int = 16,
) -> Float[Tensor, " examples"]:
    """The metric of every clean prompt with all edges outside `kept` moved; per place if `kept` has an axis of places.

    Readers that keep all their edges are not touched: with everything kept no bit differs from the model. Positions
    without a place keep all their edges.
    """
    return circuit_metrics(graph, examples, metric, [kept], end=end, batch_size=batch_size)[0]


@torch.no_grad()
def circuit_metrics(
    graph: Components,
    examples: Examples,
    metric: Metric,
    circuits: Sequence[Kept],
    *,
    end: End | ComponentStates = "patch",
    batch_size: int = 16,
) -> Float[Tensor, "circuits examples"]:
    """`circuit_metric` of several circuits, for which the end points are read once."""
    ends = end_points(graph, examples, end, batch_size)
    parts = []
    for batch in examples.batches(batch_size):
        far = ends(batch)
        every = [
            measure(graph.model, metric, batch.clean, batch, cut_edits(graph, batch, kept, far)) for kept in circuits
        ]
        parts.append(torch.stack(every))
    return torch.cat(parts, 1)


def cut_edits(graph: Components, batch: Examples, kept: Kept, end: ComponentStates) -> dict[Site, Edit]:
    """The edits of one batch that cut every edge outside `kept`."""
    return _Run(graph, batch, kept, end).edits()


class _Run:
    """One forward pass: what the sources wrote so far, and the streams that attention reads."""

    def __init__(self, graph: Components, batch: Examples, kept: Kept, end: ComponentStates) -> None:
        places = len(batch.grouped)
        if kept.shape[-2:] != graph.real.shape or (kept.dim() == 3 and len(kept) != places):
            wanted = [places, *graph.real.shape]
            raise ComponentError(f"a circuit of shape {list(kept.shape)}; these examples and nodes need {wanted}")
        self.graph, self.end = graph, end
        self.cut = (graph.real & ~kept.cpu()).expand(places, -1, -1)
        self.place = batch.grouped.index.flatten()
        self.written: list[Tensor] = []
        self.streams: dict[Site, Tensor] = {}

    def edits(self) -> dict[Site, Edit]:
        graph = self.graph
        edits: dict[Site, Edit] = {site: self._note(i) for i, site in enumerate(graph.sites)}
        for i, layer in enumerate(graph.layers):
            columns = graph.readers(i)
            if bool(self.cut[..., columns].any()):
                if layer.heads is None:
                    edits[layer.attn_in] = self._add(graph.before_attention(i), columns)
                else:
                    edits[layer.attn_in] = self._watch(layer.attn_in)
                    for site, letters in layer.heads.projections:
                        if bool(self.cut[..., self._columns(columns, letters)].any()):
                            edits[site] = self._project(layer, layer.heads, letters, i)
            column = slice(columns.stop, columns.stop + 1)
            if bool(self.cut[..., column].any()):
                edits[layer.mlp_in] = self._add(graph.before_mlp(i), column)
        if bool(self.cut[..., -1].any()):
            last = len(graph.destinations)
            edits[graph.end] = self._add(len(graph.sources), slice(last - 1, last))
        return edits

    def _columns(self, readers: slice, letters: str) -> slice:
        heads = self.graph.per_layer
        first = readers.start + "qkv".index(letters[0]) * heads
        return slice(first, first + len(letters) * heads)

    def _note(self, index: int) -> Edit:
        def note(x: Tensor) -> Tensor:
            self.written[index:] = [self.graph.part(index, x)]
            return x

        return note

    def _watch(self, site: Site) -> Edit:
        def watch(x: Tensor) -> Tensor:
            self.streams[site] = x
            return x

        return watch

    def _add(self, sources: int, column: slice) -> Edit:
        def add(x: Tensor) -> Tensor:
            parts = [change[:, 0] for _, change in self._changes(sources, column)]
            return x + torch.cat(parts).view_as(x)

        return add

    def _project(self, layer: Layer, heads: Heads, letters: str, i: int) -> Edit:
        """q, k and v move by what the projection makes of the change of the normed stream, head by head."""
        readers = self.graph.readers(i)
        columns = self._columns(readers, letters)
        first = "qkv".index(letters[0])
        reads = heads.reads[first : first + len(letters)].flatten(0, 1)

        def project(x: Tensor) -> Tensor:
            stream = self.streams[layer.attn_in].flatten(0, 1)
            parts = []
            for rows, change in self._changes(self.graph.before_attention(i), columns):
                old = stream[rows, None]
                parts.append(torch.einsum("nvd,vkd->nvk", heads.norm(old + change) - heads.norm(old), reads))
            moved = torch.cat(parts).unflatten(1, (len(letters), -1))
            return x + heads.pack(moved).view_as(x)

        return project

    def _changes(self, sources: int, columns: slice) -> Iterator[tuple[slice, Float[Tensor, "rows readers d"]]]:
        """What the cut edges change at the readers, for pieces of the rows batch * length."""
        blocks = (sources - 1) // (self.graph.per_layer + 1)
        sites = 1 + 2 * blocks + (1 if (sources - 1) % (self.graph.per_layer + 1) else 0)
        now, far = ComponentStates(tuple(self.written[:sites])), ComponentStates(self.end.parts[:sites])
        change = (far - now).map(lambda x: x.flatten(0, 1))
        cut = torch.cat([self.cut[:, :sources, columns], torch.zeros_like(self.cut[:1, :sources, columns])])
        cut = cut.to(change.input)
        readers = cut.shape[-1]
        size = max(1, ROOM // (self.graph.width * (sources + 4 * readers) + sources * readers))
        for start in range(0, len(change.input), size):
            rows = slice(start, start + size)
            written = expand(self.graph, change.map(lambda x, r=rows: x[r]))
            which = cut[self.place[rows].to(cut.device)]  # place -1 is the last: nothing is cut
            yield rows, which.transpose(1, 2) @ written


@dataclass(frozen=True)
class EdgeCurve:
    """Faithfulness of circuits of growing size: (m(C) - m(nothing)) / (m(model) - m(nothing)), of mean metrics."""

    nominal: tuple[float, ...]  # the shares of all edges that were asked for
    sizes: tuple[int, ...]  # edges that were left after pruning
    faithfulness: tuple[float, ...]
    edges: int  # of the whole graph
    model: float
    nothing: float

    def cpr(self, *, nominal: bool = False, axis: Axis = "linear") -> float:
        """Area under the curve over the real sizes, or over the nominal ones as in MIB."""
        return cpr(self.nominal, self.faithfulness) if nominal else cpr(*self._real(), axis=axis)

    def cmd(self, *, nominal: bool = False, axis: Axis = "linear") -> float:
        """Area between the curve and 1."""
        return cmd(self.nominal, self.faithfulness) if nominal else cmd(*self._real(), axis=axis)

    def _real(self) -> tuple[list[float], list[float], float]:
        """With the two ends, which are 0 and 1 by definition."""
        return [0.0, *self.sizes, float(self.edges)], [0.0, *self.faithfulness, 1.0], float(self.edges)


def edge_curve(
    graph: Components,
    examples: Examples,
    metric: Metric,
    choose: Callable[[int], Bool[Tensor, "sources destinations"]],
    shares: Sequence[float],
    *,
    end: End | ComponentStates = "patch",
    batch_size: int = 16,
) -> EdgeCurve:
    """Measure the circuits that `choose` gives for int(share * edges) edges."""
    edges = int(graph.real.sum())
    measured = [graph.real, torch.zeros_like(graph.real), *(choose(int(share * edges)) for share in shares)]
    values = circuit_metrics(graph, examples, metric, measured, end=end, batch_size=batch_size).mean(1).tolist()
    model, nothing = values[:2]
    if model == nothing:
        raise ComponentError(
            f"the metric is {model:g} with all edges and with none: there is nothing to be faithful to"
        )
    ratios = tuple((value - nothing) / (model - nothing) for value in values[2:])
    sizes = tuple(int(kept.sum()) for kept in measured[2:])
    return EdgeCurve(tuple(shares), sizes, ratios, edges, model, nothing)
