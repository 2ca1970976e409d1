"""Behaviours whose cause the rules fix: a square that is legal through one line only, and games where it is not.

A pair is two transcripts that differ in one earlier move; both are legal up to the same ply and the same side moves
next, but the target square is legal, through exactly one flipping direction, in the first alone.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int, UInt8

from boardgames.othello.rules import (
    DIRECTIONS,
    NO_MOVE,
    WHITE,
    Replay,
    flips_by_direction,
    pick_bit,
    random_games,
    replay,
    replay_while_legal,
)

_ONE = np.uint64(1)


@dataclass(frozen=True)
class Counterfactuals:
    """Clean and patch transcripts (NO_MOVE after `ply`), the ply after which the target is asked for, the change."""

    target: int
    clean: UInt8[np.ndarray, "pairs 60"]
    patch: UInt8[np.ndarray, "pairs 60"]
    ply: Int[np.ndarray, " pairs"]
    changed_ply: Int[np.ndarray, " pairs"]

    def __len__(self) -> int:
        return len(self.ply)


def flipping_directions(games: Replay, target: int) -> Bool[np.ndarray, "8 games 60"]:
    """Through which of DIRECTIONS the next mover would flip discs by playing `target`, where that is legal."""
    white_next = games.next_mover == WHITE
    own = np.where(white_next, games.white, games.black)
    opponent = np.where(white_next, games.black, games.white)
    bit = np.full(own.shape, _ONE << np.uint64(target))
    lines = flips_by_direction(own.ravel(), opponent.ravel(), bit.ravel()).reshape(8, *own.shape)
    return (lines != 0) & ((games.legal & bit) != 0)


def counterfactuals(
    count: int,
    target: int,
    direction: tuple[int, int],
    rng: np.random.Generator,
    *,
    first_ply: int = 9,
    last_ply: int = 29,
    attempts: int = 400,
) -> Counterfactuals:
    """`count` pairs for a target that is legal through `direction` only, from random games.

    Raises ValueError if that many cannot be found.
    """
    line = DIRECTIONS.index(direction)
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]] = []
    for _ in range(attempts):
        moves = random_games(2048, rng)
        games = replay(moves)
        lines = flipping_directions(games, target)
        asked = lines[line] & (lines.sum(0) == 1)
        asked[:, :first_ply] = asked[:, last_ply + 1 :] = False
        rows = np.flatnonzero(asked.any(1))
        ply = np.array([rng.choice(np.flatnonzero(asked[row])) for row in rows], dtype=np.int64)
        changed = (rng.random(len(rows)) * ply).astype(np.int64)
        clean = np.where(np.arange(moves.shape[1]) <= ply[:, None], moves[rows], np.uint8(NO_MOVE))
        patch = clean.copy()
        options = np.where(changed > 0, games.legal[rows, changed - 1], np.uint64(0))  # the first move is left alone
        options &= ~(_ONE << clean[np.arange(len(rows)), changed].astype(np.uint64))
        open_ = options != 0
        rank = (rng.random(len(rows)) * np.bitwise_count(options)).astype(np.uint8)
        patch[np.arange(len(rows)), changed] = pick_bit(options, rank)
        other, illegal = replay_while_legal(patch)
        at = np.arange(len(rows)), ply
        bit = _ONE << np.uint64(target)
        good = (
            open_
            & (illegal == moves.shape[1])
            & (other.next_mover[at] == games.next_mover[rows, ply])
            & ((other.legal[at] & bit) == 0)
            & (((other.black[at] | other.white[at]) & bit) == 0)
        )
        found.append((clean[good], patch[good], ply[good], changed[good]))
        if sum(len(f[2]) for f in found) >= count:
            break
    clean, patch, ply, changed = (np.concatenate(parts)[:count] for parts in zip(*found, strict=True))
    if len(ply) < count:
        raise ValueError(f"found {len(ply)} of {count} pairs for this square and direction; ask for fewer")
    return Counterfactuals(target, clean, patch, ply, changed)
