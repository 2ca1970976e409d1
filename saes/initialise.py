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
    """The point with the smallest summed distance to x, by Weiszfeld's algorithm.

    A distance of 0 (the guess is one of the points, or all points are the same) has no reciprocal; it is bounded from
    below by a millionth of the mean distance.
    """
    guess = x.mean(0)
    for _ in range(iterations):
        before = guess
        distance = (x - guess).norm(dim=1)
        weight = 1 / distance.clamp_min(max(1e-6 * float(distance.mean()), torch.finfo(x.dtype).tiny ** 0.5))
        guess = (weight[:, None] * x).sum(0) / weight.sum()
        if float((guess - before).norm()) < tolerance:
            break
    return guess
