"""What cards say, against slow counts over the same positions, and what they keep to themselves."""

import json

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from boardgames.matching import Match
from boardgames.othello.properties import CORRECTED, SQUARES
from boardgames.othello.rules import random_games
from boardgames.othello.transcript import TOKEN_OF_SQUARE
from boardgames.report import Positions
from saes.architectures import ReLUConfig, ReLUDictionary
from saes.families import find_site
from saes.harvest import harvest_features
from shift.board_cards import CHESS_SQUARES, ChessBoards, OthelloBoards
from shift.candidates import Candidate
from shift.card_facts import direct_logits, heat_maps, histogram, logit_effects, neighbours
from shift.cards import card_json, shown_json
from shift.feature_cards import FeatureCards
from shift.text_cards import TextContexts
from tests.saes.models_for_tests import tiny

FEATURES = [3, 0, 17]


@pytest.fixture(scope="module")
def othello():
    """A random model, a random dictionary, some games, and the activations of some features."""
    config = GPT2Config(
        vocab_size=61, n_positions=59, n_embd=16, n_layer=2, n_head=2, bos_token_id=None, eos_token_id=None
    )
    model = GPT2LMHeadModel(config).eval().requires_grad_(False)
    site = find_site(model, "resid_1")
    dictionary = ReLUDictionary(ReLUConfig(16, 24), [site]).requires_grad_(False)
    positions = Positions(random_games(6, np.random.default_rng(4)))
    dictionaries = {site: dictionary}
    mask = torch.from_numpy(positions.mask)
    acts = harvest_features(model, dictionaries, {site: torch.tensor(FEATURES)}, positions.tokens, mask)[site]
    return model, dictionaries, site, positions, acts


@pytest.fixture(scope="module")
def cards(othello):
    model, dictionaries, site, positions, _ = othello
    match = Match("mine f5", "f5", 0.9, 0.8, 0.7, 0, 0.1)
    candidates = [Candidate(site, f, -1.0) for f in FEATURES]
    return FeatureCards(
        model, dictionaries, candidates, OthelloBoards(positions), matches={("resid_1", 3): match}, quantiles=4
    )


def card_of(cards, othello, feature: int):
    return cards((Candidate(othello[2], feature, -1.0),))


def test_heat_maps_are_means_over_positions(othello, cards):
    *_, positions, acts = othello
    at = positions.replay.at(positions.mask)
    states = ("mine", "yours", "empty", "last move", "flipped")
    labels = {state: CORRECTED[state].labels(at) for state in states}
    labels["legal next"] = CORRECTED["legal"].labels(at)
    for place, feature in enumerate(FEATURES):
        heat = card_of(cards, othello, feature).facts.heat
        assert list(heat) == list(labels)
        for state, shown in heat.items():
            for square in range(0, 64, 7):
                there = acts[torch.from_numpy(labels[state][:, square]), place]
                expected = float(there.mean()) if len(there) >= 5 else None
                assert shown[square] == (None if expected is None else pytest.approx(expected, abs=1e-5))


def test_top_quantiles_and_random(othello, cards):
    acts = othello[-1]
    for place, feature in enumerate(FEATURES):
        card, values = card_of(cards, othello, feature), acts[:, place]
        firing = np.sort(values[values > 0].numpy())
        assert card.density == pytest.approx(len(firing) / len(values))
        shown = [s.activation for s in card.top]
        assert shown[0] == pytest.approx(firing[-1]) and shown == sorted(shown, reverse=True)
        looks = [(s.drawn["board"], s.drawn["last"]) for s in card.top]
        assert len(set(looks)) == len(looks) == 12
        assert [s.quantile for s in card.quantiles] == [0.875, 0.625, 0.375, 0.125]
        for s in card.quantiles:
            assert np.mean(firing < s.activation) == pytest.approx(s.quantile, abs=2 / len(firing))
        assert len(card.random) == 12
    first, second = (card_of(cards, othello, f) for f in FEATURES[:2])
    assert [s.text for s in first.random] == [s.text for s in second.random]  # drawn before anything was known


