"""Step 4: score the dictionary against the true boards, beside floor, ceiling, raw neurons and a linear probe."""

from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel

from boardgames.firing import THRESHOLDS
from boardgames.game import Labels
from boardgames.linear_probe import ProbeScore
from boardgames.othello.rules import Replay
from boardgames.report import (
    BOARD_COLUMNS,
    BoardScore,
    Positions,
    activations,
    board_score,
    probe_score,
)
from saes.architectures import AffineDictionary
from saes.dictionary import IdentityDictionary
from saes.families import find_site, site_width


@dataclass(frozen=True)
class Boards:
    score: BoardScore
    neurons: BoardScore
    probe: ProbeScore

    @property
    def floor(self) -> float:
        """Coverage of a feature that always fires."""
        return self.score.board.always_on

    @property
    def ceiling(self) -> float:
        return self.score.board.limit

    def summary(self) -> dict[str, object]:
        return {
            "coverage": self.score.coverage,
            "reconstruction": self.score.reconstruction,
            "coverage_floor": self.floor,
            "coverage_ceiling": self.ceiling,
            "neurons": {
                "coverage": self.neurons.coverage,
                "reconstruction": self.neurons.reconstruction,
            },
            "probe": {"coverage": self.probe.coverage, "reconstruction": self.probe.reconstruction},
        }

    def report(self, dictionary: AffineDictionary, neurons_site: str, l0: float) -> dict[str, object]:
        def row(name: str, coverage: float, reconstruction: float, features: int | None, l0: float | None) -> dict:
            return {
                "name": name,
                "coverage": coverage,
                "reconstruction": reconstruction,
                "features": features,
                "l0": l0,
            }

        f1 = self.score.board.f1
        return {
            "floor": self.floor,
            "ceiling": self.ceiling,
            "rows": [
                row(
                    f"p-annealed dictionary at {dictionary.site}",
                    self.score.coverage,
                    self.score.reconstruction,
                    dictionary.features,
                    l0,
                ),
                row(
                    f"MLP neurons at {neurons_site}",
                    self.neurons.coverage,
                    self.neurons.reconstruction,
                    len(self.neurons.maxima),
                    None,
                ),
                row(f"linear probe at {dictionary.site}", self.probe.coverage, self.probe.reconstruction, None, None),
            ],
            "f1_mine": f1[:64].tolist(),
            "f1_yours": f1[64:].tolist(),
        }


def score_boards(
    model: PreTrainedModel, dictionary: AffineDictionary, selection: Positions, scoring: Positions
) -> Boards:
    """Feature and threshold are chosen on `selection` and scored on `scoring`; neurons are those of the same block."""
    site = dictionary.site
    neurons = neurons_beside(model, site.name)
    at_site = tuple((activations(model, site, p), p.board) for p in (selection, scoring))
    at_neurons = tuple((activations(model, neurons.site, p), p.board) for p in (selection, scoring))
    return Boards(board_score(dictionary, *at_site), board_score(neurons, *at_neurons), probe_score(*at_site))


def neurons_beside(model: PreTrainedModel, site: str) -> IdentityDictionary:
    """The MLP neurons of the block that a site belongs to (of block 0 for the embedding)."""
    block = site.rsplit("_", 1)[-1]
    found = find_site(model, f"mlp_hidden_{block if block.isdigit() else 0}")
    return IdentityDictionary(found, site_width(model, found))


@torch.no_grad()
def best_features(
    model: PreTrainedModel,
    dictionary: AffineDictionary,
    boards: Boards,
    scoring: Positions,
    count: int = 8,
    shown: int = 3,
) -> list[dict[str, object]]:
    """The features with the highest held-out F1, each for another square, with positions that activate them most."""
    board = boards.score.board
    x = activations(model, dictionary.site, scoring)
    labels, games = scoring.board, scoring.replay
    cards, squares, features = [], set(), set()
    for column in np.argsort(-board.f1):
        feature, t = int(board.feature[column]), int(board.threshold[column])
        if feature < 0 or column % 64 in squares or feature in features:
            continue
        squares.add(column % 64)
        features.add(feature)
        act = dictionary.encode(x)[:, feature].numpy()
        fires = act > float(THRESHOLDS[t] * boards.score.maxima[feature])
        truth = labels.matrix[:, column]
        hits = int((fires & truth).sum())
        cards.append(
            {
                "feature": feature,
                "column": BOARD_COLUMNS[column],
                "square": int(column % 64),
                "f1": float(board.f1[column]),
                "precision": hits / max(int(fires.sum()), 1),
                "recall": hits / max(int(truth.sum()), 1),
                "density": float(fires.mean()),
                "threshold": float(THRESHOLDS[t]),
                "mean_mine": labels.matrix[fires, :64].mean(0).tolist() if fires.any() else [0.0] * 64,
                "mean_yours": labels.matrix[fires, 64:].mean(0).tolist() if fires.any() else [0.0] * 64,
                "positions": top_positions(act, labels, games, shown),
            }
        )
        if len(cards) == count:
            break
    return cards


def top_positions(act: np.ndarray, labels: Labels, games: Replay, shown: int) -> list[dict[str, object]]:
    """The positions, one of a game, in which a feature is most active; `act` has one number per row of the labels."""
    top, seen = [], set()
    for row in np.argsort(-act):
        game, ply = int(labels.game[row]), int(labels.ply[row])
        if len(top) == shown or act[row] <= 0:
            break
        if game not in seen:
            seen.add(game)
            top.append(drawn_position(games, game, ply) | {"activation": float(act[row])})
    return top


def drawn_position(games, game: int, ply: int) -> dict[str, object]:
    """A position as the report draws it."""
    black, white = int(games.black[game, ply]), int(games.white[game, ply])
    return {
        "black": [s for s in range(64) if black >> s & 1],
        "white": [s for s in range(64) if white >> s & 1],
        "last": int(games.moves[game, ply]),
        "mover": int(games.mover[game, ply]),
        "game": game,
        "ply": ply,
    }
