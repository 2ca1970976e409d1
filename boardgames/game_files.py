"""Sets of games on disk: one way to write them, and one door to every format that is read.

Othello: .npz with `moves` (uint8 [games, 60]: squares, 255 after the end) and, where known, `black_discs`. Chess:
.csv or .csv.gz with the columns transcript, white_elo, black_elo, result, date. The same games give the same bytes.
"""

import csv
import gzip
import io
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from boardgames.chess import transcript as chess_files
from boardgames.chess.pgn import read_pgn
from boardgames.chess.transcript import START, VOCABULARY, ChessGame
from boardgames.duplicates import Seen, game_hash
from boardgames.lines import kind_of, open_lines
from boardgames.othello.rules import MAX_PLIES, illegal_move, replay_while_legal
from boardgames.othello.transcript import UNKNOWN, GamesError, OthelloGames, read_games
from boardgames.othello.wthor import parse_line, read_text, read_wtb
from boardgames.skipped import Skipped
from boardgames.token_files import Game, game_of_ids, read_chess_ids, read_othello_ids, read_rows
from saes.files import atomic, full_disk

Progress = Callable[[int], object] | None
COLUMNS = ("transcript", "white_elo", "black_elo", "result", "date")
_BLOCK = 4096
_IDS = re.compile(r"\d+(?:[\s,]+\d+)+\s*")
_SHOWN = ".npz .npy .wtb .csv .txt .pgn, text also packed as .gz .bz2 .zst"


def find_game(path: Path | str) -> Game:
    """Which game a file is of, by its name and, where that does not tell, by its first game; GamesError if unclear."""
    kind = kind_of(path)
    if not Path(path).is_file():
        raise GamesError(f"{path}: no such file")
    if kind in (".pgn", ".csv"):
        return "chess"
    if kind == ".wtb" or (kind == ".npz" and _has_moves(path)):
        return "othello"
    if kind not in (".npz", ".npy", ".txt"):
        raise GamesError(f"{path}: a {kind or 'nameless'} file; games are read from {_SHOWN}")
    line = _first_line(path) if kind == ".txt" else None
    if line is not None and not _IDS.fullmatch(line):
        if parse_line(line):
            return "othello"
        if line.startswith((START, "1.")):
            return "chess"
    else:
        rows = next(iter(read_rows(path)), np.zeros((0, 0), np.int64))
        if rows.size and (found := game_of_ids(int(rows[0, 0]))):
            return found
    raise GamesError(f"{path}: which game it is of does not show in its first game; give --game")


def read_chess(path: Path | str, skipped: Skipped, progress: Progress = None) -> Iterator[ChessGame]:
    """The chess games of a file in order, moves unchecked; a ValueError that names it where it cannot be read."""
    kind = kind_of(path)
    if kind == ".pgn":
        return read_pgn(path, skipped, progress)
    if kind in (".npy", ".npz") or (kind == ".txt" and _IDS.fullmatch(_first_line(path) or "")):
        return read_chess_ids(path, skipped, progress)
    return chess_files.read_games(path, progress)


def read_othello(path: Path | str, skipped: Skipped, progress: Progress = None) -> Iterator[OthelloGames]:
    """The Othello games of a file in order, some at a time, moves unchecked; GamesError where it cannot be read."""
    kind = kind_of(path)
    if kind == ".wtb":
        yield read_wtb(path, progress)
    elif kind == ".npz" and _has_moves(path):
        moves, discs = read_games(path), _black_discs(path)
        if discs is None or discs.shape != (len(moves),) or discs.dtype != np.uint8:
            discs = np.full(len(moves), UNKNOWN, np.uint8)
        yield OthelloGames(moves, discs, np.arange(len(moves)))
        if progress is not None:
            progress(Path(path).stat().st_size)
    elif kind in (".npy", ".npz") or (kind == ".txt" and _IDS.fullmatch(_first_line(path) or "")):
        yield from read_othello_ids(path, skipped, progress)
    elif kind == ".txt":
        yield from read_text(path, skipped, progress)
    else:
        raise GamesError(f"{path}: a {kind or 'nameless'} file holds no games of Othello")


