"""SAELens (PyPI sae-lens 6): a folder with cfg.json and sae_weights.safetensors; matrices are (in, out).

    architecture                      ours
    standard, gated, topk, jumprelu   relu, gated, topk, jumprelu; apply_b_dec_to_input is our `center`
    jumprelu                          batch_topk and matryoshka, as SAELens itself saves them: one threshold for all
                                      features; k and the nested widths are in metadata.training_architecture_details
    [jumprelu_][skip_]transcoder      relu, jumprelu, batch_topk, matryoshka (and gated, as jumprelu) transcoders
    batchtopk, matryoshka_batchtopk   a training checkpoint of one: read, never written

What a file may ask for besides: the decoder norms of rescale_acts_by_decoder_norm are folded in, so features are as
SAELens gives them. `expected_average_only_in` scales activations in training alone and its factor is not in the files
of a dictionary; where a checkpoint has it (activation_scaler.json), it is folded in as at the end of a training run,
and refused otherwise, like normalisations of single rows. bfloat16 weights are read as they are; SAELens also computes
in bfloat16. A hook_z dictionary reads the concatenated heads (our attn_heads_i). Versions before 6 are read too.
"""

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saes.architectures import AffineDictionary, BatchTopKDictionary, GatedDictionary, MatryoshkaConfig, TopKConfig
from saes.files import FileError, read_tensors, write_json, write_tensors
from saes.formats.equivalents import as_jumprelu, build, expressible, is_transcoder, weights
from saes.formats.folders import Fields, NotExpressible, Outline, checked, new_folder
from saes.formats.spellings import KEY, Sites, lens_name, sites_entry, sites_of

NAME = "saelens"
FILES = ("cfg.json", "sae_weights.safetensors", "activation_scaler.json")
VERSION = "6.54.12"  # whose layout is written; SAELens rewrites the config of files that name none
_AUTOENCODERS = ("standard", "gated", "topk", "jumprelu", "batchtopk", "matryoshka_batchtopk")
_TRANSCODERS = ("transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder")
_OURS = {"standard": "relu", "batchtopk": "batch_topk", "matryoshka_batchtopk": "matryoshka"}


def recognises(folder: Path | str) -> bool:
    return (Path(folder) / "sae_weights.safetensors").is_file()


def read(folder: Path | str, site: str | None = None, target: str | None = None) -> AffineDictionary:
    """The dictionary of a folder; `site` and `target` (of a transcoder) in place of the sites that it names."""
    folder = Path(folder)
    config, metadata = _config(folder / "cfg.json")
    architecture = config.text("architecture")
    if architecture not in _AUTOENCODERS + _TRANSCODERS:
        known = ", ".join(_AUTOENCODERS + _TRANSCODERS)
        raise NotExpressible(f"{config.path}: Kibitz has no architecture {architecture!r}; it reads {known}")
    if config.text("reshape_activations", "none") not in ("none", "hook_z"):
        raise config.wrong("reshape_activations", "none or hook_z")
    if metadata.has("hook_head_index") and site is None:
        raise NotExpressible(f"{config.path}: it reads head {metadata.values['hook_head_index']} alone; name its site")
    transcoder = architecture in _TRANSCODERS
    center = config.flag("apply_b_dec_to_input", not transcoder)
    if transcoder and center:
        raise config.wrong("apply_b_dec_to_input", "false for a transcoder")
    path = folder / "sae_weights.safetensors"
    tensors = read_tensors(path)
    raw = checked(path, tensors, _shapes(config, architecture))
    _fold_training_scale(raw, config, folder, architecture)
    sites = _sites(config, metadata, site, target, transcoder)
    return _ours(architecture, raw, config, metadata, sites, path, center)


def outline(folder: Path | str, site: str | None = None, target: str | None = None) -> Outline:
    """What cfg.json announces."""
    config, metadata = _config(Path(folder) / "cfg.json")
    architecture = config.text("architecture")
    shapes = _shapes(config, architecture)
    sites = _sites(config, metadata, site, target, architecture in _TRANSCODERS)
    return Outline(*sites, shapes["W_enc"][0], shapes["W_dec"][1], shapes["W_dec"][0])


def _sites(config: Fields, metadata: Fields, site: str | None, target: str | None, transcoder: bool) -> Sites:
    hook, hook_out = (metadata.text(name, "") or None for name in ("hook_name", "hook_name_out"))
    return sites_of(config.path, metadata.part(KEY).values, hook, hook_out, site, target, transcoder)


