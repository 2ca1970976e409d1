"""What the references of component circuits share: their tiny models, and a table of largest relative errors."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from saes.files import FileError, read_tensors

EXACT, SINGLE = 1e-9, 1e-6
"""limits: float64, and where the reference keeps something in float32"""


@dataclass
class Table:
    """Largest relative errors max|a - b| / max|b|, printed as they come."""

    passed: bool = True
    compared: int = 0
    excluded: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        print(f"{'largest relative error of':62s}{'error':>10s}{'limit':>8s}")

    def add(self, name: str, ours: Any, theirs: Any, limit: float) -> None:
        a, b = (x.double() if isinstance(x, Tensor) else torch.tensor(x, dtype=torch.float64) for x in (ours, theirs))
        if a.shape != b.shape:
            name, error = f"{name} ({list(a.shape)}, reference {list(b.shape)})", float("inf")
        else:
            gap, size = (float(x.abs().max()) if x.numel() else 0.0 for x in (a - b, b))
            error = gap / size if size else gap
        good = error <= limit  # a NaN is not good
        print(f"{name:62s}{error:10.2g}{limit:8.0e}{'' if good else '  FAILED'}")
        self.passed &= good
        self.compared += 1

    def leave_out(self, name: str, why: str) -> None:
        self.excluded[name] = why

    def close(self, folder: Path) -> bool:
        """Print what was left out and the verdict; FileError for a folder in which there was nothing to compare."""
        if not self.compared:
            raise FileError(f"{folder}: nothing in it is known to this check")
        for name, why in self.excluded.items():
            print(f"{name:62s}  left out: {why}")
        print(f"\n{'all within their limits' if self.passed else 'NOT within the limits'}")
        return self.passed


def reference_model(folder: Path) -> PreTrainedModel:
    """The model of config.json and model_hf.safetensors in float64."""
    weights = read_tensors(folder / "model_hf.safetensors")
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        config._attn_implementation = "sdpa"  # transformers' eager attention takes the softmax in float32
        model = AutoModelForCausalLM.from_config(config).double().eval().requires_grad_(False)
    except (OSError, ValueError, KeyError) as error:
        raise FileError(f"{folder / 'config.json'}: {str(error).splitlines()[0]}") from None
    renamed: dict[str, Tensor] = {name.replace("embed_out.", "lm_head."): x for name, x in weights.items()}
    try:
        missing = model.load_state_dict(renamed, strict=False).missing_keys
    except RuntimeError as error:
        raise FileError(f"{folder / 'model_hf.safetensors'}: {str(error).splitlines()[-1].strip()}") from None
    if missing and not (missing == ["lm_head.weight"] and config.tie_word_embeddings):
        raise FileError(f"{folder / 'model_hf.safetensors'}: has no {', '.join(missing)}")
    if not all(bool(x.isfinite().all()) for x in weights.values()):
        raise FileError(f"{folder / 'model_hf.safetensors'}: holds infinite values or NaN")
    return model
