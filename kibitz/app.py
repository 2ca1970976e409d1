"""`kibitz app`: the features of any dictionary and the circuit pictures of a run, in the browser."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
import yaml
from transformers import PreTrainedModel

from boardgames.dictionaries import OTHELLO_DICTIONARIES
from boardgames.lm import OTHELLO_GPT
from boardgames.report import Positions
from kibitz.board_words import board_game, labelled_positions, some_games
from kibitz.corpora import CorpusOptions
from kibitz.evaluate import find_dictionaries, ours_below, place_at
from kibitz.pages.app_server import catalogue_app, pages_below
from kibitz.pages.catalogue import Catalogue
from kibitz.pages.circuit_effects import circuit_effects
from kibitz.pages.serving import serve
from kibitz.runs import RunError
from saes.models import load_model, load_tokenizer
from saes.samples import Sample
from shift.board_cards import ChessBoards, OthelloBoards
from shift.feature_cards import Shown
from shift.text_cards import TextContexts, speller


@dataclass(frozen=True)
class AppConfig:
    """Look at the features of dictionaries and at the circuits of a run."""

    run: tyro.conf.Positional[Path | None] = None
    """a run folder (of `kibitz train`, `kibitz circuit find`, ...) or a folder of dictionaries; by default the
    dictionaries that ship"""
    dictionaries: tuple[str, ...] = ()
    """other folders of dictionaries, or addresses on the hub; by default those of the run"""
    model: str | None = None
    """a folder, a GGUF file or a name on the hub; by default the run's, or the OthelloGPT that ships"""
    games: tuple[Path, ...] = ()
    """of board models: files of games to look at; by default random ones"""
    count: int = 300
    """games to look at"""
    corpus: str | None = None
    """of other models: text or token ids to look at; by default the run's"""
    tokens: int = 20_000
    """of a corpus: how many to look at"""
    context: int = 128
    """of a corpus: tokens per row"""
    device: str = "auto"
    seed: int = 0
    """of random games, and of the positions that are drawn"""
    port: int = 0
    """of the page, on this machine only; 0: a free one"""
    open: bool = True
    """open the page in the browser"""

    def __post_init__(self) -> None:
        for name, least in (("count", 1), ("tokens", 1), ("context", 1), ("seed", 0), ("port", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}: choose {least} or more")
        if self.port >= 1 << 16:
            raise ValueError(f"port is {self.port}: choose 0 to 65535")
        if self.run is not None and not self.run.is_dir():
            raise RunError(f"{self.run}: no such folder")


def run_app(config: AppConfig) -> str:
    """Serve until Ctrl-C."""
    catalogue = open_catalogue(config)
    pages = {} if config.run is None else pages_below(config.run)
    title = "Dictionaries that ship" if config.run is None else config.run.resolve().name
    serve(lambda keys: catalogue_app(catalogue, pages, keys, title), config.port, show=config.open)
    return ""


def open_catalogue(config: AppConfig) -> Catalogue:
    """The model, its dictionaries, and positions to draw them on."""
    told = _told(config.run)
    source = config.model or told.get("model")
    model = load_model(source or str(OTHELLO_GPT), device=config.device).requires_grad_(False)
    places = find_dictionaries(_sources(config, told, source))
    dictionaries = {name: place.read(device=model.device) for name, place in places.items()}
    for dictionary in dictionaries.values():
        place_at(model, dictionary, None)
        dictionary.site  # noqa: B018  # SiteError unless it reads and writes one site
    effects, notes = ({}, ()) if config.run is None else circuit_effects(config.run, dictionaries)
    game = board_game(model)
    if game is None:
        return Catalogue(model, dictionaries, _contexts(config, model, source, told), None, effects, notes)
    games = some_games(game, config.games, config.count, config.seed)
    labelled = labelled_positions(game, games)
    shown: Shown = OthelloBoards(labelled) if isinstance(labelled, Positions) else ChessBoards(games)
    return Catalogue(model, dictionaries, shown, labelled, effects, notes)


def _told(run: Path | None) -> dict[str, Any]:
    """What the run's config.yaml says of model, corpus and dictionaries, as far as it does."""
    if run is None or not (run / "config.yaml").is_file():
        return {}
    try:
        found = yaml.safe_load((run / "config.yaml").read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RunError(f"{run / 'config.yaml'}: cannot be read ({' '.join(str(error).split())})") from None
    found = found if isinstance(found, dict) else {}
    said = {name: found[name] for name in ("model", "corpus") if isinstance(found.get(name), str)}
    if isinstance(found.get("dictionaries"), list) and all(isinstance(d, str) for d in found["dictionaries"]):
        said["dictionaries"] = tuple(found["dictionaries"])
    return said


def _sources(config: AppConfig, told: Mapping[str, Any], model: str | None) -> tuple[str, ...]:
    if config.dictionaries:
        return config.dictionaries
    if config.run is not None and ours_below(str(config.run)):
        return (str(config.run),)
    if told.get("dictionaries"):
        return told["dictionaries"]
    if config.run is not None and not pages_below(config.run):
        return (str(config.run),)  # a folder of another tool, or a complaint that names it
    if model is not None:
        raise RunError("a model other than the one that ships needs dictionaries: give --dictionaries")
    return (str(OTHELLO_DICTIONARIES),)


def _contexts(config: AppConfig, model: PreTrainedModel, source: str | None, told: Mapping[str, Any]) -> Shown:
    corpus = config.corpus or told.get("corpus")
    if corpus is None:
        raise RunError("a model of text needs texts to look at: give --corpus")
    options = CorpusOptions(model=source, corpus=corpus, context=config.context, seed=config.seed)
    batches = list(Sample(options.open_corpus(model, config.tokens), config.tokens))
    return TextContexts(
        torch.cat([batch.rows.tokens for batch in batches]),
        torch.cat([batch.keep for batch in batches]),
        speller(load_tokenizer(str(source))),
    )