def test_boards_as_they_are_drawn(othello, cards):
    for showing in card_of(cards, othello, 3).random:
        signs = {"X": "mine", "O": "yours", ".": "empty"}
        assert {n: signs[s] for n, s in zip(SQUARES, showing.drawn["board"], strict=True)} == dict(showing.squares)
        last, flips = showing.drawn["last"], showing.drawn["flips"]
        assert all(showing.drawn["board"][square] == "X" for square in [last, *flips]) and len(flips) >= 1
        assert last not in flips


def test_histogram_counts_every_firing():
    values = torch.tensor([0.0, -1.0, 0.5, 1.0, 2.0, 2.0])
    found = histogram(values, 4)
    assert found.edges == (0.0, 0.5, 1.0, 1.5, 2.0) and found.counts == (0, 1, 1, 2)
    assert histogram(torch.zeros(3)).counts == ()


def test_heat_maps_do_not_depend_on_the_chunks():
    rng = np.random.default_rng(0)
    boards = rng.integers(0, 2**63, 9000, dtype=np.uint64)
    acts = torch.rand(9000, 2)
    (found, _) = heat_maps(acts, {"x": boards})
    for square in (0, 13, 62):
        there = (boards >> np.uint64(square) & np.uint64(1)).astype(bool)
        assert found["x"][square] == pytest.approx(float(acts[torch.from_numpy(there), 0].mean()), abs=1e-4)
    assert found["x"][63] is None


@pytest.mark.parametrize("family", ["gpt2", "neox parallel", "llama", "gemma2"])
def test_logit_effects_are_what_the_head_makes_of_the_direction(family):
    """Adding more and more of the direction to any stream, the logits come to those of the direction alone."""
    model = tiny(family).double()
    site = find_site(model, "resid_1")
    width = model.get_output_embeddings().in_features
    dictionary = ReLUDictionary(ReLUConfig(width, 8), [site]).double().requires_grad_(False)
    found = direct_logits(model, dictionary, [2])
    norm = [m for m in model.base_model.children() if getattr(getattr(m, "weight", None), "ndim", 0) == 1][-1]
    stream = torch.randn(width, dtype=torch.double) + 1e7 * dictionary.W_dec[2]
    logits = torch.nn.functional.linear(
        norm(stream) - norm(torch.zeros_like(stream)), model.get_output_embeddings().weight
    )
    assert torch.allclose(found[0].double(), logits - logits.mean(), atol=1e-4)


def test_no_logits_of_what_does_not_write_the_stream():
    model = tiny("gpt2")
    dictionary = ReLUDictionary(ReLUConfig(5, 8), [find_site(model, "resid_1")])
    assert direct_logits(model, dictionary, [0]) is None


def test_logit_effects_on_squares(othello, cards):
    model, dictionaries, site, *_ = othello
    logits = direct_logits(model, dictionaries[site], [3])[0]
    facts = card_of(cards, othello, 3).facts
    for square, value in enumerate(facts.logits.squares):
        token = int(TOKEN_OF_SQUARE[square])
        assert value == (None if token == 0 else pytest.approx(float(logits[token]), abs=1e-6))
    best = max((v, s) for s, v in enumerate(facts.logits.squares) if v is not None)
    assert facts.logits.top[0] == (SQUARES[best[1]], best[0])
    assert len(facts.logits.top) == len(facts.logits.bottom) == 8
    few = logit_effects(torch.tensor([1.0, 3.0, 2.0]), lambda t: "" if t == 0 else str(t))
    assert few.top == (("1", 3.0),) and few.bottom == (("2", 2.0),)


def test_neighbours(othello):
    rows = othello[1][othello[2]].W_dec
    (found,) = neighbours(othello[1][othello[2]], [5], {9: "mine c3"}, count=23)
    cosines = {f: float(torch.cosine_similarity(rows[5], rows[f], dim=0)) for f in range(24) if f != 5}
    assert [n.feature for n in found] == sorted(cosines, key=lambda f: -cosines[f])
    assert all(n.cosine == pytest.approx(cosines[n.feature], abs=1e-5) for n in found)
    assert {n.feature: n.match for n in found}[9] == "mine c3"


