"""Legality of chess models: a model whose every probability is known, and one sequence at a time as the reference."""

import itertools

import chess
import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from boardgames.chess.legality import (
    LONGEST_MOVE,
    MoveStart,
    greedy_moves,
    legality,
    move_log_probabilities,
    move_starts,
    sample_positions,
)
from boardgames.chess.positions import IllegalMoveError
from boardgames.chess.transcript import CONTEXT, VOCABULARY, TranscriptError, encode
from boardgames.legality import ratio

GAMES = [
    "1.e4 e5 2.Nf3 Nc6 3.Bb5 a6 4.Bxc6 dxc6 5.O-O f6",
    "1.d4 d5 2.c4 e6 3.Nc3 Nf6 4.Bg5 Be7",
    "1.g4 e5 2.f3 Qh4#",
    "1.e4 d5 2.exd5 e6 3.dxe6 Bd6 4.exf7+ Kf8 5.fxg8=Q+ Kxg8 6.Nf3 Nc6 ",
]


def bigram(chances: np.ndarray) -> GPT2LMHeadModel:
    """A GPT-2 that gives chances[a, b] to b behind a, whatever stands before: its one block writes nothing."""
    n = len(VOCABULARY)
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=n, n_positions=CONTEXT, n_embd=n, n_layer=1, n_head=2, tie_word_embeddings=False)
    )
    model.config.eos_token_id = model.config.bos_token_id = None
    for weight in model.parameters():
        weight.data.zero_()
    model.transformer.wte.weight.data.copy_(torch.eye(n))
    spread = float(np.sqrt((1 - 1 / n) / n + model.config.layer_norm_epsilon))  # of a one-hot vector
    model.transformer.ln_f.weight.data.fill_(spread)
    model.transformer.ln_f.bias.data.fill_(1 / n)  # the final norm gives the one-hot vector back
    model.lm_head.weight.data.copy_(torch.from_numpy(np.log(chances)).float().T)
    return model.eval().requires_grad_(False)


def follower(**after: str) -> GPT2LMHeadModel:
    """A bigram model that is nearly sure of one character behind each of the named ones."""
    chances = np.full((len(VOCABULARY), len(VOCABULARY)), 1e-6)
    names = {"dot": ".", "space": " ", "plus": "+", "four": "4"}
    for before, behind in after.items():
        chances[VOCABULARY.index(names.get(before, before)), VOCABULARY.index(behind)] = 1
    return bigram(chances / chances.sum(1, keepdims=True))


@pytest.fixture(scope="module")
def deep():
    """Two random layers that attend to everything, with probabilities far from uniform."""
    torch.manual_seed(3)
    config = GPT2Config(
        vocab_size=len(VOCABULARY), n_positions=CONTEXT, n_embd=32, n_layer=2, n_head=4, initializer_range=0.4
    )
    return GPT2LMHeadModel(config).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def positions():
    return sample_positions(GAMES, 1000)


def slow_log_p(model, text: str, move: str) -> float:
    """log P(move | text) from one sequence, without cache or mask."""
    ids = torch.from_numpy(encode([text + move], len(text + move)))
    log_p = model(input_ids=ids, use_cache=False).logits.double().log_softmax(-1)[0]
    return sum(float(log_p[i - 1, ids[0, i]]) for i in range(len(text), len(text + move)))


def test_moves_start_where_they_start():
    for game in GAMES:
        words = [w.split(".")[-1] for w in game.split()]
        starts = move_starts(";" + game)
        assert len(starts) == len(words)
        assert all((";" + game)[s:].startswith(w) for s, w in zip(starts, words, strict=True))
    assert move_starts(";") == [] and move_starts(";1.") == [] and move_starts(";1.e4 ") == [3]


