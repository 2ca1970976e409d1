"""Train an OthelloGPT (Li et al. 2023) in transformers' GPT-2 format on uniformly random legal games.

The loss is the expected next-move cross-entropy. Since the random player's move is uniform over the legal ones,
that expectation can be taken exactly (`targets="legal"`): the same loss as on sampled moves, its gradient with
far less noise. The model reads moves only, never a board. Every batch follows from (seed, step), so a run that
is killed and resumed ends with the weights of an undisturbed one.
"""

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm
from transformers import GPT2Config, GPT2LMHeadModel

from boardgames.legality import legal_tokens
from boardgames.muon import Muon
from boardgames.othello.rules import random_games, replay
from boardgames.othello.transcript import CONTEXT, PAD, VOCABULARY, to_tokens
from saes.files import FileError, read_state, write_state
from saes.schedules import Trapezoid

TRAINING_GAMES, HELD_OUT_GAMES = 0, 1  # streams of random games that never share a generator state
_GAMES_PER_BLOCK = 4096


@dataclass(frozen=True)
class PretrainConfig:
    """What determines the weights."""

    layers: int = 4
    width: int = 128
    heads: int = 8
    steps: int = 6000
    """optimiser steps"""
    games_per_step: int = 128
    """games in a batch, 59 predictions each"""
    learning_rate: float = 2e-3
    """peak rate of AdamW, which moves embeddings, biases and norms (and everything if muon is 0)"""
    muon: float = 0.02
    """peak rate of Muon for the weight matrices of the blocks; 0 = AdamW for all"""
    warmup: int = 100
    """steps of linear warm-up"""
    decay: int = 3000
    """last steps, over which the rate falls linearly to 0"""
    targets: Literal["legal", "moves"] = "legal"
    """expected loss over the legal moves, or the loss on the sampled move"""
    seed: int = 0

    def __post_init__(self) -> None:
        if _GAMES_PER_BLOCK % self.games_per_step:
            raise ValueError(f"games_per_step is {self.games_per_step}: choose a divisor of {_GAMES_PER_BLOCK}")


def othello_gpt(config: PretrainConfig) -> GPT2LMHeadModel:
    """A freshly initialised model; deterministic in the seed."""
    torch.manual_seed(config.seed)
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCABULARY,
            n_positions=CONTEXT,
            n_embd=config.width,
            n_layer=config.layers,
            n_head=config.heads,
            activation_function="gelu_pytorch_tanh",
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            bos_token_id=None,
            eos_token_id=None,
        )
    )


def held_out_games(count: int, seed: int = 0) -> np.ndarray:
    """Random games from a stream that training never draws from."""
    return random_games(count, np.random.default_rng([seed, HELD_OUT_GAMES]))


def _batches(config: PretrainConfig, first_step: int) -> Iterator[tuple[Tensor, Tensor]]:
    """(tokens [B, 59], target distribution [B, 59, 61]; all zero where the game is over), from any step on."""
    per_block = _GAMES_PER_BLOCK // config.games_per_step
    step = first_step
    while True:
        block = random_games(_GAMES_PER_BLOCK, np.random.default_rng([config.seed, TRAINING_GAMES, step // per_block]))
        while True:
            moves = block[(step % per_block) * config.games_per_step :][: config.games_per_step]
            tokens = torch.from_numpy(to_tokens(moves))
            if config.targets == "legal":
                legal = legal_tokens(replay(moves))
                target = legal / legal.sum(-1, keepdim=True).clamp_min(1)
            else:
                target = nn.functional.one_hot(tokens[:, 1:], VOCABULARY).float()
                target[..., PAD] = 0
            yield tokens[:, :CONTEXT], target
            step += 1
            if step % per_block == 0:
                break


def _optimisers(model: nn.Module, config: PretrainConfig) -> list[torch.optim.Optimizer]:
    blocks = {name: p for name, p in model.named_parameters() if config.muon and p.ndim == 2 and ".h." in name}
    fused = [p for name, p in blocks.items() if "c_attn" in name]
    single = [p for name, p in blocks.items() if "c_attn" not in name]
    rest = [p for name, p in model.named_parameters() if name not in blocks]
    adam = torch.optim.AdamW(rest, lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=0.0)
    return [adam, Muon(fused, config.muon, pieces=3), Muon(single, config.muon)] if blocks else [adam]


def pretrain(
    config: PretrainConfig, checkpoint: Path, device: str = "cpu", save_every: int = 250
) -> tuple[GPT2LMHeadModel, list[dict[str, float]], float]:
    """Train, or continue from `checkpoint` if it exists.

    Returns the model, [{step, loss}, ...] every 50 steps, and the seconds that training took over all its runs.
    """
    model = othello_gpt(config).train()
    model.to(device)  # type: ignore[arg-type]  # transformers wraps .to without its signature
    optimisers = _optimisers(model, config)
    peaks = [o.param_groups[0]["lr"] for o in optimisers]
    schedule = Trapezoid(config.steps, config.warmup, config.decay)
    done, log, spent, begun = 0, [], 0.0, time.perf_counter()
    if checkpoint.exists():
        state = read_state(checkpoint)
        if state["config"] != asdict(config):
            raise FileError(f"{checkpoint}: belongs to another configuration; choose another folder or delete it")
        model.load_state_dict(state["model"])
        for optimiser, saved in zip(optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        done, log, spent = state["step"], state["log"], state["seconds"]

    progress = tqdm(_batches(config, done), total=config.steps, initial=done, unit="step", desc="pretrain")
    for step, (tokens, target) in enumerate(progress, start=done):
        if step >= config.steps:
            break
        for optimiser, peak in zip(optimisers, peaks, strict=True):
            optimiser.param_groups[0]["lr"] = peak * schedule(step)
        tokens, target = tokens.to(device), target.to(device)
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            logits = model(input_ids=tokens, use_cache=False).logits
        live = target.sum()
        loss = -(logits.float().log_softmax(-1) * target).sum() / live
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimiser in optimisers:
            optimiser.step()
            optimiser.zero_grad()
        if step % 50 == 0 or step + 1 == config.steps:
            log.append({"step": step, "loss": loss.item()})
            progress.set_postfix(loss=f"{loss.item():.4f}")
        if (step + 1) % save_every == 0 or step + 1 == config.steps:
            write_state(
                checkpoint,
                {
                    "config": asdict(config),
                    "model": model.state_dict(),
                    "optimisers": [o.state_dict() for o in optimisers],
                    "step": step + 1,
                    "log": log,
                    "seconds": spent + time.perf_counter() - begun,
                },
            )
    seconds = spent if done >= config.steps else spent + time.perf_counter() - begun
    return model.eval(), log, seconds
