"""Text files of any size, also packed (.gz, .bz2, .zst), as streams that say how far they have been read."""

import bz2
import gzip
import io
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

PACKED = (".gz", ".bz2", ".zst")
_PIECE = 1 << 16


class LinesError(ValueError):
    """A file that is missing, damaged, or packed in a way that cannot be undone here."""


def kind_of(path: Path | str) -> str:
    """The suffix that says what is in a file: ".csv" for games.csv and for games.csv.gz; "" where there is none."""
    path = Path(path)
    return (Path(path.stem).suffix if path.suffix.lower() in PACKED else path.suffix).lower()


@contextmanager
def open_lines(
    path: Path | str, progress: Callable[[int], object] | None = None, errors: str = "strict"
) -> Iterator[TextIO]:
    """A UTF-8 text file, open for reading with its line ends as they are; LinesError where it breaks, also later on.

    `progress` is told of bytes of the file as they are read, packed ones where it is packed. `errors` is as for `open`.
    """
    path = Path(path)
    if not path.is_file():
        raise LinesError(f"{path}: no such file")
    try:
        with path.open("rb", buffering=0) as file:
            raw = io.BufferedReader(_Counted(file, progress), _PIECE)
            yield io.TextIOWrapper(_unpacked(path, raw), encoding="utf-8", errors=errors, newline="")
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise LinesError(f"{path}: damaged ({error})") from None


def _unpacked(path: Path, raw: Any) -> Any:
    suffix = path.suffix.lower()
    if suffix == ".gz":
        return gzip.GzipFile(fileobj=raw)
    if suffix == ".bz2":
        return bz2.BZ2File(raw)
    if suffix == ".zst":
        return io.BufferedReader(_Zstandard(path, raw), _PIECE)
    return raw


class _Counted(io.RawIOBase):
    """A file that tells how many bytes were read of it."""

    def __init__(self, file: Any, progress: Callable[[int], object] | None) -> None:
        self._file, self._progress = file, progress

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self._file.readinto(buffer)
        if self._progress is not None and count:
            self._progress(count)
        return count


class _Zstandard(io.RawIOBase):
    """A zstd file of any number of frames; unlike the package's own reader it notices where one is cut short."""

    def __init__(self, path: Path, packed: Any) -> None:
        try:
            import zstandard
        except ImportError:
            raise LinesError(
                f"{path}: packed with zstd; install the package `zstandard`, or unpack it with `unzstd`"
            ) from None
        self._package, self._packed = zstandard, packed
        self._frame: Any = None
        self._ready = self._left = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            piece, self._left = self._left or self._packed.read(_PIECE), b""
            if not piece:
                if self._frame is not None:
                    raise EOFError("it ends in the middle of a frame")
                return 0
            if self._frame is None:
                self._frame = self._package.ZstdDecompressor(max_window_size=1 << 31).decompressobj()
            try:
                self._ready = self._frame.decompress(piece)
            except self._package.ZstdError as error:
                raise OSError(str(error)) from None
            if self._frame.eof:
                self._left, self._frame = self._frame.unused_data, None
        count = min(len(buffer), len(self._ready))
        buffer[:count], self._ready = self._ready[:count], self._ready[count:]
        return count
