"""Labelled games, what stands beside dictionaries, and the scoreboard, on a model that tells its input."""

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from boardgames.baselines import principal_components, random_dictionary, signed_neurons
from boardgames.chess.transcript import VOCABULARY
from boardgames.game_scoreboard import GameScoreboard
from boardgames.labelled import LabelledError, groups_of, label_chess, label_othello
from boardgames.othello.rules import random_games, replay
from boardgames.othello.transcript import CONTEXT
from boardgames.scoreboard import encode_rows, harvest_rows
from saes.dictionary import IdentityDictionary
from saes.families import find_site
from saes.sites import Site

SITE = Site("resid_0", "x")
GAMES = ["1.e4 e5 2.Nf3 Nc6 3.Bb5 a6", "1.d4 d5 2.c4 dxc4", "1.e4 c5 2.Nf3 d6 3.d4 cxd4 4.Nxd4"]


def test_rows_of_othello_are_the_played_positions_that_are_kept():
    moves = random_games(5, np.random.default_rng(0))
    groups = groups_of("othello")
    everything = label_othello(moves, groups)
    keep = np.random.default_rng(1).random((5, CONTEXT)) < 0.5
    some = label_othello(moves, groups, keep)
    assert np.array_equal(some.mask.numpy(), everything.mask.numpy() & keep)
    assert np.array_equal(some.labels.matrix, everything.labels.matrix[keep[everything.mask.numpy()]])
    assert list(some.groups) == ["board", "empty", "legal", "flipped", "last move"]
    assert some.groups["board"] == 128 and sum(some.groups.values()) == some.labels.matrix.shape[1]
    legal = some.labels.matrix[:, [c.startswith("legal") for c in some.labels.columns]].sum(1)
    counts = replay(moves).legal[:, :CONTEXT][some.mask.numpy()]
    assert legal.tolist() == [int(n).bit_count() for n in counts]


def test_rows_of_chess_are_dots_moves_or_characters():
    groups = groups_of("chess")
    dots = label_chess(GAMES, groups)
    assert [VOCABULARY[i] for i in dots.tokens[dots.mask].tolist()] == ["."] * 9
    assert dots.labels.game.tolist() == [0, 0, 0, 1, 1, 2, 2, 2, 2] and len(groups) == 15
    moves = label_chess(GAMES, groups, "moves")
    assert {VOCABULARY[i] for i in moves.tokens[moves.mask].tolist()} == {" "}
    assert label_chess(GAMES, groups, "characters").mask.sum() == sum(len(g) + 1 for g in GAMES)
    keep = np.ones(dots.mask.shape, bool)
    keep[1] = False
    assert set(label_chess(GAMES, groups, keep=keep).labels.game.tolist()) == {0, 2}


def test_groups_that_do_not_exist_are_refused():
    with pytest.raises(LabelledError, match="no property of chess is called 'unicorn'"):
        groups_of("chess", more=["unicorn"])
    with pytest.raises(LabelledError, match="labels is by_next: chess has"):
        groups_of("chess", "by_next")
    assert groups_of("othello", "paper").keys() == {"board", "legal"}


def test_principal_components_of_both_signs_reconstruct():
    x = torch.randn(500, 6, generator=torch.Generator().manual_seed(0)) * torch.tensor([9.0, 5, 3, 2, 1, 0.5]) + 7
    basis = principal_components(SITE, x, 100)
    assert basis.features == 12 and torch.allclose(basis.reconstruct(x), x, atol=1e-4)
    f = basis.encode(x)
    assert (f >= 0).all() and not ((f[:, :6] > 0) & (f[:, 6:] > 0)).any()
    variances = (f[:, :6] - f[:, 6:]).var(0)
    assert (variances.diff() < 0).all() and variances.sum() == pytest.approx(float(x.var(0).sum()), rel=1e-4)
    assert principal_components(SITE, x, 5).features == 4


def test_neurons_of_both_signs_are_the_loudest():
    x = torch.randn(400, 5, generator=torch.Generator().manual_seed(1)) * torch.tensor([1.0, 4, 2, 8, 0.1])
    f = signed_neurons(SITE, x, 4).encode(x)
    assert torch.equal(f, torch.cat([x[:, [1, 3]], -x[:, [1, 3]]], 1).relu())


