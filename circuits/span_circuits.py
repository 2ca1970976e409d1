"""Circuits over spans: best-first search from the end (PEAP), their size, and an evaluation that cuts all the rest.

Nodes are components at spans; a head has two, where it reads (its input at a span) and where it writes (its output at
a span), joined by crossing edges. Queries, keys and values go together: an edge scores the largest of their magnitudes.
The original's evaluation never cuts the inputs of heads; this one cuts every edge that is not in the circuit.
"""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.attention import Attend, attending
from circuits.component_states import End
from circuits.components import ComponentError, Components
from circuits.edge_circuits import cut_edits
from circuits.examples import Examples
from circuits.metrics import Metric, measure
from circuits.peap import Attention, SpanScores, attention_paths, both_ends

Node = tuple[str, int]
"""a source, destination or head input (its name with <) and the index of a span"""


@dataclass(frozen=True)
class SpanCircuit:
    """Edges inside spans, where q, k and v of a head are together, and edges of heads from span u to span d."""

    within: Bool[Tensor, "spans sources destinations"]
    crossing: Bool[Tensor, "layers heads d u"]

    @classmethod
    def all(cls, graph: Components, spans: int) -> "SpanCircuit":
        """Everything that there is."""
        crossing = torch.ones(len(graph.layers), graph.per_layer, spans, spans, dtype=torch.bool)
        return cls(graph.real.expand(spans, -1, -1).clone(), crossing.tril())

    @classmethod
    def none(cls, graph: Components, spans: int) -> "SpanCircuit":
        """Nothing."""
        everything = cls.all(graph, spans)
        return cls(torch.zeros_like(everything.within), torch.zeros_like(everything.crossing))

    def edges(self, graph: Components) -> int:
        """Abstract edges: one for q, k and v together."""
        queries = torch.tensor([name.endswith(("<k>", "<v>")) for name in graph.destinations])
        return int(self.within[..., ~queries].sum()) + int(self.crossing.sum())

    def weakest(self, graph: Components, scores: SpanScores) -> float:
        """The smallest score among its edges; infinite if it has none."""
        by_reader = scores.within.abs()
        tied = torch.stack([by_reader[..., _columns(graph, name)].amax(-1) for name in graph.destinations], -1)
        across = scores.crossing.abs().amax(1)
        chosen = torch.cat([tied[self.within], across[self.crossing]])
        return float(chosen.min()) if len(chosen) else float("inf")

    def size(self, graph: Components, lengths: Float[Tensor, "batch spans"]) -> Float[Tensor, " batch"]:
        """Edges between single positions: within a span of n positions n, across spans 3 n n', in a head's own span
        3 n (n + 1) / 2."""
        inside = self.within.sum((1, 2)).to(lengths)
        pairs = 3 * lengths[:, :, None] * lengths[:, None, :]
        own = 1.5 * lengths * (lengths + 1)
        pairs = torch.where(torch.eye(lengths.shape[1], dtype=torch.bool), torch.diag_embed(own), pairs)
        return lengths @ inside + (pairs * self.crossing.sum((0, 1)).to(lengths)).sum((1, 2))


def search_spans(graph: Components, scores: SpanScores, count: int) -> SpanCircuit:
    """The best edge, `count` times, of those that lead to what is reached already, from the end at the last span.

    Then what no input embedding reaches is dropped. Stops early where nothing is left to reach.
    """
    if count < 0:
        raise ComponentError(f"{count} edges: at least 0")
    chosen: list[tuple[Node, Node]] = []
    waiting: list[tuple[float, int, Node, Node]] = []
    reached: set[Node] = set()

    def reach(node: Node) -> None:
        reached.add(node)
        for score, upstream in _into(graph, scores, node):
            heapq.heappush(waiting, (-score, len(waiting) + len(chosen), upstream, node))

    reach((graph.tail, len(scores.spans) - 1))
    while waiting and len(chosen) < count:
        _, _, upstream, downstream = heapq.heappop(waiting)
        chosen.append((upstream, downstream))
        if upstream not in reached:
            reach(upstream)
    return _circuit(graph, len(scores.spans), _from_inputs(chosen))


