"""Board properties of Othello (Karvonen et al. 2024, section 3, corrected): "mine" is the side that has just moved.

The paper takes the mover from the parity of the ply, which inverts mine and yours after every forced pass; here the
mover is tracked through passes.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from boardgames.game import BoardProperty
from boardgames.othello.rules import NO_MOVE, Replay, square_name, unpack

SQUARES = tuple(square_name(s) for s in range(64))
PLY_BUCKETS = tuple((start, start + 9) for start in range(0, 60, 10))


def _per_square(name: str, boards: Callable[[Replay], NDArray[np.uint64]]) -> BoardProperty:
    return BoardProperty(name, tuple(f"{name} {s}" for s in SQUARES), SQUARES, lambda replay: unpack(boards(replay)))


def _last_move(replay: Replay) -> NDArray[np.uint64]:
    bit = np.uint64(1) << (replay.moves & 63).astype(np.uint64)
    return np.where(replay.moves != NO_MOVE, bit, np.uint64(0))


def _ply(replay: Replay) -> NDArray[np.bool_]:
    ply = np.arange(replay.moves.shape[1])
    buckets = np.stack([(first <= ply) & (ply <= last) for first, last in PLY_BUCKETS], axis=1)
    return np.broadcast_to(buckets, (len(replay.moves), *buckets.shape))


MINE = _per_square("mine", lambda r: r.mine)
YOURS = _per_square("yours", lambda r: r.yours)
EMPTY = _per_square("empty", lambda r: np.where(r.played, ~(r.black | r.white), np.uint64(0)))
LEGAL = _per_square("legal", lambda r: r.legal)
FLIPPED = _per_square("flipped", lambda r: r.flipped)
LAST_MOVE = _per_square("last move", _last_move)
BLACK_DISC = _per_square("black", lambda r: r.black)
WHITE_DISC = _per_square("white", lambda r: r.white)
PLY = BoardProperty("ply", tuple(f"ply {a}-{b}" for a, b in PLY_BUCKETS), ("",) * len(PLY_BUCKETS), _ply)

BOARD = (MINE, YOURS)  # the 128 columns of the paper's Othello metric that can be true
EVERYTHING = (MINE, YOURS, EMPTY, LEGAL, FLIPPED, LAST_MOVE, BLACK_DISC, WHITE_DISC, PLY)
