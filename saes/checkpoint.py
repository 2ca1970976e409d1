"""A dictionary as a folder: config.json (architecture, shape, sites) and dictionary.safetensors."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from saes.architectures import ARCHITECTURES, AffineDictionary
from saes.files import FileError, all_finite, read_json, read_tensors, write_json, write_tensors
from saes.sites import Site

FORMAT = "kibitz-dictionary-2"
FORMATS = ("kibitz-dictionary-1", FORMAT)  # the first knew ReLU dictionaries with all defaults alone


def save_dictionary(dictionary: AffineDictionary, folder: Path | str, *, dtype: torch.dtype = torch.float32) -> None:
    """Write a dictionary; weights are stored in `dtype`."""
    folder = Path(folder)
    tensors = {name: t.to(dtype) for name, t in dictionary.state_dict().items()}
    write_tensors(folder / "dictionary.safetensors", tensors)
    write_json(
        folder / "config.json",
        {
            "format": FORMAT,
            "architecture": dictionary.architecture,
            **asdict(dictionary.config),
            "reads": [asdict(site) for site in dictionary.reads],
            "writes": [asdict(site) for site in dictionary.writes],
        },
    )


def load_dictionary(
    folder: Path | str, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> AffineDictionary:
    """Read a dictionary, frozen; a missing, damaged or mis-shaped file is a FileError that names it."""
    path = Path(folder) / "dictionary.safetensors"
    dictionary = empty_dictionary(folder)
    tensors = read_tensors(path)
    expected = {name: tuple(t.shape) for name, t in dictionary.state_dict().items()}
    found = {name: tuple(t.shape) for name, t in tensors.items()}
    if expected != found:
        raise FileError(f"{path}: tensors {found} do not match the config: {expected}")
    for name, t in tensors.items():
        # a copy, so that nothing of the mapped file stays in use
        tensors[name] = t.to(device=device, dtype=dtype, copy=True) if t.is_floating_point() else t
        if not t.is_floating_point() or not all_finite(tensors[name]):
            wide = t.is_floating_point() and all_finite(t)
            fault = f"holds numbers that {dtype} cannot" if wide else "is not a tensor of finite real numbers"
            raise FileError(f"{path}: {name} {fault}")
    dictionary.load_state_dict(tensors, assign=True)
    return dictionary.eval().requires_grad_(False)


def empty_dictionary(folder: Path | str) -> AffineDictionary:
    """The dictionary of a folder with its shapes and sites but no weights: they are on torch's meta device."""
    path = Path(folder) / "config.json"
    stored = read_json(path)
    try:
        config = dict(stored)
        if config.pop("format") not in FORMATS:
            raise FileError(f"{path}: not a dictionary of Kibitz; expected format {FORMAT!r}")
        kind = ARCHITECTURES[config.pop("architecture")]
        reads, writes = ([Site(**site) for site in config.pop(name)] for name in ("reads", "writes"))
        options: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in config.items()
        }
        with torch.device("meta"):
            return kind(kind.config_type(**options), reads, writes)
    except FileError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise FileError(f"{path}: missing or unknown entry ({error})") from None
