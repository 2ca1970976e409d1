"""Token ids, and files of games in every state of repair."""

import numpy as np
import pytest

from boardgames.othello.rules import NO_MOVE, random_games, replay
from boardgames.othello.transcript import (
    CONTEXT,
    PAD,
    VOCABULARY,
    GamesError,
    from_tokens,
    read_games,
    to_tokens,
    unique_games,
)


def test_the_table_of_ids():
    table = {1: 0, 27: 26, 28: 29, 33: 34, 34: 37, 60: 63}
    ids, squares = np.array([list(table)]), np.array([list(table.values())], np.uint8)
    assert from_tokens(ids).tolist() == squares.tolist()
    assert to_tokens(squares).tolist() == ids.tolist()
    every = from_tokens(np.arange(VOCABULARY)[None])[0].tolist()
    assert every == [NO_MOVE] + [s for s in range(64) if s not in (27, 28, 35, 36)]
    assert to_tokens(np.array([[NO_MOVE]], np.uint8)).item() == PAD == 0
    assert (VOCABULARY, CONTEXT) == (61, 59)


def test_games_survive_the_round_trip():
    games = random_games(200, np.random.default_rng(0))
    tokens = to_tokens(games)
    assert tokens.dtype == np.int64 and tokens.max() < VOCABULARY
    assert np.array_equal(tokens == PAD, games == NO_MOVE)
    assert np.array_equal(from_tokens(tokens), games)


def save(path, **arrays):
    np.savez(path, **arrays)
    return path


def test_reading_keeps_the_order_of_the_file_and_pads(tmp_path):
    games = random_games(5, np.random.default_rng(1))
    file = save(tmp_path / "games.npz", moves=games[[3, 1, 3, 0, 1]], other=np.zeros(3))
    assert np.array_equal(read_games(file), games[[3, 1, 3, 0, 1]])
    assert np.array_equal(unique_games(games[[3, 1, 3, 0, 1]]), games[[3, 1, 0]])
    short = read_games(save(tmp_path / "short.npz", moves=games[:, :10]))
    assert short.shape == (5, 60) and (short[:, 10:] == NO_MOVE).all()
    replay(short)


BAD = {
    "is missing": lambda path: None,
    "is text": lambda path: path.write_text("c4 c3 d3"),
    "is empty": lambda path: path.write_bytes(b""),
    "is a bare array": lambda path: np.save(path.open("wb"), np.zeros((3, 60), np.uint8)),
    "has another key": lambda path: save(path, games=np.zeros((3, 60), np.uint8)),
    "has another dtype": lambda path: save(path, moves=np.zeros((3, 60), np.int64)),
    "has one axis": lambda path: save(path, moves=np.zeros(60, np.uint8)),
    "has too many plies": lambda path: save(path, moves=np.zeros((3, 61), np.uint8)),
    "has no plies": lambda path: save(path, moves=np.zeros((3, 0), np.uint8)),
    "has no games": lambda path: save(path, moves=np.zeros((0, 60), np.uint8)),
    "holds objects": lambda path: save(path, moves=np.array([[None]], dtype=object)),
}
SAYS = {
    "is missing": "no such file",
    "has another key": r"holds \['games'\]; expected an array named 'moves'",
    "has another dtype": r"int64\[3, 60\]; expected uint8",
    "has no games": r"uint8\[0, 60\]",
}


@pytest.mark.parametrize("case", BAD)
def test_files_that_hold_no_games_are_refused_by_name(tmp_path, case):
    path = tmp_path / "games.npz"
    BAD[case](path)
    with pytest.raises(GamesError, match=SAYS.get(case)) as caught:
        read_games(path)
    assert str(path) in str(caught.value)


def test_a_file_cut_short_is_refused(tmp_path):
    path = save(tmp_path / "games.npz", moves=random_games(50, np.random.default_rng(0)))
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(GamesError, match=r"games\.npz: not a readable"):
        read_games(path)
