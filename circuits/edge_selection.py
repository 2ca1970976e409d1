"""Which edges make a circuit: the best n, best-first from the end, and pruning to what hangs together (EAP-IG, MIB)."""

import heapq

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.components import ComponentError, Components

Edges = Bool[Tensor, "sources destinations"]


def top_edges(
    graph: Components, scores: Float[Tensor, "sources destinations"], count: int, *, absolute: bool = True
) -> Edges:
    """The `count` edges of largest score or magnitude, not pruned; of equal ones the first in the matrix."""
    ranked = _ranked(graph, scores, count, absolute).flatten().argsort(descending=True, stable=True)
    kept = torch.zeros(graph.real.numel(), dtype=torch.bool)
    kept[ranked[:count]] = True
    return kept.view(graph.real.shape)


def greedy_edges(
    graph: Components, scores: Float[Tensor, "sources destinations"], count: int, *, absolute: bool = True
) -> Edges:
    """Best-first from the end: the best edge, `count` times, of those whose reader is reached already; not pruned."""
    ranked = _ranked(graph, scores, count, absolute)
    kept = torch.zeros_like(graph.real)
    reached: set[int] = set()
    waiting: list[tuple[float, int, int]] = []

    def reach(columns: list[int]) -> None:
        for column in columns:
            for source in graph.real[:, column].nonzero().flatten().tolist():
                heapq.heappush(waiting, (-float(ranked[source, column]), column, source))

    reach([len(graph.destinations) - 1])
    for _ in range(count):
        _, column, source = heapq.heappop(waiting)
        kept[source, column] = True
        if source not in reached:
            reached.add(source)
            reach(graph.owner[source].nonzero().flatten().tolist())
    return kept


def prune(graph: Components, kept: Edges) -> Edges:
    """Without edges that lead nowhere: sources need a reader and, the input excepted, something that they read."""
    kept = kept & graph.real
    while True:
        read = (graph.owner & kept.any(0)).any(1)
        read[0] = True
        alive = kept.any(1) & read
        reading = (graph.owner & alive[:, None]).any(0)
        reading[-1] = True
        smaller = kept & alive[:, None] & reading
        if bool((smaller == kept).all()):
            return kept
        kept = smaller


def _ranked(graph: Components, scores: Tensor, count: int, absolute: bool) -> Tensor:
    if scores.shape != graph.real.shape:
        raise ComponentError(f"edge scores are {list(scores.shape)}; this graph has {list(graph.real.shape)}")
    edges = int(graph.real.sum())
    if not 0 <= count <= edges:
        raise ComponentError(f"{count} edges: this graph has {edges}")
    if not bool(scores.isfinite().all()):
        raise ComponentError("edge scores hold infinite values or NaN")
    return (scores.abs() if absolute else scores).cpu().masked_fill(~graph.real, float("-inf"))
