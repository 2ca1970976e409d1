"""Train a language model on game transcripts, in transformers' GPT-2 format: the one loop, whatever the game.

A game gives batches of tokens and of the distributions that the next tokens are drawn from, from any step on, each a
pure function of (seed, step): a run that is killed and resumed ends with the weights of an undisturbed one. Weight
matrices of the blocks are trained by Muon, everything else by AdamW.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from tqdm import tqdm
from transformers import GPT2Config, GPT2LMHeadModel

from boardgames.muon import Muon
from saes.files import FileError, read_state, write_state
from saes.schedules import Trapezoid


@dataclass(frozen=True)
class Training:
    """What determines the weights, besides the games."""

    layers: int = 4
    width: int = 128
    heads: int = 8
    steps: int = 6000
    """optimiser steps"""
    games_per_step: int = 128
    """games in a batch"""
    learning_rate: float = 2e-3
    """peak rate of AdamW, which moves embeddings, biases and norms (and everything if muon is 0)"""
    muon: float = 0.02
    """peak rate of Muon for the weight matrices of the blocks; 0 = AdamW for all"""
    warmup: int = 100
    """steps of linear warm-up"""
    decay: int = 3000
    """last steps, over which the rate falls linearly to 0"""
    seed: int = 0


Batches = Callable[[int], Iterator[tuple[Int[Tensor, "batch length"], Float[Tensor, "batch length vocabulary"]]]]
"""From a step on: tokens, and the distribution of the token after each, all zero where nothing is to be predicted."""


def training_record(
    config: Training, log: list[dict[str, float]], seconds: float, device: str, **games: Any
) -> dict[str, Any]:
    """What training.json says of a training: its settings, its games, the machine and the loss."""
    return {
        **asdict(config),
        **games,
        "seconds": round(seconds),
        "device": device,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "loss": log,
    }


def gpt2(config: Training, vocabulary: int, context: int) -> GPT2LMHeadModel:
    """A freshly initialised model; deterministic in the seed."""
    torch.manual_seed(config.seed)
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=vocabulary,
            n_positions=context,
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


def _optimisers(model: nn.Module, config: Training) -> list[torch.optim.Optimizer]:
    blocks = {name: p for name, p in model.named_parameters() if config.muon and p.ndim == 2 and ".h." in name}
    fused = [p for name, p in blocks.items() if "c_attn" in name]
    single = [p for name, p in blocks.items() if "c_attn" not in name]
    rest = [p for name, p in model.named_parameters() if name not in blocks]
    adam = torch.optim.AdamW(rest, lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=0.0)
    return [adam, Muon(fused, config.muon, pieces=3), Muon(single, config.muon)] if blocks else [adam]


def pretrain(
    model: GPT2LMHeadModel,
    batches: Batches,
    config: Training,
    checkpoint: Path,
    device: str = "cpu",
    save_every: int = 250,
    games: dict[str, Any] | None = None,
) -> tuple[GPT2LMHeadModel, list[dict[str, float]], float]:
    """Train a fresh model, or continue from `checkpoint` if it exists; `games` tells its games from others.

    Returns the model, [{step, loss}, ...] every 50 steps, and the seconds that training took over all its runs.
    """
    model.train().to(device)  # type: ignore[arg-type]  # transformers wraps .to without its signature
    identity = {**asdict(config), **(games or {})}
    optimisers = _optimisers(model, config)
    peaks = [o.param_groups[0]["lr"] for o in optimisers]
    schedule = Trapezoid(config.steps, config.warmup, config.decay)
    done, log, spent, begun = 0, [], 0.0, time.perf_counter()
    if checkpoint.exists():
        state = read_state(checkpoint)
        if state["config"] != identity:
            raise FileError(f"{checkpoint}: belongs to another configuration; choose another folder or delete it")
        model.load_state_dict(state["model"])
        for optimiser, saved in zip(optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        done, log, spent = state["step"], state["log"], state["seconds"]

    progress = tqdm(batches(done), total=config.steps, initial=done, unit="step", desc="pretrain")
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
                    "config": identity,
                    "model": model.state_dict(),
                    "optimisers": [o.state_dict() for o in optimisers],
                    "step": step + 1,
                    "log": log,
                    "seconds": spent + time.perf_counter() - begun,
                },
            )
    seconds = spent if done >= config.steps else spent + time.perf_counter() - begun
    return model.eval(), log, seconds
