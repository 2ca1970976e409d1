"""Train a ChessGPT on files of transcripts, and write it as transformers reads it, with the record of its training.

    python scripts/pretrain_chess.py --games master.csv.gz lichess.csv.gz

Killed and started again, it continues from its last checkpoint. The loss is that of the batches of training; nothing is
measured on other games yet, and no such model ships.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
import tyro

from boardgames.chess.pretraining import ChessTraining, pretrain_chess
from boardgames.chess.transcript import read_transcripts
from boardgames.splits import part_of
from saes.files import write_json
from saes.models import save_model


@dataclass(frozen=True)
class Recipe:
    games: tuple[Path, ...]
    """files of transcripts; the part of them that is for language models is trained on"""
    training: ChessTraining = field(default_factory=ChessTraining)
    out: Path = Path("runs/chess_gpt")
    """folder for the weights"""
    run: Path = Path("runs/pretrain_chess")
    """folder for the checkpoint"""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"


def main(recipe: Recipe) -> None:
    everything = dict.fromkeys(game for path in recipe.games for game in read_transcripts(path))
    games = [game for game in everything if part_of(game) == "language_model"]
    model, log, seconds = pretrain_chess(recipe.training, games, recipe.run / "state.pt", recipe.device)
    save_model(model.cpu(), recipe.out, dtype=torch.float16)
    record = {**asdict(recipe.training), "games": len(games), "seconds": round(seconds), "loss": log}
    write_json(recipe.out / "training.json", record)
    print(f"{recipe.out}: trained on {len(games)} games, last loss {log[-1]['loss']:.4f} nats a character")


if __name__ == "__main__":
    main(tyro.cli(Recipe))
