"""The paper's experiment on the shipped models (Karvonen et al. 2024): train the sweep, score it, write the results.

    python scripts/replicate_boardgames.py --chess-games master.csv.gz lichess.csv.gz

Writes docs/results/boardgames.md with its figures. Killed and started again, it goes on where it was. Without files of
chess games only Othello is trained and scored.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from boardgame_sweep.data import GameParts, chess_parts, othello_parts
from boardgame_sweep.plan import SCALES, TYPES, Game, ScaleName, stacks
from boardgame_sweep.training import train_all
from transformers import PreTrainedModel

from boardgames.lm import load_othello_gpt
from saes.families import find_site
from saes.models import load_model


@dataclass(frozen=True)
class Recipe:
    scale: ScaleName = "small"
    """small: about 45 dictionaries in three hours of two cores; paper: 36,621 steps of 8,192, for a GPU"""
    games: tuple[Game, ...] = ("othello", "chess")
    chess_games: tuple[Path, ...] = ()
    """files of transcripts"""
    chess_model: Path | None = None
    """by default the model that ships"""
    othello_site: str = "resid_1"
    chess_site: str = "resid_3"
    split: int = 1000
    """games each to choose features with and to score on"""
    types: tuple[str, ...] = tuple(TYPES)
    run: Path = Path("runs/boardgames")
    device: str = "cuda" if torch.cuda.is_available() else "cpu"


def main(recipe: Recipe) -> None:
    for game in recipe.games:
        scale = SCALES[recipe.scale, game]
        model, parts = opened(recipe, game)
        site = find_site(model, recipe.othello_site if game == "othello" else recipe.chess_site)
        plan = stacks(scale, recipe.types)
        train_all(parts.reading(model, site), scale, plan, recipe.run / game)


def opened(recipe: Recipe, game: Game) -> tuple[PreTrainedModel, GameParts]:
    """The model and the games of one game."""
    scale = SCALES[recipe.scale, game]
    if game == "othello":
        enough = min(-(-scale.tokens // 58), 100_000)  # beyond that they are read again
        return load_othello_gpt(device=recipe.device), othello_parts(enough, recipe.split)
    assert recipe.chess_model is not None
    return load_model(recipe.chess_model, device=recipe.device), chess_parts(recipe.chess_games, recipe.split)


if __name__ == "__main__":
    main(tyro.cli(Recipe))
