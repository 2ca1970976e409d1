"""The game-playing language models: loading one, the ones that ship with Kibitz, and random weights beside them."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from transformers import GPT2LMHeadModel

from boardgames.chess import transcript as chess
from boardgames.legality import Legality
from boardgames.othello import transcript as othello
from saes.files import FileError, write_json
from saes.models import load_model, save_model

WEIGHTS = Path(__file__).parent / "weights"
OTHELLO_GPT = WEIGHTS / "othello_gpt"
CHESS_GPT = WEIGHTS / "chess_gpt"
OTHELLO_INJECTED = WEIGHTS / "othello_injected"

BoardGame = Literal["othello", "chess"]
Quality = TypeVar("Quality", bound=Legality)
SHIPPED: dict[BoardGame, Path] = {"othello": OTHELLO_GPT, "chess": CHESS_GPT}
_VOCABULARY: dict[BoardGame, int] = {"othello": othello.VOCABULARY, "chess": len(chess.VOCABULARY)}


def load_board_model(game: BoardGame, folder: Path | str | None = None, device: str = "cpu") -> GPT2LMHeadModel:
    """A model of transcripts in float32, frozen and in evaluation mode; the shipped one (fp16 on disk) if not told."""
    folder = Path(SHIPPED[game] if folder is None else folder)  # a path: never a name on the hub
    model = load_model(folder, device=device)
    if not isinstance(model, GPT2LMHeadModel):
        raise FileError(f"{folder}: a {type(model).__name__}, not the GPT-2 that board models are")
    if model.config.vocab_size != _VOCABULARY[game]:
        raise FileError(
            f"{folder}: reads {model.config.vocab_size} different tokens, but transcripts of {game} are written in "
            f"{_VOCABULARY[game]}: is it a model of another game?"
        )
    return model


def load_othello_gpt(folder: Path | str = OTHELLO_GPT, device: str = "cpu") -> GPT2LMHeadModel:
    """An OthelloGPT; see load_board_model."""
    return load_board_model("othello", folder, device)


def load_chess_gpt(folder: Path | str = CHESS_GPT, device: str = "cpu") -> GPT2LMHeadModel:
    """A ChessGPT; see load_board_model."""
    return load_board_model("chess", folder, device)


def game_of(vocabulary: int) -> BoardGame:
    """The game whose transcripts have so many different tokens; FileError if there is none."""
    for game, size in _VOCABULARY.items():
        if vocabulary == size:
            return game
    raise FileError(f"{vocabulary} tokens are the vocabulary of no game; known: {_VOCABULARY}")


def save_board_model(
    model: GPT2LMHeadModel, folder: Path, training: dict[str, Any], measure: Callable[[GPT2LMHeadModel], Quality]
) -> Quality:
    """Write config, fp16 weights and the training record with the quality, which is measured on what users will load.

    Each file is whole or absent. Returns the quality.
    """
    save_model(model, folder, dtype=torch.float16)
    quality = measure(load_board_model(game_of(model.config.vocab_size), folder))
    write_record(folder, training, quality)
    return quality


def write_record(folder: Path, training: dict[str, Any], quality: Legality) -> None:
    """training.json: how a model was trained, and how well it plays."""
    write_json(folder / "training.json", {"training": training, "quality": asdict(quality)})


def random_weights(model: GPT2LMHeadModel, seed: int = 0) -> GPT2LMHeadModel:
    """A model of the same shape, freshly initialised and never trained (the baseline of Karvonen et al. 2024)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = GPT2LMHeadModel(deepcopy(model.config))
    fresh.to(device=model.device, dtype=model.dtype)  # type: ignore[arg-type]  # transformers wraps .to
    return fresh.eval().requires_grad_(False)
