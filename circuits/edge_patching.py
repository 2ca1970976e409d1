"""Exact effects of edges, one at a time: the oracle that edge attribution approximates."""

from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.component_states import ComponentStates, End, end_points
from circuits.components import Components
from circuits.eap import EdgeScores
from circuits.edge_circuits import cut_edits
from circuits.examples import Examples
from circuits.metrics import Metric, measure
from circuits.places import Places


@torch.no_grad()
def exact_edge_scores(
    graph: Components,
    examples: Examples,
    metric: Metric,
    *,
    edges: Bool[Tensor, "sources destinations"] | None = None,
    end: End | ComponentStates = "patch",
    batch_size: int = 64,
) -> EdgeScores:
    """m(one edge moved to its end point at one place) - m(clean), means over examples; other entries are zero.

    `edges`: which ones (by default all that there are). `batch_size`: prompts in one run, for which as many edges
    with readers in the same block are cut at once, each in a copy of the examples.
    """
    ends, names = end_points(graph, examples, end), examples.grouped.names
    total = torch.zeros(len(names), *graph.real.shape, dtype=torch.float64)
    wanted = graph.real if edges is None else graph.real & edges.cpu()
    sites = [slice(graph.readers(i).start, graph.readers(i).stop + 1) for i in range(len(graph.layers))]
    for batch in examples.batches(batch_size):
        moved, base = ends(batch), measure(graph.model, metric, batch.clean, batch)
        for columns in [*sites, slice(len(graph.destinations) - 1, None)]:
            block = torch.zeros_like(wanted)
            block[:, columns] = wanted[:, columns]
            every = block.expand(len(names), -1, -1).nonzero()
            for chunk in every.split(max(1, batch_size // len(batch))) if len(every) else ():
                values = _one_by_one(graph, batch, metric, moved, chunk)
                total[tuple(chunk.T)] += (values - base).sum(1).cpu()
    return EdgeScores(total / len(examples), names, graph.sources, graph.destinations)


def _one_by_one(
    graph: Components, batch: Examples, metric: Metric, end: ComponentStates, chosen: Tensor
) -> Float[Tensor, "edges batch"]:
    """The metric with each of the edges (place, source, destination) cut in a copy of the batch of its own."""
    count = len(chosen)
    kept = torch.ones(count, *graph.real.shape, dtype=torch.bool)
    kept[torch.arange(count), chosen[:, 1], chosen[:, 2]] = False
    here = batch.grouped.index == chosen[:, 0, None, None]
    copies = Places(
        tuple(map(str, range(count))), torch.where(here, torch.arange(count)[:, None, None], -1).flatten(0, 1)
    )
    repeated = replace(batch.repeat(count), places=copies)
    far = end.map(lambda x: x.repeat(count, *[1] * (x.dim() - 1)) if len(x) == len(batch) else x)
    values = measure(graph.model, metric, repeated.clean, repeated, cut_edits(graph, repeated, kept, far))
    return values.unflatten(0, (count, -1))
