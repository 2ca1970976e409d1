"""Run a model with the nodes outside a circuit moved to their end points: components, neurons, the residual stream.

A component outside the circuit is at its end point for all its readers, whatever it writes in this run; a neuron, or
the stream at a place, is set to its end point where it stands. What is inside works on what it gets.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.component_states import ComponentStates, End, Nodes, end_points
from circuits.components import ComponentError, Components
from circuits.edge_circuits import cut_edits
from circuits.examples import Examples
from circuits.metrics import Metric, measure
from saes.sites import Edit, Site

Kept = Bool[Tensor, "places sources"] | Bool[Tensor, "places sources d"]
"""by place: whole sources, or for whole sites also their single dimensions (neurons)"""


def top(scores: Float[Tensor, "..."], count: int, *, absolute: bool = True) -> Bool[Tensor, "..."]:
    """The `count` entries of largest score or magnitude (all, if there are fewer); of equal ones the first."""
    if count < 0 or not bool(scores.isfinite().all()):
        what = f"{count} nodes" if count < 0 else "scores that are infinite or NaN"
        raise ComponentError(f"{what}: choose 0 or more of finite scores")
    values = scores.flatten().abs() if absolute else scores.flatten()
    kept = torch.zeros(values.shape, dtype=torch.bool)
    kept[values.argsort(descending=True, stable=True)[:count].cpu()] = True
    return kept.view(scores.shape)


@torch.no_grad()
def node_circuit_metrics(
    nodes: Nodes,
    examples: Examples,
    metric: Metric,
    circuits: Sequence[Kept],
    *,
    end: End | ComponentStates = "patch",
    batch_size: int = 16,
) -> Float[Tensor, "circuits examples"]:
    """The metric of every clean prompt with all nodes outside each circuit moved; positions without a place stay."""
    shape = (len(examples.grouped), len(nodes.sources), nodes.width)
    for kept in circuits:
        if kept.shape != shape[: kept.dim()] or (kept.dim() == 3 and isinstance(nodes, Components)):
            raise ComponentError(f"a circuit of shape {list(kept.shape)}; these examples and nodes need {list(shape)}")
    ends = end_points(nodes, examples, end, batch_size)
    parts = []
    for batch in examples.batches(batch_size):
        far = ends(batch)
        values = [measure(nodes.model, metric, batch.clean, batch, _edits(nodes, batch, k, far)) for k in circuits]
        parts.append(torch.stack(values))
    return torch.cat(parts, 1)


def _edits(nodes: Nodes, batch: Examples, kept: Kept, far: ComponentStates) -> dict[Site, Edit]:
    if isinstance(nodes, Components):
        return cut_edits(nodes, batch, kept[..., None].expand(-1, -1, len(nodes.destinations)), far)
    every = kept if kept.dim() == 3 else kept[..., None]
    chosen = [i for i, count in enumerate(nodes.counts) if count]
    edits: dict[Site, Edit] = {}
    for source, index in enumerate(chosen):
        if not bool(every[:, source].all()):
            stays = batch.grouped.spread(every[:, source], 1.0)
            edits[nodes.written[index]] = lambda x, s=stays, i=index: torch.where(s.to(x.device), x, far.parts[i])
    return edits
