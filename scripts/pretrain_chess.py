"""Train a ChessGPT on files of transcripts, measure it on other games of them, and write weights, record and card.

    python scripts/pretrain_chess.py --games master.csv.gz lichess.csv.gz   # an hour on one CPU thread
    python scripts/pretrain_chess.py --games ... --training.layers 8 --training.width 512   # the paper's size, on a GPU

Killed and started again, it continues from its last checkpoint; on a GPU it computes in bfloat16. Trained on the part
`language_model` of the games, measured on the part `scoring`.
"""

from dataclasses import dataclass, field
from pathlib import Path

import torch
import tyro

from boardgames.chess.legality import legality
from boardgames.chess.pretraining import ChessTraining, pretrain_chess
from boardgames.chess.transcript import lengths, read_part, read_transcripts
from boardgames.lm import CHESS_GPT, save_board_model
from boardgames.model_card import write_card
from boardgames.pretrain import training_record
from saes.files import sha256


@dataclass(frozen=True)
class Recipe:
    games: tuple[Path, ...]
    """files of transcripts"""
    training: ChessTraining = field(default_factory=ChessTraining)
    source: str = ""
    """where the games come from and under which licence, for the model card"""
    out: Path = CHESS_GPT
    """folder for the weights"""
    run: Path = Path("runs/pretrain_chess")
    """folder for the checkpoint"""
    test_games: int = 1000
    """games on which the cross-entropy is measured"""
    positions: int = 1000
    """positions of them at which legal moves are measured"""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"


def main(recipe: Recipe) -> None:
    games = read_part(recipe.games, "language_model")
    test = read_part(recipe.games, "scoring", recipe.test_games)
    model, log, seconds = pretrain_chess(recipe.training, games, recipe.run / "state.pt", recipe.device)
    record = training_record(
        recipe.training,
        log,
        seconds,
        recipe.device,
        games=len(games),
        characters=int((lengths(games) - 1).sum()),  # START is given, not predicted
        part="language_model",
        files=[
            {"name": path.name, "sha256": sha256(path), "games": sum(1 for _ in read_transcripts(path))}
            for path in recipe.games
        ],
        source=recipe.source,
    )
    quality = save_board_model(model.cpu(), recipe.out, record, lambda m: legality(m, test, recipe.positions))
    write_card(recipe.out)
    print(f"{recipe.out}: {quality.legal_move_rate:.1%} of greedy moves legal, {quality.legal_mass:.1%} of the mass")
    print(f"at {quality.positions} positions; probe it with scripts/probe_layers.py chess")


if __name__ == "__main__":
    main(tyro.cli(Recipe))
