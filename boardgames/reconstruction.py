"""Board reconstruction (Karvonen et al. 2024, section 3.3): the board that high-precision features spell out together.

A feature at a threshold is labelled with a property if it has precision of at least 0.95 on the selection split, with
at least 10 true positives, from at least 10 different games. A position's predicted board is everything that its firing
features are labelled with; the score is the F1 of that prediction, pooled over properties and positions.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Int
from scipy.sparse import csr_matrix

from boardgames.confusion import Confusion
from boardgames.firing import THRESHOLDS, Firing, SparseLabels
from saes.kernels.compiling import compiled, spread

MINIMUM_TRUE_POSITIVES = 10
MINIMUM_GAMES = 10
_ROWS = 4096  # whose predicted boards are held at a time


def precise_labels(selection: Confusion) -> Bool[np.ndarray, "threshold feature property"]:
    """Which properties each feature stands for: precision >= 0.95 (in exact integers) and enough true positives."""
    tp, fires = selection.true_positives, selection.fires[..., None]
    return (20 * tp >= 19 * fires) & (tp >= MINIMUM_TRUE_POSITIVES)


def from_enough_games(
    given: Bool[np.ndarray, "threshold feature property"],
    firing: Firing,
    labels: SparseLabels,
    game: Int[np.ndarray, " rows"],
    least: int = MINIMUM_GAMES,
) -> Bool[np.ndarray, "threshold feature property"]:
    """The labels whose true positives come from at least so many games; the rows of a game follow each other."""
    if (np.diff(game) < 0).any():
        raise ValueError("the rows of each game must follow each other, in the order of the games")
    asked = np.asarray(given.any(0))
    wanted = np.flatnonzero(asked.any(-1))
    games = np.zeros((len(wanted), *given.shape[::2]), np.int32)
    by_feature = firing.by_feature
    spread(
        _count_games,
        len(wanted),
        wanted,
        asked,
        by_feature.start,
        by_feature.row,
        by_feature.level,
        labels.start,
        labels.column,
        game,
        games,
    )
    enough = given.copy()
    enough[:, wanted] &= games.transpose(1, 0, 2) >= least
    return enough


def micro_f1(predicted_and_true: Any, predicted: Any, true: Any) -> Any:
    """F1 from pooled counts, of numbers or arrays; 0 when nothing is predicted or true."""
    total = np.asarray(predicted + true)
    return 2 * predicted_and_true / np.where(total > 0, total, 1)


class Votes:
    """What features are labelled with, and at which threshold each of them speaks, by the level that it fires at."""

    def __init__(self, given: Bool[np.ndarray, "threshold feature property"]) -> None:
        self.levels, self.features, self.properties = given.shape
        table: Any = csr_matrix(given.reshape(-1, self.properties))
        self.start, self.column = table.indptr.astype(np.int64), table.indices
        self._rows_TF = np.arange(self.levels * self.features).reshape(self.levels, self.features)
        self._labelled_TF = np.asarray(given.any(-1))

    def at(self, threshold: int) -> Int[np.ndarray, "level feature"]:
        """A feature that exceeds this threshold says what it is labelled with there; -1 for silence."""
        exceeds = np.arange(self.levels)[:, None] >= threshold
        return np.where(exceeds & self._labelled_TF[threshold], self._rows_TF[threshold], -1)

    def highest(self) -> Int[np.ndarray, "level feature"]:
        """A feature says what it is labelled with at the highest threshold that it exceeds and has a label at."""
        return np.maximum.accumulate(np.where(self._labelled_TF, self._rows_TF, -1), axis=0)


def boards(
    firing: Firing, votes: Votes, says: Int[np.ndarray, "level feature"]
) -> Iterator[tuple[slice, Bool[np.ndarray, "_ property"]]]:
    """(rows, everything that some firing feature says of them), some rows at a time; `says` is of Votes."""
    for first in range(0, firing.rows, _ROWS):
        rows = slice(first, min(first + _ROWS, firing.rows))
        board = np.zeros((rows.stop - first, votes.properties), bool)
        spread(
            _spell,
            len(board),
            firing.start[first : rows.stop + 1],
            firing.feature,
            firing.level,
            says,
            votes.start,
            votes.column,
            board,
        )
        yield rows, board


@dataclass(frozen=True)
class Tally:
    """What was predicted, and rightly so, in each game and group of properties."""

    hits: Int[np.ndarray, "game group"]
    predicted: Int[np.ndarray, "game group"]


def tally(
    firing: Firing,
    votes: Votes,
    says: Int[np.ndarray, "level feature"],
    truth: Bool[np.ndarray, "rows property"],
    game: Int[np.ndarray, " rows"],
    first_columns: Int[np.ndarray, " group"],
) -> Tally:
    """Compare predicted boards with the truth; group g has the columns from first_columns[g] to the next one's."""
    hits, predicted = (np.zeros((int(game[-1]) + 1, len(first_columns)), np.int64) for _ in range(2))
    edges = np.append(first_columns, truth.shape[1])
    for rows, board in boards(firing, votes, says):
        counts = np.zeros((2, len(board), len(first_columns)), np.int64)
        spread(_sum_groups, len(board), board, truth[rows], edges, counts)
        which, first = np.unique(game[rows], return_index=True)
        hits[which] += np.add.reduceat(counts[0], first)
        predicted[which] += np.add.reduceat(counts[1], first)
    return Tally(hits, predicted)


def by_threshold(
    firing: Firing,
    given: Bool[np.ndarray, "threshold feature property"],
    truth: Bool[np.ndarray, "rows property"],
    game: Int[np.ndarray, " rows"],
    first_columns: Int[np.ndarray, " group"],
) -> list[Tally]:
    """The tally at every threshold."""
    votes = Votes(given)
    return [tally(firing, votes, votes.at(t), truth, game, first_columns) for t in range(len(THRESHOLDS))]


@compiled
def _count_games(low, high, wanted, asked_FP, start, row, level, label_start, label, game, games):
    for w in range(low, high):
        f = wanted[w]
        seen = np.full(games.shape[1:], -1, np.int64)
        for e in range(start[f], start[f + 1]):
            n = row[e]
            for j in range(label_start[n], label_start[n + 1]):
                p = label[j]
                if asked_FP[f, p]:
                    for t in range(level[e], -1, -1):
                        if seen[t, p] == game[n]:
                            break  # and at all lower thresholds
                        seen[t, p] = game[n]
                        games[w, t, p] += 1


@compiled
def _spell(low, high, start, feature, level, says, vote_start, vote, board):
    for n in range(low, high):
        for e in range(start[n], start[n + 1]):
            said = says[level[e], feature[e]]
            if said >= 0:
                for j in range(vote_start[said], vote_start[said + 1]):
                    board[n, vote[j]] = True


@compiled
def _sum_groups(low, high, board, truth, edges, counts):
    for n in range(low, high):
        for g in range(len(edges) - 1):
            hits, predicted = 0, 0
            for p in range(edges[g], edges[g + 1]):
                predicted += board[n, p]
                hits += board[n, p] & truth[n, p]
            counts[0, n, g], counts[1, n, g] = hits, predicted
