"""sparsify (PyPI eai-sparsify 1.3): a folder with cfg.json and sae.safetensors for each hookpoint of a run.

It knows top-k over features alone: relu((x - b_dec) W_enc^T + b_enc) of which the k largest are kept, b_dec not
subtracted with `transcode`, and x W_skip^T added with `skip_connection`. Ours without `center` is written with the
input bias moved out of b_enc, which is exact; a transcoder's two sites must have one width. groupmax is not ours.
"""

from pathlib import Path
from typing import Any

import torch

from saes.architectures import AffineDictionary, TopKConfig, TopKDictionary
from saes.files import FileError, read_tensors, write_json, write_tensors
from saes.formats.equivalents import build, expressible, weights_with_center
from saes.formats.folders import Fields, NotExpressible, Outline, checked, matrix_shape, new_folder
from saes.formats.spellings import Sites, path_name, sites_entry, sites_of

NAME = "sparsify"
SITES = "kibitz.json"
FILES = ("cfg.json", "sae.safetensors", SITES)


def recognises(folder: Path | str) -> bool:
    """A coder's folder, or that of a run."""
    return bool(coders(folder))


def coders(folder: Path | str) -> list[Path]:
    """The folders of the coders in a run's folder, or the folder itself."""
    folder = Path(folder)
    if (folder / "sae.safetensors").is_file():
        return [folder]
    return sorted(path.parent for path in folder.glob("*/sae.safetensors"))


def read(folder: Path | str, site: str | None = None, target: str | None = None) -> AffineDictionary:
    """The dictionary of a coder's folder, which bears the hookpoint's name (layers.3), or of a run that has one."""
    found = coders(folder)
    if len(found) != 1:
        names = ", ".join(path.name for path in found)
        raise FileError(f"{folder}: holds {len(found)} coders ({names}); name the folder of one")
    folder = found[0]
    config = Fields.of_json(folder / "cfg.json")
    if config.text("activation", "topk") != "topk":
        raise NotExpressible(f"{config.path}: Kibitz has no architecture with activation {config.text('activation')!r}")
    transcode, skip = config.flag("transcode", False), config.flag("skip_connection", False)
    path = folder / "sae.safetensors"
    raw_tensors = read_tensors(path)
    features, width = matrix_shape(path, raw_tensors, "encoder.weight")
    F, D = (features,), (width,)
    shapes = {"encoder.weight": F + D, "encoder.bias": F, "W_dec": F + D, "b_dec": D}
    raw = checked(path, raw_tensors, shapes | ({"W_skip": D + D} if skip else {}))
    count = config.values.get("num_latents") or config.integer("expansion_factor", 32) * config.integer("d_in")
    if (config.integer("d_in"), count) != (width, features):
        raise FileError(
            f"{config.path}: announces {count} features of {config.integer('d_in')}, {path.name} has others"
        )
    tensors = {"W_enc": raw["encoder.weight"], "b_enc": raw["encoder.bias"], "W_dec": raw["W_dec"]}
    tensors |= {"b_dec": raw["b_dec"], "threshold": torch.tensor(-1.0)}
    if skip:
        tensors["W_skip"] = raw["W_skip"].T
        if not transcode:  # our skip dictionaries subtract nothing from what they read
            shift = raw["encoder.weight"].double() @ raw["b_dec"].double()
            tensors["b_enc"] = (tensors["b_enc"].double() - shift).float()
    center = not transcode and not skip
    sites = _sites(folder, transcode, site, target)
    return build("topk", tensors, sites, path, center=center, k=config.integer("k", 32))


def outline(folder: Path | str, site: str | None = None, target: str | None = None) -> Outline:
    """What cfg.json announces, for the folder of one coder."""
    folder = Path(folder)
    config = Fields.of_json(folder / "cfg.json")
    width = config.integer("d_in")
    count = config.values.get("num_latents") or config.integer("expansion_factor", 32) * width
    return Outline(*_sites(folder, config.flag("transcode", False), site, target), width, width, int(count))


def _sites(folder: Path, transcode: bool, site: str | None, target: str | None) -> Sites:
    # a transcoder of a module is kept under that module's name: it writes its output; what it reads is its input
    read_name = f"{folder.name}.input" if transcode else folder.name
    own = Fields.of_json(folder / SITES) if (folder / SITES).is_file() else Fields(folder / SITES, {})
    return sites_of(own.path, own.values, read_name, folder.name, site, target, transcode)


def write(
    dictionary: AffineDictionary, folder: Path | str, *, model_name: str | None = None, context_size: int | None = None
) -> None:
    """A new folder that `sparsify.SparseCoder.load_from_disk` reads; NotExpressible for all but top-k.

    sparsify has no place for model_name and context_size: they are kept in a file beside its own.
    """
    expressible(dictionary, folder, NAME)
    config, transcode = dictionary.config, dictionary.reads != dictionary.writes
    if not isinstance(dictionary, TopKDictionary):
        raise NotExpressible(f"{folder}: {NAME} cannot express {dictionary.architecture}: it keeps the top k of a row")
    if dictionary.width_in != config.width:
        raise NotExpressible(
            f"{folder}: {NAME} cannot express a transcoder from width {dictionary.width_in} to {config.width}: "
            "both must be the same"
        )
    w = weights_with_center(dictionary, not transcode)
    assert isinstance(config, TopKConfig)
    entries: dict[str, Any] = {
        "activation": "topk",
        "expansion_factor": max(1, config.features // config.width),
        "normalize_decoder": config.unit_norm,
        "num_latents": config.features,
        "k": config.k,
        "multi_topk": False,
        "skip_connection": config.skip,
        "transcode": transcode,
        "d_in": config.width,
    }
    hookpoint = path_name(dictionary.writes[0])
    beside = {**sites_entry(dictionary), "hookpoint": hookpoint, "model_name": model_name, "context_size": context_size}
    tensors = {"encoder.weight": w["W_enc"], "encoder.bias": w["b_enc"], "W_dec": w["W_dec"], "b_dec": w["b_dec"]}
    if config.skip:
        tensors["W_skip"] = w["W_skip"].T
    with new_folder(folder) as stage:
        write_json(stage / "cfg.json", entries)
        write_json(stage / SITES, beside)
        write_tensors(stage / "sae.safetensors", tensors)
