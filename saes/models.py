"""Load a causal language model of transformers (a hub name, a folder, a GGUF file), frozen and in evaluation mode.

What comes back is checked: every weight was in the file and is finite, later tokens do not change earlier logits, and
the description of its family (saes/families.py) holds on a real forward pass. Nothing is unpickled, no code is run.
"""

import re
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from saes.families import FAMILIES, Family, describe_family, family_of_type
from saes.family_checks import check_family
from saes.files import FileError, write_json, write_tensors
from saes.sites import SiteError

DTYPES = {"float32": torch.float32, "float64": torch.float64, "float16": torch.float16, "bfloat16": torch.bfloat16}
_WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "pytorch_model*.bin", "pytorch_model*.index.json")


class ModelError(FileError):
    """A model that cannot be had: missing, damaged, of an unknown kind, or not for this dtype or device."""


def load_model(
    source: str | Path,
    *,
    dtype: str | torch.dtype = "float32",
    device: str | torch.device = "auto",
    family: Family | str | None = None,
) -> PreTrainedModel:
    """A causal language model in evaluation mode, without gradients.

    `source`: a folder with config.json and weights, a .gguf file or a folder with one, or a name on the hub.
    `dtype`: float32, float64, float16, bfloat16, or "auto" for the file's own (GGUF weights are dequantised).
    `device`: as torch spells it, or "auto" for the GPU if there is one.
    `family`: how the model is built, where its type has no row in FAMILIES or the row is wrong: a Family, or the type
    whose row fits. Raises ModelError for a model that cannot be had, SiteError for a family that does not fit.
    """
    place, kind, row = _locate(source), _dtype(dtype), FAMILIES.get(family) if isinstance(family, str) else family
    target = find_device(device)
    if isinstance(family, str) and row is None:
        raise SiteError(f"family {family!r} is not known; known: {', '.join(sorted(FAMILIES))}")
    config = _config(place)
    if row is None:
        family_of_type(config.model_type)  # before gigabytes are read
    model = _settle(source, _read(place, config, kind), target)
    if row is not None:
        describe_family(model, row)
    _check_causal(source, model)
    try:
        check_family(model)
    except SiteError as error:
        raise SiteError(f"{source}: {error}") from None
    return model


def load_sequence_classifier(
    source: str | Path, *, dtype: str | torch.dtype = "float32", device: str | torch.device = "auto"
) -> PreTrainedModel:
    """A classifier of texts on a causal model (AutoModelForSequenceClassification), read from safetensors alone.

    In evaluation mode, without gradients; source, dtype and device as for load_model. ModelError for one that cannot be
    had, SiteError for a model type that is not described in FAMILIES.
    """
    place, kind, target = _locate(source), _dtype(dtype), find_device(device)
    if "gguf_file" in place.options:
        raise ModelError(f"{source}: GGUF files hold no classifiers; give a folder or a name on the hub")
    config = _config(place)
    family_of_type(config.model_type)
    place.options["use_safetensors"] = True
    return _settle(source, _read(place, config, kind, AutoModelForSequenceClassification), target)


