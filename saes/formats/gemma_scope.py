"""Gemma Scope (Lieberum et al. 2024, arXiv:2408.05147): params.npz in a folder per dictionary; read, never written.

W_enc [D, F], b_enc [F], W_dec [F, D], b_dec [D], threshold [F] in float32: f = relu(p) where p > threshold with
p = x W_enc + b_enc, reconstruction = f W_dec + b_dec. Nothing is subtracted from x and nothing is normalised. There is
no config: what a dictionary reads is in the names of the repository and of the folder, layer_20/width_16k/average_l0_71
of

    gemma-scope-2b-pt-res           resid_20
    gemma-scope-2b-pt-mlp           mlp_20, what the MLP adds to the stream: behind the norm that follows it
    gemma-scope-2b-pt-att           attn_heads_20, the concatenated heads before the output projection (2048 wide in 2B)
    gemma-scope-2b-pt-transcoders   blocks.20.ln2.hook_normalized -> mlp_20

A transcoder reads the stream divided by its root mean square, *before* the norm's gain, which its authors folded into
the MLP's weights: no module of a transformers model hands that on, so it keeps TransformerLens' name of the tensor
until it is read with a model (saes/normed.py).
Dictionaries of token embeddings are refused: by what their inputs were scaled is not in the files.
"""

import re
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from saes.architectures import AffineDictionary
from saes.files import FileError
from saes.formats.equivalents import build
from saes.formats.folders import NotExpressible, Outline, checked
from saes.formats.spellings import Sites, sites_of

NAME = "gemma_scope"
FILES = ("params.npz",)
_HOOKS = {
    "res": "blocks.{}.hook_resid_post",
    "mlp": "blocks.{}.hook_mlp_out",
    "att": "blocks.{}.attn.hook_z",
    "transcoders": "blocks.{}.ln2.hook_normalized",
}
_MEMBERS = ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")


def recognises(folder: Path | str) -> bool:
    return (Path(folder) / "params.npz").is_file()


def read(folder: Path | str, site: str | None = None, target: str | None = None) -> AffineDictionary:
    """The dictionary of a folder, whose path names its site; a path that does not needs `site`."""
    path = Path(folder) / "params.npz"
    sites, shapes = _sites(path, site, target), _shapes(path)
    features, width = shapes["W_dec"]
    expected = {"W_enc": (shapes["W_enc"][0], features), "b_enc": (features,), "W_dec": (features, width)}
    expected |= {"b_dec": (width,), "threshold": (features,)}
    raw = checked(path, _tensors(path), expected)
    return build("jumprelu", raw | {"W_enc": raw["W_enc"].T}, sites, path, center=False)


def outline(folder: Path | str, site: str | None = None, target: str | None = None) -> Outline:
    """Sites from the path, sizes from the headers of the arrays."""
    path = Path(folder) / "params.npz"
    shapes = _shapes(path)
    return Outline(*_sites(path, site, target), shapes["W_enc"][0], shapes["W_dec"][1], shapes["W_dec"][0])


def _sites(path: Path, site: str | None, target: str | None) -> Sites:
    place = path.absolute().as_posix()
    kinds = re.findall(rf"gemma-scope-[\w.-]*?-({'|'.join(_HOOKS)})(?=/|$)", place)
    layers = re.findall(r"/layer_(\d+)(?=/)", place)
    if "/embedding/" in place and site is None:
        raise NotExpressible(f"{path}: a dictionary of token embeddings, whose scale its files do not say")
    transcoder = kinds[-1:] == ["transcoders"]
    read, written = None, None
    if layers:
        read = _HOOKS[kinds[-1]].format(layers[-1]) if kinds else f"layer_{layers[-1]}"
        written = _HOOKS["mlp"].format(layers[-1])
    return sites_of(path, {}, read, written, site, target, transcoder)


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Shape of every array by our name, from the headers; an array that claims more than the file holds is refused."""
    found = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                with archive.open(entry) as member:
                    version = np.lib.format.read_magic(member)
                    header = getattr(np.lib.format, f"read_array_header_{version[0]}_0")
                    shape, _, dtype = header(member)
                    if int(np.prod(shape)) * dtype.itemsize > entry.file_size:
                        raise FileError(f"{path}: {entry.filename} claims more numbers than the file holds")
                found[_ours(entry.filename.removesuffix(".npy"))] = shape
    except FileNotFoundError:
        raise FileError(f"{path}: no such file") from None
    except FileError:
        raise
    except (zipfile.BadZipFile, zlib.error, OSError, ValueError, AttributeError, EOFError) as error:
        raise FileError(f"{path}: not a whole .npz file ({error})") from None
    for name in ("W_enc", "W_dec"):
        if len(found.get(name, ())) != 2 or 0 in found[name]:
            raise FileError(f"{path}: lacks the matrix {name}; it holds {', '.join(found)}")
    return found


def _ours(name: str) -> str:
    return re.sub("^w_", "W_", name)  # as some of the files spell them


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            tensors: dict[str, Any] = {_ours(name): torch.from_numpy(archive[name]) for name in archive.files}
    except (zipfile.BadZipFile, zlib.error, OSError, ValueError, TypeError, EOFError) as error:
        raise FileError(f"{path}: not a whole .npz file of numbers ({error})") from None
    scale = tensors.get("scaling_factor")
    if scale is not None:
        if not bool((scale == 1).all()):
            raise NotExpressible(f"{path}: scaling_factor is not 1: Kibitz does not know what it scales")
        del tensors["scaling_factor"]
    return tensors
