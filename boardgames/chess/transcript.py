"""Chess transcripts as character ids, in ChessGPT's vocabulary (Karvonen 2024), and files of games.

A game is ";1.e4 e5 2.Nf3 Nc6 ...", as in SAN without a space behind the dot.
"""

import csv
import gzip
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int

from boardgames.splits import Part, part_of

VOCABULARY = " #+-.0123456789;=BKNOQRabcdefghx"  # a character's id is its place
START = ";"
CONTEXT = 256  # characters that are read of a game, the first one START
PAD = 0  # a space: games are padded on the right, where nothing is predicted

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
    return np.array([min(len(game) + (not game.startswith(START)), context) for game in games])


def read_transcripts(path: Path | str) -> Iterator[str]:
    """Games of a .csv (column `transcript`) or .txt (one a line), also .gz, without START, in the order of the file."""
    path = Path(path)
    kind = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    if not path.is_file():
        raise TranscriptError(f"{path}: no such file")
    if kind not in (".csv", ".txt"):
        raise TranscriptError(f"{path}: a {kind or 'nameless'} file; transcripts are read from .csv and .txt, also .gz")
    try:
        with (
            gzip.open(path, "rt", encoding="utf-8", newline="")
            if path.suffix == ".gz"
            else path.open("r", encoding="utf-8", newline="") as lines
        ):
            if kind == ".txt":
                yield from (game for line in lines if (game := line.strip().removeprefix(START)))
                return
            table = csv.DictReader(lines)
            if "transcript" not in (table.fieldnames or []):
                raise TranscriptError(
                    f"{path}: has no column `transcript`; there are: {', '.join(table.fieldnames or [])}"
                )
            yield from (game for row in table if (game := (row["transcript"] or "").strip().removeprefix(START)))
    except (OSError, EOFError, UnicodeDecodeError, csv.Error, zlib.error) as error:
        raise TranscriptError(f"{path}: damaged ({error})") from None


def read_part(paths: Iterable[Path | str], part: Part, count: int | None = None, seed: int = 0) -> list[str]:
    """The different games of several files that belong to one part, in order; `count` of them at random if told."""
    games = list(dict.fromkeys(game for path in paths for game in read_transcripts(path) if part_of(game) == part))
    if count is None:
        return games
    chosen = np.random.default_rng(seed).permutation(len(games))[:count]
    return [games[i] for i in np.sort(chosen)]
