"""What a board game offers to the metrics: named boolean properties of positions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Int, UInt64
from numpy.typing import NDArray

_CHUNK = 4096  # positions labelled at a time: their bitboards stay in the L2 cache
_UNPACKED = 1 << 18  # booleans unpacked at a time, for the same reason


@runtime_checkable
class Positions(Protocol):
    """Positions of some game, as arrays with one entry a row."""

    @property
    def game(self) -> Int[np.ndarray, " rows"]: ...

    @property
    def ply(self) -> Int[np.ndarray, " rows"]: ...

    def __getitem__(self, rows: slice, /) -> Any:
        """Some of the rows."""
        ...


@dataclass(frozen=True)
class BoardProperty:
    """A group of yes-or-no questions about a position, such as "mine": is there a disc of mine on each square?

    `answers(positions)` is bool [rows, columns], or bitboards, uint64 [rows, columns / 64] ([rows] for one): bit s of
    bitboard b is the answer to column 64 b + s. `squares` names, for each column, the square that it is a statement
    about ("" where it is about none).
    """

    name: str
    columns: tuple[str, ...]
    squares: tuple[str, ...]
    answers: Callable[[Any], NDArray[Any]]

    @classmethod
    def per_square(
        cls, name: str, groups: Sequence[str], squares: Sequence[str], answers: Callable[[Any], NDArray[Any]]
    ) -> "BoardProperty":
        """One column a square for each group, named "group square": 64 columns for each bitboard of the answers."""
        columns = tuple(f"{group} {square}" for group in groups for square in squares)
        return cls(name, columns, tuple(squares) * len(groups), answers)

    @classmethod
    def of_board(cls, name: str, columns: Sequence[str], answers: Callable[[Any], NDArray[Any]]) -> "BoardProperty":
        """Columns that are about no square: answers are bool [rows, columns], or bool [rows] for a single one."""
        return cls(name, tuple(columns), ("",) * len(columns), answers)

    @property
    def description(self) -> str:
        """What it asks: the docstring of its predicate."""
        return (self.answers.__doc__ or "").strip()

    def column(self, positions: Positions, index: int) -> Bool[np.ndarray, " rows"]:
        """The answers to one of the columns; of bitboards one bit each is looked at."""
        answers = self.answers(positions)
        if answers.dtype != np.uint64:
            return answers.reshape(len(answers), len(self.columns))[:, index].astype(bool)
        boards = answers.reshape(len(answers), len(self.columns) // 64)[:, index // 64]
        return (boards >> np.uint64(index % 64) & np.uint64(1)).astype(bool)

    def labels(self, positions: Positions) -> Bool[np.ndarray, "rows columns"]:
        """The answers for all positions."""
        return label(positions, [self]).matrix


@dataclass(frozen=True)
class Labels:
    """The answers for a set of positions; row n is position `ply[n]` of game `game[n]` (or token of a document)."""

    columns: tuple[str, ...]
    squares: tuple[str, ...]
    matrix: Bool[np.ndarray, "rows properties"]
    game: Int[np.ndarray, " rows"]
    ply: Int[np.ndarray, " rows"]

    def select(self, names: Sequence[str]) -> "Labels":
        """The same rows with only the named columns."""
        index = [self.columns.index(name) for name in names]
        return Labels(tuple(names), tuple(self.squares[i] for i in index), self.matrix[:, index], self.game, self.ply)


def unpack(boards: UInt64[np.ndarray, "*shape"]) -> Bool[np.ndarray, "*shape 64"]:
    """One boolean per square, index = square."""
    octets = np.ascontiguousarray(boards, dtype="<u8")[..., None].view(np.uint8)
    return np.unpackbits(octets, axis=-1, bitorder="little").view(bool)


def label(positions: Positions, properties: Sequence[BoardProperty]) -> Labels:
    """One boolean matrix for all properties, in the order of the positions."""
    columns = tuple(c for p in properties for c in p.columns)
    matrix = np.empty((len(positions.game), len(columns)), bool)
    for start in range(0, len(matrix), _CHUNK):
        chunk = positions[start : start + _CHUNK]
        done = 0
        for asked in properties:
            place = matrix[start : start + _CHUNK, done : done + len(asked.columns)]
            _write(asked.answers(chunk), place)
            done += len(asked.columns)
    return Labels(columns, tuple(s for p in properties for s in p.squares), matrix, positions.game, positions.ply)


def _write(answers: NDArray[Any], place: Bool[np.ndarray, "rows columns"]) -> None:
    """Copy answers to their place in the matrix; bitboards are unpacked a few rows at a time, within the cache."""
    if answers.dtype != np.uint64:
        place[:] = answers.reshape(place.shape)
        return
    some = max(_UNPACKED // place.shape[1], 1)
    for row in range(0, len(place), some):
        piece = place[row : row + some]
        piece[:] = unpack(answers[row : row + some]).reshape(piece.shape)
