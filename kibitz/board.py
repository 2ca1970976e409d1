"""`kibitz board`: how well dictionaries know the board, on true positions of chess or Othello.

docs/metrics.md defines the numbers. Floors, ceilings and what needs no dictionary (frozen random features, principal
components, neurons, a linear probe) stand beside them.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import tyro
from tqdm import tqdm
from transformers import PreTrainedModel

from boardgames.game_scoreboard import GameScoreboard
from boardgames.labelled import LOW_LEVEL, At, Game, LabelledGames, LabelSet, groups_of
from boardgames.lm import SHIPPED, game_of
from kibitz.board_games import BoardGames, label_splits, open_games
from kibitz.board_results import BoardResults, BoardRow
from kibitz.chain.board import neurons_beside
from kibitz.evaluate import find_dictionaries, place_at
from kibitz.runs import check_replaceable, run_folder
from kibitz.scored import Faithfulness, beside, measure
from saes.architectures import AffineDictionary
from saes.models import load_model
from saes.samples import TokenBatch, in_batches


@dataclass(frozen=True)
class BoardConfig:
    """Score dictionaries against true boards: coverage and reconstruction of every group of properties."""

    dictionaries: tyro.conf.Positional[tuple[str, ...]]
    """folders of dictionaries, with others below them; folders of other tools; addresses on the hub"""
    game: Game = "othello"
    """which of the models that ship; another --model says by its vocabulary what it plays"""
    model: str | None = None
    """a folder, or a name on the hub"""
    games: tuple[Path, ...] = ()
    """files of games (see `kibitz games`); by default random games of Othello"""
    parts: bool = True
    """of files: choose features on games whose hash puts them in the selection part and score on the scoring part,
    which recipes of chess keep from models and dictionaries; --no-parts halves the files, for games that nothing was
    trained on"""
    split: int = 1000
    """games to choose on, and as many to score on"""
    at: At = "dots"
    """positions of chess: the first 20 dots of each game, the space behind every move, or every character"""
    labels: LabelSet | None = None
    """corrected (the default), by_next (Othello: mine is the opponent of the side that moves next), or paper"""
    properties: tuple[str, ...] = ()
    """more properties to score, each as a group of its own"""
    mode: Literal["held-out", "paper"] = "held-out"
    """paper: chosen and scored as the original code does it, with its labels, to compare with published numbers"""
    baselines: tyro.conf.DisallowNone[bool | None] = None
    """score what needs no dictionary too; by default with --mode held-out"""
    faithful: bool = True
    """measure L0, variance explained and loss recovered on the same games"""
    resampled: tyro.conf.DisallowNone[int | None] = None
    """random weightings of the games that intervals are taken from; by default 1000 with --mode held-out"""
    batch_rows: int = 64
    """games per forward pass"""
    device: str = "auto"
    seed: int = 0
    """of random games, permutations and resamples"""
    out: Path = Path("runs/board")
    """folder for board.json, table.md and figures; an earlier run there is replaced"""
    figures: tyro.conf.DisallowNone[bool | None] = None
    """draw the best detectors and the boards; by default with --mode held-out"""
    json: bool = False
    """print JSON in place of a table"""

    def __post_init__(self) -> None:
        if not self.dictionaries:
            raise ValueError("no dictionary is given: name one or more folders")
        if self.mode == "paper" and self.at != "dots":
            raise ValueError("the paper scores dots: leave out --at, or --mode paper")
        if self.mode == "paper" and self.baselines:
            raise ValueError("the paper's mode scores dictionaries alone: leave out --baselines, or --mode paper")
        if self.mode == "paper" and self.resampled is not None:
            raise ValueError("the paper's numbers have no intervals: leave out --resampled, or --mode paper")
        if self.mode == "paper" and self.figures:
            raise ValueError("the paper's numbers have no figures: leave out --figures, or --mode paper")
        least = {"split": 20, "resampled": 0, "batch_rows": 1, "seed": 0}
        for name, value in ((name, getattr(self, name)) for name in least):
            if value is not None and value < least[name]:
                raise ValueError(f"{name} is {value}: choose {least[name]} or more")

    @property
    def with_baselines(self) -> bool:
        return self.mode == "held-out" if self.baselines is None else self.baselines

    @property
    def with_figures(self) -> bool:
        return self.mode == "held-out" if self.figures is None else self.figures

    @property
    def label_set(self) -> LabelSet:
        return self.labels or ("paper" if self.mode == "paper" else "corrected")


def run_board(config: BoardConfig) -> str:
    """The table or JSON to print; the folder appears, or is replaced, only when all is done."""
    check_replaceable(config.out)
    places = find_dictionaries(config.dictionaries)
    model = load_model(config.model or str(SHIPPED[config.game]), device=config.device)
    game = game_of(model.config.vocab_size)
    if game == "othello" and config.at != "dots":
        raise ValueError(f"at is {config.at}: Othello is scored at every move; leave out --at, which is for chess")
    dictionaries = {name: place.read(device=model.device) for name, place in places.items()}
    for dictionary in dictionaries.values():
        place_at(model, dictionary, None)
        dictionary.site  # noqa: B018  # SiteError unless it reads and writes one site
    with run_folder(config.out, config, config.seed, {name: place.weights for name, place in places.items()}) as run:
        splits = open_games(game, config.games, config.split, parts=config.parts, seed=config.seed)
        groups = groups_of(game, config.label_set, config.properties)
        games = label_splits(splits, game, groups, config.at, fresh=config.mode != "paper")
        results = _score(config, model, dictionaries, games)
        results.write(run, figures=config.with_figures)
    return results.shown(config.json) + (
        "" if config.json else f"\nResults{' and figures' * config.with_figures}: {config.out}"
    )


def _score(
    config: BoardConfig, model: PreTrainedModel, dictionaries: Mapping[str, AffineDictionary], games: BoardGames
) -> BoardResults:
    sites = list(dict.fromkeys(d.site for d in dictionaries.values()))
    neurons = {site: neurons_beside(model, site.name).site for site in sites}
    print(games.said, file=sys.stderr, flush=True)
    board = GameScoreboard(
        model,
        [*sites, *neurons.values()],
        games.selection,
        games.scoring,
        resampled=1000 if config.resampled is None else config.resampled,
        seed=config.seed,
        batch_rows=config.batch_rows,
    )
    faithful = _faithfulness(config, model, dictionaries, games) if config.faithful else {}
    rows, sizes = [], {site: [] for site in sites}
    with tqdm(total=len(dictionaries) + 4 * len(sites) * config.with_baselines, desc="board", unit="set") as bar:
        for name, dictionary in dictionaries.items():
            row = BoardRow(name, dictionary.site.name, dictionary.features, faithful.get(name))
            if config.mode == "paper":
                rows.append(replace(row, paper=board.paper(dictionary)))
            else:
                features = board.features(dictionary)
                sizes[dictionary.site].append((dictionary.features, features.scoring.l0))
                scores = board.referee.score(*features)
                drawn = board.drawn(features, scores[LOW_LEVEL[games.scoring.game]]) if config.with_figures else None
                rows.append(replace(row, scores=scores, drawn=drawn))
            bar.update()
        for site in sites if config.with_baselines else ():
            for name, count, scores in beside(board, site, neurons[site], sizes[site]):
                rows.append(BoardRow(name, site.name, count, scores=scores))
            bar.update(4)
    return BoardResults(games.scoring.game, games.said, config.mode, config.label_set, tuple(rows))


def _faithfulness(
    config: BoardConfig, model: PreTrainedModel, dictionaries: Mapping[str, AffineDictionary], games: BoardGames
) -> dict[str, Faithfulness]:
    """On all tokens of both splits, up to as many as give 100,000."""
    batches = enough([games.selection, games.scoring], config.batch_rows)
    return measure(model, dictionaries, batches, sum(int(batch.keep.sum()) for batch in batches))


def enough(splits: Sequence[LabelledGames], batch_rows: int, tokens: int = 100_000) -> list[TokenBatch]:
    """Batches of whole games, until so many tokens are in them."""
    batches: list[TokenBatch] = []
    for games in splits:
        for batch in in_batches(games.tokens, games.played, batch_rows):
            if sum(int(b.keep.sum()) for b in batches) >= tokens:
                return batches
            batches.append(batch)
    return batches