def _config(path: Path) -> tuple[Fields, Fields]:
    """Config and metadata, those of versions before 6 brought into today's names."""
    config = Fields.of_json(path)
    metadata = config.part("metadata")
    version = str(config.values.get("sae_lens_version") or metadata.values.get("sae_lens_version") or "")
    if (match := re.match(r"(\d+)\.", version)) and int(match[1]) >= 6:
        return config, metadata
    old = {"architecture": "standard", **config.values}
    for before, now in (("hook_point", "hook_name"), ("hook_point_head_index", "hook_head_index")):
        old.setdefault(now, old.get(before))
    activation = old.get("activation_fn_str") or old.get("activation_fn") or "relu"
    options = config.part("activation_fn_kwargs")
    if activation == "topk" and options.has("k"):
        old |= {"architecture": "topk", "k": options.integer("k")}
    elif activation != "relu":
        raise NotExpressible(f"{path}: Kibitz has no architecture with the activation function {activation!r}")
    if isinstance(old.get("normalize_activations"), bool):
        old["normalize_activations"] = "expected_average_only_in" if old["normalize_activations"] else "none"
    return Fields(path, old), Fields(path, {**old, KEY: None})


def _shapes(config: Fields, architecture: str) -> dict[str, tuple[int, ...]]:
    """Tensors that the config announces."""
    F, D = (config.integer("d_sae"),), (config.integer("d_in"),)
    D_out = (config.integer("d_out", 768),) if architecture in _TRANSCODERS else D
    shapes: dict[str, tuple[int, ...]] = {"W_enc": D + F, "W_dec": F + D_out, "b_dec": D_out}
    if architecture == "gated":
        return shapes | {"b_gate": F, "b_mag": F, "r_mag": F}
    shapes["b_enc"] = F
    if "jumprelu" in architecture:
        shapes["threshold"] = F
    if "batchtopk" in architecture:
        shapes["topk_threshold"] = ()
    if "skip" in architecture:
        shapes["W_skip"] = D_out + D
    return shapes


def _fold_training_scale(raw: dict[str, Tensor], config: Fields, folder: Path, architecture: str) -> None:
    """Turn a dictionary of scaled activations a x into one of x, as SAELens does when a run ends."""
    normalise = config.text("normalize_activations", "none")
    if normalise == "none":
        return
    if architecture in _TRANSCODERS:
        raise NotExpressible(f"{config.path}: a transcoder of scaled activations (normalize_activations {normalise!r})")
    if normalise != "expected_average_only_in":
        raise NotExpressible(f"{config.path}: Kibitz cannot normalise each row (normalize_activations {normalise!r})")
    scaler = folder / "activation_scaler.json"
    if not scaler.is_file():
        raise NotExpressible(
            f"{config.path}: normalize_activations is {normalise!r}, but no file says by what factor "
            "activations are to be scaled"
        )
    entries = Fields.of_json(scaler)
    a = entries.values.get("scaling_factor")
    if isinstance(a, bool) or not isinstance(a, int | float) or not 0 < a < float("inf"):
        raise entries.wrong("scaling_factor", "a number above 0")
    raw["W_enc"] = raw["W_enc"] * a
    for name in ("W_dec", "b_dec"):
        raw[name] = raw[name] / a
    if "topk_threshold" in raw and config.flag("rescale_acts_by_decoder_norm", True):
        raw["topk_threshold"] = raw["topk_threshold"] / a


def _ours(
    architecture: str, raw: dict[str, Tensor], config: Fields, metadata: Fields, sites: Any, path: Path, center: bool
) -> AffineDictionary:
    tensors = {**raw, "W_enc": raw["W_enc"].T}
    options: dict[str, Any] = {}
    if "W_skip" in raw:
        tensors["W_skip"] = raw["W_skip"].T
    if "topk" in architecture:
        training = architecture != "topk"
        options["k"] = config.integer("k", 100)
        if config.flag("rescale_acts_by_decoder_norm", training):
            tensors = _with_unit_decoder(tensors, path)
        if training:
            tensors["threshold"] = tensors.pop("topk_threshold")
        else:
            tensors["threshold"] = torch.tensor(-1.0)
    if architecture == "matryoshka_batchtopk":
        options |= _groups(config.values.get("matryoshka_widths"), len(raw["W_dec"]))
        if len(options) == 1:
            raise config.wrong("matryoshka_widths", f"rising numbers up to {len(raw['W_dec'])} features")
    ours = _OURS.get(architecture, architecture)
    if architecture in _TRANSCODERS:
        ours = "jumprelu" if "jumprelu" in architecture else "relu"
    if ours == "jumprelu":
        ours, options = _before_saving(metadata, tensors["threshold"])
        if ours != "jumprelu":
            tensors["threshold"] = tensors["threshold"][0]
    return build(ours, tensors, sites, path, center=center, **options)


