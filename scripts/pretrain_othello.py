"""Train the OthelloGPT that ships with Kibitz, measure it on unseen random games, and write the weights.

    python scripts/pretrain_othello.py                      # the shipped model: hours on one CPU thread
    python scripts/pretrain_othello.py --training.steps 500 # a quick one

Killed and started again, it continues from its last checkpoint.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
import tyro

from boardgames.othello.legality import legality
from boardgames.lm import OTHELLO_GPT, load_othello_gpt, save_othello_gpt
from boardgames.othello.pretraining import OthelloTraining, held_out_games, pretrain_othello


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
    record = {
        **asdict(recipe.training),
        "games": recipe.training.steps * recipe.training.games_per_step,
        "seconds": round(seconds),
        "device": recipe.device,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "loss": log,
    }
    save_othello_gpt(model.cpu(), recipe.out, record, legality(model, test))
    shipped = legality(load_othello_gpt(recipe.out), test)  # the fp16 weights as users get them
    save_othello_gpt(model, recipe.out, record, shipped)
    print(f"{recipe.out}: {shipped.legal_move_rate:.2%} of top-1 moves legal on {shipped.games} unseen random games,")
    print(f"cross-entropy {shipped.cross_entropy:.4f} nats (ideal {shipped.ideal_cross_entropy:.4f})")


if __name__ == "__main__":
    main(tyro.cli(Recipe))
