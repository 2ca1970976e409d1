"""Any number of dictionaries of one model, scored on the same games: one pass of the model for all sites."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from boardgames import paper
from boardgames.baselines import principal_components, random_dictionary, signed_neurons
from boardgames.firing import SparseActivations, SparseLabels
from boardgames.labelled import LabelledGames
from boardgames.linear_probe import fit_probe
from boardgames.scoring import RESAMPLES, GroupScore, Referee, Truth
from saes.dictionary import Dictionary
from saes.harvest import harvest
from saes.sites import Site

_ROWS = 8192  # that are encoded at a time
PAPER_DENOMINATORS = {"board": 192}  # of columns that are 128; every other group is divided by its own number
SQUARES = 64


def harvest_rows(
    model: PreTrainedModel,
    sites: Sequence[Site],
    tokens: Int[Tensor, "rows length"],
    mask: Bool[Tensor, "rows length"],
    batch_rows: int = 64,
) -> dict[Site, Float[Tensor, "positions d"]]:
    """The activations at all sites of the positions that `mask` allows, row by row, on the CPU."""
    parts: dict[Site, list[Tensor]] = {site: [] for site in sites}
    start = 0
    for values in harvest(model, tokens, list(sites), batch_rows):
        rows = mask[start : start + batch_rows]
        start += batch_rows
        for site in sites:
            parts[site].append(values[site][rows.to(values[site].device)].float().cpu())
    return {site: torch.cat(part) for site, part in parts.items()}


def encode_rows(dictionary: Dictionary, x: Float[Tensor, "rows d"]) -> SparseActivations:
    """The features of every row, some rows at a time, on the dictionary's device."""
    dictionary.check_width(x.shape[-1])
    device = dictionary.W_dec.device
    with torch.no_grad():
        return SparseActivations.of(dictionary.encode(rows.to(device)) for rows in x.split(_ROWS))


@dataclass(frozen=True)
class DrawnFeature:
    """A feature and where the piece of its property stands when it fires."""

    feature: int
    property: str
    f1: float
    board: Float[np.ndarray, " square"]
    """share of the positions on which the feature fires that have the piece there"""


@dataclass(frozen=True)
class Half:
    """One split: its games and their activations at all sites."""

    games: LabelledGames
    activations: dict[Site, Float[Tensor, "positions d"]]


