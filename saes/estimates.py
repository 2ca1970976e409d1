"""Estimates with standard errors from positions that are not independent: rows of tokens are the sampling units.

Every number of an evaluation is a function of sums over rows, g(sum of s_r), that does not change when all sums grow by
one factor: a mean is a sum over a count, variance explained one minus a ratio. Its standard error is the linearised one
(delta method; the same as the infinitesimal jackknife over rows): with z_r = grad g(mean s) . (s_r - mean s),
Var = sum z_r^2 / (R (R - 1)), R rows. It follows from the means and the scatter matrix of the K sums alone, which are
updated batch by batch in float64 (Chan, Golub & LeVeque 1979): memory is K^2, whatever the number of rows.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Num
from torch import Tensor

Statistic = Callable[[Mapping[str, Tensor]], Tensor]


class Estimate(NamedTuple):
    """A number and its standard error; the latter is NaN where fewer than two rows were seen."""

    value: float
    standard_error: float


class RowSums:
    """Means over rows and scatter of K named sums; `names` fixes their order."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self.rows = 0
        self._mean = torch.zeros(len(self.names), dtype=torch.float64)
        self._scatter = torch.zeros(len(self.names), len(self.names), dtype=torch.float64)

    def add(self, columns: Mapping[str, Num[Tensor, " rows"]]) -> None:
        """A few more rows: for every name one sum per row."""
        new = torch.stack([columns[name].double().cpu() for name in self.names], dim=1)
        if not len(new):
            return
        mean = new.mean(0)
        centred, step = new - mean, mean - self._mean
        whole = self.rows + len(new)
        self._scatter += centred.T @ centred + torch.outer(step, step) * (self.rows * len(new) / whole)
        self._mean += step * (len(new) / whole)
        self.rows = whole

    def total(self, name: str) -> float:
        """One sum over all rows."""
        return float(self._mean[self.names.index(name)]) * self.rows

    def estimate(self, statistic: Statistic) -> Estimate:
        """A function of the sums that is homogeneous of degree 0, and its standard error."""

        def of_means(mean: Tensor) -> tuple[Tensor, Tensor]:
            value = statistic(dict(zip(self.names, mean, strict=True)))
            return value, value

        gradient, value = torch.func.grad(of_means, has_aux=True)(self._mean)
        if self.rows < 2:
            return Estimate(float(value), math.nan)
        variance = gradient @ self._scatter @ gradient / (self.rows * (self.rows - 1))
        return Estimate(float(value), float(variance.clamp_min(0).sqrt()))
