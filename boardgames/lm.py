"""The game-playing language models: loading one, and the one that ships with Kibitz."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers import GPT2LMHeadModel

from boardgames.legality import Legality
from saes.files import FileError, write_json, write_tensors

WEIGHTS = Path(__file__).parent / "weights"
OTHELLO_GPT = WEIGHTS / "othello_gpt"


def load_othello_gpt(folder: Path | str = OTHELLO_GPT, device: str = "cpu") -> GPT2LMHeadModel:
    """An OthelloGPT in float32, frozen and in evaluation mode; shipped weights are fp16 on disk."""
    folder = Path(folder)
    for name in ("config.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise FileError(f"{folder / name}: no such file; a model folder holds config.json and model.safetensors")
    try:
        model = GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    except Exception as error:  # transformers passes on whatever its readers raise
        raise FileError(f"{folder}: not a readable GPT-2 model ({error})") from None
    model.to(device)  # type: ignore[arg-type]  # transformers wraps .to without its signature
    return model.eval().requires_grad_(False)


def save_othello_gpt(model: GPT2LMHeadModel, folder: Path, training: dict[str, Any], quality: Legality) -> None:
    """Write config, fp16 weights and the training record with the measured quality; each file is whole or absent."""
    tensors = {name: t.half() for name, t in model.state_dict().items() if name != "lm_head.weight"}  # tied to wte
    write_tensors(folder / "model.safetensors", tensors, {"format": "pt"})
    config = json.loads(model.config.to_json_string())
    write_json(folder / "config.json", {**config, "dtype": "float16", "architectures": ["GPT2LMHeadModel"]})
    write_json(folder / "training.json", {"training": training, "quality": asdict(quality)})