class Scoreboard:
    """Two splits of labelled games, as one model sees them at some sites."""

    def __init__(
        self,
        model: PreTrainedModel,
        sites: Sequence[Site],
        selection: LabelledGames,
        scoring: LabelledGames,
        *,
        resampled: int = RESAMPLES,
        seed: int = 0,
        batch_rows: int = 64,
    ) -> None:
        """`sites`: all that dictionaries read, and those of the neurons beside them."""
        self._model, self._batch_rows = model, batch_rows
        self.sites = list(dict.fromkeys(sites))
        self.selection, self.scoring = (
            Half(games, harvest_rows(model, self.sites, games.tokens, games.mask, batch_rows))
            for games in (selection, scoring)
        )
        truths = (Truth(games.labels, games.groups, seed) for games in (selection, scoring))
        self.referee = Referee(*truths, resampled=resampled, seed=seed, device=model.device)
        self._seed = seed

    def features(self, dictionary: Dictionary) -> tuple[SparseActivations, SparseActivations]:
        """What fires on the two splits."""
        site = dictionary.site
        return tuple(encode_rows(dictionary, half.activations[site]) for half in (self.selection, self.scoring))  # type: ignore[return-value]  # of two

    def score(self, dictionary: Dictionary) -> dict[str, GroupScore]:
        """Chosen on the one split, scored on the other; by the names of the groups."""
        return self.referee.score(*self.features(dictionary))

    def drawn_features(self, dictionary: Dictionary, score: GroupScore, count: int = 8) -> tuple[DrawnFeature, ...]:
        """The best detectors of a group of squares, each another feature for another square, best first."""
        selection, scoring = self.features(dictionary)
        firing = scoring.firing(selection.maxima())
        labels, here = self.scoring.games.labels, self.referee.scoring.columns(score.name)
        drawn: dict[int, DrawnFeature] = {}
        squares: set[str] = set()
        for p in np.argsort(-score.f1, kind="stable"):
            feature, square = int(score.feature[p]), labels.squares[here.start + int(p)]
            if feature < 0 or feature in drawn or square in squares or len(drawn) == count:
                continue
            rows = firing.at(feature, int(score.threshold[p]))
            piece = here.start + int(p) // SQUARES * SQUARES
            board = labels.matrix[rows, piece : piece + SQUARES].mean(0) if len(rows) else np.zeros(SQUARES)
            drawn[feature] = DrawnFeature(feature, score.columns[p], float(score.f1[p]), board)
            squares.add(square)
        return tuple(drawn.values())

    def drawn_squares(self, dictionary: Dictionary, score: GroupScore) -> Float[np.ndarray, "piece 64 64"]:
        """For every piece and square of a group: where the piece stands when the best feature for it there fires.

        Share of the firing positions of the scoring split, by square; NaN for a property that never occurs, or that
        no feature detects.
        """
        selection, scoring = self.features(dictionary)
        firing = scoring.firing(selection.maxima())
        matrix, here = self.scoring.games.labels.matrix, self.referee.scoring.columns(score.name)
        boards = np.full((len(score.columns), SQUARES), np.nan)
        for p in np.flatnonzero(score.occurs & (score.feature >= 0)):
            rows = firing.at(int(score.feature[p]), int(score.threshold[p]))
            piece = here.start + int(p) // SQUARES * SQUARES
            if len(rows):
                boards[p] = matrix[rows, piece : piece + SQUARES].mean(0)
        return boards.reshape(-1, SQUARES, SQUARES)

    def l0(self, dictionary: Dictionary) -> float:
        """Mean number of active features on the scored positions."""
        fires = encode_rows(dictionary, self.scoring.activations[dictionary.site])
        return float(fires.start[-1]) / fires.rows

    def baselines(self, site: Site, neurons: Site, features: int, l0: float) -> dict[str, dict[str, GroupScore]]:
        """What as many features reach that nobody has trained a dictionary for; `neurons`: their site."""
        x, n = self.selection.activations[site], self.selection.activations[neurons]
        return {
            "frozen random dictionary": self.score(random_dictionary(site, x, features, l0, self._seed)),
            "principal components, both signs": self.score(principal_components(site, x, features)),
            "neurons, both signs": self.score(signed_neurons(neurons, n, features)),
        }

    def probe(self, site: Site) -> dict[str, GroupScore]:
        """The supervised ceiling: a linear probe of every property, fitted on the one split."""
        probe = fit_probe(self.selection.activations[site], self.selection.games.labels.matrix, seed=self._seed)
        return self.referee.score_predictions(probe.predict(self.scoring.activations[site]))

    def paper(self, dictionary: Dictionary) -> dict[str, dict[str, Any]]:
        """The numbers of the original code for every group, in-sample and with its denominators; see paper.py."""
        site = dictionary.site
        maxima = encode_rows(dictionary, self._first_half[site]).maxima()
        firings = [features.firing(maxima) for features in self.features(dictionary)]
        found = {}
        for name in self.referee.selection.groups:
            here = self.referee.selection.columns(name)
            truth = self.scoring.games.labels.matrix[:, here]
            width = truth.shape[1]
            square = np.arange(width) % SQUARES if width % SQUARES == 0 else np.zeros(width, np.int64)
            found[name] = paper.score(
                firings[0],
                self._paper_truth[name],
                firings[1],
                truth,
                square,
                PAPER_DENOMINATORS.get(name, int(width)),
            )
        return found

    @cached_property
    def _paper_truth(self) -> dict[str, Any]:
        truth = self.referee.selection
        return {
            name: SparseLabels.of(np.ascontiguousarray(truth.labels.matrix[:, truth.columns(name)]))
            for name in truth.groups
        }

    @cached_property
    def _first_half(self) -> dict[Site, Float[Tensor, "positions d"]]:
        return harvest_rows(self._model, self.sites, *self.selection.games.first_half(), self._batch_rows)
