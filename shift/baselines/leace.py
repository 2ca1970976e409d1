"""LEACE: least-squares concept erasure in closed form (Belrose et al. 2023, theorem 4.3).

Of all affine maps after which x has no covariance with z, so that no linear predictor of z does better than a constant,
it changes x least, in every norm at once: r(x) = x - W^+ P W (x - E x), with W = Cov(x)^(-1/2) and P the projection on
the columns of W Cov(x, z). All is done in float64; directions in which x does not vary are left alone.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

_FLAT = 1e-10
"""share of the largest variance below which a direction counts as constant: rounding, and what no predictor can use"""


@dataclass(frozen=True)
class Eraser:
    """r(x) = x - (x - mean) @ reads @ writes."""

    mean: Float[Tensor, " d"]
    reads: Float[Tensor, "d k"]
    writes: Float[Tensor, "k d"]

    def __call__(self, x: Float[Tensor, "examples d"]) -> Float[Tensor, "examples d"]:
        """The same rows with z erased, in the dtype given."""
        return (x - (x.double() - self.mean) @ self.reads @ self.writes).to(x.dtype)


def fit_eraser(x: Float[Tensor, "examples d"], z: Float[Tensor, "examples k"] | Bool[Tensor, "examples k"]) -> Eraser:
    """Of what is to be erased, z, from rows x; a column of z that says nothing about x costs nothing.

    ValueError for fewer than two examples.
    """
    if len(x) < 2:
        raise ValueError(f"{len(x)} examples to fit an eraser on: give at least 2, and more than x has dimensions")
    mean = x.double().mean(0)
    centred, told = x.double() - mean, z.double() - z.double().mean(0)
    variance, axes = torch.linalg.eigh(centred.T @ centred / len(x))
    varies = variance > _FLAT * variance[-1].clamp_min(torch.finfo(torch.float64).tiny)
    spread, axes = variance[varies].sqrt(), axes[:, varies]
    covariance = centred.T @ told / len(x)
    whitened = axes.T @ covariance / spread[:, None]  # correlations with z's columns, in whitened coordinates
    directions, size, _ = torch.linalg.svd(whitened, full_matrices=False)
    directions = directions[:, size > 1e-12 * told.square().mean(0).sqrt().max()]
    return Eraser(mean, axes / spread @ directions, (axes * spread @ directions).T)
