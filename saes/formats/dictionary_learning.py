"""dictionary_learning (PyPI 0.1): a folder with config.json and ae.pt, a plain dict of tensors.

    class (config's dict_class)   ours
    AutoEncoder                   relu with center and unit decoder rows
    AutoEncoderNew                relu otherwise: no input bias, and no rescaling when it is loaded
    GatedAutoEncoder              gated
    AutoEncoderTopK               topk
    BatchTopKSAE                  batch_topk; its threshold -1 (never measured) keeps every positive feature, as ours
    MatryoshkaBatchTopKSAE        matryoshka
    JumpReluAutoEncoder           jumprelu; it has no input bias

Files take raw activations: the scale of training is folded in. `load_dictionary` of that package rescales an
AutoEncoder whose decoder rows are not unit, so such a one is written as AutoEncoderNew, whose features stay as they
are; one that is read keeps the features of its tensors (`from_pretrained(normalize_decoder=False)`).
"""

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saes.architectures import AffineDictionary, BatchTopKDictionary, MatryoshkaConfig, TopKConfig
from saes.files import FileError, read_state, write_json, write_state
from saes.formats.equivalents import build, expressible, has_unit_rows, is_transcoder, weights, weights_with_center
from saes.formats.folders import Fields, NotExpressible, Outline, checked, matrix_shape, new_folder
from saes.formats.spellings import KEY, Sites, layer_of, sites_entry, sites_of

NAME = "dictionary_learning"
FILES = ("config.json", "ae.pt")
_LINEAR = {"W_enc": "encoder.weight", "b_enc": "encoder.bias"}
_GATED = {"b_gate": "gate_bias", "b_mag": "mag_bias", "r_mag": "r_mag"}
_TRAINERS = {
    "AutoEncoder": "StandardTrainer",
    "AutoEncoderNew": "StandardTrainerAprilUpdate",
    "GatedAutoEncoder": "GatedSAETrainer",
    "AutoEncoderTopK": "TopKTrainer",
    "BatchTopKSAE": "BatchTopKTrainer",
    "MatryoshkaBatchTopKSAE": "MatryoshkaBatchTopKTrainer",
    "JumpReluAutoEncoder": "JumpReluTrainer",
}
_SITE = re.compile(r"(resid|mlp|attn|attention)(?:_post|_out)?(?:_?layer)?_?\d*")  # as in resid_post_layer_3


def recognises(folder: Path | str) -> bool:
    return (Path(folder) / "ae.pt").is_file()


def read(folder: Path | str, site: str | None = None, target: str | None = None) -> AffineDictionary:
    """The dictionary of a folder; its config names a layer but often no site: then it is `layer_3`."""
    folder = Path(folder)
    config = Fields.of_json(folder / "config.json")
    trainer = config.part("trainer")
    sites = _sites(config, trainer, site, target)
    path = folder / "ae.pt"
    tensors: Any = read_state(path)
    if not isinstance(tensors, dict):
        raise FileError(f"{path}: holds {type(tensors).__name__}, not a table of tensors")
    name = trainer.text("dict_class")
    if name not in _TRAINERS:
        raise NotExpressible(f"{config.path}: dict_class {name!r} is not known; known: {', '.join(_TRAINERS)}")
    if "decoder.bias" in tensors and name == "AutoEncoder":
        name = "AutoEncoderNew"  # its trainers write AutoEncoder whichever class they train
    transposed = name in ("MatryoshkaBatchTopKSAE", "JumpReluAutoEncoder")
    shape = matrix_shape(path, tensors, "W_dec" if transposed else "encoder.weight")
    if name == "AutoEncoderTopK" and "threshold" not in tensors:  # an older layout; TopK does not use it
        tensors["threshold"] = torch.tensor(-1.0)
    raw = checked(path, tensors, _shapes(name, *shape, tensors), whole=("k", "group_sizes"))
    for entry, value in (("dict_size", shape[0]), ("activation_dim", shape[1])):
        if trainer.has(entry) and trainer.integer(entry) != value:
            raise FileError(f"{config.path}: {entry} is {trainer.values[entry]}, but {path.name} has {value}")
    center = name not in ("AutoEncoderNew", "JumpReluAutoEncoder")
    return _ours(name, raw, trainer, path, sites, center)


