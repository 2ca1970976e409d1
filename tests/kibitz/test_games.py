"""`kibitz games` from the command line: what it writes and says, and one sentence for a mistake."""

import gzip
import json
from itertools import repeat

import numpy as np
import pytest

from boardgames.chess.transcript import read_games as read_chess_games
from boardgames.othello.rules import random_games, replay, square_name
from boardgames.othello.transcript import OthelloGames, read_games, to_tokens
from kibitz.cli import main, parse
from kibitz.games import ImportConfig, run_games


def kibitz(*arguments):
    """What the command returns, for arguments as they are typed."""
    return run_games(parse(["games", *map(str, arguments)]))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_random_games_are_made_the_same_again(folder):
    for name in ("a", "b"):
        assert kibitz("make", "--game", "othello", "--count", 30, "--out", f"{name}.npz") == f"{name}.npz: 30 games"
        kibitz("make", "--game", "chess", "--count", 5, "--plies", 12, "--seed", 4, "--out", f"{name}.csv.gz")
    assert (folder / "a.npz").read_bytes() == (folder / "b.npz").read_bytes()
    assert (folder / "a.csv.gz").read_bytes() == (folder / "b.csv.gz").read_bytes()
    assert len(np.unique(read_games("a.npz"), axis=0)) == 30
    lengths = [len(g.transcript.split()) for g in read_chess_games("a.csv.gz")]
    assert len(lengths) == 5 and max(lengths) == 12


def test_a_models_games_are_the_shipped_models(folder):
    said = kibitz("make", "--game", "othello", "--by", "model", "--illegal", "cut", "--count", 40, "--out", "m.npz")
    assert "m.npz: 40 games; left out: " in said and "cut before an illegal move (the first: game 0, ply " in said
    replay(read_games("m.npz"))


def test_games_of_every_format_become_one_file_without_duplicates(folder):
    games = random_games(60, np.random.default_rng(0))
    np.savez("a.npz", moves=games[:30])
    np.save("b.npy", to_tokens(games[20:50]).astype(np.uint8))
    lines = ["".join(square_name(int(s)) for s in g if s < 64) for g in games[40:]]
    (folder / "c.txt.gz").write_bytes(gzip.compress("\n".join([*lines, "f5f5"]).encode()))
    said = kibitz("import", "a.npz", "b.npy", "c.txt.gz", "--out", "all.npz")
    assert said.startswith("all.npz: 60 games; left out: ") and "20 duplicates (the first: b.npy: game 0)" in said
    assert "1 with an illegal move (the first: c.txt.gz: game 20, ply 1: f5 is not legal for white" in said
    assert np.array_equal(read_games("all.npz"), games)


def test_pgn_becomes_transcripts_and_statistics(folder):
    good = '[Event "x"]\n[WhiteElo "1500"]\n[Result "1-0"]\n\n1. e4 {!} e5 2. Nf3 1-0\n\n'
    (folder / "x.pgn").write_text(good + '[Event "y"]\n\n1. e4 e6 2. Ke3 *\n')
    (folder / "more.csv").write_text("transcript\n1.e4 e5 2.Nf3\n1.d4 d5\n1.d4 ä\n1.e4 e5 2.N\n")
    said = kibitz("import", "x.pgn", "more.csv", "--out", "all.csv.gz")
    assert said.startswith("all.csv.gz: 2 games") and "x.pgn: game 1, ply 2: '2.Ke3': not legal" in said
    assert "more.csv: game 2: 'ä' is not in the vocabulary" in said and "1 duplicates" in said
    games = list(read_chess_games("all.csv.gz"))
    assert [(g.transcript, g.white_elo, g.result) for g in games] == [
        ("1.e4 e5 2.Nf3", 1500, "1-0"),
        ("1.d4 d5", None, None),
    ]
    assert "4 games" in kibitz("import", "x.pgn", "more.csv", "--check", "none", "--out", "unchecked.csv")
    shown = kibitz("stats", "all.csv.gz", "--json", "stats.json")
    assert "2 of chess, 2 different" in shown and "1-0 1 (50.0%)" in shown and "language_model" in shown
    numbers = json.loads((folder / "stats.json").read_text())
    assert numbers["unique"] == 2 and numbers["plies"]["mean"] == 2.5 and set(numbers["parts"]) >= {"scoring"}


def test_a_file_may_be_imported_onto_itself(folder):
    np.savez("a.npz", moves=random_games(10, np.random.default_rng(0)))
    before = read_games("a.npz")
    kibitz("import", "a.npz", "--out", "a.npz")
    assert np.array_equal(read_games("a.npz"), before)


