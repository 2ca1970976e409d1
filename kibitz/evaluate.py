"""`kibitz eval`: how faithful a saved dictionary is, and how well it knows the board."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import tyro

from boardgames.lm import OTHELLO_GPT, load_othello_gpt
from boardgames.othello.transcript import PAD
from kibitz.chain.board import score_boards
from kibitz.chain.games import prepare_games
from saes.checkpoint import load_dictionary
from saes.evaluation import evaluate
from saes.families import find_site, site_width


@dataclass(frozen=True)
class EvalConfig:
    """Score a dictionary folder of an OthelloGPT: L0, variance explained, loss recovered, coverage, reconstruction."""

    dictionary: tyro.conf.Positional[Path]
    """folder with config.json and dictionary.safetensors"""
    model: Path = OTHELLO_GPT
    """folder of the language model; by default the one that ships"""
    site: str | None = None
    """where to read the model; by default the site that the dictionary was trained at"""
    games: Path | None = None
    """an .npz file with `moves`; by default random games"""
    seed: int = 0
    json: bool = False
    """print JSON in place of a table"""


def run_eval(config: EvalConfig) -> str:
    """The table or JSON to print."""
    model = load_othello_gpt(config.model)
    dictionary = load_dictionary(config.dictionary)
    site = find_site(model, config.site or dictionary.site.name)
    dictionary.reads = dictionary.writes = (site,)
    dictionary.check_width(site_width(model, site))
    games = prepare_games(config.games, 0, 1000, 1800, np.random.default_rng(config.seed))
    tokens = games.tokens(games.held_out)
    quality = evaluate(model, dictionary, tokens, tokens != PAD)
    boards = score_boards(model, dictionary, games.selection, games.scoring).summary()
    if config.json:
        return json.dumps({"site": site.name, "sae": asdict(quality), "board": boards}, indent=2)
    flat = {"site": site.name, **asdict(quality)}
    for name, value in boards.items():
        flat |= {f"{name} {k}": v for k, v in value.items()} if isinstance(value, dict) else {name: value}
    return "\n".join(f"{k:26s} {v:.4f}" if isinstance(v, float) else f"{k:26s} {v}" for k, v in flat.items())