def test_a_random_dictionary_has_the_l0_that_is_asked_for():
    x = torch.randn(300, 8, generator=torch.Generator().manual_seed(2)) + 3
    dictionary = random_dictionary(SITE, x, 64, 9.4)
    assert dictionary.features == 64 and ((dictionary.encode(x) > 0).sum(1) == 9).all()
    assert not any(p.requires_grad for p in dictionary.parameters())


@pytest.fixture(scope="module")
def board():
    """Two splits of Othello as seen by a model whose embedding holds the token in one coordinate."""
    model = GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=61, n_positions=CONTEXT))
    model.eval().requires_grad_(False)
    torch.manual_seed(0)
    model.transformer.wte.weight.normal_()
    groups = groups_of("othello")
    splits = [label_othello(random_games(30, np.random.default_rng(s)), groups) for s in range(2)]
    sites = [find_site(model, "embed"), find_site(model, "mlp_hidden_0")]
    return GameScoreboard(model, sites, *splits, resampled=20), model, sites


def test_activations_are_those_of_single_games(board):
    _, model, (site, _) = board
    games = label_othello(random_games(3, np.random.default_rng(5)), groups_of("othello"))
    together = harvest_rows(model, [site], games.tokens, [games.mask], batch_rows=2)[0][site]
    alone = [harvest_rows(model, [site], games.tokens[n : n + 1], [games.mask[n : n + 1]])[0][site] for n in range(3)]
    assert torch.allclose(together, torch.cat(alone), atol=1e-6)


def test_what_is_planted_is_found_and_drawn(board):
    scoreboard, _, (site, _) = board

    class Planted(IdentityDictionary):
        """Fires where the last move was on a square, which the embedding of the token tells."""

        def encode(self, x):
            same = torch.cdist(x, centres).argmin(1)
            return torch.nn.functional.one_hot(same, len(centres)).float()

    last = scoreboard.referee.selection.columns("last move")
    known = scoreboard.selection.activations[site]
    labels = torch.from_numpy(scoreboard.selection.rows.labels.matrix[:, last])
    playable = labels.any(0)
    # a token at one place has one embedding, so that the rows of a square share all but the position's part
    centres = torch.stack([known[labels[:, p]].mean(0) for p in playable.nonzero()[:, 0]])
    dictionary = Planted(site, 8)
    dictionary.W_dec = torch.zeros(len(centres), 8)
    scores = scoreboard.score(dictionary)
    assert scores["last move"].coverage.score > 0.9 > 0.6 > scores["legal"].coverage.score
    drawn = scoreboard.drawn(scoreboard.features(dictionary), scores["last move"], count=4)
    assert len(drawn.best) == 4 and len({d.feature for d in drawn.best}) == 4
    for each in drawn.best:
        assert each.board.argmax() == "abcdefgh".index(each.property[-2]) * 8 + int(each.property[-1]) - 1
        assert each.board.max() > 0.9
    nested = drawn.squares
    assert nested.shape == (1, 64, 64)
    centre = [27, 28, 35, 36]
    assert np.isnan(nested[0, centre]).all(), "no move is ever made to the four squares that are full at the start"
    others = np.delete(np.arange(64), centre)
    assert (np.nanargmax(nested[0, others], 1) == others).mean() > 0.95


def test_the_scoreboard_scores_as_the_referee_does(board):
    scoreboard, _, (site, neurons) = board
    dictionary = IdentityDictionary(neurons, 32)
    found = scoreboard.score(dictionary)
    both = [encode_rows(dictionary, half.activations[neurons]) for half in (scoreboard.selection, scoreboard.scoring)]
    again = scoreboard.referee.score(*both)
    assert {n: s.to_json() for n, s in found.items()} == {n: s.to_json() for n, s in again.items()}
    beside = scoreboard.baselines(site, neurons, 24, 5.0)
    assert [next(iter(s.values())).feature.max() < 24 for s in beside.values()] == [True] * 3
    probe = scoreboard.probe(site)
    assert probe["last move"].coverage.score > probe["board"].always_on
    with pytest.raises(ValueError, match="width 8, the dictionary 9"):
        encode_rows(IdentityDictionary(site, 9), scoreboard.scoring.activations[site])