WRONG = [
    (["make", "--game", "chess", "--out", "x.npz"], "x.npz: games of chess are written as .csv.gz or .csv"),
    (["make", "--game", "othello", "--out", "x.csv"], "x.csv: games of Othello are written as .npz"),
    (["make", "--game", "othello", "--by", "engine", "--out", "x.npz"], "engines that speak UCI play chess"),
    (["make", "--game", "chess", "--by", "model", "--out", "x.csv"], "--model"),
    (["make", "--game", "chess", "--by", "model", "--model", "nowhere", "--out", "x.csv"], "nowhere"),
    (["make", "--game", "chess", "--by", "engine", "--engine", "nobody", "--out", "x.csv"], "engine 'nobody': no such"),
    (["make", "--game", "chess", "--plies", "1", "--count", "21", "--out", "x.csv"], "20 of 21 could be made"),
    (["make", "--game", "othello", "--illegal", "cut", "--out", "x.npz"], "for games --by model"),
    (["make", "--game", "othello", "--count", "0", "--out", "x.npz"], "count is 0"),
    (["make", "--game", "othello", "--temperature", "-1", "--out", "x.npz"], "temperature is -1"),
    (["make", "--out", "x.npz"], "--game"),
    (["play"], "make, import, stats"),
    ([], "{make, import, stats}"),
    (["import", "--out", "x.npz"], "no file to import"),
    (["import", "absent.pgn", "--out", "x.csv"], "absent.pgn: no such file"),
    (["import", "o.npz", "g.csv", "--out", "x.npz"], "o.npz holds othello, but g.csv chess"),
    (["import", "o.npz", "--out", "x.csv"], "games of Othello are written as .npz"),
    (["import", "odd.txt", "--out", "x.csv"], "give --game"),
    (["import", "odd.doc", "--out", "x.csv"], "a .doc file; games are read from"),
    (["import", "bad.csv", "--strict", "--out", "x.csv"], "bad.csv: game 1, ply 1: 'Ke9'"),
    (["import", "bad.npz", "--strict", "--out", "x.npz"], "bad.npz: game 2, ply 4:"),
    (["import", "bad.pgn", "--strict", "--out", "x.csv"], "bad.pgn: game 0: ply 1: 'banana'"),
    (["import", "cut.csv.gz", "--out", "x.csv"], "cut.csv.gz: damaged"),
    (["import", "bad.pgn", "--out", "x.csv"], "no games"),
    (["stats", "absent.npz"], "absent.npz: no such file"),
    (["stats"], "no file to count"),
]


@pytest.fixture(scope="module")
def mistakes(tmp_path_factory):
    """Inputs that are wrong in one way each."""
    folder = tmp_path_factory.mktemp("mistakes")
    games = random_games(5, np.random.default_rng(0))
    np.savez(folder / "o.npz", moves=games)
    games[2, 4] = games[2, 3]
    np.savez(folder / "bad.npz", moves=games)
    (folder / "g.csv").write_text("transcript\n1.e4\n")
    (folder / "bad.csv").write_text("transcript\n1.e4\n1.e4 Ke9\n")
    (folder / "bad.pgn").write_text("1. e4 banana *")
    (folder / "odd.txt").write_text("who knows")
    (folder / "odd.doc").write_text("1.e4")
    (folder / "cut.csv.gz").write_bytes(gzip.compress(b"transcript\n" + b"1.e4 e5\n" * 5000)[:60])
    return folder


@pytest.mark.parametrize(("arguments", "said"), WRONG)
def test_a_mistake_is_one_sentence_and_writes_nothing(mistakes, monkeypatch, capsys, arguments, said):
    monkeypatch.chdir(mistakes)
    before = {path.name: path.read_bytes() for path in mistakes.iterdir()}
    with pytest.raises(SystemExit) as leaving:
        main(["games", *arguments])
    complaint = capsys.readouterr().err.splitlines()[-1]
    assert leaving.value.code in (1, 2) and complaint.startswith("kibitz: ") and said in complaint
    assert {path.name: path.read_bytes() for path in mistakes.iterdir()} == before


def test_a_player_who_always_plays_the_same_comes_to_an_end(folder, monkeypatch):
    same = OthelloGames.of_moves(random_games(3, np.random.default_rng(0)))
    monkeypatch.setattr("kibitz.players.othello_model_games", lambda *_: repeat(same))
    with pytest.raises(ValueError, match="the last 1000 games had all been played before: 3 of 4"):
        kibitz("make", "--game", "othello", "--by", "model", "--count", 4, "--out", "x.npz")
    assert not (folder / "x.npz").exists()
    kibitz("make", "--game", "othello", "--by", "model", "--count", 2, "--out", "x.npz")
    assert np.array_equal(read_games("x.npz"), same.moves[:2])


def test_ctrl_c_says_that_the_file_is_as_it_was(folder, monkeypatch):
    np.savez("a.npz", moves=random_games(10, np.random.default_rng(0)))
    (folder / "out.npz").write_text("before")

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("kibitz.games.only_legal_othello", interrupted)
    with pytest.raises(KeyboardInterrupt, match=r"interrupted; out.npz is as it was before"):
        kibitz("import", "a.npz", "--out", "out.npz")
    assert (folder / "out.npz").read_text() == "before"


def test_without_python_chess_the_way_out_is_named(folder, monkeypatch):
    (folder / "g.csv").write_text("transcript\n1.e4\n")
    monkeypatch.setattr("kibitz.players.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'kibitz\[chess\]'"):
        kibitz("make", "--game", "chess", "--out", "x.csv")
    with pytest.raises(ValueError, match="--check none"):
        kibitz("import", "g.csv", "--out", "x.csv")
    assert kibitz("import", "g.csv", "--check", "none", "--out", "x.csv") == "x.csv: 1 games"
    assert ImportConfig((folder / "g.csv",), folder / "x.csv").check == "all"
