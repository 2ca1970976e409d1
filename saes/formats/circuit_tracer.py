"""circuit-tracer (PyPI 0.5) transcoder sets: config.yaml and layer_{i}.safetensors for the layers of a model.

Per layer W_enc [F, D], b_enc, W_dec [F, D], b_dec, with skip W_skip [D_out, D_in], with JumpReLU
activation_function.threshold [F]. It keeps p where p > threshold, without a ReLU: thresholds are written at 0 or
above, which is the same for us, and refused below 0. Nothing is subtracted from the input. BatchTopK, Matryoshka and
Gated transcoders are written as JumpReLU. An autoencoder has no place in a replacement model, which puts features
between two sites; nor have we one for cross-layer transcoders.

One dictionary is one layer of a set: circuit-tracer loads its file with load_relu_transcoder, and a set when the folder
has every layer from 0. The layer is the number in the name of the site that is written (mlp_3).
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from saes.architectures import AffineDictionary, ReLUDictionary, TopKDictionary
from saes.files import FileError, read_shapes, read_tensors, write_tensors, write_text
from saes.formats.equivalents import as_jumprelu, build, expressible, weights_with_center
from saes.formats.folders import Fields, NotExpressible, Outline, checked, matrix_shape, new_folder
from saes.formats.spellings import KEY, Sites, layer_of, lens_name, sites_entry, sites_of

NAME = "circuit_tracer"
_THRESHOLD = "activation_function.threshold"


def recognises(folder: Path | str) -> bool:
    return bool(layers(folder)) or (Path(folder) / "W_enc_0.safetensors").is_file()


def layers(folder: Path | str) -> list[int]:
    """The layers that a set's folder holds."""
    names = (re.fullmatch(r"layer_(\d+)\.safetensors", path.name) for path in Path(folder).glob("layer_*.safetensors"))
    return sorted(int(match[1]) for match in names if match)


def read(
    folder: Path | str, site: str | None = None, target: str | None = None, layer: int | None = None
) -> AffineDictionary:
    """One layer of a set; without `layer` the only one. `site` and `target`: what it reads and writes."""
    folder = Path(folder)
    config = _config(folder)
    layer = _one_layer(folder, config, layer)
    path = folder / f"layer_{layer}.safetensors"
    tensors = read_tensors(path)
    features, width = matrix_shape(path, tensors, "W_enc")
    F, D = (features,), (width,)
    shapes = {"W_enc": F + D, "b_enc": F, "W_dec": F + D, "b_dec": D}
    shapes |= {name: shape for name, shape in (("W_skip", D + D), (_THRESHOLD, F)) if name in tensors}
    raw = checked(path, tensors, shapes)
    if "W_skip" in raw:
        raw["W_skip"] = raw["W_skip"].T
    if _THRESHOLD in raw:
        raw["threshold"] = raw.pop(_THRESHOLD)
        if bool((raw["threshold"] < 0).any()):
            raise NotExpressible(f"{path}: a threshold is below 0, which lets negative features through: ours cannot")
    sites = _sites(config, layer, site, target)
    return build("jumprelu" if "threshold" in raw else "relu", raw, sites, path, center=False)


def outline(
    folder: Path | str, site: str | None = None, target: str | None = None, layer: int | None = None
) -> Outline:
    """Sites from config.yaml, sizes from the header of the layer's file."""
    folder = Path(folder)
    config = _config(folder)
    layer = _one_layer(folder, config, layer)
    path = folder / f"layer_{layer}.safetensors"
    shapes = read_shapes(path)
    if len(shapes.get("W_enc", ())) != 2:
        raise FileError(f"{path}: lacks the matrix W_enc; it holds {', '.join(shapes)}")
    features, width = shapes["W_enc"]
    return Outline(*_sites(config, layer, site, target), width, width, features)


def _one_layer(folder: Path, config: Fields, layer: int | None) -> int:
    """The layer that is meant; without one the only one."""
    found = layers(folder)
    if config.text("model_kind", "transcoder_set") != "transcoder_set" or not found:
        if (folder / "W_enc_0.safetensors").is_file():
            raise NotExpressible(f"{folder}: Kibitz has no cross-layer transcoder, whose features write several layers")
        raise FileError(f"{folder}: holds no layer_0.safetensors of a set of transcoders")
    if layer is None:
        if len(found) > 1:
            raise FileError(f"{folder}: holds the layers {', '.join(map(str, found))}; name one")
        layer = found[0]
    if layer not in found:
        raise FileError(f"{folder}: has no layer {layer}; it holds {', '.join(map(str, found))}")
    return layer


