"""Lines of discs seen from empty squares, on bitboards: which squares flank, in which direction, how many discs.

A line from an empty square in a direction is a run of one or more discs of one side. It is closed if a disc of the
other side follows: then that other side may play on the square. For all positions at once; DIRECTIONS are those of the
rules, clockwise from "towards row a".
"""

import numpy as np
from jaxtyping import UInt64

from boardgames.othello.rules import DIRECTIONS

DIRECTION_NAMES = ("N", "NE", "E", "SE", "S", "SW", "W", "NW")  # row a is the top, column 1 the left
LONGEST = 6  # of a closed line; longer open runs count as this

Bitboards = UInt64[np.ndarray, " rows"]

_ALL = np.uint64(0xFFFF_FFFF_FFFF_FFFF)
_NOT_FIRST_COLUMN = np.uint64(0xFEFE_FEFE_FEFE_FEFE)
_NOT_LAST_COLUMN = np.uint64(0x7F7F_7F7F_7F7F_7F7F)


def _allowed(direction: tuple[int, int]) -> np.uint64:
    """Squares that a step in the direction can arrive at."""
    return (_NOT_LAST_COLUMN, _ALL, _NOT_FIRST_COLUMN)[direction[1] + 1]


def _step_back(boards: Bitboards, direction: tuple[int, int]) -> Bitboards:
    """Squares from which one step leads to `boards`, which hold only squares that a step can arrive at."""
    step = 8 * direction[0] + direction[1]
    return boards >> np.uint64(step) if step > 0 else boards << np.uint64(-step)


def closed_lines(run: Bitboards, end: Bitboards) -> UInt64[np.ndarray, "rows 8"]:
    """By direction: empty squares from which a run of `run` is closed by `end`."""
    empty, lines = ~(run | end), np.empty((len(run), len(DIRECTIONS)), np.uint64)
    for d, direction in enumerate(DIRECTIONS):
        allowed = _allowed(direction)
        through = run & allowed
        reached = through & _step_back(end & allowed, direction)
        for _ in range(LONGEST - 1):
            reached |= through & _step_back(reached, direction)
        lines[:, d] = empty & _step_back(reached, direction)
    return lines


def closed_lengths(run: Bitboards, end: Bitboards) -> UInt64[np.ndarray, "rows 48"]:
    """By length (1..6) and then direction: empty squares with a closed line of exactly that many discs of `run`."""
    empty, lines = ~(run | end), np.empty((len(run), LONGEST, len(DIRECTIONS)), np.uint64)
    for d, direction in enumerate(DIRECTIONS):
        allowed = _allowed(direction)
        through = run & allowed
        before = _step_back(end & allowed, direction)
        for length in range(LONGEST):
            before = _step_back(through & before, direction)
            lines[:, length, d] = empty & before
    return lines.reshape(len(run), -1)


def open_lengths(run: Bitboards, end: Bitboards) -> UInt64[np.ndarray, "rows 48"]:
    """As closed_lengths, whatever comes after the run; 6 stands for 6 or more."""
    empty, lines = ~(run | end), np.empty((len(run), LONGEST, len(DIRECTIONS)), np.uint64)
    for d, direction in enumerate(DIRECTIONS):
        through = run & _allowed(direction)
        before = _step_back(through, direction)  # what has at least one disc, then two, ... before it
        at_least = empty & before
        for length in range(LONGEST - 1):
            before = _step_back(through & before, direction)
            longer = empty & before
            lines[:, length, d] = at_least ^ longer
            at_least = longer
        lines[:, LONGEST - 1, d] = at_least
    return lines.reshape(len(run), -1)


def paper_open_lengths(run: Bitboards, end: Bitboards) -> UInt64[np.ndarray, "rows 48"]:
    """As the original: an empty square without a run counts as a run of 6, its index having wrapped around."""
    lines, empty = open_lengths(run, end), ~(run | end)
    for d, direction in enumerate(DIRECTIONS):
        lines[:, -len(DIRECTIONS) + d] |= empty & ~_step_back(run & _allowed(direction), direction)
    return lines
