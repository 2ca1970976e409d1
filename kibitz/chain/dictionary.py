"""Step 3: train one p-annealed dictionary through the real pipeline, and measure it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedModel

from boardgames.othello.transcript import PAD
from saes.architectures import ReLUConfig, ReLUDictionary
from saes.buffer import ActivationBuffer
from saes.checkpoint import save_dictionary
from saes.evaluation import Quality, evaluate
from saes.families import site_width
from saes.objective import SparseReconstruction
from saes.p_annealing import PAnneal, PAnnealConfig
from saes.recorder import JSONLines, read_records
from saes.run_checkpoints import Checkpoints
from saes.sites import Site
from saes.trainer import TrainConfig, Trainer
from saes.training import train


@dataclass(frozen=True)
class DictionarySettings:
    steps: int
    batch_size: int = 1024
    expansion: int = 8
    coefficient: float = 0.015
    learning_rate: float = 3e-3
    p_start: float = 1.0
    p_end: float = 0.2

    def penalty(self) -> PAnneal:
        """p falls over the middle three fifths of training."""
        return PAnneal(
            PAnnealConfig(
                coefficient=self.coefficient,
                p_start=self.p_start,
                p_end=self.p_end,
                start=self.steps // 5,
                end=self.steps * 4 // 5,
                warmup=self.steps // 10,
            )
        )


@dataclass(frozen=True)
class Trained:
    dictionary: ReLUDictionary
    quality: Quality
    p_final: float
    records: list[dict[str, Any]]
    tokens: int

    def summary(self) -> dict[str, float]:
        q = self.quality
        return {
            "l0": q.l0,
            "variance_explained": q.variance_explained,
            "loss_recovered": q.loss_recovered,
            "alive": q.alive,
            "p_final": self.p_final,
        }

    def report(self) -> dict[str, object]:
        keys = ("step", "l0", "variance_explained", "p", "coefficient", "loss")
        return {
            "site": self.dictionary.site.name,
            "features": self.dictionary.features,
            "records": [{k: r[k] for k in keys} for r in self.records],
            "tokens": self.tokens,
            **self.summary(),
        }


def train_dictionary(
    model: PreTrainedModel,
    site: Site,
    tokens: Int[Tensor, "games 59"],
    held_out: Int[Tensor, "games 59"],
    settings: DictionarySettings,
    run: Path,
    seed: int,
) -> Trained:
    """Harvest, shuffle, train, checkpoint, save to run/dictionary, and evaluate on held-out games."""
    width = site_width(model, site)
    dictionary = ReLUDictionary(ReLUConfig(width, settings.expansion * width), [site], seed=seed)
    penalty = settings.penalty()
    config = TrainConfig(
        steps=settings.steps,
        learning_rate=settings.learning_rate,
        warmup=0.05,
    )
    buffer = ActivationBuffer(model, [site], tokens, tokens != PAD, batch_size=settings.batch_size, seed=seed)
    trained = train(
        {site: Trainer(dictionary, SparseReconstruction(penalty), config)},
        buffer,
        recorder=JSONLines(run / "metrics.jsonl"),
        checkpoints=Checkpoints(run / "checkpoint"),
        log_every=max(1, settings.steps // 60),
    )[site]
    save_dictionary(trained, run / "dictionary")
    with torch.no_grad():
        quality = evaluate(model, trained, held_out, held_out != PAD)
    return Trained(
        trained, quality, penalty.p, read_records(run / "metrics.jsonl"), settings.steps * settings.batch_size
    )
