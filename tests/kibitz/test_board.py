"""`kibitz board` from the command line: what is written, and what is said of wrong input."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from boardgames.dictionaries import OTHELLO_DICTIONARIES
from boardgames.labelled import groups_of
from boardgames.othello.rules import random_games
from boardgames.othello.transcript import GamesError
from boardgames.scoreboard import encode_rows
from kibitz.board import BoardConfig, run_board
from kibitz.board_games import Splits, label_splits, open_games
from kibitz.cli import main
from saes.architectures import TopKConfig, TopKDictionary
from saes.checkpoint import save_dictionary
from saes.files import read_tensors
from saes.models import save_model
from saes.sites import Site

RESID_1 = str(OTHELLO_DICTIONARIES / "resid_1")


def chess_games(count: int) -> list[str]:
    """Random legal games of nine moves each."""
    import chess

    rng, games = np.random.default_rng(0), []
    for _ in range(count):
        board, text = chess.Board(), []
        for ply in range(18):
            moves = list(board.legal_moves)
            if not moves:
                break
            move = moves[rng.integers(len(moves))]
            text.append(f"{ply // 2 + 1}." * (ply % 2 == 0) + board.san(move))
            board.push(move)
        games.append(" ".join(text))
    return games


@pytest.fixture(scope="module")
def chess_files(tmp_path_factory) -> Path:
    """A small untrained ChessGPT, a dictionary of it, and games."""
    folder = tmp_path_factory.mktemp("chess")
    torch.manual_seed(0)
    model = GPT2LMHeadModel(
        GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=32, n_positions=256, bos_token_id=None, eos_token_id=None)
    )
    save_model(model, folder / "model")
    save_dictionary(TopKDictionary(TopKConfig(16, 32, k=4), [Site("resid_0", "")]), folder / "dictionary")
    (folder / "games.txt").write_text("\n".join(chess_games(60)) + "\n")
    return folder


def test_othello_held_out(tmp_path, capsys):
    main(["board", RESID_1, "--split", "40", "--resampled", "50", "--out", str(tmp_path / "b"), "--json"])
    shown = capsys.readouterr().out
    found = json.loads(shown[shown.index("{") :])
    assert found == json.loads((tmp_path / "b" / "board.json").read_text())
    names = [s["name"] for s in found["sets"]]
    assert names[0] == "resid_1" and [n.split(" at ")[0] for n in names[1:]] == [
        "frozen random dictionary",
        "principal components, both signs",
        "neurons, both signs",
        "linear probe",
    ]
    ours, random, *_, probe = (s["groups"]["board"] for s in found["sets"])
    assert random["coverage"]["score"] < ours["coverage"]["score"] < probe["coverage"]["score"]
    assert ours["coverage"]["low"] < ours["coverage"]["score"] < ours["coverage"]["high"]
    assert len(ours["best"]) == 128 == ours["occurring"]
    faithful = found["sets"][0]["faithfulness"]
    assert 30 < faithful["l0"] < 60 and faithful["loss_recovered"] > 0.9 and faithful["tokens"] > 4000
    resamples = read_tensors(tmp_path / "b" / "resamples.safetensors")
    assert resamples["resid_1:low_level:coverage"].shape == (50,)
    for name in ("table.md", "resid_1_f1.png", "resid_1_features.png"):
        assert (tmp_path / "b" / name).stat().st_size > 500


def test_a_dictionary_is_encoded_once_for_each_split(tmp_path, monkeypatch):
    """Scores, baselines of its L0 and figures share it."""
    encoded = []
    monkeypatch.setattr(
        "boardgames.scoreboard.encode_rows",
        lambda dictionary, x: encoded.append(type(dictionary)) or encode_rows(dictionary, x),
    )
    run_board(BoardConfig((RESID_1,), split=20, resampled=0, faithful=False, out=tmp_path / "b"))
    assert (tmp_path / "b" / "resid_1_squares.png").is_file()
    ours = encoded[0]
    assert encoded.count(ours) == 2 < len(encoded)


def test_chess_with_another_model_and_its_own_games(chess_files, tmp_path):
    config = BoardConfig(
        dictionaries=(str(chess_files / "dictionary"),),
        model=str(chess_files / "model"),
        games=(chess_files / "games.txt",),
        parts=False,
        split=30,
        resampled=20,
        properties=("colours",),
        faithful=False,
        out=tmp_path / "b",
    )
    table = run_board(config)
    found = json.loads((tmp_path / "b" / "board.json").read_text())
    assert found["game"] == "chess" and "strategy coverage" in table
    assert next(iter(found["sets"][0]["groups"])) == "pieces off start" and "colours" in found["sets"][0]["groups"]
    strategy = found["sets"][0]["strategy"]["coverage"]["score"]
    groups = found["sets"][0]["groups"]
    fourteen = [s for name, s in groups.items() if name not in ("pieces off start", "colours")]
    there = [s["coverage"]["score"] for s in fourteen if s["occurring"]]
    assert len(fourteen) == 14 > len(there) == found["sets"][0]["strategy"]["groups"]
    assert strategy == pytest.approx(np.mean(there)), "a property that never occurs has no share in the mean"


def test_the_papers_mode(chess_files, tmp_path):
    shared = {"games": (chess_files / "games.txt",), "parts": False, "split": 30, "mode": "paper", "faithful": False}
    config = BoardConfig((str(chess_files / "dictionary"),), model=str(chess_files / "model"), out=tmp_path, **shared)
    assert "coverage divided by 768" in run_board(config)
    assert "coverage divided by 768" in run_board(replace(config, baselines=False)), "said again, but not refused"
    assert not list(tmp_path.glob("*.png")) and "figures" not in run_board(replace(config, figures=False))
    found = json.loads((tmp_path / "board.json").read_text())
    assert found["labels"] == "paper" and found["sets"][0]["paper"]["pieces off start"]["denominator"] == 768
    assert set(found["sets"][0]["paper"]["check"]) >= {"coverage", "reconstruction", "reconstruction_last"}


def test_positions_that_begin_an_earlier_game_are_not_scored():
    games = random_games(40, np.random.default_rng(0))
    later = games[20:].copy()
    later[0] = games[0]
    later[1, :30] = games[1, :30]  # and from there on whatever was played: only the first 30 plies are looked at
    splits = Splits(games[5:20], later[2:], (games[:5],), "")
    labelled = label_splits(splits, "othello", groups_of("othello"))
    everything = label_splits(splits, "othello", groups_of("othello"), fresh=False)
    seen = {tuple(game[: ply + 1]) for part in (games[:5], games[5:20]) for game in part.tolist() for ply in range(59)}
    expected = []
    for g, game in enumerate(later[2:].tolist()):
        for ply in range(59):
            key = tuple(game[: ply + 1])
            if everything.scoring.mask[g, ply] and key not in seen:
                expected.append((g, ply))
            seen.add(key)
    assert labelled.scoring.mask.nonzero().tolist() == [list(pair) for pair in expected]
    assert len(expected) < int(everything.scoring.mask.sum())


def test_parts_are_those_of_the_games_hashes(tmp_path):
    moves = random_games(1500, np.random.default_rng(3))
    np.savez(tmp_path / "games.npz", moves=moves)
    splits = open_games("othello", [tmp_path / "games.npz"], 20)
    rows = [{game.tobytes() for game in part} for part in (splits.selection, splits.scoring, *splits.before)]
    assert (
        [len(rows[0]), len(rows[1])] == [20, 20]
        and len(rows[2]) > 1000
        and len(set.union(*rows)) == sum(map(len, rows))
    )


def test_broken_games_are_counted_in_what_is_said(tmp_path):
    letters = [f"{file}{rank}" for file in "abcdefgh" for rank in range(1, 9)]
    games = [[letters[square] for square in game if square < 64] for game in random_games(40, np.random.default_rng(4))]
    lines = ["".join(game) for game in games]
    lines[7:7] = ["no game at all", "f5d6 nor this"]
    (tmp_path / "games.txt").write_text("\n".join(lines) + "\n")
    splits = open_games("othello", [tmp_path / "games.txt"], 20, parts=False)
    said = label_splits(splits, "othello", groups_of("othello")).said
    assert "of 20 to score on; left out: 2 broken (the first: " in said and "line 8: 'no game at all'" in said
    (tmp_path / "games.txt").write_text("\n".join(lines[:9]) + "\n")
    for parts in (True, False):
        with pytest.raises(GamesError, match="left out: 2 broken"):
            open_games("othello", [tmp_path / "games.txt"], 20, parts=parts)
    (tmp_path / "games.txt").write_text("no game at all\n")
    with pytest.raises(GamesError, match="0 different games; .* left out: 1 broken"):
        open_games("othello", [tmp_path / "games.txt"], 20, parts=False)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "no dictionary is given"),
        (["DICTIONARY", "--model", "MODEL"], "chess needs --games"),
        ([RESID_1, "--split", "3"], "split is 3: choose 20 or more"),
        ([RESID_1, "--games", "GAMES"], "games of chess, and the model plays othello"),
        (["DICTIONARY", "--model", "MODEL", "--games", "GAMES"], "60 different games are for selection"),
        ([RESID_1, "--model", "MODEL", "--games", "GAMES", "--no-parts", "--split", "20"], "resid_1"),
        ([RESID_1, "--mode", "paper", "--at", "moves"], "the paper scores dots: leave out --at, or --mode paper"),
        ([RESID_1, "--mode", "paper", "--baselines"], "leave out --baselines, or --mode paper"),
        ([RESID_1, "--mode", "paper", "--resampled", "10"], "no intervals: leave out --resampled, or --mode paper"),
        ([RESID_1, "--mode", "paper", "--figures"], "no figures: leave out --figures, or --mode paper"),
        ([RESID_1, "--resampled", "-1"], "resampled is -1: choose 0 or more"),
        ([RESID_1, "--at", "characters"], "at is characters: Othello is scored at every move; leave out --at"),
        ([RESID_1, "--properties", "unicorn", "--split", "20"], "no property of othello is called 'unicorn'"),
        ([str(OTHELLO_DICTIONARIES / "resid_9")], "resid_9"),
    ],
)
def test_wrong_input_is_told_in_one_sentence(chess_files, tmp_path, capsys, arguments, sentence):
    places = {"MODEL": "model", "GAMES": "games.txt", "DICTIONARY": "dictionary"}
    given = [str(chess_files / places[a]) if a in places else a for a in arguments]
    with pytest.raises(SystemExit) as leaving:
        main(["board", *given, "--out", str(tmp_path / "out")])
    said = capsys.readouterr().err.strip()
    assert leaving.value.code in (1, 2) and sentence in said and said.count("\n") == 0
    assert not (tmp_path / "out").exists()
