"""The game-playing language models: loading one, and the one that ships with Kibitz."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers import GPT2LMHeadModel

from boardgames.legality import Legality
from saes.files import FileError, write_json
from saes.models import load_model, save_model

WEIGHTS = Path(__file__).parent / "weights"
OTHELLO_GPT = WEIGHTS / "othello_gpt"


def load_othello_gpt(folder: Path | str = OTHELLO_GPT, device: str = "cpu") -> GPT2LMHeadModel:
    """An OthelloGPT in float32, frozen and in evaluation mode; shipped weights are fp16 on disk."""
    model = load_model(Path(folder), device=device)  # a path: never a name on the hub
    if not isinstance(model, GPT2LMHeadModel):
        raise FileError(f"{folder}: a {type(model).__name__}, not the GPT-2 that Othello models are")
    return model


def save_othello_gpt(model: GPT2LMHeadModel, folder: Path, training: dict[str, Any], quality: Legality) -> None:
    """Write config, fp16 weights and the training record with the measured quality; each file is whole or absent."""
    save_model(model, folder, dtype=torch.float16)
    write_json(folder / "training.json", {"training": training, "quality": asdict(quality)})
