"""Sets of dictionaries for SHIFT: every type at the same values of L0, one dictionary a site, and how good each set is.

Members of a type are trained side by side at all sites on one harvest. A killed run goes on from its last checkpoint.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from boardgame_sweep.data import GameParts, othello_parts
from boardgame_sweep.plan import Scale, ScaleName, Stack, stacks
from boardgame_sweep.training import check_same, train_plan
from transformers import PreTrainedModel

from boardgames.dictionaries import load_dictionaries
from boardgames.game_scoreboard import GameScoreboard
from boardgames.labelled import LOW_LEVEL, groups_of
from kibitz.board import enough
from kibitz.board_games import BoardGames, Splits, label_splits
from kibitz.runs import plain
from saes.architectures import AffineDictionary
from saes.checkpoint import save_dictionary
from saes.digests import weights_digest
from saes.evaluation import evaluate_all
from saes.families import find_site
from saes.files import read_json, write_json
from saes.sites import Site

SITES = ("resid_0", "resid_1", "resid_2")
"""up to the readout: the model's own sites in between write into these"""
SET_TYPES = ("p_anneal", "topk", "standard")
RECORD, SCORES = "record.json", "scores.json"


@dataclass(frozen=True)
class SetScale:
    """How much is trained and measured."""

    training: Scale
    rate: float
    """the learning rate of every type; in the pilot of docs/results/boardgames.md all of these chose it"""
    split: int = 500
    """games each to choose features with and to score on"""


SCALES: Mapping[ScaleName, SetScale] = {
    "small": SetScale(Scale((8, 16, 32, 64), 3000, 512, seeds=(0, 1)), 0.01),
    "paper": SetScale(Scale((8, 16, 32, 64), 36_621, 8192, seeds=(0, 1, 2)), 1e-3, split=1000),
}


@dataclass(frozen=True)
class DictionarySet:
    """One dictionary for each site, and its record: type, target_l0, seed, and for each site how it turned out."""

    folder: Path
    record: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Such as p_anneal_x8/l0-8_seed-0."""
        return f"{self.folder.parent.name}/{self.folder.name}"

    def load(self, model: PreTrainedModel) -> dict[Site, AffineDictionary]:
        return load_dictionaries(model, self.folder, [find_site(model, name) for name in self.record["sites"]])


def train_sets(
    model: PreTrainedModel,
    scale: SetScale,
    run: Path,
    types: Sequence[str] = SET_TYPES,
    sites: Sequence[str] = SITES,
    parts: GameParts | None = None,
) -> list[DictionarySet]:
    """Train and measure every set that is not in `run` yet; all of them, type by type.

    `parts` are games of other play than uniformly random. A run of other settings is refused (FileError).
    """
    training = scale.training
    parts = parts or othello_parts(min(-(-training.tokens // 58), 100_000), scale.split)
    check_same(run, {"scale": plain(scale), "sites": list(sites), "model": weights_digest(model), "of": parts.source})
    found = [find_site(model, name) for name in sites]
    judge = Measure(model, found, parts)
    sets = []
    for stack in stacks(training, types):
        if not all((run / folder / RECORD).exists() for folder in stack.folders()):
            _train(model, stack, scale, found, parts, run)
        sets += [judge.measured(run / folder) for folder in stack.folders()]
    return sets


def _train(
    model: PreTrainedModel, stack: Stack, scale: SetScale, sites: Sequence[Site], parts: GameParts, run: Path
) -> None:
    """Train one type at all sites; a set's record is written when all of it is there."""
    rates = {stack.name: scale.rate}
    finished = train_plan(parts.reading(model, *sites), scale.training, [stack], rates, run / "training" / stack.name)
    for n, (member, folder) in enumerate(zip(stack.members, stack.folders(), strict=True)):
        for site in sites:
            save_dictionary(finished[stack.name, site][n], run / folder / site.name)
        settings = {"type": stack.type, "expansion": stack.expansion, **member.settings()}
        write_json(
            run / folder / RECORD,
            {
                **settings,
                "sites": [site.name for site in sites],
                "learning_rate": scale.rate,
                "tokens": scale.training.tokens,
                "model": weights_digest(model),
            },
        )


@dataclass(frozen=True)
class Measure:
    """How good a set is: quality at every site, coverage and reconstruction of the board at the last one."""

    model: PreTrainedModel
    sites: Sequence[Site]
    parts: GameParts

    def measured(self, folder: Path) -> DictionarySet:
        """The set of a folder, measured once."""
        record = read_json(folder / RECORD)
        found = DictionarySet(folder, record)
        if not (folder / SCORES).exists():
            write_json(folder / SCORES, self._scores(found.load(self.model)))
        return DictionarySet(folder, {**record, **read_json(folder / SCORES)})

    def _scores(self, dictionaries: Mapping[Site, AffineDictionary]) -> dict[str, Any]:
        tested = evaluate_all(self.model, list(dictionaries.values()), self._batches)
        keys = ("tokens", "l0", "variance_explained", "loss_recovered", "loss_recovered_mean", "kl", "alive")
        quality = {
            site.name: {key: getattr(e.quality, key) for key in keys}
            for site, e in zip(dictionaries, tested, strict=True)
        }
        readout = self.sites[-1]
        score = self._board.score(dictionaries[readout])[LOW_LEVEL["othello"]]
        board = {"coverage": score.coverage.score, "reconstruction": score.reconstruction.score}
        return {"quality": quality, "board": {"site": readout.name, **board}}

    @cached_property
    def _games(self) -> BoardGames:
        known = self.parts.parts
        splits = Splits(known["selection"], known["scoring"], (known["dictionary"],), self.parts.source)
        low = LOW_LEVEL["othello"]
        return label_splits(splits, "othello", {low: groups_of("othello")[low]})

    @cached_property
    def _batches(self) -> list[Any]:
        return enough([self._games.scoring], 64, 10_000)

    @cached_property
    def _board(self) -> GameScoreboard:
        return GameScoreboard(self.model, [self.sites[-1]], self._games.selection, self._games.scoring, resampled=0)
