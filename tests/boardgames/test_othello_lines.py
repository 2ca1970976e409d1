"""Lines of discs and the three readings of mine, against the plain rules and the reference."""

import numpy as np
import pytest

from boardgames.game import label
from boardgames.othello.lines import DIRECTION_NAMES
from boardgames.othello.properties import BY_NEXT, CORRECTED, PAPER, SETS
from boardgames.othello.rules import random_games, replay, square_name
from tests.boardgames.plain_othello import STEPS, other
from tests.boardgames.test_rules import plain_replay

MOVES = random_games(12, np.random.default_rng(3))
NAMES = [
    "mine",
    "yours",
    "line of mine",
    "line of yours",
    "closed line of mine",
    "run of mine",
    "occupied",
    "who moves",
]


def walk(game, square, step, colour):
    """How many discs of a colour follow a square in a direction, and what comes after them (None: the edge)."""
    row, column, run = square // 8 + step[0], square % 8 + step[1], 0
    while 0 <= row < 8 and 0 <= column < 8:
        if game.board[row][column] != colour:
            return run, game.board[row][column]
        row, column, run = row + step[0], column + step[1], run + 1
    return run, None


def expected_columns(game, mine, mover, paper):
    yours, true = other(mine), set()
    for colour, name in ((mine, "mine"), (yours, "yours")):
        true |= {f"{name} {square_name(s)}" for s in game.discs(colour)}
    true |= {f"occupied {square_name(s)}" for s in range(64) if s not in game.discs("empty")}
    true.add("game over" if game.turn is None else f"{game.turn} moves")
    if game.turn == mover:
        true.add("same side again")
    for square in game.discs("empty"):
        for step, direction in zip(STEPS, DIRECTION_NAMES, strict=True):
            place = f"{direction} {square_name(square)}"
            run, end = walk(game, square, step, mine)
            if run and end == yours:
                true |= {f"line of mine {place}", f"closed line of mine {min(run, 6)} {place}"}
            if run or paper:
                true.add(f"run of mine {min(run, 6) if run else 6} {place}")
            run, end = walk(game, square, step, yours)
            if run and end == mine:
                true.add(f"line of yours {place}")
    return true


@pytest.mark.parametrize("name", SETS)
def test_lines_and_sides_agree_with_the_plain_rules(name):
    games = replay(MOVES)
    labels = label(games.at(games.played), [SETS[name][asked] for asked in NAMES])
    columns, row, passes = np.array(labels.columns), 0, 0
    for moves in MOVES:
        for ply, (_, mover, game) in enumerate(plain_replay(moves)):
            if name == "paper":
                mine = "black" if ply % 2 == 0 else "white"
            elif name == "by_next" and game.turn is not None:
                mine = other(game.turn)
            else:
                mine = mover
            passes += game.turn == mover
            assert set(columns[labels.matrix[row]]) == expected_columns(game, mine, mover, name == "paper")
            row += 1
    assert row == len(labels.matrix) and passes > 0, "the games must have a pass"


def test_a_line_of_mine_is_a_legal_move_of_yours():
    """Seen from the next mover, closed lines of mine are exactly its legal moves."""
    games = replay(random_games(200, np.random.default_rng(4)))
    found = games.at(games.played & (games.next_mover != 0))
    lines = BY_NEXT["line of mine"].labels(found).reshape(-1, 8, 64)
    assert np.array_equal(lines.any(1), CORRECTED["legal"].labels(found))
    by_length = CORRECTED["closed line of mine"].labels(found).reshape(-1, 6, 8, 64)
    assert np.array_equal(by_length.sum(1), CORRECTED["line of mine"].labels(found).reshape(-1, 8, 64))
    runs = CORRECTED["run of mine"].labels(found).reshape(-1, 6, 8, 64)
    assert runs.sum(1).max() == 1 and not (by_length & ~runs).any()


def test_the_readings_differ_only_around_passes():
    games = replay(MOVES)
    found = games.at(games.played)
    differ = (CORRECTED["mine"].labels(found) != BY_NEXT["mine"].labels(found)).any(1)
    assert np.array_equal(differ, found.mover == found.next_mover)
    parity = (CORRECTED["mine"].labels(found) != PAPER["mine"].labels(found)).any(1)
    assert np.array_equal(parity, (found.mover == 1) != (found.ply % 2 == 0))


def test_columns_of_a_set_are_unique_and_unplayed_plies_are_refused():
    for chosen in SETS.values():
        columns = [c for p in chosen.values() for c in p.columns]
        assert len(set(columns)) == len(columns) == sum(len(p.squares) for p in chosen.values())
    moves = MOVES[:2].copy()
    moves[1, 10:] = 255
    games = replay(moves)
    with pytest.raises(ValueError, match="game 1 has no ply 10"):
        games.at(np.ones((2, 60), bool))
