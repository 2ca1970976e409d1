"""Chess transcripts as character ids, in ChessGPT's vocabulary (Karvonen 2024), and files of games.

A game is ";1.e4 e5 2.Nf3 Nc6 ...", as in SAN without a space behind the dot.
"""

import csv
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from boardgames.lines import LinesError, kind_of, open_lines
from boardgames.splits import Part, part_of

VOCABULARY = " #+-.0123456789;=BKNOQRabcdefghx"  # a character's id is its place
START = ";"
CONTEXT = 256  # characters that are read of a game, the first one START
PAD = 0  # a space: games are padded on the right, where nothing is predicted
RESULTS = ("1-0", "0-1", "1/2-1/2")
_RESULT_OF_WINNER: dict[str, str] = dict(zip(("white", "black", "draw"), RESULTS, strict=True))

_ID = np.full(256, -1, np.int64)
_ID[np.frombuffer(VOCABULARY.encode(), np.uint8)] = np.arange(len(VOCABULARY))


class TranscriptError(ValueError):
    """Text that is no chess transcript, or a file without any."""


def encode(games: Sequence[str], context: int = CONTEXT) -> Int[np.ndarray, "games context"]:
    """Character ids of the first `context` characters, START put before games that lack it; PAD behind short ones."""
    ids = np.full((len(games), context), PAD, np.int64)
    for row, game in enumerate(games):
        text = game if game.startswith(START) else START + game
        characters = np.frombuffer(text[:context].encode("ascii", "replace"), np.uint8)
        ids[row, : len(characters)] = _ID[characters]
        if (ids[row] < 0).any():
            wrong = text[int((ids[row] < 0).argmax())]
            raise TranscriptError(
                f"game {row}: {wrong!r} is not in the vocabulary of chess transcripts ({text[:40]}...)"
            )
    return ids


def decode(ids: Int[np.ndarray, " n"]) -> str:
    """The text of character ids."""
    return "".join(VOCABULARY[i] for i in ids)


def lengths(games: Iterable[str], context: int = CONTEXT) -> Int[np.ndarray, " games"]:
    """Characters of each game that `encode` keeps."""
    return np.array([min(len(game) + (not game.startswith(START)), context) for game in games], np.int64)


class ChessGame(NamedTuple):
    """A game as it is kept in files: its transcript without START, and what is known about it."""

    transcript: str
    white_elo: int | None = None
    black_elo: int | None = None
    result: str | None = None  # one of RESULTS
    date: str | None = None
    number: int = 0  # its place in the file that it was read from


def read_games(path: Path | str, progress: Callable[[int], object] | None = None) -> Iterator[ChessGame]:
    """Games of a .csv (column `transcript`) or .txt (one a line), also packed, in the order of the file.

    Columns that are read where they are there: white_elo, black_elo, result (or winner) and date.
    """
    kind = kind_of(path)
    if Path(path).is_file() and kind not in (".csv", ".txt"):
        raise TranscriptError(f"{path}: a {kind or 'nameless'} file; transcripts are read from .csv and .txt, also .gz")
    try:
        with open_lines(path, progress) as lines:
            if kind == ".txt":
                for number, line in enumerate(lines):
                    if game := line.strip().removeprefix(START):
                        yield ChessGame(game, number=number)
                return
            table = csv.DictReader(lines)
            if "transcript" not in (table.fieldnames or []):
                raise TranscriptError(
                    f"{path}: has no column `transcript`; there are: {', '.join(table.fieldnames or [])}"
                )
            for number, row in enumerate(table):
                if game := (row["transcript"] or "").strip().removeprefix(START):
                    result = row.get("result") or _RESULT_OF_WINNER.get(row.get("winner") or "")
                    elo = as_elo(row.get("white_elo")), as_elo(row.get("black_elo"))
                    yield ChessGame(game, *elo, result if result in RESULTS else None, row.get("date") or None, number)
    except (LinesError, csv.Error) as error:
        raise TranscriptError(str(error) if isinstance(error, LinesError) else f"{path}: damaged ({error})") from None


def as_elo(text: str | None) -> int | None:
    """The number that a rating is, None for what is none, such as "?" and "0"."""
    return int(text) or None if text and text.isascii() and text.isdigit() else None


def read_transcripts(path: Path | str) -> Iterator[str]:
    """The transcripts of `read_games`."""
    return (game.transcript for game in read_games(path))


def read_part(paths: Iterable[Path | str], part: Part, count: int | None = None, seed: int = 0) -> list[str]:
    """The different games of several files that belong to one part, in order; `count` of them at random if told."""
    games = list(dict.fromkeys(game for path in paths for game in read_transcripts(path) if part_of(game) == part))
    if count is None:
        return games
    chosen = np.random.default_rng(seed).permutation(len(games))[:count]
    return [games[i] for i in np.sort(chosen)]
