"""Linear-probe accuracy and F1 of the board at each layer of a model, beside a model of random weights.

    python scripts/probe_layers.py othello
    python scripts/probe_layers.py chess --games master.csv.gz lichess.csv.gz
    python scripts/probe_layers.py chess --games games.csv --model runs/another_chess_gpt

Probes are fitted on games of the part `selection` and scored on games of the part `scoring` (Othello: on unseen random
games). Prints a table, writes probes.json into the model's folder, and rewrites its model card if it has a record.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro

from boardgames.chess.transcript import read_part
from boardgames.layer_probes import BoardRows, chess_rows, othello_rows, probe_layers
from boardgames.lm import SHIPPED, BoardGame, load_board_model, random_weights
from boardgames.model_card import probe_table, write_card
from boardgames.othello.pretraining import held_out_games
from saes.files import write_json


@dataclass(frozen=True)
class Recipe:
    game: Annotated[BoardGame, tyro.conf.Positional]
    games: tuple[Path, ...] = ()
    """files of transcripts, for chess"""
    model: Path | None = None
    """folder of the model; the shipped one if not told"""
    selection: int = 1000
    """games that probes are fitted on"""
    scoring: int = 500
    """games that they are scored on"""
    seed: int = 0
    """of the drawing of games, the order in fitting, and the random weights"""
    out: Path | None = None
    """file for the figures; probes.json in the model's folder if not told"""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"


def rows(recipe: Recipe) -> tuple[BoardRows, BoardRows]:
    """(selection, scoring)."""
    if recipe.game == "othello":
        games = held_out_games(recipe.selection + recipe.scoring, recipe.seed)
        return othello_rows(games[: recipe.selection]), othello_rows(games[recipe.selection :])
    selection = read_part(recipe.games, "selection", recipe.selection, recipe.seed)
    return chess_rows(selection), chess_rows(read_part(recipe.games, "scoring", recipe.scoring, recipe.seed))


def main(recipe: Recipe) -> None:
    folder = recipe.model or SHIPPED[recipe.game]
    trained = load_board_model(recipe.game, folder, recipe.device)
    selection, scoring = rows(recipe)
    found = {}
    for name, model in (("trained", trained), ("random", random_weights(trained, recipe.seed))):
        found[name] = []
        for probe in probe_layers(model, selection, scoring, seed=recipe.seed):
            print(f"{name} {probe.site}: accuracy {probe.accuracy:.4f}", flush=True)
            found[name].append(asdict(probe))
    sizes = {"selection_games": len(selection.tokens), "scoring_games": len(scoring.tokens), "seed": recipe.seed}
    write_json(recipe.out or folder / "probes.json", {**sizes, "positions": len(scoring.game), **found})
    print(probe_table(found["trained"], found["random"]))
    if recipe.out is None and (folder / "training.json").is_file():
        write_card(folder)


if __name__ == "__main__":
    main(tyro.cli(Recipe))
