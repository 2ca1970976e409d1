"""Which squares an answer depends on: what the rules say about a feature that is named after several squares.

A column depends on a square of a position if some other content of that square alone (mine, yours or empty) changes
its answer: `legal b4` depends on the line that closes it, on another board on other squares. What a move's legality
hangs on between two boards is the same question for several squares at once (`causal_squares`).
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Bool, UInt64

from boardgames.game import BoardProperty, label, unpack
from boardgames.othello.counterfactuals import Counterfactuals
from boardgames.othello.properties import FLIPPED, LAST_MOVE, SQUARES
from boardgames.othello.rules import DIRECTIONS, WHITE, OthelloPositions, flips_by_direction, legal_moves, replay

_HISTORY = {name: square for p in (FLIPPED, LAST_MOVE) for name, square in zip(p.columns, p.squares, strict=True)}
_ZERO, _ONE = np.uint64(0), np.uint64(1)
Boards = UInt64[np.ndarray, " rows"]


def positions_asked(pairs: Counterfactuals) -> tuple[OthelloPositions, OthelloPositions]:
    """The clean and the patch position of every pair, after the ply at which it is asked."""
    at = np.arange(pairs.clean.shape[1]) == pairs.ply[:, None]
    return replay(pairs.clean).at(at), replay(pairs.patch).at(at)


def next_sides(p: OthelloPositions) -> tuple[Boards, Boards]:
    """Discs of the side that moves next, and of its opponent; where the game is over, black and white."""
    white = p.next_mover == WHITE
    return np.where(white, p.white, p.black), np.where(white, p.black, p.white)


def differing(clean: OthelloPositions, patch: OthelloPositions) -> Boards:
    """Squares whose content (the next mover's disc, its opponent's, none) is not the same, pair by pair."""
    (own, opponent), (own_, opponent_) = next_sides(clean), next_sides(patch)
    return (own ^ own_) | (opponent ^ opponent_)


def dependence(p: OthelloPositions, properties: Sequence[BoardProperty]) -> Bool[np.ndarray, "rows columns 64"]:
    """Which squares every column depends on, in every position; who moved and moves, and the last move, stay.

    `flipped` and `last move` are about the last move, not the board: they depend on the square that they name.
    """
    before = label(p, properties)
    found = np.zeros((*before.matrix.shape, 64), bool)
    for square in range(64):
        bit = _ONE << np.uint64(square)
        for black, white in ((bit, _ZERO), (_ZERO, bit), (_ZERO, _ZERO)):
            changed = replace(p, black=p.black & ~bit | black, white=p.white & ~bit | white)
            legal = np.where(p.next_mover == 0, _ZERO, legal_moves(*next_sides(changed)))
            found[:, :, square] |= label(replace(changed, legal=legal), properties).matrix != before.matrix
    for column, name in enumerate(before.columns):
        if name in _HISTORY:
            found[:, column] = np.arange(64) == SQUARES.index(_HISTORY[name])
    return found


def causal_squares(
    clean: OthelloPositions, patch: OthelloPositions, target: int, direction: tuple[int, int]
) -> Bool[np.ndarray, "pairs 64"]:
    """Squares that make the target illegal: those in a smallest set of differing squares, on the line through which
    the target is legal in clean, whose content of patch closes that line. No set that holds a smaller one counts.
    """
    line = _line(target, direction)
    changes = unpack(differing(clean, patch))[:, line]
    (own, opponent), (own_, opponent_) = next_sides(clean), next_sides(patch)
    bit = np.full(len(own), _ONE << np.uint64(target))
    sets = 1 << len(line)
    broken, minimal = np.zeros((sets, len(own)), bool), np.zeros((sets, len(own)), bool)
    for chosen in range(1, sets):
        members = [i for i in range(len(line)) if chosen >> i & 1]
        mask = np.bitwise_or.reduce([_ONE << np.uint64(line[i]) for i in members])
        flips = flips_by_direction(own & ~mask | own_ & mask, opponent & ~mask | opponent_ & mask, bit)
        breaks = (flips[DIRECTIONS.index(direction)] == 0) & changes[:, members].all(1)
        smaller = np.logical_or.reduce([broken[chosen ^ 1 << i] for i in members])
        minimal[chosen], broken[chosen] = breaks & ~smaller, breaks | smaller
    causal = np.zeros((len(own), 64), bool)
    for i, square in enumerate(line):
        causal[:, square] = minimal[[chosen for chosen in range(sets) if chosen >> i & 1]].any(0)
    return causal


def _line(target: int, direction: tuple[int, int]) -> list[int]:
    """The squares from the target to the edge, the target left out."""
    row, col = target // 8 + direction[0], target % 8 + direction[1]
    found = []
    while 0 <= row < 8 and 0 <= col < 8:
        found.append(8 * row + col)
        row, col = row + direction[0], col + direction[1]
    return found