def load_tokenizer(source: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer that stands beside a model: `source` as for load_model."""
    place = _locate(source)
    try:
        tokenizer = AutoTokenizer.from_pretrained(place.name, **place.options)
    except Exception as error:  # transformers passes on whatever its readers raise
        raise ModelError(f"{source}: no tokenizer can be read there ({_first_line(error)})") from None
    if not tokenizer.vocab_size:  # what transformers makes up from the model's type where there is no file
        raise ModelError(f"{source}: no tokenizer can be read there (tokenizer.json is missing)")
    return tokenizer


def save_model(model: PreTrainedModel, folder: Path | str, *, dtype: torch.dtype = torch.float32) -> None:
    """Write config.json and model.safetensors, the weights in `dtype`; each file is whole or absent."""
    folder, tied = Path(folder), set(getattr(model, "all_tied_weights_keys", {}))
    tensors = {name: t.to(dtype) for name, t in model.state_dict().items() if name not in tied}
    config = {**model.config.to_diff_dict(), "dtype": str(dtype).removeprefix("torch.")}
    write_tensors(folder / "model.safetensors", tensors, {"format": "pt"})
    write_json(folder / "config.json", {**config, "architectures": [type(model).__name__]})


class _Place(NamedTuple):
    """Where a model is, in transformers' terms."""

    source: str  # as the user wrote it
    name: str
    options: dict[str, Any]

    @property
    def local(self) -> bool:
        return bool(self.options["local_files_only"])


def _locate(source: str | Path) -> _Place:
    """Decide what a source is: a folder, a GGUF file, a name on the hub."""
    path, options = Path(source).expanduser(), {"local_files_only": True, "trust_remote_code": False}
    if path.is_file():
        if path.suffix != ".gguf":
            raise ModelError(f"{source}: a file; a model is a folder, a .gguf file or a name on the hub")
        return _gguf(path)
    if path.is_dir():
        if (path / "config.json").is_file() and any(found for kind in _WEIGHTS for found in path.glob(kind)):
            return _Place(str(source), str(path), options)
        files = sorted(path.glob("*.gguf"))
        if len(files) == 1:
            return _gguf(files[0])
        if files:
            raise ModelError(f"{source}: holds several models, name one: {', '.join(file.name for file in files)}")
        if (path / "config.json").is_file():
            raise ModelError(f"{source}: holds no weights (model.safetensors, pytorch_model.bin or a .gguf file)")
        raise ModelError(f"{source}: holds no config.json and no .gguf file")
    name = str(source)
    if isinstance(source, Path) or path.suffix == ".gguf" or not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", name):
        raise ModelError(f"{source}: no such file or folder, and not a name on the hub (owner/model)")
    return _Place(name, name, options | {"local_files_only": False})


def _gguf(path: Path) -> _Place:
    try:
        import accelerate
        import gguf
    except ImportError as error:
        raise ModelError(
            f"{path}: reading GGUF needs the package {error.name}; install the extra: pip install 'kibitz[gguf]'"
        ) from None
    del accelerate, gguf  # transformers imports them itself, and says less when it cannot
    options = {"local_files_only": True, "trust_remote_code": False, "gguf_file": path.name}
    return _Place(str(path), str(path.parent), options)


def _dtype(dtype: str | torch.dtype) -> torch.dtype | str:
    if dtype == "auto" or dtype in DTYPES.values():
        return dtype
    if dtype not in DTYPES:
        raise ModelError(f"dtype {str(dtype)!r}: not one of auto, {', '.join(DTYPES)}")
    return DTYPES[str(dtype)]


def find_device(device: str | torch.device) -> torch.device:
    """The device, once it has held a tensor; "auto": the GPU if there is one. ModelError if it is not to be had."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        probe = torch.zeros(1, device=device)
        probe.item()  # the meta device makes tensors, but they hold nothing
        return probe.device
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch's ways to say that there is none
        raise ModelError(f"device {str(device)!r} is not to be had here ({_first_line(error)})") from None


def _config(place: _Place) -> PretrainedConfig:
    try:
        config = AutoConfig.from_pretrained(place.name, **place.options)
    except Exception as error:  # transformers passes on whatever its readers raise
        if place.local:
            raise ModelError(f"{place.source}: its config cannot be read ({_first_line(error)})") from None
        raise ModelError(
            f"{place.source}: no such folder, and the hub does not have it or cannot be reached ({_first_line(error)})"
        ) from None
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ModelError(f"{place.source}: model type {config.model_type!r} is not a causal language model")
    return config


def _read(
    place: _Place, config: PretrainedConfig, dtype: torch.dtype | str, auto: Any = AutoModelForCausalLM
) -> PreTrainedModel:
    options = {"config": config, "dtype": dtype, "weights_only": True, "output_loading_info": True, **place.options}
    try:
        if "gguf_file" in options:
            from transformers import GgufConfig  # here, so that only GGUF files need a transformers that has it

            # or else weights may stay packed, and the model remembers a quantisation that cannot be saved
            options["quantization_config"] = GgufConfig(dequantize=True)
        loaded: Any = auto.from_pretrained(place.name, **options)
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # transformers passes on whatever its readers raise
        raise ModelError(f"{place.source}: its weights cannot be read ({_first_line(error)})") from None
    model, report = loaded
    if missing := sorted(report["missing_keys"]):  # transformers fills them with random numbers
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise ModelError(f"{place.source}: its weights lack {', '.join(missing[:3])}{more}")
    return model


def _settle(source: str | Path, model: PreTrainedModel, device: torch.device) -> PreTrainedModel:
    """The model on its device, in evaluation mode, without gradients; ModelError for weights that are not finite."""
    try:
        model.to(device)  # type: ignore[arg-type]  # transformers wraps .to without its signature
    except RuntimeError as error:
        raise ModelError(f"{source}: does not go to device {str(device)!r} ({_first_line(error)})") from None
    model.eval().requires_grad_(False)
    for name, weight in model.named_parameters():
        if not bool(weight.isfinite().all()):
            raise ModelError(f"{source}: {name} holds infinite values or NaN as {weight.dtype}")
    return model


@torch.no_grad()
def _check_causal(source: str | Path, model: PreTrainedModel) -> None:
    """Two texts that differ in the last token have the same logits before it, up to rounding; else ModelError."""
    vocabulary = model.config.get_text_config().vocab_size
    tokens = torch.tensor([[0, 1, 2, 3], [0, 1, 2, 4]], device=model.device).remainder(vocabulary)
    logits: Tensor = model(input_ids=tokens, use_cache=False).logits[:, :-1].float()
    gap = (logits[0] - logits[1]).norm() / logits.norm().clamp_min(1e-12)
    if gap > min(64 * torch.finfo(model.dtype).eps, 0.05):
        raise ModelError(
            f"{model.config.model_type}: not a causal language model: a later token changes earlier logits"
        )


def _first_line(error: BaseException) -> str:
    """The start of a message of several lines, or the exception's name where it has none."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".:")[:200] if lines else type(error).__name__
