"""Train the p-annealed dictionaries that ship with Kibitz: every site of the shipped OthelloGPT from shared passes.

    python scripts/train_demo_dictionaries.py

Killed and started again, it continues from its last checkpoint. Writes one folder per site and record.json with the
settings and the measured quality of each.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
import tyro

from boardgames.dictionaries import OTHELLO_DICTIONARIES, load_dictionaries
from boardgames.lm import OTHELLO_GPT, load_othello_gpt
from boardgames.othello.rules import random_games
from boardgames.othello.transcript import CONTEXT, PAD, to_tokens
from saes.architectures import ReLUConfig, ReLUDictionary
from saes.buffer import ActivationBuffer
from saes.checkpoint import save_dictionary
from saes.evaluation import evaluate
from saes.families import circuit_sites, site_width
from saes.files import sha256, write_json
from saes.objective import SparseReconstruction
from saes.p_annealing import PAnneal, PAnnealConfig
from saes.recorder import JSONLines
from saes.run_checkpoints import Checkpoints
from saes.sites import Site
from saes.trainer import TrainConfig, Trainer
from saes.training import train


@dataclass(frozen=True)
class Recipe:
    training: TrainConfig = field(default_factory=lambda: TrainConfig(steps=2000, learning_rate=3e-3, warmup=0.05))
    penalty: PAnnealConfig = field(
        default_factory=lambda: PAnnealConfig(coefficient=0.025, start=400, end=1600, warmup=200)
    )
    expansion: int = 8
    batch_size: int = 1024
    games: int = 50_000
    seed: int = 1
    out: Path = OTHELLO_DICTIONARIES
    run: Path = Path("runs/demo_dictionaries")
    test_games: int = 1700


def _trainer(recipe: Recipe, site: Site, width: int) -> Trainer:
    dictionary = ReLUDictionary(ReLUConfig(width, recipe.expansion * width), [site], seed=recipe.seed)
    return Trainer(dictionary, SparseReconstruction(PAnneal(recipe.penalty)), recipe.training)


def _tokens(games: int, seed: int) -> torch.Tensor:
    return torch.from_numpy(to_tokens(random_games(games, np.random.default_rng([seed, games]))[:, :CONTEXT]))


def main(recipe: Recipe) -> None:
    model = load_othello_gpt()
    tokens = _tokens(recipe.games, recipe.seed)
    sites = circuit_sites(model)
    buffer = ActivationBuffer(
        model, sites, tokens, tokens != PAD, batch_size=recipe.batch_size, rows_per_refill=1024, seed=recipe.seed
    )
    trained = train(
        {site: _trainer(recipe, site, site_width(model, site)) for site in sites},
        buffer,
        recorder=JSONLines(recipe.run / "metrics.jsonl"),
        checkpoints=Checkpoints(recipe.run / "checkpoints"),
        log_every=200,
    )
    for site, dictionary in trained.items():
        save_dictionary(dictionary, recipe.out / site.name, dtype=torch.float16)
    test = _tokens(recipe.test_games, recipe.seed + 1)
    quality = {
        site.name: asdict(evaluate(model, dictionary, test, test != PAD))
        for site, dictionary in load_dictionaries(model, recipe.out).items()
    }
    settings = {k: v for k, v in asdict(recipe).items() if k not in ("out", "run")}
    write_json(
        recipe.out / "record.json",
        {"recipe": settings, "model_sha256": sha256(OTHELLO_GPT / "model.safetensors"), "quality": quality},
    )
    for name, q in quality.items():
        print(
            f"{name:8s} L0 {q['l0']:6.1f}  variance explained {q['variance_explained']:.3f}  "
            f"loss recovered {q['loss_recovered_mean']:.3f}  alive {q['alive']:.2f}"
        )


if __name__ == "__main__":
    main(tyro.cli(Recipe))
