"""What a dictionary starts from: the scale of its activations and the centre of its decoder."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Normalise = Literal["unit", "sqrt_d", "none"]


def scale_of(x: Float[Tensor, "sample d"], normalise: Normalise) -> float:
    """What activations are divided by: to unit mean square norm (unit), to mean norm sqrt(d) (sqrt_d), or not at all.

    ValueError if the sample holds nothing but zeros, or a NaN.
    """
    if normalise == "none":
        return 1.0
    norms = x.double().norm(dim=1)
    scale = float(norms.square().mean().sqrt()) if normalise == "unit" else float(norms.mean() / x.shape[1] ** 0.5)
    if not 0 < scale < float("inf"):
        raise ValueError(f"the activations cannot be normalised: their scale is {scale}; are they all zero, or NaN?")
    return scale


def geometric_median(
    x: Float[Tensor, "sample d"], iterations: int = 100, tolerance: float = 1e-5
) -> Float[Tensor, " d"]:
    """The point with the smallest summed distance to x, by Weiszfeld's algorithm as Vardi and Zhang (2000) repair it.

    A distance of 0 (the guess is one of the points, or all points are the same) has no reciprocal: points at the guess
    are left out of the mean, and hold the guess back by their number against the pull of the others.
    """
    guess = x.mean(0)
    for _ in range(iterations):
        before = guess
        distance = (x - guess).norm(dim=1)
        here = distance <= 1e-6 * distance.mean()
        weight = torch.where(here, 0.0, 1 / distance)
        total = weight.sum()
        mean = (weight[:, None] * x).sum(0) / total.clamp_min(torch.finfo(x.dtype).tiny)
        pull = total * (mean - guess).norm()
        stay = (here.sum() / pull).clamp_max(1.0) if here.any() else 0.0
        guess = (1 - stay) * mean + stay * guess
        if float((guess - before).norm()) < tolerance:
            break
    return guess
