"""How much of each node's input comes from where, over all paths (Ameisen et al. 2025, section 3.5).

Every node's input is divided among its sources in proportion to the absolute weights of its edges, Â[t, s] = |A[t, s]|
/ sum over s' of |A[t, s']|. A node's influence on targets with weights p is then p (Â + Â² + ...).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Edges:
    """Weights A[target, source] of an acyclic graph, each pair at most once."""

    targets: Int[Tensor, " edge"]
    sources: Int[Tensor, " edge"]
    weights: Float[Tensor, " edge"]

    def __len__(self) -> int:
        return len(self.weights)

    def take(self, index: Tensor) -> "Edges":
        """The edges at `index`, or those where it is true."""
        return Edges(self.targets[index], self.sources[index], self.weights[index])

    def shares(self, nodes: int) -> Float[Tensor, " edge"]:
        """What each edge is of its target's input: |weight| over the sum of the target's |weights|."""
        size = self.weights.abs()
        return size / size.new_zeros(nodes).index_add(0, self.targets, size)[self.targets].clamp_min(
            torch.finfo(size.dtype).tiny
        )

    def without_zeros(self) -> "Edges":
        return self.take(self.weights != 0)


def edges_of(rows: Float[Tensor, "target source"], targets: Int[Tensor, " target"]) -> Edges:
    """The entries of a few rows that are not zero."""
    row, source = rows.nonzero().to(torch.int32).unbind(1)
    return Edges(targets.to(torch.int32)[row], source, rows[row, source])


def joined(pieces: list[Edges]) -> Edges:
    return Edges(*(torch.cat([getattr(p, name) for p in pieces]) for name in ("targets", "sources", "weights")))


def total_influence(edges: Edges, start: Float[Tensor, " node"]) -> Float[Tensor, " node"]:
    """p (Â + Â² + ...) for p = start: as many steps as the longest path is long; ValueError if there is a circle."""
    shares, now = edges.shares(len(start)).to(start.dtype), start
    total = torch.zeros_like(start)
    for _ in range(len(start) + 1):
        now = torch.zeros_like(start).index_add(0, edges.sources, shares * now[edges.targets])
        if not now.any():
            return total
        total += now
    raise ValueError("the graph's edges run in a circle: influence has no end")


def cut_at(scores: Float[Tensor, " n"], share: float) -> Float[Tensor, ""]:
    """The smallest score among the largest scores that together make up `share` of the sum."""
    falling = scores.sort(descending=True).values
    running = cumulative(falling)
    return falling[min(int(torch.searchsorted(running, share)), len(falling) - 1)]


def cumulative(falling: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Running sums of scores as shares of the whole."""
    return falling.cumsum(0) / falling.sum().clamp_min(torch.finfo(falling.dtype).tiny)
