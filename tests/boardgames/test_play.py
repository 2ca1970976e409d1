"""Games of engines (small ones written here) and of models, and skill as a label."""

import sys
from itertools import islice

import numpy as np
import pytest
import torch

from boardgames.chess.legal import is_over, legal_part
from boardgames.chess.play import Engine, EngineError, engine_games, softmax
from boardgames.chess.positions import positions
from boardgames.chess.pretraining import ChessTraining, chess_gpt
from boardgames.chess.skill import skill_edges, skill_labels
from boardgames.chess.transcript import encode
from boardgames.model_play import PlayError, chess_model_games, draw, othello_model_games
from boardgames.othello.pretraining import OthelloTraining, othello_gpt
from boardgames.othello.rules import NO_MOVE, replay, replay_while_legal
from boardgames.othello.transcript import to_tokens
from boardgames.skipped import Skipped

UCI = """#!{python}
import sys
import chess
board, several, moves = chess.Board(), 1, 0
for line in sys.stdin:
    words = line.split()
    if words[0] == "uci":
        if {multipv}:
            print("option name MultiPV type spin default 1 min 1 max 99")
        print("uciok")
    elif words[0] == "isready":
        print("readyok")
    elif words[:3] == ["setoption", "name", "MultiPV"]:
        several = int(words[-1])
    elif words[0] == "position":
        board = chess.Board()
        for move in words[words.index("moves") + 1:] if "moves" in words else []:
            board.push_uci(move)
    elif words[0] == "go":
        moves += 1
        if moves > {lives}:
            sys.exit(3)
        best = sorted(m.uci() for m in board.legal_moves)[:several]
        for n, move in enumerate(best, 1):
            print(f"info depth 1 multipv {{n}} score cp {{300 - 50 * n}} nodes 9 pv {{move}}")
        print("bestmove", best[0])
    elif words[0] == "quit":
        break
    sys.stdout.flush()
"""


def uci(path, multipv=True, lives=10**9):
    """An engine that likes moves in the order of the alphabet, each by half a pawn less than the one before."""
    path.write_text(UCI.format(python=sys.executable, multipv=multipv, lives=lives))
    path.chmod(0o755)
    return str(path)


def test_an_engine_plays_its_best_move_or_draws_by_its_scores(tmp_path):
    command = uci(tmp_path / "engine")
    (best,) = islice(engine_games(Engine(command, temperature=0), 0, plies=6), 1)
    assert best.transcript == "1.a3 a5 2.Ra2 a4 3.Ra1 Ra5", "the first of the alphabet: a2a3 a7a5 a1a2 a5a4 a2a1 a8a5"
    engine = Engine(command, temperature=0.5, choices=2)
    games = list(islice(engine_games(engine, 1, plies=2), 150))
    share = np.mean([g.transcript.startswith("1.a3") for g in games])
    expected = 1 / (1 + np.exp(-1))  # half a pawn at a temperature of half a pawn
    assert abs(share - expected) < 4 * np.sqrt(expected * (1 - expected) / 150)
    assert {g.transcript.split()[0] for g in games} == {"1.a3", "1.a4"}
    assert list(islice(engine_games(engine, 1, plies=2), 5)) == games[:5]
    assert list(islice(engine_games(engine, 1, plies=2, start=3), 2)) == games[3:5]


def test_engines_that_fail_say_how(tmp_path):
    with pytest.raises(EngineError, match="no such program"):
        next(engine_games(Engine("no-such-engine"), 0))
    with pytest.raises(EngineError, match="has no option MultiPV.*--temperature 0"):
        next(engine_games(Engine(uci(tmp_path / "one", multipv=False)), 0))
    with pytest.raises(EngineError, match="died"):
        next(engine_games(Engine(uci(tmp_path / "mortal", lives=3)), 0))
    (tmp_path / "broken").write_text("#!/nowhere/at/all\n")
    (tmp_path / "broken").chmod(0o755)
    with pytest.raises(EngineError, match="cannot be run"):
        next(engine_games(Engine(str(tmp_path / "broken")), 0))
    for wrong in ({"temperature": -1.0}, {"nodes": 0}, {"choices": 0}, {"temperature": float("nan")}):
        with pytest.raises(EngineError, match="choose"):
            Engine(**wrong)


