"""Legality of players whose scores are known: one that sees the rules, one that knows nothing."""

import numpy as np
import pytest
import torch
from transformers import GPT2Config, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from boardgames.othello.legality import legal_tokens, legality
from boardgames.othello.rules import NO_MOVE, random_games, replay
from boardgames.othello.transcript import CONTEXT, from_tokens, to_tokens
from tests.boardgames.test_rules import WIPE_OUT, plain_replay, transcript

MOVES = np.concatenate([random_games(9, np.random.default_rng(2)), transcript(*WIPE_OUT)])


def plain_options() -> list[list[list[int]]]:
    """Token ids of the legal next moves after each of the first 59 plies of every game; [] after the end."""
    options = []
    for row in MOVES:
        plies = [to_tokens(np.array([game.legal(game.turn)], np.uint8))[0].tolist() for *_, game in plain_replay(row)]
        options.append((plies + [[]] * 60)[:CONTEXT])
    return options


OPTIONS = plain_options()
LIVE = [(g, p) for g in range(len(MOVES)) for p in range(CONTEXT) if OPTIONS[g][p]]


class Player(PreTrainedModel):
    """Answers with logits looked up by game; knows a game by its moves."""

    config_class = GPT2Config

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__(GPT2Config())
        self.somewhere = torch.nn.Parameter(torch.zeros(1))  # gives the model a device
        self.games = {row.tobytes(): answer for row, answer in zip(MOVES[:, :CONTEXT], logits, strict=True)}

    def forward(self, input_ids, use_cache=False):
        rows = from_tokens(input_ids.numpy())
        return CausalLMOutput(logits=torch.stack([self.games[row.tobytes()] for row in rows]))


def logits_of(legal: float, other: float) -> torch.Tensor:
    logits = torch.full((len(MOVES), CONTEXT, 61), other)
    for g, p in LIVE:
        logits[g, p, OPTIONS[g][p]] = legal
    return logits


def test_legal_tokens_agree_with_the_plain_rules():
    mask = legal_tokens(replay(MOVES))
    assert mask.shape == (len(MOVES), CONTEXT, 61)
    for g in range(len(MOVES)):
        for p in range(CONTEXT):
            assert mask[g, p].nonzero().flatten().tolist() == sorted(OPTIONS[g][p])


@pytest.mark.parametrize("batch_size", [256, 3])
def test_the_ideal_player(batch_size):
    score = legality(Player(logits_of(0.0, -1e9)), MOVES, batch_size)
    options = np.array([len(OPTIONS[g][p]) for g, p in LIVE])
    assert (score.games, score.positions) == (len(MOVES), len(LIVE))
    assert score.legal_move_rate == 1 and score.legal_mass == pytest.approx(1)
    assert score.ideal_cross_entropy == pytest.approx(np.log(options).mean())
    assert score.cross_entropy == pytest.approx(score.ideal_cross_entropy)
    live_plies = {p for _, p in LIVE}
    assert score.legal_move_rate_by_ply == [float(p in live_plies) for p in range(CONTEXT)]


def test_a_player_that_knows_nothing():
    score = legality(Player(torch.zeros(len(MOVES), CONTEXT, 61)), MOVES)
    assert score.legal_mass == pytest.approx(np.mean([len(OPTIONS[g][p]) / 61 for g, p in LIVE]))
    assert score.cross_entropy == pytest.approx(np.log(61), rel=1e-6)
    assert score.legal_move_rate == 0, "its most likely token is the padding"


def test_a_player_that_knows_the_first_twenty_plies():
    logits = logits_of(0.0, -1e9)
    logits[:, 20:] = -logits[:, 20:]
    score = legality(Player(logits), MOVES)
    assert score.legal_move_rate == pytest.approx(sum(p < 20 for _, p in LIVE) / len(LIVE))
    assert score.legal_move_rate_by_ply[:20] == [1.0] * 20 and not any(score.legal_move_rate_by_ply[20:])
    assert score.legal_mass == pytest.approx(score.legal_move_rate)


def test_the_played_move_is_always_among_the_legal_ones():
    mask = legal_tokens(replay(MOVES))
    following = torch.from_numpy(to_tokens(MOVES))[:, 1:]
    played = torch.from_numpy(MOVES[:, 1:] != NO_MOVE)
    assert mask.gather(-1, following[..., None])[..., 0][played].all()
