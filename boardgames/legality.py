"""What is measured of every language model that plays: how often its move is legal, and how sure that figure is."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Num


@dataclass(frozen=True)
class Legality:
    """Averages over positions; `..._error` is the standard error of the figure before it, None for a single game."""

    games: int
    positions: int
    legal_move_rate: float  # share of positions where the move that the model finds most likely is legal
    legal_move_rate_error: float | None
    legal_mass: float  # mean probability given to legal moves
    legal_mass_error: float | None
    legal_move_rate_by_ply: list[float | None]  # None where no position was looked at
    positions_by_ply: list[int]


class Estimate(NamedTuple):
    """A figure and its standard error."""

    value: float
    error: float | None  # None where there is one game only


def ratio(numerator: Num[np.ndarray, " games"], denominator: Num[np.ndarray, " games"]) -> Estimate:
    """Sum over sum, 0 if there is nothing to divide by. The error takes games, not positions, to be independent.

    It is that of the ratio estimator: the root of n / (n - 1) Σ (numerator - value · denominator)² over Σ denominator,
    where the sums go over the n games that have a denominator at all.
    """
    top, bottom = (np.asarray(x, np.float64)[denominator > 0] for x in (numerator, denominator))
    if not len(bottom):
        return Estimate(0.0, None)
    value = float(top.sum() / bottom.sum())
    if len(bottom) == 1:
        return Estimate(value, None)
    spread = ((top - value * bottom) ** 2).sum() * len(bottom) / (len(bottom) - 1)
    return Estimate(value, float(np.sqrt(spread) / bottom.sum()))