def _into(graph: Components, scores: SpanScores, node: Node) -> Iterator[tuple[float, Node]]:
    """Score and upstream node of every edge into a node."""
    name, span = node
    if name == "input":
        return
    if ".h" in name and not name.endswith("<"):
        layer, head = (int(part[1:]) for part in name.split("."))
        across = scores.crossing[layer, :, head, span].abs().amax(0)
        yield from ((float(across[u]), (f"{name}<", u)) for u in range(span + 1))
        return
    columns = _columns(graph, name)
    best = scores.within[span][:, columns].abs().amax(1)
    for source in graph.real[:, columns[0]].nonzero().flatten().tolist():
        yield float(best[source]), (graph.sources[source], span)


def _columns(graph: Components, name: str) -> list[int]:
    """The destinations that go together with one: q, k and v of a head, or itself."""
    return [i for i, d in enumerate(graph.destinations) if d.partition("<")[:2] == name.partition("<")[:2]]


def _from_inputs(edges: list[tuple[Node, Node]]) -> list[tuple[Node, Node]]:
    """The edges on paths that begin at an input embedding."""
    alive: set[Node] = {up for up, _ in edges if up[0] == "input"}
    while True:
        more = {down for up, down in edges if up in alive} - alive
        if not more:
            return [edge for edge in edges if edge[0] in alive]
        alive |= more


def _circuit(graph: Components, spans: int, edges: list[tuple[Node, Node]]) -> SpanCircuit:
    circuit = SpanCircuit.none(graph, spans)
    for (up, at), (down, span) in edges:
        if up.endswith("<"):
            layer, head = (int(part[1:]) for part in down.split("."))
            circuit.crossing[layer, head, span, at] = True
        else:
            circuit.within[at, graph.sources.index(up), _columns(graph, down)] = True
    return circuit


@torch.no_grad()
def span_circuit_metric(
    graph: Components,
    examples: Examples,
    metric: Metric,
    circuit: SpanCircuit,
    *,
    end: End = "patch",
    reference: Examples | None = None,
    batch_size: int = 16,
) -> Float[Tensor, " examples"]:
    """The metric of every clean prompt with all edges outside the circuit moved to the counterfactual, zero or a mean.

    The end points are those of `span_scores`; `reference`: the prompts that a mean is over, such as those that found
    the circuit. Inputs of readers move as in `circuit_metric`. Where a crossing edge is cut, what the head reads
    there, A[d, u] v[u], is replaced by the end point's own A' v', without renormalising. Positions without a span keep
    everything.
    """
    ends, attention = both_ends(graph, examples, end, reference, batch_size)
    parts = []
    for batch in examples.batches(batch_size):
        spans = batch.grouped
        if circuit.crossing.shape[-1] != len(spans):
            raise ComponentError(f"a circuit of {circuit.crossing.shape[-1]} spans, examples of {len(spans)}")
        far = attention(batch)
        cut = torch.nn.functional.pad(SpanCircuit.all(graph, len(spans)).crossing & ~circuit.crossing, (0, 1, 0, 1))
        d, u = spans.index[:, :, None], spans.index[:, None, :]  # -1 is the padding: nothing is cut
        heads = {
            path: _cutting(cut[i][:, d, u].transpose(0, 1), None if far is None else far[i])
            for i, path in enumerate(attention_paths(graph))
            if bool(cut[i].any())
        }
        with attending(graph.model, heads):
            parts.append(
                measure(graph.model, metric, batch.clean, batch, cut_edits(graph, batch, circuit.within, ends(batch)))
            )
    return torch.cat(parts)


def _cutting(cut: Bool[Tensor, "batch heads d u"], far: Attention | None) -> Attend:
    def attend(q: Tensor, k: Tensor, v: Tensor, pattern: Tensor, scale: float) -> Tensor:
        gone = cut.to(v.device)
        heads = pattern.masked_fill(gone, 0.0) @ v
        return heads if far is None else heads + torch.where(gone, far.pattern, 0.0) @ far.v

    return attend