def outline(folder: Path | str, site: str | None = None, target: str | None = None) -> Outline:
    """What config.json announces; where it names no sizes, the weights are read for them."""
    config = Fields.of_json(Path(folder) / "config.json")
    trainer = config.part("trainer")
    reads, writes = _sites(config, trainer, site, target)
    if not trainer.has("activation_dim") or not trainer.has("dict_size"):
        whole = read(folder, site, target)
        return Outline(reads, writes, whole.width, whole.width, whole.features)
    width = trainer.integer("activation_dim")
    return Outline(reads, writes, width, width, trainer.integer("dict_size"))


def _sites(config: Fields, trainer: Fields, site: str | None, target: str | None) -> Sites:
    if config.part("buffer").values.get("io", "out") not in ("in", "out", None):
        raise NotExpressible(f"{config.path}: it was trained to write another tensor than it reads (buffer.io)")
    return sites_of(config.path, config.part(KEY).values, _site_name(trainer), None, site, target, transcoder=False)


def _shapes(name: str, features: int, width: int, tensors: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Tensors of a class."""
    F, D = (features,), (width,)
    if name in ("MatryoshkaBatchTopKSAE", "JumpReluAutoEncoder"):
        shapes = {"W_enc": D + F, "b_enc": F, "W_dec": F + D, "b_dec": D}
        if name == "JumpReluAutoEncoder":
            return {**shapes, "threshold": F}
        sizes = tensors.get("group_sizes")
        groups = tuple(sizes.shape) if isinstance(sizes, Tensor) and sizes.dim() == 1 else (1,)
        return {**shapes, "k": (), "threshold": (), "group_sizes": groups}
    linear: dict[str, tuple[int, ...]] = {"encoder.weight": F + D, "decoder.weight": D + F}
    if name == "GatedAutoEncoder":
        return {**linear, "decoder_bias": D, "r_mag": F, "gate_bias": F, "mag_bias": F}
    linear["encoder.bias"] = F
    if name == "AutoEncoder":
        return {**linear, "bias": D}
    if name == "AutoEncoderNew":
        return {**linear, "decoder.bias": D}
    return {**linear, "b_dec": D, "k": (), "threshold": ()}


def _ours(name: str, raw: dict[str, Tensor], trainer: Fields, path: Path, sites: Any, center: bool) -> AffineDictionary:
    if "W_enc" in raw:
        tensors = {"W_enc": raw["W_enc"].T, "W_dec": raw["W_dec"], "b_enc": raw["b_enc"], "b_dec": raw["b_dec"]}
    else:
        b_dec = next(raw[key] for key in ("bias", "decoder.bias", "decoder_bias", "b_dec") if key in raw)
        tensors = {"W_enc": raw["encoder.weight"], "W_dec": raw["decoder.weight"].T, "b_dec": b_dec}
        if name == "GatedAutoEncoder":
            return build("gated", tensors | {o: raw[k] for o, k in _GATED.items()}, sites, path, center=center)
        tensors["b_enc"] = raw["encoder.bias"]
    if "threshold" in raw:
        tensors["threshold"] = raw["threshold"]
    if name in ("AutoEncoder", "AutoEncoderNew"):
        return build("relu", tensors, sites, path, center=center)
    if name == "JumpReluAutoEncoder":
        return build("jumprelu", tensors, sites, path, center=center)
    k = int(raw["k"])
    if trainer.has("k") and trainer.integer("k") != k:
        raise FileError(f"{trainer.path}: k is {trainer.values['k']}, but {path.name} has {k}")
    if name != "MatryoshkaBatchTopKSAE":
        return build("topk" if name == "AutoEncoderTopK" else "batch_topk", tensors, sites, path, center=center, k=k)
    sizes, features = raw["group_sizes"].tolist(), len(raw["W_dec"])
    if not sizes or min(sizes) < 1 or sum(sizes) != features:
        raise FileError(f"{path}: group_sizes {sizes} do not add up to {features} features")
    fractions = tuple(size / features for size in sizes)
    return build("matryoshka", tensors, sites, path, center=center, k=k, group_fractions=fractions)


def _site_name(trainer: Fields) -> str | None:
    layer, name = trainer.values.get("layer"), trainer.values.get("submodule_name")
    if isinstance(name, str) and isinstance(layer, int):
        match = _SITE.fullmatch(name)
        return f"{match[1].replace('attention', 'attn')}_{layer}" if match else name
    return f"layer_{layer}" if isinstance(layer, int) else None


def write(
    dictionary: AffineDictionary, folder: Path | str, *, model_name: str | None = None, context_size: int | None = None
) -> None:
    """A new folder that `dictionary_learning.utils.load_dictionary` reads; NotExpressible for transcoders."""
    expressible(dictionary, folder, NAME)
    if is_transcoder(dictionary):
        raise NotExpressible(f"{folder}: {NAME} cannot express a transcoder: its dictionaries write what they read")
    name, tensors = _theirs(dictionary)
    config, site = dictionary.config, dictionary.reads[0]
    trainer: dict[str, Any] = {
        "dict_class": name,
        "trainer_class": _TRAINERS[name],
        "activation_dim": config.width,
        "dict_size": config.features,
        "layer": layer_of(site),
        "lm_name": model_name,
        "submodule_name": site.name,
        "wandb_name": None,
    }
    if isinstance(config, TopKConfig):
        trainer["k"] = config.k
    if isinstance(config, MatryoshkaConfig):
        trainer |= {"group_fractions": list(config.group_fractions), "group_weights": list(config.weights)}
        trainer["group_sizes"] = tensors["group_sizes"].tolist()
    buffer = {"d_submodule": config.width, "io": site.end, "ctx_len": context_size}
    with new_folder(folder) as stage:
        write_json(stage / "config.json", {"trainer": trainer, "buffer": buffer, KEY: sites_entry(dictionary)})
        write_state(stage / "ae.pt", {key: t.clone().contiguous() for key, t in tensors.items()})


def _theirs(dictionary: AffineDictionary) -> tuple[str, dict[str, Tensor]]:
    """dict_class and the tensors of ae.pt."""
    config = dictionary.config
    if dictionary.architecture == "jumprelu":
        w = weights_with_center(dictionary, False)
        return "JumpReluAutoEncoder", {**w, "W_enc": w["W_enc"].T}
    if dictionary.architecture == "relu":
        # that package leaves rows alone that are within 1e-5 of 1
        if config.center and has_unit_rows(dictionary.W_dec.detach().float(), 5e-6):
            w = weights(dictionary)
            return "AutoEncoder", {**_linear(w), "encoder.bias": w["b_enc"], "bias": w["b_dec"]}
        w = weights_with_center(dictionary, False)
        return "AutoEncoderNew", {**_linear(w), "encoder.bias": w["b_enc"], "decoder.bias": w["b_dec"]}
    w = weights_with_center(dictionary, True)
    if dictionary.architecture == "gated":
        return "GatedAutoEncoder", {**_linear(w), "decoder_bias": w["b_dec"], **{k: w[o] for o, k in _GATED.items()}}
    assert isinstance(config, TopKConfig)
    competing = {"b_dec": w["b_dec"], "k": torch.tensor(config.k, dtype=torch.int32), "threshold": w["threshold"]}
    if isinstance(config, MatryoshkaConfig):
        ends = torch.tensor([0, *config.prefixes])
        sizes = {"group_sizes": ends.diff()}
        return "MatryoshkaBatchTopKSAE", {"W_enc": w["W_enc"].T, "b_enc": w["b_enc"], "W_dec": w["W_dec"]} | (
            competing | sizes
        )
    name = "BatchTopKSAE" if isinstance(dictionary, BatchTopKDictionary) else "AutoEncoderTopK"
    return name, {**_linear(w), "encoder.bias": w["b_enc"], **competing}


def _linear(w: dict[str, Tensor]) -> dict[str, Tensor]:
    return {"encoder.weight": w["W_enc"], "decoder.weight": w["W_dec"].T}
