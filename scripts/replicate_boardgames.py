"""The paper's experiment on the shipped models (Karvonen et al. 2024): train the sweep, score it, write the results.

    python scripts/replicate_boardgames.py --chess-games master.csv.gz lichess.csv.gz

Writes docs/results/boardgames.md with its figures. Killed and started again, it goes on where it was. Without files of
chess games only Othello is trained and scored.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from boardgame_sweep.data import GameParts, chess_parts, othello_parts
from boardgame_sweep.measuring import Arena
from boardgame_sweep.plan import SCALES, TYPES, Game, ScaleName, stacks
from boardgame_sweep.training import check_same, pilot_of, train_all
from boardgame_sweep.writing import section
from transformers import PreTrainedModel

from boardgames.lm import load_board_model
from kibitz.runs import plain
from saes.families import find_site
from saes.files import write_json, write_text


@dataclass(frozen=True)
class Recipe:
    scale: ScaleName = "small"
    """small: about 45 dictionaries in three hours of two cores; paper: 36,621 steps of 8,192, for a GPU"""
    games: tuple[Game, ...] = ("othello", "chess")
    chess_games: tuple[Path, ...] = ()
    """files of transcripts"""
    othello_model: Path | None = None
    """by default the model that ships"""
    chess_model: Path | None = None
    othello_site: str = "resid_1"
    chess_site: str = "resid_4"
    split: int = 1000
    """games each to choose features with and to score on"""
    types: tuple[str, ...] = tuple(TYPES)
    run: Path = Path("runs/boardgames")
    out: Path = Path("docs/results/boardgames.md")
    """the document; the numbers are written beside it as JSON"""
    images: Path = Path("docs/img")
    device: str = "cuda" if torch.cuda.is_available() else "cpu"


def main(recipe: Recipe) -> None:
    if "chess" in recipe.games and not recipe.chess_games:
        raise ValueError("--chess-games FILE... names the games of chess; --games othello leaves them")
    if unknown := [name for name in recipe.types if name not in TYPES]:
        raise ValueError(f"types: there is no {unknown[0]!r}; there are {', '.join(TYPES)}")
    found: dict[str, Any] = {}
    for game in recipe.games:
        scale = SCALES[recipe.scale, game]
        model, parts = opened(recipe, game)
        site = find_site(model, recipe.othello_site if game == "othello" else recipe.chess_site)
        run = recipe.run / recipe.scale / game
        arena = Arena(model, site, parts, run)
        check_same(run, {"scale": plain(scale), "types": list(recipe.types), **arena.identity()})
        trained = train_all(parts.reading(model, site), scale, stacks(scale, recipe.types), run)
        found[game] = {
            "scale": asdict(scale),
            "facts": arena.facts(),
            "pilot": pilot_of(run),
            "trained": trained,
            "scores": arena.measure(trained),
        }
    text = [INTRODUCTION.format(scale=recipe.scale, sizes=_sizes(recipe, found))]
    text += [section(f, recipe.images) for f in found.values()]
    write_text(recipe.out.with_suffix(".md"), "\n\n".join(text) + "\n")
    write_json(recipe.out.with_suffix(".json"), {"scale": recipe.scale, **without_samples(found)})
    print(f"{recipe.out.with_suffix('.md')}: {sum(len(f['trained']) for f in found.values())} dictionaries")


INTRODUCTION = """# Board games: what dictionaries know of the board

Written by `python scripts/replicate_boardgames.py --scale {scale}`; all numbers are in boardgames.json beside this
file, docs/metrics.md defines them. The experiment of Karvonen et al. 2024 on the models that ship with Kibitz: nine
types of dictionaries, every one steered to the same values of L0, the learning rate chosen for each type in a pilot,
all types trained on the same batches. The paper's numbers are of other, larger language models and of dictionaries that
saw 300 million tokens: they are context.

{sizes}"""


def _sizes(recipe: Recipe, found: dict[str, Any]) -> str:
    lines = []
    for game, f in found.items():
        s = f["scale"]
        lines.append(
            f"* {game.capitalize()}: {len(f['trained'])} dictionaries of {' and '.join(map(str, s['expansion']))} x D "
            f"features, {s['steps']:,} steps of {s['batch_size']:,} tokens ({s['steps'] * s['batch_size'] / 1e6:.1f} "
            f"million, the paper 300), seeds {', '.join(map(str, s['seeds']))}."
        )
    return "\n".join(lines)


def without_samples(value: Any) -> Any:
    """Resamples stay in the run's folder; they are long."""
    if isinstance(value, dict):
        return {k: without_samples(v) for k, v in value.items() if k != "samples"}
    return [without_samples(v) for v in value] if isinstance(value, list) else value


def opened(recipe: Recipe, game: Game) -> tuple[PreTrainedModel, GameParts]:
    """The model and the games of one game."""
    scale = SCALES[recipe.scale, game]
    model = load_board_model(game, recipe.othello_model if game == "othello" else recipe.chess_model, recipe.device)
    if game == "othello":
        enough = min(-(-scale.tokens // 58), 100_000)  # beyond that they are read again
        return model, othello_parts(enough, recipe.split)
    return model, chess_parts(recipe.chess_games, recipe.split)


def run(recipe: Recipe) -> None:
    """What is wrong with the input is told in one sentence, with status 1."""
    try:
        main(recipe)
    except (ValueError, OSError) as error:
        raise SystemExit(f"replicate_boardgames: {' '.join(str(error).split())}") from None


if __name__ == "__main__":
    run(tyro.cli(Recipe))