def _sites(config: Fields, layer: int, site: str | None, target: str | None) -> Sites:
    hooks = [config.values.get(f"feature_{end}_hook") for end in ("input", "output")]
    read_name = f"blocks.{layer}.{hooks[0]}" if hooks[0] else f"mlp_input_{layer}"
    write_name = f"blocks.{layer}.{hooks[1] or 'hook_mlp_out'}"  # a set stands for the MLPs
    own = Fields(config.path, config.part(KEY).values).part(str(layer)).values
    return sites_of(config.path, own, read_name, write_name, site, target, transcoder=True)


def _config(folder: Path) -> Fields:
    """config.yaml; empty if there is none, for circuit-tracer's own to_safetensors writes none."""
    path = folder / "config.yaml"
    if not path.is_file():
        return Fields(path, {})
    try:
        return Fields(path, yaml.safe_load(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        if isinstance(error, FileError):
            raise
        raise FileError(f"{path}: not readable as YAML ({str(error).splitlines()[0]})") from None


def write(
    dictionaries: AffineDictionary | Sequence[AffineDictionary],
    folder: Path | str,
    *,
    model_name: str | None = None,
    context_size: int | None = None,
) -> None:
    """A new folder with one layer, or with those of several transcoders; context_size has no place in it."""
    whole = [dictionaries] if isinstance(dictionaries, AffineDictionary) else list(dictionaries)
    files: dict[int, dict[str, Tensor]] = {}
    hooks, shapes = set(), set()
    for dictionary in whole:
        layer, tensors = _theirs(dictionary, folder)
        if layer in files:
            raise FileError(f"{folder}: two dictionaries write layer {layer}")
        files[layer] = tensors
        hooks.add(tuple(_hook(lens_name(sites[0])) for sites in (dictionary.reads, dictionary.writes)))
        shapes.add((tuple(tensors["W_enc"].shape), "W_skip" in tensors))
    if len(hooks) != 1 or len(shapes) != 1:
        raise NotExpressible(f"{folder}: the layers of a set read, write and measure alike; these differ")
    read_hook, write_hook = hooks.pop()
    config: dict[str, Any] = {
        "model_kind": "transcoder_set",
        "model_name": model_name,
        "feature_input_hook": read_hook,
        "feature_output_hook": write_hook,
        KEY: {str(layer): sites_entry(d) for layer, d in zip(files, whole, strict=True)},
    }
    with new_folder(folder) as stage:
        write_text(stage / "config.yaml", yaml.safe_dump(config, sort_keys=False))
        for layer, tensors in files.items():
            write_tensors(stage / f"layer_{layer}.safetensors", tensors)


def _hook(name: str) -> str:
    """A hook's name within its block."""
    return re.sub(r"_\d+$", "", re.sub(r"^blocks\.\d+\.", "", name))


def _theirs(dictionary: AffineDictionary, folder: Path | str) -> tuple[int, dict[str, Tensor]]:
    """The layer and the tensors of its file."""
    expressible(dictionary, folder, NAME)
    if dictionary.reads == dictionary.writes:
        raise NotExpressible(
            f"{folder}: {NAME} cannot express an autoencoder: its dictionaries are transcoders, which write another "
            f"site than they read; this one reads and writes {dictionary.reads[0]}"
        )
    if isinstance(dictionary, TopKDictionary):
        raise NotExpressible(f"{folder}: {NAME} cannot express topk: it has ReLU and JumpReLU features, no competition")
    if dictionary.width_in != dictionary.width:
        raise NotExpressible(
            f"{folder}: {NAME} cannot express a transcoder from width {dictionary.width_in} to {dictionary.width}: "
            "both must be the same"
        )
    layer = layer_of(dictionary.writes[0])
    if layer is None:
        raise FileError(f"{folder}: the site {dictionary.writes[0]} names no layer; transcoders write sites like mlp_3")
    if not isinstance(dictionary, ReLUDictionary):
        dictionary = as_jumprelu(dictionary)
    tensors = weights_with_center(dictionary, False)
    if "threshold" in tensors:
        tensors[_THRESHOLD] = tensors.pop("threshold")
    if "W_skip" in tensors:
        tensors["W_skip"] = tensors["W_skip"].T
    return layer, tensors
