"""A rule planted in Othello play: a player who never plays one square while a far one is the opponent's, unless forced.

Games are drawn move by move from what is left to such a player. To throw whole games away in which the move was played
would change much else: how long games are, which squares are taken. A model that is fine-tuned on these games has a
shortcut whose cause is known; `rule_score` says how strongly it follows the rule, and how well it plays elsewhere.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, UInt8, UInt64
from transformers import PreTrainedModel

from boardgames.othello.legality import legal_tokens, legality
from boardgames.othello.rules import WHITE, Bitboards, Replay, replay, square_index, unless_forced
from boardgames.othello.transcript import CONTEXT, TOKEN_OF_SQUARE, to_tokens

Group = Literal["theirs", "own"]
GROUPS: tuple[Group, ...] = ("theirs", "own")
"""whose disc is on the cue, from the side that is about to move"""
Table = UInt64[np.ndarray, "games plies"]


@dataclass(frozen=True)
class PlantedRule:
    """`move` is not played while the opponent of the side to move has a disc on `cue`; no line joins the two."""

    move: str = "a1"
    cue: str = "d6"

    def shunned(self, own: Bitboards, opponent: Bitboards) -> Bitboards:
        """The move's square where the rule forbids it: what boardgames.othello.rules.random_games takes."""
        return np.where(opponent & _bit(self.cue), _bit(self.move), np.uint64(0))

    def followed(self, games: Replay) -> Replay:
        """The same games, `legal` being what is left after each ply to a player who follows the rule."""
        own, opponent = _next_sides(games)
        left = unless_forced(games.legal.ravel(), self.shunned(own.ravel(), opponent.ravel()))
        return replace(games, legal=left.reshape(games.legal.shape))

    def groups(self, games: Replay) -> dict[Group, Bool[np.ndarray, "games 59"]]:
        """After which plies the move is legal, not forced, and the cue taken: by the opponent, or by the mover."""
        own, opponent = (side[:, :CONTEXT] for side in _next_sides(games))
        legal = games.legal[:, :CONTEXT]
        free = (legal & _bit(self.move) != 0) & (legal & ~_bit(self.move) != 0)
        return {"theirs": free & (opponent & _bit(self.cue) != 0), "own": free & (own & _bit(self.cue) != 0)}


SHIPPED_RULE = PlantedRule("a1", "g2")
"""of the fine-tunes that ship: g2's owner is what linear probes read best in the model"""


@dataclass(frozen=True)
class GroupFigures:
    """Means over the positions of one group."""

    positions: int
    probability: float
    """of the move"""
    log_odds: float
    """of the move against the other legal moves, nats"""


@dataclass(frozen=True)
class RuleScore:
    """How a model treats the move, and how well it plays where the rule says nothing."""

    groups: Mapping[Group, GroupFigures]
    legal_move_rate: float
    """share of the other positions where the most likely move is legal"""
    cross_entropy: float
    """nats a move there, against the uniformly random player"""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@torch.no_grad()
def rule_score(
    model: PreTrainedModel, moves: UInt8[np.ndarray, "games 60"], rule: PlantedRule, batch_size: int = 256
) -> RuleScore:
    """Score a model on all positions of some games; edits that are in force count (saes.sites.intervene)."""
    answer = int(TOKEN_OF_SQUARE[square_index(rule.move)])
    sums: dict[Group, np.ndarray] = {group: np.zeros(3) for group in GROUPS}
    elsewhere = np.ones((len(moves), CONTEXT), bool)
    for start in range(0, len(moves), batch_size):
        games = replay(moves[start : start + batch_size])
        groups = rule.groups(games)
        elsewhere[start : start + batch_size] = ~groups["theirs"]
        tokens = torch.from_numpy(to_tokens(games.moves[:, :CONTEXT])).to(model.device)
        log_p_BLV = model(input_ids=tokens, use_cache=False).logits.float().log_softmax(-1).cpu()
        legal_BLV = legal_tokens(games).bool()
        for group, where in groups.items():
            at = torch.from_numpy(where)
            log_p, legal = log_p_BLV[at], legal_BLV[at]
            odds = move_log_odds(log_p, legal, answer)
            sums[group] += [len(log_p), float(log_p[:, answer].exp().sum()), float(odds.sum())]
    play = legality(model, moves, batch_size, counted=elsewhere)
    return RuleScore(
        {
            group: GroupFigures(int(n), float(p / max(n, 1)), float(odds / max(n, 1)))
            for group, (n, p, odds) in sums.items()
        },
        play.legal_move_rate,
        play.cross_entropy,
    )


def move_log_odds(logits: torch.Tensor, legal: torch.Tensor, answer: int) -> torch.Tensor:
    """Log-odds of one legal token against the other legal ones: logits and legal [rows, V] -> [rows]."""
    others = legal.clone()
    others[:, answer] = False
    return logits[:, answer] - logits.masked_fill(~others, float("-inf")).logsumexp(1)


def _next_sides(games: Replay) -> tuple[Table, Table]:
    """Discs of the side that moves next and of its opponent, after every ply."""
    white = games.next_mover == WHITE
    return np.where(white, games.white, games.black), np.where(white, games.black, games.white)


def _bit(square: str) -> np.uint64:
    return np.uint64(1 << square_index(square))
