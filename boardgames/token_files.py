"""Games as token ids: .npy, .npz (`tokens` or `ids`) and lines of integers, with the vocabulary of either game.

A row of Othello ids is one game, padded with 0. A row of chess ids is text: `;` begins a game, so a row may hold
several; spaces behind the last are padding. Without any, the row was cut there, and its last word, which may be half
a move, goes.
"""

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Int
from numpy.typing import NDArray

from boardgames.chess.transcript import START, ChessGame, decode
from boardgames.chess.transcript import VOCABULARY as CHARACTERS
from boardgames.lines import open_lines
from boardgames.othello.rules import MAX_PLIES
from boardgames.othello.transcript import VOCABULARY, GamesError, OthelloGames, from_tokens
from boardgames.skipped import Skipped

Game = Literal["othello", "chess"]
NAMES = ("tokens", "ids", "input_ids")
_BLOCK = 4096
_FIRST_MOVES = (20, 27, 34, 41)  # ids of c4, d3, e6 and f5, with which every game of Othello begins
_FIRST_CHARACTERS = (CHARACTERS.index(START), CHARACTERS.index("1"))

Rows = Int[np.ndarray, "games length"]
Progress = Callable[[int], object] | None


def game_of_ids(first: int) -> Game | None:
    """Which game a row of ids is of, by its first; None for ids that begin neither."""
    return "othello" if first in _FIRST_MOVES else "chess" if first in _FIRST_CHARACTERS else None


def read_rows(path: Path | str, progress: Progress = None) -> Iterator[Rows]:
    """The rows of a file, some at a time, shorter lines of a text padded with 0; GamesError if it holds none."""
    if Path(path).suffix in (".npy", ".npz"):
        array = _array(path)
        for start in range(0, len(array), _BLOCK):
            yield array[start : start + _BLOCK].astype(np.int64)
        if progress is not None:
            progress(Path(path).stat().st_size)
        return
    with open_lines(path, progress) as lines:
        number = 0
        while some := list(islice(lines, _BLOCK)):
            rows = []
            for line in some:
                number += 1
                try:
                    rows.append([int(word) for word in line.replace(",", " ").split()])
                except ValueError:
                    raise GamesError(f"{path}: line {number}: {line.strip()[:40]!r} is no list of token ids") from None
            rows = [row for row in rows if row]
            table = np.zeros((len(rows), max(map(len, rows), default=0)), np.int64)
            for row, ids in zip(table, rows, strict=True):
                row[: len(ids)] = ids
            yield table


def _array(path: Path | str) -> NDArray[np.integer]:
    """The array of an .npy, or the one of an .npz that is called so; never unpickled."""
    try:
        with open(path, "rb") as file:
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.lib.npyio.NpzFile):
                name = next((name for name in NAMES if name in loaded), None)
                if name is None:
                    raise GamesError(
                        f"{path}: holds {sorted(loaded)}; expected an array named 'moves' or one of {', '.join(NAMES)}"
                    )
                loaded = loaded[name]
    except FileNotFoundError:
        raise GamesError(f"{path}: no such file") from None
    except GamesError:
        raise
    except Exception as error:  # numpy raises whatever its zip and header readers meet in a damaged file
        raise GamesError(f"{path}: not a readable file of token ids ({error})") from None
    if loaded.dtype.kind not in "iu" or loaded.ndim != 2 or not loaded.size:
        raise GamesError(f"{path}: {loaded.dtype}{list(loaded.shape)}; expected token ids, integers [games, length]")
    return loaded


def read_othello_ids(path: Path | str, skipped: Skipped, progress: Progress = None) -> Iterator[OthelloGames]:
    """Othello games of a file of ids; those with an id that is none are broken."""
    done = 0
    for rows in read_rows(path, progress):
        moves = np.zeros((len(rows), MAX_PLIES), np.int64)
        moves[:, : rows.shape[1]] = rows[:, :MAX_PLIES]
        wrong = ((rows < 0) | (rows >= VOCABULARY)).any(1) | (rows[:, MAX_PLIES:] != 0).any(1)
        for row in np.flatnonzero(wrong):
            skipped.broken(f"{path}: game {done + row}: not up to {MAX_PLIES} ids from 0 to {VOCABULARY - 1}")
        numbers = done + np.flatnonzero(~wrong)
        games = OthelloGames.of_moves(from_tokens(moves[~wrong]))
        yield OthelloGames(games.moves, games.black_discs, numbers)
        done += len(rows)


def read_chess_ids(path: Path | str, skipped: Skipped, progress: Progress = None) -> Iterator[ChessGame]:
    """Chess games of a file of ids, `number` that of their row."""
    done = 0
    for rows in read_rows(path, progress):
        for number, row in enumerate(rows, done):
            if (row < 0).any() or (row >= len(CHARACTERS)).any():
                skipped.broken(f"{path}: game {number}: not ids from 0 to {len(CHARACTERS) - 1}")
                continue
            text = decode(row)
            if not text.endswith(" "):
                text = text.rpartition(" ")[0]
            for game in text.split(START):
                if transcript := game.strip():
                    yield ChessGame(transcript, number=number)
        done += len(rows)
