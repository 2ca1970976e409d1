"""JSON lines that are only ever appended, by one process or several at once, and that survive being killed.

A writer holds the file's lock, so that lines of two writers cannot mix, and a line counts once it is synced to disk. A
kill may cut the last line short: readers leave such a piece out and say so, and the next writer ends it and appends a
line of kind "torn" behind it. Nothing is ever taken out of the file.
"""

import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from saes.files import full_disk

TORN = "torn"


class LogError(ValueError):
    """A log that is missing, or damaged in other ways than by a kill."""


@dataclass(frozen=True)
class Line:
    """One whole line: its number in the file (from 1), the byte at which it starts, and what it says."""

    number: int
    start: int
    value: dict[str, Any]


@dataclass(frozen=True)
class Lines:
    """The whole lines of a log, and a note for each piece of a line that a kill left."""

    whole: tuple[Line, ...]
    notes: tuple[str, ...]
    torn: int | None
    """number of the last line, if it is such a piece and no line of kind "torn" says so yet"""


@dataclass(frozen=True)
class Writer:
    """What the holder of the lock sees and does."""

    path: Path
    lines: Lines
    """what was in the file when the lock was taken"""
    _stream: BinaryIO

    def append(self, values: Iterable[Mapping[str, Any]]) -> None:
        """Write the lines in one go and sync them to disk."""
        whole = "".join(json.dumps(dict(v), allow_nan=False, ensure_ascii=False) + "\n" for v in values)
        _put(self.path, self._stream, whole.encode())

    def content(self) -> bytes:
        """All bytes of the file."""
        self._stream.seek(0)
        return self._stream.read()


@contextmanager
def writing(path: Path) -> Iterator[Writer]:
    """Hold the log's lock, waiting for other writers; a new file is made if there is none."""
    fresh = not path.exists()
    with full_disk(path), path.open("ab+") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)  # let go when the stream is closed, also by a kill
        stream.seek(0)
        content = stream.read()
        torn = _parsed(path, content).torn
        if torn is not None:
            end = b"" if content.endswith(b"\n") else b"\n"  # a kill may have hit the repair, too
            _put(path, stream, end + json.dumps({"kind": TORN, "line": torn}).encode() + b"\n")
            stream.seek(0)
            content = stream.read()
        if fresh:
            _sync_name(path.parent)
        yield Writer(path, _parsed(path, content), stream)


def read_lines(path: Path) -> Lines:
    """All whole lines; LogError for a missing file, and for a line that is no JSON object and that no kill explains."""
    try:
        return _parsed(path, path.read_bytes())
    except OSError as error:
        raise LogError(f"{path}: cannot be read ({error.strerror})") from None


def _put(path: Path, stream: BinaryIO, data: bytes) -> None:
    with full_disk(path):
        stream.write(data)  # the file is open for appending: it goes to the end, wherever the stream was read
        stream.flush()
        os.fsync(stream.fileno())


def _sync_name(folder: Path) -> None:
    """Make the new file's name durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _parsed(path: Path, content: bytes) -> Lines:
    whole: list[Line] = []
    notes: list[str] = []
    broken: list[int] = []  # lines that only a kill excuses: they are the last, or the next one says so
    start = 0
    for number, raw in enumerate(content.splitlines(keepends=True), 1):
        value = _value(raw)
        ended = raw.endswith(b"\n")
        if ended and value is not None and value.get("kind") == TORN:
            if whole and whole[-1].number == value.get("line"):  # it lacked nothing but its end, so it was not synced
                whole.pop()
            notes.append(f"{path}: line {value.get('line')} was cut short by a kill and does not count")
            broken = []
        elif value is None or not ended:
            broken.append(number)
        elif broken:
            raise LogError(
                f"{path}: line {broken[0]} is no JSON object: restore the file, it was changed or is damaged"
            )
        else:
            whole.append(Line(number, start, value))
        start += len(raw)
    if broken:
        notes.append(f"{path}: line {broken[-1]} is cut short and does not count")
    return Lines(tuple(whole), tuple(notes), broken[-1] if broken else None)


def _value(raw: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(raw)
    except ValueError:  # UnicodeDecodeError is one
        return None
    return value if isinstance(value, dict) else None
