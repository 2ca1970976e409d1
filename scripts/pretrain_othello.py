"""Train the OthelloGPT that ships with Kibitz, measure it on unseen random games, and write weights, record and card.

    python scripts/pretrain_othello.py                      # the shipped model: hours on one CPU thread
    python scripts/pretrain_othello.py --training.steps 500 # a quick one
    python scripts/pretrain_othello.py --training.layers 8 --training.width 512  # the paper's size, on a GPU

Killed and started again, it continues from its last checkpoint; on a GPU it computes in bfloat16.
"""

from dataclasses import dataclass, field
from pathlib import Path

import torch
import tyro

from boardgames.lm import OTHELLO_GPT, save_board_model
from boardgames.model_card import write_card
from boardgames.othello.legality import legality
from boardgames.othello.pretraining import OthelloTraining, held_out_games, pretrain_othello
from boardgames.pretrain import training_record


@dataclass(frozen=True)
class Recipe:
    training: OthelloTraining = field(default_factory=OthelloTraining)
    out: Path = OTHELLO_GPT
    """folder for the weights"""
    run: Path = Path("runs/pretrain_othello")
    """folder for the checkpoint"""
    test_games: int = 2000
    """unseen random games on which the model is measured"""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"


def main(recipe: Recipe) -> None:
    model, log, seconds = pretrain_othello(recipe.training, recipe.run / "state.pt", recipe.device)
    test = held_out_games(recipe.test_games, recipe.training.seed)
    games = recipe.training.steps * recipe.training.games_per_step
    record = training_record(recipe.training, log, seconds, recipe.device, games=games)
    quality = save_board_model(model.cpu(), recipe.out, record, lambda m: legality(m, test))
    write_card(recipe.out)
    print(f"{recipe.out}: {quality.legal_move_rate:.2%} of top-1 moves legal on {quality.games} unseen random games,")
    print(f"cross-entropy {quality.cross_entropy:.4f} nats (ideal {quality.ideal_cross_entropy:.4f});")
    print("probe it with scripts/probe_layers.py othello")


if __name__ == "__main__":
    main(tyro.cli(Recipe))