def only_legal_othello(blocks: Iterable[OthelloGames], skipped: Skipped, source: str) -> Iterator[OthelloGames]:
    """Games without those that the rules forbid, which `skipped` counts and names by `source`, game, ply and square."""
    for games in blocks:
        _, illegal = replay_while_legal(games.moves)
        for row in np.flatnonzero(illegal < MAX_PLIES):
            fault = illegal_move(games.moves[row], int(games.number[row]), int(illegal[row]))
            skipped.broken(f"{source}: {fault}", "with an illegal move")
        yield games[illegal == MAX_PLIES]


def only_spelled(games: Iterable[ChessGame], skipped: Skipped, source: str) -> Iterator[ChessGame]:
    """Games in the characters of the vocabulary alone; `skipped` counts and names the others."""
    for game in games:
        if wrong := set(game.transcript).difference(VOCABULARY):
            skipped.broken(
                f"{source}: game {game.number}: {min(wrong)!r} is not in the vocabulary of chess transcripts",
                "with other characters",
            )
        else:
            yield game


def unique_chess(games: Iterable[ChessGame], seen: Seen, skipped: Skipped, source: str) -> Iterator[ChessGame]:
    """The games that are not in `seen`, which are in it afterwards; some thousands are looked at together."""
    stream = iter(games)
    while some := list(islice(stream, _BLOCK)):
        new = seen.add(np.array([game_hash(game.transcript) for game in some], np.uint64))
        for game, is_new in zip(some, new, strict=True):
            if is_new:
                yield game
            else:
                skipped.unwanted("duplicates", f"{source}: game {game.number}")


def unique_othello(blocks: Iterable[OthelloGames], seen: Seen, skipped: Skipped, source: str) -> Iterator[OthelloGames]:
    """The same for Othello; a block of games that are all known comes out empty."""
    for games in blocks:
        new = seen.add(np.array([game_hash(game.tobytes()) for game in games.moves], np.uint64))
        for number in games.number[~new]:
            skipped.unwanted("duplicates", f"{source}: game {number}")
        yield games[new]


def check_name(path: Path | str, game: Game) -> None:
    """GamesError unless games of this kind can be written under this name."""
    name = Path(path).name
    if game == "othello" and not name.endswith(".npz"):
        raise GamesError(f"{path}: games of Othello are written as .npz; choose such a name")
    if game == "chess" and not name.endswith((".csv", ".csv.gz")):
        raise GamesError(f"{path}: games of chess are written as .csv.gz or .csv; choose such a name")


def write_chess(path: Path | str, games: Iterable[ChessGame]) -> int:
    """Write games as they come and return their number; the file is whole or, after an error, as it was.

    GamesError if there are none.
    """
    check_name(path, "chess")
    count = 0
    with atomic(path) as part, full_disk(path), part.open("wb") as file:
        packed = gzip.GzipFile("", "wb", 6, file, mtime=0) if str(path).endswith(".gz") else None
        with io.TextIOWrapper(packed or file, encoding="utf-8", newline="") as text:
            rows = csv.writer(text, lineterminator="\n")
            rows.writerow(COLUMNS)
            for game in games:
                rows.writerow(["" if value is None else value for value in game[: len(COLUMNS)]])
                count += 1
        if not count:
            raise GamesError(f"{path}: not written, since there are no games for it")
    return count


def write_othello(path: Path | str, blocks: Iterable[OthelloGames]) -> int:
    """Write games and return their number; see write_chess. They are held in memory, 61 bytes a game."""
    check_name(path, "othello")
    some = [(games.moves, games.black_discs) for games in blocks if len(games)]
    if not some:
        raise GamesError(f"{path}: not written, since there are no games for it")
    moves, discs = (np.concatenate(each) for each in zip(*some, strict=True))
    with atomic(path) as part, full_disk(path), part.open("wb") as file:
        if (discs != UNKNOWN).any():
            np.savez_compressed(file, moves=moves, black_discs=discs)
        else:
            np.savez_compressed(file, moves=moves)
    return len(moves)


def _first_line(path: Path | str) -> str | None:
    """The first line with a game in it."""
    with open_lines(path, errors="replace") as lines:
        return next((text for line in lines if (text := line.strip()) and not text.startswith("#")), None)


def _has_moves(path: Path | str) -> bool:
    """Whether an .npz holds squares; False also for one that cannot be read, which its reader will say."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            return "moves" in archive
    except Exception:
        return False


def _black_discs(path: Path | str) -> np.ndarray | None:
    with np.load(path, allow_pickle=False) as archive:
        return archive.get("black_discs")
