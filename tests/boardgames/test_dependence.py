"""Dependence sets and causal squares against rules written out square by square."""

from itertools import chain, combinations

import numpy as np
import pytest

from boardgames.othello.counterfactuals import counterfactuals
from boardgames.othello.dependence import causal_squares, dependence, differing, next_sides, positions_asked
from boardgames.othello.properties import CORRECTED, EMPTY, FLIPPED, LAST_MOVE, LEGAL, MINE, PLY, YOURS
from boardgames.othello.rules import DIRECTIONS, square_index, square_name

BEHAVIOURS = [("b4", (1, 0)), ("f6", (-1, -1)), ("c2", (0, 1)), ("h3", (-1, 1))]


def board(own: int, opponent: int) -> list[str]:
    return ["o" if own >> s & 1 else "x" if opponent >> s & 1 else "." for s in range(64)]


def closes(squares: list[str], target: int, step: tuple[int, int]) -> bool:
    """Would the side o flip something in this direction by playing the target?"""
    row, col, seen = target // 8 + step[0], target % 8 + step[1], 0
    while 0 <= row < 8 and 0 <= col < 8:
        content = squares[8 * row + col]
        if content == ".":
            return False
        if content == "o":
            return seen > 0
        seen, row, col = seen + 1, row + step[0], col + step[1]
    return False


def legal(squares: list[str], target: int) -> bool:
    return squares[target] == "." and any(closes(squares, target, step) for step in DIRECTIONS)


def slow_causes(clean: list[str], patch: list[str], target: int, step: tuple[int, int]) -> set[int]:
    """All subsets of the differing squares of the line, smallest first; squares beside it change nothing."""
    line = {target + n * (8 * step[0] + step[1]) for n in range(1, 8)}
    differ = [s for s in range(64) if clean[s] != patch[s] and s != target]
    for s in set(differ) - line:
        assert closes([patch[s] if i == s else clean[i] for i in range(64)], target, step)
    breaking: list[set[int]] = []
    on_line = [s for s in differ if s in line]
    for chosen in chain.from_iterable(combinations(on_line, n) for n in range(1, len(on_line) + 1)):
        changed = [patch[s] if s in chosen else clean[s] for s in range(64)]
        if not closes(changed, target, step) and not any(found <= set(chosen) for found in breaking):
            breaking.append(set(chosen))
    return set().union(*breaking)


@pytest.mark.parametrize(("target", "step"), BEHAVIOURS)
def test_causal_squares_are_those_of_minimal_changes(target, step):
    pairs = counterfactuals(25, square_index(target), step, np.random.default_rng([7, 77]))
    clean, patch = positions_asked(pairs)
    found, differ = causal_squares(clean, patch, pairs.target, step), differing(clean, patch)
    several = 0
    for n in range(len(pairs)):
        before, after = (board(*(int(side[n]) for side in next_sides(p))) for p in (clean, patch))
        assert legal(before, pairs.target) and not legal(after, pairs.target)
        assert {s for s in range(64) if before[s] != after[s]} == {s for s in range(64) if int(differ[n]) >> s & 1}
        expected = slow_causes(before, after, pairs.target, step)
        assert set(np.flatnonzero(found[n])) == expected and expected
        several += len(expected) > 1
    assert several, "no pair with several causes: the test says little"


def test_an_answer_depends_on_the_squares_that_change_it():
    pairs = counterfactuals(6, square_index("b4"), (1, 0), np.random.default_rng([7, 78]))
    clean, _ = positions_asked(pairs)
    properties = [MINE, YOURS, EMPTY, LEGAL, FLIPPED, LAST_MOVE, PLY]
    columns = [c for p in properties for c in p.columns]
    found = dependence(clean, properties)
    for name in ("mine c4", "yours c4", "empty a1", "last move h8", "flipped d5"):
        assert (found[:, columns.index(name)] == (np.arange(64) == square_index(name[-2:]))).all()
    assert not found[:, [c.startswith("ply") for c in columns]].any()
    for n in range(len(pairs)):
        now = board(*(int(side[n]) for side in next_sides(clean)))
        for target in (pairs.target, 0, 44):
            slow = {
                s
                for s in range(64)
                for content in "ox."
                if legal([content if i == s else now[i] for i in range(64)], target) != legal(now, target)
            }
            assert set(np.flatnonzero(found[n, columns.index(f"legal {square_name(target)}")])) == slow


def test_a_closed_line_depends_on_its_squares():
    pairs = counterfactuals(4, square_index("b4"), (1, 0), np.random.default_rng([7, 79]))
    clean, _ = positions_asked(pairs)
    lines = CORRECTED["line of yours"]
    true = lines.labels(clean)
    found = dependence(clean, [lines])
    assert true.any()
    row, column = np.argwhere(true)[0]
    assert found[row, column].sum() >= 2
