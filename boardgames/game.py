"""What a board game offers to the metrics: named boolean properties of the position after every ply."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Int
from numpy.typing import NDArray


@dataclass(frozen=True)
class BoardProperty:
    """A group of yes-or-no questions about a position, such as "mine": is there a disc of mine on each square?

    `labels(replay)` answers for every game and ply: bool [games, plies, len(columns)]. `squares` names, for each
    column, the squares that it is a statement about ("" where it is about none).
    """

    name: str
    columns: tuple[str, ...]
    squares: tuple[str, ...]
    labels: Callable[[Any], NDArray[np.bool_]]


@dataclass(frozen=True)
class Labels:
    """The answers for a set of positions; row n is position `ply[n]` of game `game[n]`."""

    columns: tuple[str, ...]
    squares: tuple[str, ...]
    matrix: Bool[np.ndarray, "rows properties"]
    game: Int[np.ndarray, " rows"]
    ply: Int[np.ndarray, " rows"]

    def select(self, names: Sequence[str]) -> "Labels":
        """The same rows with only the named columns."""
        index = [self.columns.index(name) for name in names]
        return Labels(tuple(names), tuple(self.squares[i] for i in index), self.matrix[:, index], self.game, self.ply)


def label(replay: Any, positions: Bool[np.ndarray, "games plies"], properties: Sequence[BoardProperty]) -> Labels:
    """One boolean matrix for all properties at the chosen positions, games in order and plies within them."""
    game, ply = np.nonzero(positions)
    return Labels(
        tuple(c for p in properties for c in p.columns),
        tuple(s for p in properties for s in p.squares),
        np.concatenate([p.labels(replay)[:, : positions.shape[1]][positions] for p in properties], axis=1),
        game,
        ply,
    )
