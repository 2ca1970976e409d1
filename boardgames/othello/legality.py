"""How well an Othello model plays by the rules: legal-move rate, legal mass, cross-entropy against the ideal player.

For uniformly random games the ideal player knows the board and spreads its probability evenly over the legal
moves, so its cross-entropy is the mean log number of legal moves: no model can be better on unseen games.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from transformers import PreTrainedModel

from boardgames.game import unpack
from boardgames.legality import Legality, ratio
from boardgames.othello.rules import Replay, replay
from boardgames.othello.transcript import CONTEXT, SQUARE_OF_TOKEN, VOCABULARY, to_tokens


@dataclass(frozen=True)
class OthelloLegality(Legality):
    """Over every ply after which somebody can move; cross-entropies in nats; by ply: index = plies played - 1."""

    cross_entropy: float  # expected over the random player's next move
    cross_entropy_error: float | None
    ideal_cross_entropy: float


def legal_tokens(games: Replay) -> Float[Tensor, "games 59 61"]:
    """1 for every token that is a legal next move after each of the first 59 plies."""
    squares = unpack(games.legal[:, :CONTEXT])
    mask = np.zeros((*squares.shape[:2], VOCABULARY), np.float32)
    mask[..., 1:] = squares[..., SQUARE_OF_TOKEN[1:]]
    return torch.from_numpy(mask)


@torch.no_grad()
def legality(
    model: PreTrainedModel,
    moves: UInt8[np.ndarray, "games 60"],
    batch_size: int = 256,
    counted: Bool[np.ndarray, "games 59"] | None = None,
) -> OthelloLegality:
    """Score a model on games; every ply of every game counts once, or those of them that are `counted`."""
    right, mass, cross_entropy, ideal = (np.zeros((len(moves), CONTEXT)) for _ in range(4))
    live = np.zeros((len(moves), CONTEXT), bool)
    for start in range(0, len(moves), batch_size):
        rows = slice(start, start + batch_size)
        games = replay(moves[rows])
        legal_BLV = legal_tokens(games).to(model.device)
        tokens = torch.from_numpy(to_tokens(games.moves[:, :CONTEXT])).to(model.device)
        log_p_BLV = model(input_ids=tokens, use_cache=False).logits.float().log_softmax(-1)
        options_BL = legal_BLV.sum(-1)
        uniform_BLV = legal_BLV / options_BL.clamp_min(1)[..., None]
        live[rows] = (options_BL > 0).cpu().numpy()
        right[rows] = legal_BLV.gather(-1, log_p_BLV.argmax(-1, keepdim=True)).squeeze(-1).cpu().numpy()
        mass[rows] = (log_p_BLV.exp() * legal_BLV).sum(-1).cpu().numpy()
        cross_entropy[rows] = -(log_p_BLV * uniform_BLV).sum(-1).cpu().numpy()
        ideal[rows] = options_BL.clamp_min(1).log().cpu().numpy()  # nothing is legal after the end: log 1
    if counted is not None:
        live &= counted
        right, mass, cross_entropy, ideal = (np.where(live, x, 0.0) for x in (right, mass, cross_entropy, ideal))
    positions, by_ply = live.sum(1), live.sum(0)
    rate, given, loss = (ratio(x.sum(1), positions) for x in (right, mass, cross_entropy))
    return OthelloLegality(
        games=len(moves),
        positions=int(positions.sum()),
        legal_move_rate=rate.value,
        legal_move_rate_error=rate.error,
        legal_mass=given.value,
        legal_mass_error=given.error,
        legal_move_rate_by_ply=(right.sum(0) / by_ply.clip(1))[by_ply > 0].tolist(),
        positions_by_ply=by_ply[by_ply > 0].tolist(),
        cross_entropy=loss.value,
        cross_entropy_error=loss.error,
        ideal_cross_entropy=ratio(ideal.sum(1), positions).value,
    )
