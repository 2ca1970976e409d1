"""One dictionary, one site, two splits of games -> a BoardReport with floor, ceiling, neurons and probe beside it."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor
from transformers import PreTrainedModel

from boardgames.firing import SparseActivations
from boardgames.game import Labels, label
from boardgames.group_scores import GroupScore
from boardgames.linear_probe import ProbeScore, fit_probe, score_probe
from boardgames.othello.properties import BOARD, EVERYTHING
from boardgames.othello.rules import Replay, replay
from boardgames.othello.transcript import CONTEXT, to_tokens
from boardgames.scoring import Referee, Truth
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


@dataclass(frozen=True)
class BoardScore:
    """One set of features on the 128 columns of the board."""

    board: GroupScore
    maxima: Float[Tensor, " f"]
    """largest activation of every feature on the selection split; the unit of its thresholds"""

    @property
    def coverage(self) -> float:
        return self.board.coverage.score

    @property
    def reconstruction(self) -> float:
        return self.board.reconstruction.score


def encoded(dictionary: Dictionary, x: Float[Tensor, "rows d"], batch_size: int = 8192) -> SparseActivations:
    """The features of every row, encoded some rows at a time."""
    dictionary.check_width(x.shape[-1])
    with torch.no_grad():
        return SparseActivations.of(dictionary.encode(rows) for rows in x.split(batch_size))


def board_score(dictionary: Dictionary, selection: tuple[Tensor, Labels], scoring: tuple[Tensor, Labels]) -> BoardScore:
    """Score a dictionary on (activations, labels) of two splits; the labels are those of the board."""
    halves = [Truth(labels, {"board": len(labels.columns)}) for _, labels in (selection, scoring)]
    features = [encoded(dictionary, x) for x, _ in (selection, scoring)]
    score = Referee(*halves).score(*features)["board"]
    return BoardScore(score, features[0].maxima())


def probe_score(selection: tuple[Tensor, Labels], scoring: tuple[Tensor, Labels]) -> ProbeScore:
    """The supervised ceiling at the same site, trained on the selection split."""
    return score_probe(fit_probe(selection[0], selection[1].matrix), scoring[0], scoring[1].matrix)
