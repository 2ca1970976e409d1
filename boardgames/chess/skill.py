"""Skill as a label for probes (Karvonen 2024): which sixth of the ratings a game's rating falls in.

A property of the game, not of its board: it is in no board score.
"""

import numpy as np
from jaxtyping import Bool, Float, Int

from boardgames.chess.positions import ChessPositions
from boardgames.game import Labels

BINS = 6
FROM_DOT = 25  # the reference probes from here on, where players have had time to differ


def skill_edges(ratings: Float[np.ndarray, " games"], bins: int = BINS) -> Float[np.ndarray, " edges"]:
    """The quantiles between the bins, of the ratings that are known (the others are NaN); ValueError for too few."""
    known = ratings[np.isfinite(ratings)]
    if len(known) < bins:
        raise ValueError(f"{len(known)} games with a rating are too few for {bins} bins")
    return np.quantile(known, np.arange(1, bins) / bins)


def skill_labels(
    positions: ChessPositions,
    ratings: Float[np.ndarray, " games"],
    edges: Float[np.ndarray, " edges"],
    from_dot: int = 1,
) -> tuple[Labels, Bool[np.ndarray, " rows"]]:
    """Columns "skill 0" (the weakest) to "skill 5", of the rows that the mask tells.

    `ratings`: one of each game of `positions`, White's say, NaN where unknown; rows of such games are left out, and so
    are rows before White's move number `from_dot` (its dot is the first row of it). A rating on an edge is in the
    upper bin. Take `edges` from the games that a probe is fitted on, also for those that it is scored on.
    """
    if len(positions) and int(positions.game.max()) >= len(ratings):
        raise ValueError(f"{len(ratings)} ratings, but there is a game {int(positions.game.max())}")
    rating = ratings[positions.game]
    rows = np.isfinite(rating) & (positions.ply >= 2 * (from_dot - 1))
    bins: Int[np.ndarray, " rows"] = np.searchsorted(edges, rating[rows], side="right")
    columns = tuple(f"skill {bin}" for bin in range(len(edges) + 1))
    matrix = bins[:, None] == np.arange(len(columns))
    return Labels(columns, ("",) * len(columns), matrix, positions.game[rows], positions.ply[rows]), rows