def test_plain_values(othello, cards):
    """All of it is JSON; the blind copy is without what would tell, and neither has what nobody knows."""
    whole = card_json(card_of(cards, othello, 3))
    assert json.loads(json.dumps(whole, allow_nan=False)) == whole
    assert whole["property"]["name"] == "mine f5" and whole["features"][0]["effect"] == -1.0
    assert {len(h["values"]) for h in whole["heat"]} == {64} and len(whole["logits"]["squares"]) == 64
    open_copy = shown_json({**whole, "role": "control", "extra": 1}, blind=False)
    assert open_copy == whole
    whole["features"][0]["note"] = "x"
    blind = shown_json(whole, blind=True)
    assert blind["property"] is None and blind["features"] == [{"site": "resid_1", "feature": 3}]
    assert all(n["property"] is None for n in blind["neighbours"])
    assert whole["property"] is not None  # the copy is one


def test_chess_boards():
    """Read back from the letters: the position that python-chess has."""
    chess = pytest.importorskip("chess")
    boards = ChessBoards([";1.e4 e5 2.Nf3 Nc6 3.Bb5 a6 "])
    board, values = chess.Board(), torch.arange(6.0)
    for row, move in enumerate(("e4", "e5", "Nf3", "Nc6", "Bb5", "a6")):
        played = board.parse_san(move)
        board.push(played)
        showing = boards.showing(row, values)
        letters = dict(zip(CHESS_SQUARES, showing.drawn["board"], strict=True))
        for square, letter in letters.items():
            piece = board.piece_at(chess.parse_square(square))
            assert letter == ("." if piece is None else piece.symbol())
            mine = piece is not None and piece.color == board.turn
            expected = "empty" if piece is None else f"{'my' if mine else 'their'} {piece.symbol().lower()}"
            assert showing.squares[square] == expected
        assert showing.drawn["last"] == played.to_square and showing.activation == row
        assert f"[{letters[chess.square_name(played.to_square)]}]" in showing.text
    heat = boards.heat(torch.ones(6, 1))[0]
    assert len(heat) == 14 and all(v is None or v == 1 for v in heat["their king"])
    assert heat["empty"][CHESS_SQUARES.index("e4")] is None and heat["empty"][CHESS_SQUARES.index("d5")] == 1


def test_text_contexts():
    tokens = torch.tensor([[5, 6, 7, 8], [9, 5, 6, 7]])
    mask = torch.tensor([[False, True, True, True], [True, True, True, False]])
    contexts = TextContexts(tokens, mask, lambda t: f" w{t}", window=1)
    values = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    first = contexts.showing(0, values)
    assert first.drawn == {"tokens": [" w5", " w6", " w7"], "activations": [0.0, 1.0, 2.0], "at": 1, "caption": ""}
    assert first.text == " w5[[ w6]] w7" and first.activation == 1.0 and first.squares == {}
    assert contexts.showing(3, values).drawn["at"] == 0
    assert contexts.showing(5, values).drawn["activations"] == [5.0, 6.0, 0.0]
    assert contexts.same(0) == contexts.same(5) != contexts.same(1)


def test_cards_of_text():
    model = tiny("llama")
    site = find_site(model, "resid_0")
    dictionary = ReLUDictionary(ReLUConfig(model.config.hidden_size, 8), [site]).requires_grad_(False)
    tokens = torch.randint(0, model.config.vocab_size, (5, 9))
    contexts = TextContexts(tokens, torch.ones_like(tokens, dtype=torch.bool), lambda t: f"<{t}>")
    candidate = Candidate(site, 2, 0.5)
    card = FeatureCards(model, {site: dictionary}, [candidate], contexts)((candidate,))
    acts = harvest_features(model, {site: dictionary}, {site: torch.tensor([2])}, tokens, contexts.mask)[site]
    assert card.top[0].activation == pytest.approx(float(acts.max()))
    row, at = divmod(int(acts[:, 0].argmax()), 9)
    assert card.top[0].drawn["at"] == at and card.top[0].drawn["tokens"] == [f"<{t}>" for t in tokens[row].tolist()]
    assert card.facts.heat == {} and card.facts.logits.squares == ()
    assert card_json(card)["kind"] == "text" and "[[" in card.text()
