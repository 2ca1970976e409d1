"""One dictionary, one site, two splits of games -> a BoardReport with floor, ceiling, neurons and probe beside it."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor
from transformers import PreTrainedModel

from boardgames.confusion import Confusion, count_confusion
from boardgames.coverage import Coverage, always_on_floor, held_out_coverage, in_sample_coverage, occurrence_ceiling
from boardgames.game import Labels, label
from boardgames.linear_probe import ProbeScore, fit_probe, score_probe
from boardgames.othello.properties import BOARD, EVERYTHING
from boardgames.othello.rules import Replay, replay
from boardgames.othello.transcript import CONTEXT, to_tokens
from boardgames.reconstruction import Reconstruction, held_out_reconstruction
from saes.dictionary import Dictionary
from saes.harvest import harvest
from saes.sites import Site

BOARD_COLUMNS = tuple(c for p in BOARD for c in p.columns)


@dataclass(frozen=True)
class Positions:
    """Games of one split with their tokens and labels; every ply of the first 59 is a position."""

    moves: UInt8[np.ndarray, "games 60"]

    @cached_property
    def replay(self) -> Replay:
        return replay(self.moves)

    @cached_property
    def mask(self) -> Bool[np.ndarray, "games 59"]:
        return self.replay.played[:, :CONTEXT]

    @cached_property
    def tokens(self) -> Int[Tensor, "games 59"]:
        return torch.from_numpy(to_tokens(self.moves[:, :CONTEXT]))

    @cached_property
    def everything(self) -> Labels:
        """All properties, the 128 of the board first."""
        return label(self.replay.at(self.mask), EVERYTHING)

    @cached_property
    def board(self) -> Labels:
        return self.everything.select(BOARD_COLUMNS)


def activations(model: PreTrainedModel, site: Site, positions: Positions) -> Float[Tensor, "rows d"]:
    """Activations at one site, one row per position, in the order of the labels."""
    mask = torch.from_numpy(positions.mask).flatten()
    return torch.cat([v[site].flatten(0, 1).cpu() for v in harvest(model, positions.tokens, [site])])[mask]


class EncodedPositions:
    """A split's features, encoded batch by batch and paired with labels."""

    def __init__(self, dictionary: Dictionary, x: Float[Tensor, "rows d"], batch_size: int = 8192) -> None:
        dictionary.check_width(x.shape[-1])
        self._dictionary, self._x, self._batch_size = dictionary, x, batch_size

    def features(self) -> Iterator[Float[Tensor, "rows f"]]:
        for rows in self._x.split(self._batch_size):
            with torch.no_grad():  # not as a decorator: a generator runs after its call has returned
                features = self._dictionary.encode(rows)
            yield features

    def with_labels(self, labels: Labels) -> Iterator[tuple[Tensor, np.ndarray]]:
        start = 0
        for features in self.features():
            yield features, labels.matrix[start : start + len(features)]
            start += len(features)

    def maxima(self) -> Float[Tensor, " f"]:
        """Largest activation of every feature; the unit of its thresholds."""
        return torch.stack([f.amax(0) for f in self.features()]).amax(0)


@dataclass(frozen=True)
class BoardScore:
    """Coverage and reconstruction of one set of features."""

    coverage: Coverage
    coverage_in_sample: float
    reconstruction: Reconstruction
    selection: Confusion
    scoring: Confusion
    maxima: Float[Tensor, " f"]


def board_score(dictionary: Dictionary, selection: tuple[Tensor, Labels], scoring: tuple[Tensor, Labels]) -> BoardScore:
    """Score a dictionary on (activations, labels) of two splits."""
    chosen, scored = EncodedPositions(dictionary, selection[0]), EncodedPositions(dictionary, scoring[0])
    maxima = chosen.maxima()
    counts = count_confusion(chosen.with_labels(selection[1]), maxima)
    held_out = count_confusion(scored.with_labels(scoring[1]), maxima)
    reconstruction = held_out_reconstruction(
        counts, chosen.with_labels(selection[1]), scored.with_labels(scoring[1]), maxima
    )
    return BoardScore(
        held_out_coverage(counts, held_out), in_sample_coverage(held_out), reconstruction, counts, held_out, maxima
    )


def probe_score(selection: tuple[Tensor, Labels], scoring: tuple[Tensor, Labels]) -> ProbeScore:
    """The supervised ceiling at the same site, trained on the selection split."""
    return score_probe(fit_probe(selection[0], selection[1].matrix), scoring[0], scoring[1].matrix)


def floor_and_ceiling(score: BoardScore) -> tuple[float, float]:
    """Coverage of an always-on feature, and the most that any detector can reach, on the scoring split."""
    return always_on_floor(score.scoring), occurrence_ceiling(score.scoring)
