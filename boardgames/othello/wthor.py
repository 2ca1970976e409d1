"""Othello games of the French federation's base WTHOR, year by year in .wtb files, and games as lines of text.

A .wtb file is a header of 16 bytes (date of the file, number of games as little-endian uint32, a second number and
the year of the games as uint16, size of the board with 0 for 8, type, depth, one spare byte) and 68 bytes a game:
tournament, Black and White as uint16, Black's discs at the end, the best that Black could have had, and 60 moves.
A move is 10 * row + column with both from 1 on, row the digit and column the letter of the square (56 is f5), 0 none.
Passes are not stored.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from boardgames.lines import LinesError, open_lines
from boardgames.othello.rules import MAX_PLIES, NO_MOVE, square_index
from boardgames.othello.transcript import UNKNOWN, GamesError, OthelloGames
from boardgames.skipped import Skipped

_HEADER = np.dtype(
    [("date", "u1", 4), ("games", "<u4"), ("other", "<u2"), ("year", "<u2"), ("size", "u1"), ("rest", "u1", 3)]
)
_RECORD = np.dtype([("names", "<u2", 3), ("black_discs", "u1"), ("best", "u1"), ("moves", "u1", MAX_PLIES)])
_BAD = 254  # a byte that is no square; the rules name it
_SQUARE = np.full(256, _BAD, np.uint8)
_SQUARE[0] = NO_MOVE
for _digit in range(8):
    for _letter in range(8):
        _SQUARE[10 * (_digit + 1) + _letter + 1] = 8 * _letter + _digit

_MOVE = re.compile(r"[+-]?([a-h][1-8])")
_BETWEEN = re.compile(r"\b(?:pass|pa|ps)\b|\d+\.|--|[\s,;|-]+")
_BLOCK = 4096


def read_wtb(path: Path | str, progress: Callable[[int], object] | None = None) -> OthelloGames:
    """The games of a .wtb file in order, moves unchecked; GamesError if it is none."""
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError:
        raise GamesError(f"{path}: no such file") from None
    except OSError as error:
        raise GamesError(f"{path}: cannot be read ({error.strerror})") from None
    if len(content) < _HEADER.itemsize:
        raise GamesError(f"{path}: {len(content)} bytes are no WTHOR file, whose header alone has {_HEADER.itemsize}")
    header = np.frombuffer(content, _HEADER, 1)[0]
    count, size = int(header["games"]), int(header["size"])
    if size not in (0, 8):
        raise GamesError(f"{path}: a WTHOR file of {size} x {size} boards, or none at all; only 8 x 8 is read")
    expected = _HEADER.itemsize + count * _RECORD.itemsize
    if len(content) != expected:
        raise GamesError(
            f"{path}: {len(content)} bytes, but its header announces {count} games, which take {expected}: it is cut "
            "short or no WTHOR file"
        )
    records = np.frombuffer(content, _RECORD, count, _HEADER.itemsize)
    if progress is not None:
        progress(len(content))
    discs = np.where(records["black_discs"] <= 64, records["black_discs"], UNKNOWN).astype(np.uint8)
    return OthelloGames(_SQUARE[records["moves"]], discs, np.arange(count))


def parse_line(line: str) -> list[int] | None:
    """The squares of "f5d6c3", "F5 d6 c3", "1. f5 d6 2. c3" or "+f5-d6+c3"; None if anything else stands there."""
    text = line.strip().lower()
    moves = [square_index(move) for move in _MOVE.findall(text)]
    return moves if moves and not _BETWEEN.sub("", _MOVE.sub(" ", text)) else None


def read_text(
    path: Path | str, skipped: Skipped, progress: Callable[[int], object] | None = None
) -> Iterator[OthelloGames]:
    """Games of a text file, one a line, some at a time; also packed. Empty lines and lines with # are passed over."""
    rows: list[list[int]] = []
    numbers: list[int] = []
    try:
        with open_lines(path, progress) as lines:
            for number, line in enumerate(lines):
                if not line.strip() or line.lstrip().startswith("#"):
                    continue
                moves = parse_line(line)
                if moves is None:
                    skipped.broken(f"{path}: line {number + 1}: {line.strip()[:40]!r} is no game such as 'f5d6c3d3c4'")
                elif len(moves) > MAX_PLIES:
                    skipped.broken(f"{path}: line {number + 1}: {len(moves)} moves, but no game has over {MAX_PLIES}")
                else:
                    rows.append(moves + [NO_MOVE] * (MAX_PLIES - len(moves)))
                    numbers.append(number)
                if len(rows) == _BLOCK:
                    yield _block(rows, numbers)
                    rows, numbers = [], []
    except LinesError as error:
        raise GamesError(str(error)) from None
    if rows:
        yield _block(rows, numbers)


def _block(rows: list[list[int]], numbers: list[int]) -> OthelloGames:
    return OthelloGames(np.array(rows, np.uint8), np.full(len(rows), UNKNOWN, np.uint8), np.array(numbers, np.int64))
