"""How well a model plays by the rules: legal-move rate, legal mass, and cross-entropy against the ideal player.

For uniformly random games the ideal player knows the board and spreads its probability evenly over the legal
moves, so its cross-entropy is the mean log number of legal moves: no model can be better on unseen games.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from transformers import PreTrainedModel

from boardgames.game import unpack
from boardgames.othello.rules import Replay, replay
from boardgames.othello.transcript import CONTEXT, SQUARE_OF_TOKEN, VOCABULARY, to_tokens


@dataclass(frozen=True)
class Legality:
    """Averages over every ply after which somebody can move; cross-entropies in nats."""

    games: int
    positions: int
    legal_move_rate: float  # share of positions whose most likely token is a legal move
    legal_mass: float  # mean probability given to legal moves
    cross_entropy: float  # expected over the random player's next move
    ideal_cross_entropy: float
    legal_move_rate_by_ply: list[float]  # index = plies played - 1


def legal_tokens(games: Replay) -> Float[Tensor, "games 59 61"]:
    """1 for every token that is a legal next move after each of the first 59 plies."""
    squares = unpack(games.legal[:, :CONTEXT])
    mask = np.zeros((*squares.shape[:2], VOCABULARY), np.float32)
    mask[..., 1:] = squares[..., SQUARE_OF_TOKEN[1:]]
    return torch.from_numpy(mask)


@torch.no_grad()
def legality(model: PreTrainedModel, moves: UInt8[np.ndarray, "games 60"], batch_size: int = 256) -> Legality:
    """Score a model on games; every ply of every game counts once."""
    right, mass, cross_entropy, ideal = (np.zeros(CONTEXT) for _ in range(4))
    positions = np.zeros(CONTEXT, np.int64)
    for start in range(0, len(moves), batch_size):
        games = replay(moves[start : start + batch_size])
        legal_BLV = legal_tokens(games).to(model.device)
        tokens = torch.from_numpy(to_tokens(games.moves[:, :CONTEXT])).to(model.device)
        log_p_BLV = model(input_ids=tokens, use_cache=False).logits.float().log_softmax(-1)
        options_BL = legal_BLV.sum(-1)
        live_BL = options_BL > 0
        top_BL = legal_BLV.gather(-1, log_p_BLV.argmax(-1, keepdim=True)).squeeze(-1)
        uniform_BLV = legal_BLV / options_BL.clamp_min(1)[..., None]
        right += (top_BL * live_BL).sum(0).cpu().numpy()
        mass += ((log_p_BLV.exp() * legal_BLV).sum(-1)).sum(0).cpu().numpy()
        cross_entropy += -(log_p_BLV * uniform_BLV).sum(-1).sum(0).double().cpu().numpy()
        ideal += (options_BL.clamp_min(1).log() * live_BL).sum(0).double().cpu().numpy()
        positions += live_BL.sum(0).cpu().numpy()
    total = int(positions.sum())
    return Legality(
        games=len(moves),
        positions=total,
        legal_move_rate=float(right.sum() / total),
        legal_mass=float(mass.sum() / total),
        cross_entropy=float(cross_entropy.sum() / total),
        ideal_cross_entropy=float(ideal.sum() / total),
        legal_move_rate_by_ply=(right / positions.clip(1))[positions > 0].tolist(),
    )
