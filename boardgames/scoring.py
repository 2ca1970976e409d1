"""How well a set of features knows the board: coverage and reconstruction of every group of properties.

Features, thresholds and labels are chosen on one split of games and scored on another, with intervals over games and
the floors beside each number: what a feature that always fires reaches, and what the best of so many features reaches
on labels that are permuted. Anything that fires on positions can be scored: a dictionary, neurons, a basis.
"""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from boardgames.bootstrap import coverage_interval, f1_bounds, pooled_interval, resamples
from boardgames.confusion import count
from boardgames.coverage import Chosen, GameCounts, always_on_f1, choose, count_games, positives_by_game
from boardgames.firing import SparseActivations, SparseLabels
from boardgames.game import Labels
from boardgames.group_scores import GroupScore
from boardgames.reconstruction import (
    MINIMUM_GAMES,
    MINIMUM_TRUE_POSITIVES,
    by_threshold,
    from_enough_games,
    micro_f1,
    precise_labels,
)

RESAMPLES = 1000


class ScoringError(ValueError):
    """Labels or features that cannot be scored."""


class Truth:
    """The labels of one split, and what every set of features needs of them."""

    def __init__(self, labels: Labels, groups: Mapping[str, int], seed: int = 0) -> None:
        """`groups`: names of groups of properties and their numbers of columns, in the order of the columns."""
        if sum(groups.values()) != len(labels.columns):
            raise ScoringError(f"{len(labels.columns)} columns of labels, and groups of {sum(groups.values())}")
        if not len(labels.matrix):
            raise ScoringError("no positions to score: give more games")
        self.labels, self.groups, self._seed = labels, dict(groups), seed
        self.game = np.unique(labels.game, return_inverse=True)[1]  # numbered from 0, none without a position
        if (np.diff(labels.game) < 0).any():
            raise ScoringError("the rows of each game must follow each other, in the order of the games")
        widths = np.array(list(groups.values()))
        self.first_columns: Int[np.ndarray, " group"] = widths.cumsum() - widths

    @cached_property
    def sparse(self) -> SparseLabels:
        return SparseLabels.of(self.labels.matrix)

    @cached_property
    def permuted(self) -> "Truth":
        """The same labels on positions drawn without replacement: they have nothing to do with the board."""
        order = np.random.default_rng([self._seed, len(self.labels.matrix)]).permutation(len(self.labels.matrix))
        shuffled = Labels(
            self.labels.columns, self.labels.squares, self.labels.matrix[order], self.labels.game, self.labels.ply
        )
        return Truth(shuffled, self.groups)

    @cached_property
    def positives(self) -> Int[np.ndarray, "game property"]:
        return positives_by_game(self.labels.matrix, self.game)

    @property
    def games(self) -> int:
        return int(self.game[-1]) + 1

    def columns(self, group: str) -> slice:
        """The columns of one group."""
        first = int(self.first_columns[list(self.groups).index(group)])
        return slice(first, first + self.groups[group])


