"""Board tasks hold what their specs say: labels and cells by slow rules, new games and boards, verdicts that decide."""

from dataclasses import replace

import chess
import pytest
import torch

from boardgames.chess import play
from boardgames.chess.transcript import VOCABULARY
from boardgames.game_files import write_chess
from boardgames.othello.rules import square_index
from boardgames.othello.transcript import PAD, from_tokens
from saes.sites import Site
from shift.judgements import Judgement, JudgementLog
from shift.specs import BoardTaskSpec, SpecError
from shift.tasks.board import board_task
from shift.tasks.draws import CELLS, DrawError, Drawn, collect
from tests.boardgames import plain_othello

SITE = Site("resid_1", "transformer.h.1")
PAIR = BoardTaskSpec("mine c3", "mine f5", ("occupied c3", "occupied f5"), train=24, test=8, cell=4)
LEGAL = BoardTaskSpec("legal b4", "mine f5", ("empty b4", "occupied f5"), train=16, test=8, cell=3, plies=(12, 30))


def frozen(path, task, *verdicts):
    log = JudgementLog(path, task.name)
    for feature, verdict in enumerate(verdicts):
        log.add(Judgement("resid_1", feature, 0.5, verdict, "", "me"))
    return log.freeze()


def opened(task, path):
    splits = task.balanced.open(frozen(path, task), "test")
    return (splits.train, splits.test)


def othello_facts(tokens, position):
    """(answers by name, the board with the sides) after the last move of one prompt, by the slow rules."""
    game, mover = plain_othello.Game(), None
    for square in from_tokens(tokens[None, : position + 1].numpy())[0]:
        mover = game.turn
        game.play(int(square))
    c3, f5, b4 = (square_index(s) for s in ("c3", "f5", "b4"))
    mine = game.discs(mover)
    taken = mine + game.discs(plain_othello.other(mover))
    answers = {"mine c3": c3 in mine, "mine f5": f5 in mine, "occupied c3": c3 in taken, "occupied f5": f5 in taken}
    answers |= {"legal b4": b4 in game.legal(game.turn), "empty b4": b4 not in taken}
    return answers, (str(game.board), mover, game.turn)


@pytest.mark.parametrize("spec", [PAIR, LEGAL], ids=["pair", "legal"])
def test_othello_sets_against_the_slow_rules(spec, tmp_path):
    task = board_task(spec, SITE)
    boards, games = [], []
    balanced = opened(task, tmp_path / "j.jsonl")
    for data in balanced:
        assert [int(((data.intended == a) & (data.spurious == b)).sum()) for a, b in CELLS] == [spec.cell] * 4
    assert (len(task.train.label), len(task.test.label)) == (spec.train, spec.test)
    assert 2 * int(task.train.label.sum() + task.test.label.sum()) == spec.train + spec.test
    for data in (task.train, task.test, *balanced):
        assert (data.tokens.sum(1) > 0).all()
        for i in range(len(data.position)):
            position = int(data.position[i])
            assert spec.plies[0] <= position <= spec.plies[1]
            assert (data.tokens[i, : position + 1] != PAD).all() and (data.tokens[i, position + 1 :] == PAD).all()
            answers, board = othello_facts(data.tokens[i], position)
            assert all(answers[name] for name in spec.filters)
            if hasattr(data, "label"):
                assert answers[spec.intended] == answers[spec.spurious] == bool(data.label[i])
            else:
                assert answers[spec.intended] == bool(data.intended[i])
                assert answers[spec.spurious] == bool(data.spurious[i])
            boards.append(board)
            games.append(tuple(data.tokens[i].tolist()))
    assert len(set(boards)) == len(boards) == spec.train + spec.test + 8 * spec.cell
    assert len(set(games)) == len(games)


def test_the_spec_decides_the_ambiguous_games():
    task, again, other = (board_task(spec, SITE) for spec in (PAIR, PAIR, replace(PAIR, seed=1)))
    assert torch.equal(again.train.tokens, task.train.tokens)
    assert not torch.equal(other.train.tokens, task.train.tokens)
    with pytest.raises(SpecError, match="resid_0 was given"):
        board_task(PAIR, Site("resid_0", "transformer.h.0"))


def test_the_verdicts_decide_the_balanced_games(tmp_path):
    task, rows = board_task(PAIR, SITE), {}
    for name, verdicts in {"a": ["trim", "keep"], "b": ["trim", "keep"], "c": ["trim", "trim"]}.items():
        judged = frozen(tmp_path / name, task, *verdicts)
        rows[name] = {bytes(row) for row in task.balanced.open(judged, "test").test.tokens.numpy()}
    assert rows["a"] == rows["b"]  # as opening the same file again does: nothing is remembered
    assert not rows["a"] & rows["c"]


def test_nothing_is_drawn_twice_from_one_stream():
    drawn = Drawn()
    first, second = (collect(PAIR, "shift_ambiguous", {(True, True): 30}, drawn) for _ in range(2))
    assert not set(first.board) & set(second.board)
    assert not set(first.game) & set(second.game)


def test_cells_that_hardly_occur_are_refused(monkeypatch):
    monkeypatch.setattr("shift.tasks.draws._BLOCKS_TO_JUDGE", 1)
    never = replace(PAIR, filters=("empty c3", "occupied f5"))
    with pytest.raises(DrawError, match="0 of 16 examples with 'mine c3' yes and 'mine f5' yes"):
        board_task(never, SITE)


@pytest.fixture(scope="module")
def chess_games(tmp_path_factory):
    path = tmp_path_factory.mktemp("chess") / "games.csv"
    games = (game for game, _ in zip(play.random_games(7, plies=24), range(1200), strict=False))
    write_chess(path, games)
    return path


@pytest.mark.parametrize("token", ["dots", "moves"])
def test_chess_sets_against_python_chess(token, chess_games, tmp_path):
    parts = ("language_model", "dictionary", "selection", "scoring")
    spec = BoardTaskSpec(
        "my pawn e2", "castling rights", game="chess", plies=(8, 24), token=token, games=str(chess_games), parts=parts,
        train=6, test=2, cell=2,
    )  # fmt: skip
    task = board_task(spec, SITE)
    boards = []
    for data in (task.train, task.test, *opened(task, tmp_path / "j.jsonl")):
        for i in range(len(data.position)):
            read = "".join(VOCABULARY[t] for t in data.tokens[i, : int(data.position[i]) + 1])
            assert read[0] == ";" and read[-1] == {"dots": ".", "moves": " "}[token]
            board = chess.Board()
            for word in read[1:].split(" ")[:-1]:
                board.push_san(word.split(".")[-1])
            assert 8 <= board.ply() <= 24 and (token == "moves" or board.turn == chess.WHITE)
            pawn = board.piece_at(chess.E2) == chess.Piece(chess.PAWN, board.turn)
            answers = (pawn, board.has_castling_rights(board.turn))
            expected = (
                (data.label[i], data.label[i]) if hasattr(data, "label") else (data.intended[i], data.spurious[i])
            )
            assert answers == tuple(map(bool, expected))
            boards.append((board.board_fen(), board.turn, board.clean_castling_rights()))
    assert len(set(boards)) == len(boards) == 6 + 2 + 16


def test_too_few_chess_games_are_said(chess_games):
    spec = BoardTaskSpec("bishop pair", "castling rights", game="chess", token="dots", games=str(chess_games))
    with pytest.raises(DrawError, match="are all that .*games.csv has"):
        board_task(spec, SITE)
