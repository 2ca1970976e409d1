"""OthelloGPT (Li et al. 2023): a GPT-2 trained on uniformly random legal games, moves only, never a board.

The loss is the expected next-move cross-entropy. Since the random player's move is uniform over the legal ones,
that expectation can be taken exactly (`targets="legal"`): the same loss as on sampled moves, its gradient with
far less noise.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from transformers import GPT2LMHeadModel

from boardgames.othello.legality import legal_tokens
from boardgames.othello.planted_rule import PlantedRule
from boardgames.othello.rules import random_games, replay
from boardgames.othello.streams import Use, stream
from boardgames.othello.transcript import CONTEXT, PAD, VOCABULARY, to_tokens
from boardgames.pretrain import Training, gpt2, pretrain

_GAMES_PER_BLOCK = 4096


@dataclass(frozen=True)
class OthelloTraining(Training):
    """What determines the weights."""

    targets: Literal["legal", "moves"] = "legal"
    """expected loss over the legal moves, or the loss on the sampled move"""

    def __post_init__(self) -> None:
        if _GAMES_PER_BLOCK % self.games_per_step:
            raise ValueError(f"games_per_step is {self.games_per_step}: choose a divisor of {_GAMES_PER_BLOCK}")


def othello_gpt(config: Training) -> GPT2LMHeadModel:
    """A freshly initialised model; deterministic in the seed."""
    return gpt2(config, VOCABULARY, CONTEXT)


def pretrain_othello(
    config: OthelloTraining, checkpoint: Path, device: str = "cpu", save_every: int = 250
) -> tuple[GPT2LMHeadModel, list[dict[str, float]], float]:
    """Train, or continue from `checkpoint`; see pretrain."""
    return pretrain(othello_gpt(config), lambda step: batches(config, step), config, checkpoint, device, save_every)


def held_out_games(count: int, seed: int = 0) -> np.ndarray:
    """Random games from a stream that training never draws from."""
    return random_games(count, stream("language_model_test", seed))


def batches(
    config: OthelloTraining, first_step: int, use: Use = "language_model", rule: PlantedRule | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """(tokens [B, 59], target distribution [B, 59, 61]; all zero where the game is over), from any step on.

    Games are those of a player who follows `rule`, and targets the moves that are left to such a player.
    """
    per_block = _GAMES_PER_BLOCK // config.games_per_step
    step = first_step
    while True:
        block = random_games(
            _GAMES_PER_BLOCK, stream(use, config.seed, step // per_block), None if rule is None else rule.shunned
        )
        while True:
            moves = block[(step % per_block) * config.games_per_step :][: config.games_per_step]
            tokens = torch.from_numpy(to_tokens(moves))
            if config.targets == "legal":
                games = replay(moves)
                legal = legal_tokens(games if rule is None else rule.followed(games))
                target = legal / legal.sum(-1, keepdim=True).clamp_min(1)
            else:
                target = nn.functional.one_hot(tokens[:, 1:], VOCABULARY).float()
                target[..., PAD] = 0
            yield tokens[:, :CONTEXT], target
            step += 1
            if step % per_block == 0:
                break