def _before_saving(metadata: Fields, threshold: Tensor) -> tuple[str, dict[str, Any]]:
    """What was saved as jumprelu by SAELens or by `write`; what metadata say here never changes an output."""
    details, features = metadata.part("training_architecture_details"), len(threshold)
    k, trained = details.values.get("k"), metadata.values.get("training_architecture")
    if isinstance(k, bool) or not isinstance(k, int | float) or not 1 <= k <= features:
        return "jumprelu", {}
    if trained not in ("batchtopk", "matryoshka_batchtopk") or not bool((threshold == threshold[0]).all()):
        return "jumprelu", {}
    groups = _groups(details.values.get("matryoshka_widths"), features)
    return ("matryoshka" if groups else "batch_topk"), {"k": round(k), **groups}


def _groups(widths: Any, features: int) -> dict[str, Any]:
    """Our shares from SAELens' widths of the prefixes; nothing if they are none."""
    if not isinstance(widths, list) or not all(isinstance(w, int) and not isinstance(w, bool) for w in widths):
        return {}
    ends = [0, *widths] if widths and widths[-1] == features else [0, *widths, features]
    sizes = [b - a for a, b in pairwise(ends)]
    return {} if min(sizes) < 1 or len(sizes) < 2 else {"group_fractions": tuple(size / features for size in sizes)}


def _with_unit_decoder(tensors: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """p |W_dec row| and W_dec / |row|, as a rescaling dictionary computes, as weights."""
    norms = tensors["W_dec"].double().norm(dim=1)
    if not bool((norms > 0).all()):
        raise FileError(f"{path}: a decoder row is zero, so features cannot be rescaled by its norm")
    return {
        **tensors,
        "W_enc": (tensors["W_enc"].double() * norms[:, None]).float(),
        "b_enc": (tensors["b_enc"].double() * norms).float(),
        "W_dec": (tensors["W_dec"].double() / norms[:, None]).float(),
    }


def write(
    dictionary: AffineDictionary, folder: Path | str, *, model_name: str | None = None, context_size: int | None = None
) -> None:
    """A new folder that `sae_lens.SAE.load_from_disk` reads; NotExpressible for crosscoders and top-k transcoders."""
    expressible(dictionary, folder, NAME)
    config, transcoder = dictionary.config, is_transcoder(dictionary)
    metadata: dict[str, Any] = {
        "sae_lens_version": VERSION,
        "model_name": model_name,
        "hook_name": lens_name(dictionary.reads[0]),
        "hook_head_index": None,
        "context_size": context_size,
        "prepend_bos": False,
        "dataset_path": None,
        "model_from_pretrained_kwargs": {},
        KEY: sites_entry(dictionary),
    }
    architecture = "standard" if dictionary.architecture == "relu" else dictionary.architecture
    if isinstance(dictionary, BatchTopKDictionary):
        metadata |= _as_trained(dictionary)
    if isinstance(dictionary, BatchTopKDictionary) or (transcoder and isinstance(dictionary, GatedDictionary)):
        dictionary, architecture = as_jumprelu(dictionary), "jumprelu"
    tensors = weights(dictionary)
    tensors["W_enc"] = tensors["W_enc"].T
    entries: dict[str, Any] = {
        "d_in": dictionary.width_in,
        "d_sae": config.features,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": config.center,
        "normalize_activations": "none",
        "reshape_activations": "hook_z" if metadata["hook_name"].endswith("hook_z") and not transcoder else "none",
    }
    if transcoder:
        if architecture not in ("standard", "jumprelu"):
            raise NotExpressible(f"{folder}: {NAME} cannot express a {architecture} transcoder, only relu and jumprelu")
        metadata["hook_name_out"] = lens_name(dictionary.writes[0])
        entries["d_out"] = config.width
        kinds = (["jumprelu"] if architecture == "jumprelu" else []) + (["skip"] if config.skip else [])
        architecture = "_".join([*kinds, "transcoder"])
        if config.skip:
            tensors["W_skip"] = tensors["W_skip"].T
    if architecture == "topk":
        assert isinstance(config, TopKConfig)
        entries |= {"k": config.k, "rescale_acts_by_decoder_norm": False}
        del tensors["threshold"]  # top-k inference has none
    with new_folder(folder) as stage:
        write_json(stage / "cfg.json", {**entries, "metadata": metadata, "architecture": architecture})
        write_tensors(stage / "sae_weights.safetensors", tensors)


def _as_trained(dictionary: BatchTopKDictionary) -> dict[str, Any]:
    config = dictionary.config
    details: dict[str, Any] = {"k": config.k, "rescale_acts_by_decoder_norm": False}
    if not isinstance(config, MatryoshkaConfig):
        return {"training_architecture": "batchtopk", "training_architecture_details": details}
    details["matryoshka_widths"] = config.prefixes
    return {"training_architecture": "matryoshka_batchtopk", "training_architecture_details": details}
