"""Board properties of Othello (Karvonen et al. 2024, section 3), in three readings of "mine".

`CORRECTED` is the default: mine is the side that has just moved, tracked through passes. `BY_NEXT` differs right before
a forced pass: mine is the opponent of the side that moves next (and the side that has just moved when the game is
over). `PAPER` repeats the original: the parity of the ply, which exchanges mine and yours after every forced pass.
docs/boards.md draws them.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boardgames.game import BoardProperty
from boardgames.othello import lines
from boardgames.othello.rules import BLACK, OthelloPositions, square_name

Answers = Callable[[OthelloPositions], NDArray[Any]]
Sides = tuple[NDArray[np.uint64], NDArray[np.uint64]]

SQUARES = tuple(square_name(s) for s in range(64))
PLY_BUCKETS = tuple((start, start + 9) for start in range(0, 60, 10))


def _sides(p: OthelloPositions, black_is_mine: NDArray[np.bool_]) -> Sides:
    return np.where(black_is_mine, p.black, p.white), np.where(black_is_mine, p.white, p.black)


def by_last_mover(p: OthelloPositions) -> Sides:
    """(mine, yours): mine are the discs of the side that has just moved."""
    return _sides(p, p.mover == BLACK)


def by_next_mover(p: OthelloPositions) -> Sides:
    """(mine, yours): yours are the discs of the side that moves next; of the side that did not move last at the end."""
    return _sides(p, np.where(p.next_mover == 0, p.mover == BLACK, p.next_mover != BLACK))


def by_parity(p: OthelloPositions) -> Sides:
    """(mine, yours): mine are Black's discs after the first, third, ... move of the transcript."""
    return _sides(p, p.ply % 2 == 0)


def last_move(p: OthelloPositions) -> NDArray[np.uint64]:
    """The square of the last move."""
    return np.uint64(1) << p.moves.astype(np.uint64)


def _ply(p: OthelloPositions) -> NDArray[np.bool_]:
    """How many moves were made before the last one, in tens."""
    return np.stack([(first <= p.ply) & (p.ply <= last) for first, last in PLY_BUCKETS], axis=1)


def _who_moves(p: OthelloPositions) -> NDArray[np.bool_]:
    """Who moves next, passes taken into account, and whether the side that has just moved moves again."""
    return np.stack([p.next_mover == 1, p.next_mover == -1, p.next_mover == 0, p.next_mover == p.mover], axis=1)


def _per_square(name: str, answers: Answers) -> BoardProperty:
    return BoardProperty.per_square(name, [name], SQUARES, answers)


EMPTY = _per_square("empty", lambda p: ~(p.black | p.white))
OCCUPIED = _per_square("occupied", lambda p: p.black | p.white)
LEGAL = _per_square("legal", lambda p: p.legal)
FLIPPED = _per_square("flipped", lambda p: p.flipped)
LAST_MOVE = _per_square("last move", last_move)
BLACK_DISC = _per_square("black", lambda p: p.black)
WHITE_DISC = _per_square("white", lambda p: p.white)
PLY = BoardProperty.of_board("ply", [f"ply {a}-{b}" for a, b in PLY_BUCKETS], _ply)
WHO_MOVES = BoardProperty.of_board(
    "who moves", ["black moves", "white moves", "game over", "same side again"], _who_moves
)


def _set(sides: Callable[[OthelloPositions], Sides], open_lengths: Callable[..., Any]) -> dict[str, BoardProperty]:
    """All properties, with one reading of mine and yours."""

    def swapped(p: OthelloPositions) -> Sides:
        mine, yours = sides(p)
        return yours, mine

    def directions(name: str, of: Callable[[OthelloPositions], Sides]) -> BoardProperty:
        groups = [f"{name} {d}" for d in lines.DIRECTION_NAMES]
        return BoardProperty.per_square(name, groups, SQUARES, lambda p: lines.closed_lines(*of(p)))

    def lengths(name: str, measure: Callable[..., Any]) -> BoardProperty:
        groups = [f"{name} {n} {d}" for n in range(1, lines.LONGEST + 1) for d in lines.DIRECTION_NAMES]
        return BoardProperty.per_square(name, groups, SQUARES, lambda p: measure(*sides(p)))

    return {
        p.name: p
        for p in (
            _per_square("mine", lambda p: sides(p)[0]),
            _per_square("yours", lambda p: sides(p)[1]),
            EMPTY,
            LEGAL,
            FLIPPED,
            LAST_MOVE,
            BLACK_DISC,
            WHITE_DISC,
            PLY,
            OCCUPIED,
            WHO_MOVES,
            directions("line of mine", sides),
            directions("line of yours", swapped),
            lengths("closed line of mine", lines.closed_lengths),
            lengths("run of mine", open_lengths),
        )
    }


CORRECTED = _set(by_last_mover, lines.open_lengths)
BY_NEXT = _set(by_next_mover, lines.open_lengths)
PAPER = _set(by_parity, lines.paper_open_lengths)
SETS = {"corrected": CORRECTED, "by_next": BY_NEXT, "paper": PAPER}

MINE, YOURS = CORRECTED["mine"], CORRECTED["yours"]
BOARD = (MINE, YOURS)  # the 128 columns of the paper's Othello metric that can be true
EVERYTHING = (MINE, YOURS, EMPTY, LEGAL, FLIPPED, LAST_MOVE, BLACK_DISC, WHITE_DISC, PLY)
"""what features are named after: one column for each thing that a square can be"""
