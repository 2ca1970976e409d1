"""Coverage (Karvonen et al. 2024, section 3.2): how well single features detect board properties."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from boardgames.confusion import Confusion
from boardgames.firing import Firing


@dataclass(frozen=True)
class Chosen:
    """The (threshold, feature) with the highest F1 for each property; of equals the lowest threshold, then feature."""

    f1: Float[np.ndarray, " property"]
    feature: Int[np.ndarray, " property"]
    """-1 where no feature has a true positive"""
    threshold: Int[np.ndarray, " property"]
    """index into THRESHOLDS"""


def choose(selection: Confusion) -> Chosen:
    """The best detector of every property on one split."""
    best, which = selection.best()
    threshold = best.argmax(0)
    columns = np.arange(best.shape[1])
    f1 = best[threshold, columns]
    return Chosen(f1, np.where(f1 > 0, which[threshold, columns], -1), threshold)


@dataclass(frozen=True)
class GameCounts:
    """What one detector of each property does in every game: counts that can be summed over any set of games."""

    hits: Int[np.ndarray, "game property"]
    fires: Int[np.ndarray, "game property"]
    positives: Int[np.ndarray, "game property"]
    rows: Int[np.ndarray, " game"]

    def f1(self) -> Float[np.ndarray, " property"]:
        """Over all games; 0 for a property that never occurs."""
        return 2 * self.hits.sum(0) / np.maximum(self.fires.sum(0) + self.positives.sum(0), 1)


def count_games(
    chosen: Chosen, firing: Firing, truth: Bool[np.ndarray, "rows property"], game: Int[np.ndarray, " rows"]
) -> GameCounts:
    """Apply the chosen detectors to another split; games are numbered from 0, rows are in their order."""
    games = int(game[-1]) + 1
    hits, fires = (np.zeros((games, truth.shape[1]), np.int64) for _ in range(2))
    for p, (feature, t) in enumerate(zip(chosen.feature, chosen.threshold, strict=True)):
        if feature < 0:
            continue
        rows = firing.at(int(feature), int(t))
        fires[:, p] = np.bincount(game[rows], minlength=games)
        hits[:, p] = np.bincount(game[rows[truth[rows, p]]], minlength=games)
    return GameCounts(hits, fires, positives_by_game(truth, game), np.bincount(game, minlength=games))


def positives_by_game(
    truth: Bool[np.ndarray, "rows property"], game: Int[np.ndarray, " rows"]
) -> Int[np.ndarray, "game property"]:
    """How often each property holds in each game."""
    positives = np.zeros((int(game[-1]) + 1, truth.shape[1]), np.int64)
    first = np.flatnonzero(np.diff(game, prepend=-1))
    positives[game[first]] = np.add.reduceat(truth, first, axis=0, dtype=np.int32)
    return positives


def always_on_f1(positives: Int[np.ndarray, " property"], rows: int) -> Float[np.ndarray, " property"]:
    """F1 of a feature that always fires: 2p / (1 + p) for a property with base rate p."""
    return 2 * positives / (rows + positives)
