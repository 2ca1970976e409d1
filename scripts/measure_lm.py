"""Measure how well a board language model plays, and rewrite the quality in its training.json and its model card.

    python scripts/measure_lm.py othello
    python scripts/measure_lm.py chess --games master.csv.gz lichess.csv.gz
    python scripts/measure_lm.py chess --games games.csv --model runs/another_chess_gpt

The weights and the record of the training stay as they are. Othello models are measured on unseen random games, chess
models on games of the part `scoring`.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro

from boardgames.lm import SHIPPED, BoardGame, load_board_model
from boardgames.model_card import write_card
from boardgames.othello import legality as othello
from boardgames.othello.pretraining import held_out_games
from saes.files import FileError, read_json, write_json


@dataclass(frozen=True)
class Recipe:
    game: Annotated[BoardGame, tyro.conf.Positional]
    games: tuple[Path, ...] = ()
    """files of transcripts, for chess"""
    model: Path | None = None
    """folder of the model; the shipped one if not told"""
    test_games: int | None = None
    """games that are looked at; 2000 for Othello, 1000 for chess if not told"""
    positions: int = 1000
    """chess: positions of them at which legal moves are measured"""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"


def main(recipe: Recipe) -> None:
    folder = recipe.model or SHIPPED[recipe.game]
    record = read_json(folder / "training.json")
    if not isinstance(record, dict) or "training" not in record:
        raise FileError(f"{folder / 'training.json'}: does not say how the model was trained (no 'training' in it)")
    model = load_board_model(recipe.game, folder, recipe.device)
    if recipe.game == "othello":
        quality = othello.legality(model, held_out_games(recipe.test_games or 2000, record["training"]["seed"]))
    else:
        from boardgames.chess.legality import legality  # python-chess, which is not needed for Othello
        from boardgames.chess.transcript import read_part

        quality = legality(model, read_part(recipe.games, "scoring", recipe.test_games or 1000), recipe.positions)
    write_json(folder / "training.json", {**record, "quality": asdict(quality)})
    write_card(folder)
    for name, value in vars(quality).items():
        if not isinstance(value, list):
            print(f"{name}: {value}")


if __name__ == "__main__":
    main(tyro.cli(Recipe))