class Referee:
    """Two splits of labelled positions on which any number of feature sets are scored alike."""

    def __init__(
        self,
        selection: Truth,
        scoring: Truth,
        *,
        resampled: int = RESAMPLES,
        least_games: int = MINIMUM_GAMES,
        each_property: bool = False,
        seed: int = 0,
        device: str | torch.device = "cpu",
    ) -> None:
        """`resampled`: resamples of the scoring games. `least_games`: that a label's true positives come from.

        `each_property`: intervals of every property too. `device`: a GPU counts by matrix products; all else is done
        on the CPU.
        """
        if selection.labels.columns != scoring.labels.columns:
            raise ScoringError("the two splits have different properties")
        self.selection, self.scoring, self.least_games = selection, scoring, least_games
        self._each_property, self._device = each_property, device
        self.weights = resamples(scoring.games, resampled, seed)

    def score(self, selection: SparseActivations, scoring: SparseActivations) -> dict[str, GroupScore]:
        """Choose on the first, score on the second; rows as those of the labels. By the names of the groups."""
        maxima = selection.maxima()
        chosen_from, scored_on = selection.firing(maxima), scoring.firing(maxima)
        for firing, truth in ((chosen_from, self.selection), (scored_on, self.scoring)):
            if firing.rows != len(truth.game):
                raise ScoringError(f"{firing.rows} rows of features for {len(truth.game)} labelled positions")
        counts = count(chosen_from, self.selection.sparse, self._device)
        detectors = choose(counts)
        by_game = count_games(detectors, scored_on, self.scoring.labels.matrix, self.scoring.game)
        given = from_enough_games(
            precise_labels(counts), chosen_from, self.selection.sparse, self.selection.game, self.least_games
        )
        del counts
        first = self.selection.first_columns
        tried = by_threshold(chosen_from, given, self.selection.labels.matrix, self.selection.game, first)
        spelt = by_threshold(scored_on, given, self.scoring.labels.matrix, self.scoring.game, first)
        true = self._true(self.selection).sum(0)
        best = np.array([micro_f1(t.hits.sum(0), t.predicted.sum(0), true) for t in tried]).argmax(0)
        noise = self._by_chance(chosen_from, scored_on)
        return {
            name: self._group(
                name,
                detectors,
                by_game,
                float(noise[self.scoring.columns(name)][self._occurs(name)].mean()) if self._occurs(name).any() else 0,
                (spelt[best[g]].hits[:, g], spelt[best[g]].predicted[:, g]),
                int(best[g]),
                int(given[best[g], :, self.scoring.columns(name)].any(-1).sum()),
            )
            for g, name in enumerate(self.scoring.groups)
        }

    def score_predictions(self, predicted: Bool[np.ndarray, "rows property"]) -> dict[str, GroupScore]:
        """The same numbers for a detector of each property, such as a probe: rows are those of the scoring split."""
        truth = self.scoring.labels.matrix
        fires = positives_by_game(predicted, self.scoring.game)
        hits = positives_by_game(predicted & truth, self.scoring.game)
        rows = np.bincount(self.scoring.game)
        by_game = GameCounts(hits, fires, self.scoring.positives, rows)
        nobody = np.full(predicted.shape[1], -1)
        detectors = Chosen(np.zeros(predicted.shape[1]), nobody, np.zeros(predicted.shape[1], np.int64))
        return {
            name: self._group(
                name,
                detectors,
                by_game,
                None,
                (hits[:, (c := self.scoring.columns(name))].sum(1), fires[:, c].sum(1)),
                None,
                None,
            )
            for name in self.scoring.groups
        }

    def _occurs(self, name: str) -> Bool[np.ndarray, " property"]:
        return np.asarray(self.scoring.positives[:, self.scoring.columns(name)].any(0))

    def _true(self, truth: Truth) -> Int[np.ndarray, "game group"]:
        return np.add.reduceat(truth.positives, truth.first_columns, axis=1)

    def _by_chance(self, chosen_from: Any, scored_on: Any) -> Float[np.ndarray, " property"]:
        """F1 on permuted labels of the detectors that are best on permuted labels."""
        detectors = choose(count(chosen_from, self.selection.permuted.sparse, self._device))
        noise = self.scoring.permuted
        return count_games(detectors, scored_on, noise.labels.matrix, noise.game).f1()

    def _group(
        self,
        name: str,
        detectors: Chosen,
        by_game: GameCounts,
        permuted: float | None,
        spelt: tuple[Int[np.ndarray, " game"], Int[np.ndarray, " game"]],
        threshold: int | None,
        labelled: int | None,
    ) -> GroupScore:
        here, occurs = self.scoring.columns(name), self._occurs(name)
        counts = GameCounts(by_game.hits[:, here], by_game.fires[:, here], by_game.positives[:, here], by_game.rows)
        rows, positives = int(by_game.rows.sum()), counts.positives.sum(0)
        always = always_on_f1(positives, rows)
        true = counts.positives.sum(1)
        return GroupScore(
            name,
            self.scoring.labels.columns[here],
            occurs,
            counts.f1(),
            detectors.feature[here],
            detectors.threshold[here],
            always,
            coverage_interval(counts, self.weights),
            float(always[occurs].mean()) if occurs.any() else 0.0,
            permuted,
            pooled_interval(*spelt, true, self.weights),
            threshold,
            self._always_on_reconstruction(here, positives, rows),
            labelled,
            f1_bounds(counts, self.weights) if self._each_property else None,
        )

    def _always_on_reconstruction(self, here: slice, positives: Int[np.ndarray, " property"], rows: int) -> float:
        """A feature that always fires is labelled by the same rule as others."""
        known = self.selection.positives[:, here]
        common = (20 * known.sum(0) >= 19 * len(self.selection.game)) & (known.sum(0) >= MINIMUM_TRUE_POSITIVES)
        common &= (known > 0).sum(0) >= self.least_games
        return float(micro_f1(positives[common].sum(), rows * int(common.sum()), positives.sum()))
