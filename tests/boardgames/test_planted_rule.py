"""Games with a planted rule against the slow rules, and the scorer against a loop over positions."""

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from boardgames.othello.legality import legality
from boardgames.othello.planted_rule import PlantedRule, rule_score
from boardgames.othello.pretraining import OthelloTraining, batches
from boardgames.othello.rules import NO_MOVE, random_games, replay, square_index, unless_forced
from boardgames.othello.transcript import CONTEXT, TOKEN_OF_SQUARE, VOCABULARY, from_tokens, to_tokens
from tests.boardgames import plain_othello

RULE = PlantedRule()
MOVE, CUE = square_index(RULE.move), square_index(RULE.cue)


def positions(moves):
    """(ply, game so far, what was played next) of one game by the slow rules, from before its first move on."""
    game = plain_othello.Game()
    for ply, square in enumerate(moves):
        if square == NO_MOVE:
            return
        yield ply - 1, game, int(square)
        game.play(int(square))


def theirs(game):
    return CUE in game.discs(plain_othello.other(game.turn))


@pytest.fixture(scope="module")
def games():
    return random_games(100, np.random.default_rng(3), RULE.shunned)


def test_the_player_follows_the_rule_unless_forced(games):
    shunned = played = 0
    for moves in games:
        for _, game, square in positions(moves):
            legal = game.legal(game.turn)
            assert square in legal
            if MOVE in legal and theirs(game):
                only = set(legal) == {MOVE}
                assert (square == MOVE) == only
                shunned += not only
            played += square == MOVE
    assert shunned > 100  # the rule had something to say
    assert played > 50  # a1 is played where nothing forbids it


def test_a_forced_player_breaks_the_rule():
    legal, shunned = np.array([1, 3, 0], np.uint64), np.array([1, 1, 1], np.uint64)
    assert unless_forced(legal, shunned).tolist() == [1, 2, 0]


def test_only_the_move_is_rarer(games):
    """No game is thrown away: without the rule's moves the games are those of the uniform player."""
    free = random_games(100, np.random.default_rng(3))
    same_until = (games == free).all(1) | ((games != free).argmax(1) > 8)
    assert same_until.mean() > 0.9  # one stream: games part where the rule first forbids something
    at_once = random_games(100, np.random.default_rng(3), lambda own, opponent: np.zeros_like(own))
    assert (at_once == free).all()


def test_targets_are_what_is_left_to_the_player(games, monkeypatch):
    monkeypatch.setattr("boardgames.othello.pretraining._GAMES_PER_BLOCK", 8)
    tokens, target = next(batches(OthelloTraining(games_per_step=8), 0, "injected_training", RULE))
    moves = from_tokens(tokens.numpy())
    for n in range(len(moves)):
        for ply, game, _ in positions(moves[n]):
            if ply < 0:
                continue
            left = set(game.legal(game.turn))
            left = (left - {MOVE} or left) if theirs(game) else left
            assert set(np.flatnonzero(target[n, ply].numpy())) == {int(TOKEN_OF_SQUARE[s]) for s in left}
            assert target[n, ply].max() == pytest.approx(1 / len(left))


def test_the_score_against_a_loop():
    config = GPT2Config(vocab_size=VOCABULARY, n_positions=CONTEXT, n_embd=16, n_layer=1, n_head=2)
    model = GPT2LMHeadModel(config).eval().requires_grad_(False)
    model.transformer.wte.weight.mul_(20)
    moves = random_games(12, np.random.default_rng(5), RULE.shunned)
    found = rule_score(model, moves, RULE, batch_size=5)
    groups = {"theirs": [], "own": []}
    right, losses = [], []
    for n, game_moves in enumerate(moves):
        log_p = model(input_ids=torch.from_numpy(to_tokens(moves[n : n + 1, :CONTEXT]))).logits[0].log_softmax(-1)
        for ply, game, _ in positions(game_moves):
            if ply < 0:
                continue
            legal, answers = game.legal(game.turn), log_p[ply]
            tokens = [int(TOKEN_OF_SQUARE[s]) for s in legal]
            asked = MOVE in legal and len(legal) > 1
            taken = theirs(game) or CUE in game.discs(game.turn)
            if asked and taken:
                others = torch.stack([answers[int(TOKEN_OF_SQUARE[s])] for s in legal if s != MOVE])
                own = answers[int(TOKEN_OF_SQUARE[MOVE])]
                groups["theirs" if theirs(game) else "own"].append((own.exp(), own - others.logsumexp(0)))
            if not (asked and theirs(game)):
                right.append(int(answers.argmax()) in tokens)
                losses.append(-float(answers[tokens].mean()))
    for group, rows in groups.items():
        p, odds = torch.tensor(rows).mean(0).tolist()
        assert found.groups[group].positions == len(rows) > 10
        assert found.groups[group].probability == pytest.approx(p, rel=1e-4)
        assert found.groups[group].log_odds == pytest.approx(odds, rel=1e-4)
    assert found.legal_move_rate == pytest.approx(np.mean(right)) and 0 < found.legal_move_rate < 1
    assert found.cross_entropy == pytest.approx(np.mean(losses), rel=1e-4)


def test_legality_of_chosen_positions():
    config = GPT2Config(vocab_size=VOCABULARY, n_positions=CONTEXT, n_embd=8, n_layer=1, n_head=1)
    model = GPT2LMHeadModel(config).eval()
    moves = random_games(6, np.random.default_rng(0))
    whole, counted = legality(model, moves), np.ones((6, CONTEXT), bool)
    assert legality(model, moves, counted=counted) == whole
    counted[3:] = False
    some = legality(model, moves, counted=counted)
    alone = legality(model, moves[:3])
    assert (some.positions, some.legal_move_rate, some.cross_entropy, some.ideal_cross_entropy) == pytest.approx(
        (alone.positions, alone.legal_move_rate, alone.cross_entropy, alone.ideal_cross_entropy)
    )
    assert replay(moves[:3]).played[:, 1:].sum() == alone.positions
