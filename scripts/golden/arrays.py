"""Reading the arrays of a reference folder, with one sentence for whatever is wrong with them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saes.files import FileError


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """All arrays of an .npz file, or the one of an .npy file, under its stem."""
    if not path.is_file():
        raise FileError(f"{path}: no such file")
    try:
        loaded = np.load(path, allow_pickle=False)
        return {path.stem: loaded} if isinstance(loaded, np.ndarray) else dict(loaded)
    except Exception as error:  # numpy raises whatever its zip and header readers meet in a damaged file
        raise FileError(f"{path}: not a readable file of arrays ({error})") from None


def read_object(path: Path) -> Any:
    """A JSON file."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise FileError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise FileError(f"{path}: damaged ({error})") from None