def test_a_sampled_position_is_the_board_before_a_move(positions):
    played = [(g, w.split(".")[-1]) for g, game in enumerate(GAMES) for w in game.split()]
    assert len(positions) == len(played)
    board = chess.Board()
    for position, (game, move) in zip(positions, played, strict=True):
        if position.ply == 0:
            board = chess.Board()
        assert position.game == game and position.board.fen() == board.fen()
        assert sorted(position.legal) == sorted({board.san(m) for m in board.legal_moves})
        assert (";" + GAMES[game]).startswith(position.text + move) and move in position.legal
        board.push_san(move)


def test_sampling_is_by_seed_without_repeats_and_even_over_positions(positions):
    def keys(count, seed):
        return [(p.game, p.ply) for p in sample_positions(GAMES, count, seed)]

    assert keys(9, 1) == keys(9, 1) != keys(9, 2)
    assert len(set(keys(9, 1))) == 9 and keys(9, 1) == sorted(keys(9, 1))
    drawn = list(itertools.chain.from_iterable(keys(8, seed) for seed in range(120)))
    expected = 120 * 8 / len(positions)
    counts = [drawn.count((p.game, p.ply)) for p in positions]
    assert abs(np.array(counts) - expected).max() < 5 * expected**0.5


def test_late_positions_are_left_out_where_a_move_could_not_be_read():
    long = " ".join(f"{n}.Nf3 Nf6 {n + 1}.Ng1 Ng8" for n in range(1, 60, 2))
    found = sample_positions([long], 1000)
    assert max(len(p.text) for p in found) + LONGEST_MOVE in (CONTEXT - 1, CONTEXT - 2, CONTEXT - 3, CONTEXT - 4)
    assert all(len(p.text) + LONGEST_MOVE < CONTEXT for p in found)


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_the_tree_gives_what_one_sequence_at_a_time_gives(deep, positions, batch_size):
    chosen = positions[::4]
    for position, found in zip(chosen, move_log_probabilities(deep, chosen, batch_size), strict=True):
        slow = [slow_log_p(deep, position.text, move + " ") for move in position.legal]
        np.testing.assert_allclose(found, slow, rtol=0, atol=2e-4)


def test_moves_that_begin_alike_and_promotions_are_told_apart(deep):
    board = chess.Board("1n6/P5k1/8/8/8/8/8/R3K2R w KQ - 0 1")
    position = MoveStart(0, 0, ";1.", board, tuple(map(board.san, board.legal_moves)))
    assert {"a8=Q", "a8=N", "axb8=Q", "O-O", "O-O-O", "Ra2"} <= set(position.legal)
    (found,) = move_log_probabilities(deep, [position])
    np.testing.assert_allclose(found, [slow_log_p(deep, ";1.", m + " ") for m in position.legal], rtol=0, atol=2e-4)


def test_the_mass_of_a_model_with_known_chances(positions):
    chances = np.random.default_rng(0).dirichlet(np.full(len(VOCABULARY), 0.3), len(VOCABULARY)).clip(1e-5)
    chances /= chances.sum(1, keepdims=True)
    expected = []
    for p in positions:
        texts = [p.text[-1] + move + " " for move in p.legal]
        pairs = [[(VOCABULARY.index(a), VOCABULARY.index(b)) for a, b in itertools.pairwise(t)] for t in texts]
        expected.append(sum(np.prod([chances[pair] for pair in chain]) for chain in pairs))
    score = legality(bigram(chances), GAMES)
    assert score.legal_mass == pytest.approx(np.mean(expected), rel=1e-4)
    assert (score.games, score.positions, sum(score.positions_by_ply)) == (len(GAMES), len(positions), len(positions))


def test_greedy_moves_are_the_argmax_of_one_sequence_at_a_time(deep, positions):
    for position, move in zip(positions, greedy_moves(deep, [p.text for p in positions], 7), strict=True):
        text = position.text
        while len(text) < len(position.text) + LONGEST_MOVE + 1:
            ids = torch.from_numpy(encode([text], len(text)))
            text += VOCABULARY[int(deep(input_ids=ids).logits[0, -1].argmax())]
            if text.endswith(" "):
                break
        assert position.text + move == text