def test_softmax_of_scores():
    assert softmax([1.0, 3.0, 3.0], 0).tolist() == [0, 1, 0]
    p = softmax([0.0, 1.0, -900.0], 0.25)
    assert p[1] / p[0] == pytest.approx(np.exp(4)) and p.sum() == pytest.approx(1) and p[2] == 0


def test_drawn_tokens_follow_the_odds():
    logits, rng = np.log(np.array([[0.1, 0.2, 0.3, 0.4]])).repeat(20_000, 0), np.random.default_rng(0)
    allowed = np.ones_like(logits, bool)
    allowed[:, 3] = False
    counts = np.bincount(draw(logits, rng.random(20_000), 0.5, allowed), minlength=4) / 20_000
    assert np.allclose(counts, np.array([1, 4, 9, 0]) / 14, atol=0.015)
    assert (draw(logits, rng.random(20_000), 0, allowed) == 2).all()
    edges = np.array([0.0, 1 - 2**-53])
    assert draw(logits[:2], edges, 1, allowed[:2]).tolist() == [0, 2], "not even the last random number leaves the rest"


@pytest.fixture(scope="module")
def othello_model():
    return othello_gpt(OthelloTraining(layers=1, width=32, heads=2, seed=1)).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def chess_model():
    """One that has learnt a few openings by heart."""
    config = ChessTraining(layers=1, width=32, heads=2, seed=1)
    model = chess_gpt(config)
    games = ["1.e4 e5 2.Nf3 Nc6 3.Bb5 a6", "1.d4 d5 2.c4 e6 3.Nc3 Nf6", "1.g4 e5 2.f3 Qh4# 3.a3 a6"]
    ids = torch.from_numpy(encode(games, 30))
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(150):
        loss = torch.nn.functional.cross_entropy(
            model(input_ids=ids).logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model.eval().requires_grad_(False)


def test_masked_games_are_legal_whole_and_follow_from_the_seed(othello_model):
    games = next(othello_model_games(othello_model, 0, batch=16))
    played = replay(games.moves)
    assert (np.where(played.played, played.next_mover, 9)[:, -1] % 9 == 0).all()
    last = played.played.sum(1) - 1
    assert (played.next_mover[np.arange(16), last] == 0).all(), "every game is played to its end"
    stream = othello_model_games(othello_model, 0, batch=8)
    twice = np.concatenate([next(stream).moves, next(stream).moves])
    assert np.array_equal(twice, games.moves), "neither the batch nor the call decides, the number of the game does"
    assert not np.array_equal(next(othello_model_games(othello_model, 1, batch=16)).moves, games.moves)


def test_samples_follow_the_models_own_probabilities_without_a_cache(othello_model):
    """Second plies, after c4: shares against one forward pass without a cache."""
    games = next(othello_model_games(othello_model, 5, 0.7, batch=700)).moves
    chosen = games[games[:, 0] == 19][:, 1]
    logits = othello_model(input_ids=torch.tensor([[20]]), use_cache=False).logits[0, -1].double()
    legal = np.unique(chosen)
    assert len(legal) == 3
    odds = torch.exp(logits[to_tokens(legal[None])[0]] / 0.7)
    expected = (odds / odds.sum()).numpy()
    shares = np.array([(chosen == s).mean() for s in legal])
    assert (np.abs(shares - expected) < 4.5 * np.sqrt(expected * (1 - expected) / len(chosen))).all()


def test_a_greedy_masked_game_is_that_of_full_passes(othello_model):
    game = next(othello_model_games(othello_model, 3, 0, batch=3)).moves[0]
    tokens = to_tokens(game[None])[0]
    boards = replay(game[None]).legal[0]
    for ply in range(1, 59):
        logits = othello_model(input_ids=torch.from_numpy(tokens[None, :ply]), use_cache=False).logits[0, -1]
        legal = np.array([s for s in range(64) if int(boards[ply - 1]) >> s & 1], np.uint8)
        ids = to_tokens(legal[None])[0]
        assert tokens[ply] == ids[logits[ids].argmax()]


def test_games_are_cut_or_dropped_at_illegal_moves(othello_model):
    skipped = Skipped()
    cut = next(othello_model_games(othello_model, 0, illegal="cut", skipped=skipped, batch=50))
    assert (replay_while_legal(cut.moves)[1] == 60).all() and len(cut) == 50
    assert 0 < skipped.counts["cut before an illegal move"] <= 50
    assert ((cut.moves != NO_MOVE).sum(1) < 60).sum() >= skipped.counts["cut before an illegal move"]
    with pytest.raises(PlayError, match="none of the model's last"):
        for _ in othello_model_games(othello_model, 0, illegal="drop", batch=200):
            pass


def test_chess_is_cut_at_illegal_moves_and_ends_with_mate(chess_model):
    skipped = Skipped()
    games = list(islice(chess_model_games(chess_model, 0, 1.5, skipped=skipped, batch=64, context=30), 64))
    texts = [g.transcript for g in games]
    assert all(legal_part(t)[1] is None and len(t) < 30 for t in texts)
    assert "1.g4 e5 2.f3 Qh4#" in texts and is_over("1.g4 e5 2.f3 Qh4#")
    assert any(t.startswith("1.e4 e5 2.Nf3 Nc6 3.Bb5") for t in texts) and skipped.counts["cut before an illegal move"]
    assert "game" in skipped.sentence() and "ply" in skipped.sentence()
    again = list(islice(chess_model_games(chess_model, 0, 1.5, batch=16, context=30), 20))
    assert again == games[:20]
    dropped = list(islice(chess_model_games(chess_model, 0, 1.5, "drop", batch=64, context=30), 20))
    assert {g.number for g in dropped} < {g.number for g in games} and set(dropped) <= set(games)


def test_models_that_cannot_play_are_refused(othello_model, chess_model):
    with pytest.raises(PlayError, match="61 tokens does not play this game, which has 32"):
        next(chess_model_games(othello_model, 0))
    with pytest.raises(PlayError, match="cannot be masked"):
        next(chess_model_games(chess_model, 0, illegal="mask"))
    with pytest.raises(PlayError, match="temperature is -1"):
        next(othello_model_games(othello_model, 0, -1))
    untrained = chess_gpt(ChessTraining(layers=1, width=16, heads=2)).eval()
    with pytest.raises(PlayError, match="does not know this game"):
        next(chess_model_games(untrained, 0, context=12))


def test_skill_is_the_sixth_that_a_rating_falls_in():
    games = ["1.e4 e5 2.Nf3 Nc6 3.Bb5"] * 13
    ratings = np.array([*range(1000, 2200, 100), np.nan])
    rows = positions(games)
    edges = skill_edges(ratings)
    labels, kept = skill_labels(rows, ratings, edges)
    assert labels.columns == tuple(f"skill {n}" for n in range(6))
    assert (labels.matrix.sum(1) == 1).all() and len(labels.matrix) == kept.sum() == 12 * 3
    for row, game in zip(labels.matrix, labels.game, strict=True):
        assert row.argmax() == game // 2, "twelve games by rating, two in each of six bins"
    late, mask = skill_labels(rows, ratings, edges, from_dot=3)
    assert set(late.ply.tolist()) == {4} and len(late.ply) == 12 and np.array_equal(rows.ply[mask], late.ply)
    on_edge, _ = skill_labels(rows, np.full(13, edges[2]), edges)
    assert on_edge.matrix[:, 3].all()
    with pytest.raises(ValueError, match="5 games with a rating"):
        skill_edges(ratings[:5])
    with pytest.raises(ValueError, match="2 ratings, but there is a game 12"):
        skill_labels(rows, ratings[:2], edges)
