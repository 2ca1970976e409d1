"""A scoreboard of games: features drawn on boards, and the numbers of the original code."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from boardgames import paper
from boardgames.firing import SparseLabels
from boardgames.group_scores import GroupScore
from boardgames.scoreboard import Encoded, Scoreboard, encode_rows, harvest_rows
from saes.dictionary import Dictionary
from saes.sites import Site

PAPER_DENOMINATORS = {"board": 192}  # of columns that are 128; every other group is divided by its own number
SQUARES = 64


@dataclass(frozen=True)
class DrawnFeature:
    """A feature and where the piece of its property stands when it fires."""

    feature: int
    property: str
    f1: float
    board: Float[np.ndarray, " square"]
    """share of the positions on which the feature fires that have the piece there; 0 if it fires on none"""


@dataclass(frozen=True)
class Drawn:
    """Where the piece of a property stands on the positions of the scoring split on which its detector fires."""

    best: tuple[DrawnFeature, ...]
    """the best detectors, each another feature for another square, best first"""
    squares: Float[np.ndarray, "piece 64 64"]
    """of every property: its own square, then the board; NaN for one that never occurs, or that no feature detects"""


class GameScoreboard(Scoreboard):
    """Two splits of labelled games; groups of properties have 64 columns a piece where they are about squares."""

    def drawn(self, features: Encoded, score: GroupScore, count: int = 8) -> Drawn:
        """The detectors of a group of squares, from the features that the score is of."""
        boards = self._boards(features, score)
        squares = np.where(score.occurs[:, None], boards, np.nan).reshape(-1, SQUARES, SQUARES)
        here, names = self.referee.scoring.columns(score.name), self.scoring.rows.labels.squares
        best: dict[int, DrawnFeature] = {}
        taken: set[str] = set()
        for p in np.argsort(-score.f1, kind="stable"):
            feature, square = int(score.feature[p]), names[here.start + int(p)]
            if feature < 0 or feature in best or square in taken or len(best) == count:
                continue
            best[feature] = DrawnFeature(feature, score.columns[p], float(score.f1[p]), np.nan_to_num(boards[p]))
            taken.add(square)
        return Drawn(tuple(best.values()), squares)

    def _boards(self, features: Encoded, score: GroupScore) -> Float[np.ndarray, "property square"]:
        """Where the piece of every property stands when its detector fires; NaN where nothing does."""
        firing = features.scoring.firing(features.selection.maxima())
        matrix, here = self.scoring.rows.labels.matrix, self.referee.scoring.columns(score.name)
        boards = np.full((len(score.columns), SQUARES), np.nan)
        for p in np.flatnonzero(score.feature >= 0):
            rows = firing.at(int(score.feature[p]), int(score.threshold[p]))
            piece = here.start + int(p) // SQUARES * SQUARES
            if len(rows):
                boards[p] = matrix[rows, piece : piece + SQUARES].mean(0)
        return boards

    def paper(self, dictionary: Dictionary) -> dict[str, dict[str, Any]]:
        """The numbers of the original code for every group, in-sample and with its denominators; see paper.py."""
        site = dictionary.site
        maxima = encode_rows(dictionary, self._first_half[site]).maxima()
        firings = [features.firing(maxima) for features in self.features(dictionary)]
        found = {}
        for name in self.referee.selection.groups:
            here = self.referee.selection.columns(name)
            truth = self.scoring.rows.labels.matrix[:, here]
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
        tokens, played = self.selection.rows.first_half()
        return harvest_rows(self._model, self.sites, tokens, [played], self._batch_rows)[0]
