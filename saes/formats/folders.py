"""Folders of other tools: read with every tensor and entry checked, written whole or not at all.

What is wrong with a folder is said in one FileError that names the file; nothing is built before all checks passed.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saes.files import FileError, all_finite, read_json
from saes.sites import Site


class NotExpressible(FileError):
    """The other format has no way to say what a dictionary does, or Kibitz has none to do what a file says."""


@dataclass(frozen=True)
class Outline:
    """What the files of a dictionary say before its weights are read."""

    reads: Sequence[Site]
    writes: Sequence[Site]
    width_in: int
    width: int
    features: int

    @property
    def numbers(self) -> int:
        """In its two matrices, which are nearly all of it."""
        return self.features * (self.width_in + self.width)


class Fields:
    """A config of another tool. Entries nobody asks for are ignored; those asked for must have the right type."""

    def __init__(self, path: Path, value: Any) -> None:
        if not isinstance(value, dict):
            raise FileError(f"{path}: holds {type(value).__name__}, not a table of settings")
        self.path, self.values = path, value

    @classmethod
    def of_json(cls, path: Path) -> "Fields":
        try:
            return cls(path, read_json(path))
        except RecursionError:
            raise FileError(f"{path}: nested too deeply") from None

    def has(self, name: str) -> bool:
        """Whether the entry is there and not null."""
        return self.values.get(name) is not None

    def integer(self, name: str, default: int | None = None) -> int:
        """At least 1."""
        value = self._get(name, default)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise self.wrong(name, "a whole number of at least 1")
        return value

    def flag(self, name: str, default: bool | None = None) -> bool:
        value = self._get(name, default)
        if not isinstance(value, bool):
            raise self.wrong(name, "true or false")
        return value

    def text(self, name: str, default: str | None = None) -> str:
        value = self._get(name, default)
        if not isinstance(value, str):
            raise self.wrong(name, "text")
        return value

    def part(self, name: str) -> "Fields":
        """A table inside this one; empty if it is absent."""
        value = self.values.get(name)
        if value is not None and not isinstance(value, dict):
            raise self.wrong(name, "a table of settings")
        return Fields(self.path, value or {})

    def wrong(self, name: str, expected: str) -> FileError:
        return FileError(f"{self.path}: {name!r} is {self.values.get(name)!r}; expected {expected}")

    def _get(self, name: str, default: Any) -> Any:
        value = self.values.get(name)
        if value is None and default is None:
            raise FileError(f"{self.path}: entry {name!r} is missing")
        return default if value is None else value


def checked(
    path: Path, tensors: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], whole: tuple[str, ...] = ()
) -> dict[str, Tensor]:
    """Exactly the tensors named in `shapes`, finite, as float32; those named in `whole` hold integers and stay so."""
    if missing := sorted(shapes.keys() - tensors.keys()):
        raise FileError(f"{path}: lacks the tensor {', '.join(missing)}; it holds {', '.join(map(str, tensors))}")
    if unknown := sorted(map(str, tensors.keys() - shapes.keys())):
        raise FileError(f"{path}: holds {', '.join(unknown)}, which belongs to no dictionary of this kind")
    result = {}
    for name, shape in shapes.items():
        t = tensors[name]
        if not isinstance(t, Tensor) or t.layout != torch.strided or t.is_quantized or t.device.type != "cpu":
            raise FileError(f"{path}: {name} is no plain tensor")
        if (
            t.numel() * t.element_size() > t.untyped_storage().nbytes()
        ):  # one number repeated: a small file, a huge copy
            raise FileError(f"{path}: {name} claims more numbers than the file holds")
        if tuple(t.shape) != shape:
            raise FileError(f"{path}: {name} has shape {list(t.shape)}, not the {list(shape)} that the rest asks for")
        if name in whole:
            if t.is_floating_point() or t.is_complex() or t.dtype == torch.bool:
                raise FileError(f"{path}: {name} holds {t.dtype}, not whole numbers")
            result[name] = t
            continue
        if not t.is_floating_point():
            raise FileError(f"{path}: {name} holds {t.dtype}, not floating-point numbers")
        result[name] = t.detach().float()
        if not all_finite(result[name]):
            raise FileError(f"{path}: {name} holds NaN or infinity")
    return result


def matrix_shape(path: Path, tensors: Mapping[str, Any], name: str) -> tuple[int, int]:
    """Shape of the matrix that says how large the dictionary is."""
    t = tensors.get(name)
    if not isinstance(t, Tensor) or t.dim() != 2 or t.numel() == 0:
        raise FileError(f"{path}: lacks the matrix {name}; it holds {', '.join(map(str, tensors))}")
    return t.shape[0], t.shape[1]


@contextmanager
def new_folder(folder: Path | str) -> Iterator[Path]:
    """A folder beside `folder` that takes its name only if the block ends without an error; never over another."""
    folder = Path(os.path.abspath(folder))
    if os.path.lexists(folder):
        raise FileError(f"{folder}: something is here already; name a new folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    stage = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".part", dir=folder.parent))
    try:
        stage.chmod(0o755)
        yield stage
        if os.path.lexists(folder):  # os.rename would replace an empty folder
            raise FileError(f"{folder}: something appeared here meanwhile; name a new folder")
        os.rename(stage, folder)
    finally:
        shutil.rmtree(stage, ignore_errors=True)
