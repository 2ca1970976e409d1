"""Gradients of the metric that arrive at a site through single nodes: where edges into those nodes begin.

Through feature f at a position passes (gradient . W_dec[f]) * slope[f] * W_enc[f]: a number per position and one row of
weights, never a tensor of [nodes, batch, length, D] until a module has to be crossed. Through the error node, which is
x - decode(encode(x)), passes the gradient less what passes through all the features.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from circuits.places import Places
from saes.dictionary import Dictionary

if TYPE_CHECKING:
    from circuits.attribution import SiteEffects
    from circuits.edges import Chosen


@dataclass(frozen=True)
class Cotangents:
    """Of the chosen features weights [n, batch, length] and encoder rows [n, D]; of the error node a tensor."""

    weights: Float[Tensor, "n batch length"]
    encoder: Float[Tensor, "n d"]
    error: Float[Tensor, "batch length d"]
    error_places: Int[Tensor, " m"]
    places: Places

    @property
    def batch(self) -> int:
        return len(self.error)

    @property
    def numbers_each(self) -> int:
        """How many numbers one node's cotangent has."""
        return self.error.numel()

    @classmethod
    @torch.no_grad()
    def of(
        cls, dictionary: Dictionary, site: "SiteEffects", chosen: "Chosen", places: Places, mask: Tensor | None = None
    ) -> "Cotangents":
        """`mask` [batch, length, F + 1] weighs nodes at single positions of examples, the error node last."""
        moves, gradient = site.moves, site.gradient
        through = moves.dot_rows(gradient.flatten(0, 1), dictionary.W_dec) * moves.slope
        features, inverse = chosen.features.unique(return_inverse=True)
        weights = moves.of_features(features.to(through.device), through)[inverse.to(through.device)]
        weights = weights * (places.index == chosen.places[:, None, None]).to(weights)
        error = torch.zeros_like(gradient)
        if len(chosen.errors):
            error = gradient - encoded_back(dictionary, moves.row, moves.feature, through, gradient)
        if mask is not None:
            weights = weights * mask[..., chosen.features].permute(2, 0, 1)
            error = error * mask[..., -1:]
        return cls(weights, dictionary.encoder_rows(chosen.features), error, chosen.errors, places)

    def error_rows(self) -> Float[Tensor, "m batch length d"]:
        """The error node's cotangent at each chosen place."""
        here = self.places.index == self.error_places[:, None, None]
        return self.error * here[..., None].to(self.error)

    def pieces(self, size: int) -> Iterator[Float[Tensor, "nodes batch length d"]]:
        """The cotangents of all nodes, errors last, at most `size` at once."""
        for weights, rows in zip(self.weights.split(size), self.encoder.split(size), strict=True):
            if len(weights):
                yield weights[..., None] * rows[:, None, None]
        for places in self.error_places.split(size):
            if len(places):
                yield self.error * (self.places.index == places[:, None, None])[..., None].to(self.error)


def encoded_back(
    dictionary: Dictionary, row: Tensor, feature: Tensor, values: Tensor, like: Float[Tensor, "batch length d"]
) -> Float[Tensor, "batch length d"]:
    """Sum of values times encoder rows at every position; `row` ascends."""
    rows = like.shape[0] * like.shape[1]
    used, index = feature.unique(return_inverse=True)
    starts = torch.searchsorted(row, torch.arange(rows, device=row.device))
    encoder = dictionary.encoder_rows(used)
    if not len(used):
        return torch.zeros_like(like)
    return functional.embedding_bag(index, encoder, starts, mode="sum", per_sample_weights=values).view_as(like)
