"""ChessGPT (Karvonen 2024): a GPT-2 over the characters of chess transcripts, from `;` on, which never sees a board."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import GPT2LMHeadModel

from boardgames.chess.transcript import CONTEXT, VOCABULARY, encode, lengths
from boardgames.pretrain import Training, gpt2, pretrain


@dataclass(frozen=True)
class ChessTraining(Training):
    """What determines the weights, besides the games."""

    layers: int = 6
    steps: int = 4500
    games_per_step: int = 32
    """games in a batch, the first 256 characters of each"""
    decay: int = 2000


def chess_gpt(config: Training) -> GPT2LMHeadModel:
    """A freshly initialised model; deterministic in the seed."""
    return gpt2(config, len(VOCABULARY), CONTEXT)


def pretrain_chess(
    config: ChessTraining, games: Sequence[str], checkpoint: Path, device: str = "cpu", save_every: int = 100
) -> tuple[GPT2LMHeadModel, list[dict[str, float]], float]:
    """Train on these games, or continue from `checkpoint`; see pretrain."""
    if len(games) < config.games_per_step:
        raise ValueError(f"{len(games)} games are fewer than a batch of {config.games_per_step}")
    ids, length = torch.from_numpy(encode(games).astype(np.uint8)), torch.from_numpy(lengths(games))
    identity = {"sha256 of games": hashlib.sha256("\n".join(games).encode()).hexdigest()}
    return pretrain(
        chess_gpt(config),
        lambda step: _batches(ids, length, config, step),
        config,
        checkpoint,
        device,
        save_every,
        identity,
    )


def _batches(ids: Tensor, length: Tensor, config: ChessTraining, first_step: int) -> Iterator[tuple[Tensor, Tensor]]:
    """(ids [B, 255], the next character as a distribution [B, 255, 32]; zero behind the end of a game)."""
    per_epoch = len(ids) // config.games_per_step
    place = torch.arange(1, CONTEXT)
    step, order, epoch = first_step, None, -1
    while True:
        if step // per_epoch != epoch:
            epoch = step // per_epoch
            order = torch.from_numpy(np.random.default_rng([config.seed, epoch]).permutation(len(ids)))
        assert order is not None
        chosen = order[(step % per_epoch) * config.games_per_step :][: config.games_per_step]
        tokens = ids[chosen].long()
        target = nn.functional.one_hot(tokens[:, 1:], len(VOCABULARY)).float()
        yield tokens[:, :-1], target * (place < length[chosen, None])[..., None]
        step += 1
