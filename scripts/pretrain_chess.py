"""Train the ChessGPT that ships with Kibitz on files of transcripts, and write the weights.

    python scripts/pretrain_chess.py --games master.csv.gz lichess.csv.gz

Killed and started again, it continues from its last checkpoint.
"""

from dataclasses import dataclass, field
from pathlib import Path

import torch
import tyro

from boardgames.chess.pretraining import ChessTraining, pretrain_chess
from boardgames.chess.transcript import read_transcripts
from boardgames.splits import part_of


@dataclass(frozen=True)
class Recipe:
    games: tuple[Path, ...]
    """files of transcripts; the part of them that is for language models is trained on"""
    training: ChessTraining = field(default_factory=ChessTraining)
    run: Path = Path("runs/pretrain_chess")
    """folder for the checkpoint"""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"


def main(recipe: Recipe) -> None:
    everything = dict.fromkeys(game for path in recipe.games for game in read_transcripts(path))
    games = [game for game in everything if part_of(game) == "language_model"]
    _, log, seconds = pretrain_chess(recipe.training, games, recipe.run / "state.pt", recipe.device)
    print(log[-1], round(seconds))


if __name__ == "__main__":
    main(tyro.cli(Recipe))