def test_greedy_rate_of_a_model_that_always_plays_e4(positions):
    score = legality(follower(dot="e", space="e", e="4", four=" "), GAMES)
    legal = ["e4" in p.legal for p in positions]
    assert 0 < sum(legal) < len(legal)
    assert score.legal_move_rate == score.accepted_move_rate == pytest.approx(np.mean(legal))
    for ply, (rate, count) in enumerate(zip(score.legal_move_rate_by_ply, score.positions_by_ply, strict=True)):
        here = [x for x, p in zip(legal, positions, strict=True) if p.ply == ply]
        assert count == len(here) and rate == (pytest.approx(np.mean(here)) if here else None)


def test_a_check_that_is_none_is_accepted_by_the_parser_but_not_the_text_of_a_move(positions):
    score = legality(follower(dot="e", space="e", e="4", four="+", plus=" "), GAMES)
    assert score.legal_move_rate == 0
    assert score.accepted_move_rate == pytest.approx(np.mean(["e4" in p.legal for p in positions]))


def test_a_move_without_end_is_illegal():
    model = follower(dot="a", space="a", a="a")
    assert greedy_moves(model, [";1."]) == ["a" * (LONGEST_MOVE + 1)]
    score = legality(model, GAMES)
    assert score.legal_move_rate == score.accepted_move_rate == 0


def test_cross_entropies_of_a_model_that_knows_nothing_and_of_one_that_does(deep):
    n = len(VOCABULARY)
    score = legality(bigram(np.full((n, n), 1 / n)), GAMES)
    assert score.cross_entropy_per_character == pytest.approx(np.log(n), rel=1e-5)
    assert score.cross_entropy_per_character_error == pytest.approx(0, abs=1e-6)
    whole = [w.split(".")[-1] for game in GAMES for w in game.split(" ")[:-1]]  # with the space behind it
    assert score.cross_entropy_per_move == pytest.approx(np.log(n) * np.mean([len(w) + 1 for w in whole]), rel=1e-5)
    score = legality(deep, GAMES, count=1, batch_size=3)
    nats = [-slow_log_p(deep, ";", game) for game in GAMES]
    assert score.cross_entropy_per_character == pytest.approx(sum(nats) / sum(map(len, GAMES)), rel=1e-4)
    moves = [
        -slow_log_p(deep, (";" + game)[:s], (";" + game)[s:].split(" ")[0] + " ")
        for game in GAMES
        for s in move_starts(";" + game)
        if " " in (";" + game)[s:]
    ]
    assert score.cross_entropy_per_move == pytest.approx(np.mean(moves), rel=1e-4)


def test_games_without_moves_or_with_illegal_ones_are_refused(deep):
    with pytest.raises(TranscriptError, match="hold no move to look at"):
        legality(deep, [])
    with pytest.raises(IllegalMoveError, match="game 1, ply 1: 'Ke7'"):
        legality(deep, [GAMES[0], "1.d4 Ke7 2.c4 e5"])


def test_the_standard_error_takes_games_to_be_independent():
    rng = np.random.default_rng(0)
    values = rng.random(50)
    ones = np.ones(50, int)
    assert ratio(values, ones) == pytest.approx((values.mean(), values.std(ddof=1) / 50**0.5))
    # the same position ten times in each game adds nothing
    assert ratio(10 * values, 10 * ones) == pytest.approx(ratio(values, ones))
    # games of no positions add nothing either
    assert ratio(np.append(values, 0), np.append(ones, 0)) == pytest.approx(ratio(values, ones))
    assert ratio(np.array([3.0]), np.array([4])) == (0.75, None) and ratio(np.zeros(2), np.zeros(2)) == (0.0, None)


def test_the_standard_error_is_the_spread_over_samples_of_games():
    rng = np.random.default_rng(1)
    estimates = []
    for _ in range(2000):
        counts = rng.integers(1, 20, 60)
        estimates.append(ratio(rng.binomial(counts, rng.beta(2, 1, 60)), counts))
    spread = np.std([e.value for e in estimates])
    assert np.mean([e.error for e in estimates]) == pytest.approx(spread, rel=0.1)
