"""Board labels against the plain rules, one position at a time."""

import numpy as np
import pytest

from boardgames.game import label
from boardgames.othello.properties import BOARD, EVERYTHING, MINE, PLY_BUCKETS, YOURS
from boardgames.othello.rules import NO_MOVE, random_games, replay, square_name
from tests.boardgames.test_rules import plain_replay

MOVES = random_games(20, np.random.default_rng(11))


@pytest.fixture(scope="module")
def labels():
    games = replay(MOVES)
    return label(games.at(games.played), EVERYTHING)


def expected_rows():
    """The names of the true columns of every position."""
    for row in MOVES:
        for ply, (turned, mover, game) in enumerate(plain_replay(row)):
            yours = "white" if mover == "black" else "black"
            true = {
                "mine": game.discs(mover),
                "yours": game.discs(yours),
                "empty": game.discs("empty"),
                "legal": game.legal(game.turn),
                "flipped": sum(turned, []),
                "last move": [int(row[ply])],
                "black": game.discs("black"),
                "white": game.discs("white"),
            }
            names = {f"{group} {square_name(s)}" for group, squares in true.items() for s in squares}
            yield names | {f"ply {10 * (ply // 10)}-{10 * (ply // 10) + 9}"}


def test_labels_agree_with_the_plain_rules(labels):
    assert len(set(labels.columns)) == len(labels.columns) == 8 * 64 + 6
    columns = np.array(labels.columns)
    rows = list(expected_rows())
    assert len(rows) == len(labels.matrix)
    for true, found in zip(rows, labels.matrix, strict=True):
        assert set(columns[found]) == true


def test_every_row_knows_its_game_and_ply(labels):
    expected = [(g, p) for g, row in enumerate(MOVES) for p in range(int((row != NO_MOVE).sum()))]
    assert list(zip(labels.game.tolist(), labels.ply.tolist(), strict=True)) == expected


def test_columns_name_their_squares(labels):
    for column, square in zip(labels.columns, labels.squares, strict=True):
        assert square == ("" if column.startswith("ply") else column.split()[-1])
    assert PLY_BUCKETS[0] == (0, 9) and PLY_BUCKETS[-1] == (50, 59)


def test_the_board_is_mine_then_yours():
    columns = [c for p in BOARD for c in p.columns]
    assert BOARD == (MINE, YOURS) and len(columns) == 128
    assert (columns[0], columns[63], columns[64], columns[127]) == ("mine a1", "mine h8", "yours a1", "yours h8")


def test_chosen_positions_and_columns_are_a_part_of_the_whole(labels):
    games = replay(MOVES)
    some = games.played[:, :59].copy()
    some[:, ::2] = False
    part = label(games.at(some), BOARD)
    keep = (labels.ply % 2 == 1) & (labels.ply < 59)
    assert np.array_equal(part.matrix, labels.matrix[keep][:, :128])
    assert np.array_equal(part.game, labels.game[keep]) and np.array_equal(part.ply, labels.ply[keep])
    picked = labels.select(["yours h8", "mine a1"])
    assert picked.columns == ("yours h8", "mine a1") and picked.squares == ("h8", "a1")
    assert np.array_equal(picked.matrix, labels.matrix[:, [127, 0]])
    with pytest.raises(ValueError):
        labels.select(["mine z9"])
