"""Where games come from: PGN against python-chess's own parser, WTHOR against a writer of its own, ids, packed text."""

import bz2
import gzip
import io
import struct

import chess
import chess.pgn
import numpy as np
import pytest
import zstandard

from boardgames.chess.legal import is_over, legal_part, only_legal
from boardgames.chess.pgn import read_pgn, transcribe
from boardgames.chess.play import random_games as random_chess
from boardgames.chess.transcript import VOCABULARY, ChessGame, TranscriptError, encode, read_games
from boardgames.game_files import (
    check_name,
    find_game,
    only_legal_othello,
    read_chess,
    read_othello,
    write_chess,
    write_othello,
)
from boardgames.lines import LinesError, kind_of, open_lines
from boardgames.othello.rules import NO_MOVE, random_games, square_name
from boardgames.othello.transcript import UNKNOWN, GamesError, OthelloGames, to_tokens
from boardgames.othello.wthor import parse_line, read_wtb
from boardgames.skipped import BrokenGameError, Skipped

PACKERS = {"": lambda b: b, ".gz": gzip.compress, ".bz2": bz2.compress, ".zst": lambda b: zstandard.compress(b)}


def take(games, count):
    return [game for game, _ in zip(games, range(count), strict=False)]


@pytest.fixture(scope="module")
def chess_games():
    return take(random_chess(3, plies=40), 12)


def san_words(transcript):
    return [word.rpartition(".")[2] for word in transcript.split()]


def as_pgn(game, rng, **tags):
    """A game as python-chess writes it, with comments, glyphs, clocks and variations in variations."""
    tree = chess.pgn.Game()
    tree.headers.update(tags)
    node = tree
    for word in san_words(game.transcript):
        board = node.board()
        others = [m for m in board.legal_moves if m != board.parse_san(word)]
        node = node.add_main_variation(board.parse_san(word))
        kind = rng.integers(6)
        if kind == 0:
            node.comment = "[%eval 0.17] [%clk 0:00:30]"
        elif kind == 1:
            node.comment = 'a remark; (with 1. e4 in it)\n[Event "no tag"]\n\nand a $3'
        elif kind == 2:
            node.nags.add(int(rng.integers(1, 140)))
        elif kind == 3 and others:
            aside = node.parent.add_variation(others[0], comment="or")
            if replies := list(aside.board().legal_moves):
                aside.add_variation(replies[0])
                aside.add_variation(replies[-1], comment="(still)")
    return str(tree)


def test_main_lines_are_what_python_chess_reads(tmp_path, chess_games):
    rng = np.random.default_rng(0)
    text = "\n\n".join(as_pgn(g, rng, White=f"W{n}", WhiteElo=str(1500 + n)) for n, g in enumerate(chess_games))
    assert text.count("(") > 20 and text.count("{") > 50 and text.count("$") > 20
    path = tmp_path / "games.pgn"
    path.write_text(text)
    skipped = Skipped(strict=True)
    ours = list(read_pgn(path, skipped))
    stream = io.StringIO(text)
    for n, found in enumerate(ours):
        theirs, board, words = chess.pgn.read_game(stream), chess.Board(), []
        for move in theirs.mainline_moves():
            words.append(board.san_and_push(move))
        assert san_words(found.transcript) == words
        assert (found.white_elo, found.black_elo, found.number) == (1500 + n, None, n)
    assert [g.transcript for g in ours] == [g.transcript for g in chess_games] and not skipped.counts
    assert chess.pgn.read_game(stream) is None


@pytest.mark.parametrize("packed", PACKERS)
def test_packed_dumps_are_streamed_with_what_the_tags_say(tmp_path, packed):
    text = """[Event "Rated Blitz"]
[UTCDate "2019.01.02"]
[WhiteElo "1800"]
[BlackElo "?"]
[Result "1-0"]

1. e4 { [%eval 0.1] } 1... e5 2. Nf3?! $6 (2. f4 exf4 (2... d5)) 2... Nc6 1-0

[Event "x"]
[Date "????.??.??"]
[Result "*"]

1. d4 d5
2. c4 *
"""
    path = tmp_path / f"dump.pgn{packed}"
    path.write_bytes(PACKERS[packed](text.replace("\n", "\r\n").encode()))
    told = []
    games = list(read_pgn(path, Skipped(), told.append))
    assert games == [
        ChessGame("1.e4 e5 2.Nf3 Nc6", 1800, None, "1-0", "2019.01.02", 0),
        ChessGame("1.d4 d5 2.c4", None, None, None, None, 1),
    ]
    assert sum(told) == path.stat().st_size


def test_what_is_no_game_is_counted_and_the_next_one_is_read(tmp_path):
    pieces = [
        '[Event "set up"]\n[FEN "8/8/8/8/8/8/8/K1k5 w - - 0 1"]\n\n1. Ka2 *',
        '[Event "variant"]\n[Variant "Atomic"]\n\n1. e4 *',
        '[Event "empty"]\n[Result "1-0"]\n\n1-0',
        '[Event "tags only"]\n[White "A"]',
        '[Event "broken"]\n[White "A"]\n[Black "B"]\n\n1. e4 banana *',
        '[Event "never closed"]\n\n1. e4 {and then 1... e5',
        '[Event "good"]\n\n1. e4 e5 *',
        '[Event "illegal"]\n\n1. e4 e5 2. Ke3 *',
        '[Event "null"]\n\n1. e4 -- *',
    ]
    path = tmp_path / "mixed.pgn"
    path.write_text("\n\n".join(pieces))
    skipped = Skipped()
    found = list(only_legal(read_pgn(path, skipped), "all", skipped, "mixed.pgn"))
    assert found == [ChessGame("1.e4 e5", number=6)]
    assert skipped.counts == {
        "from a set-up position": 1,
        "of a variant": 1,
        "without a move": 2,
        "broken": 3,
        "with an illegal move": 1,
    }
    assert "game 4 (A - B): ply 1: 'banana'" in skipped.first["broken"]
    assert "mixed.pgn: game 7, ply 2: '2.Ke3': not legal" in skipped.sentence()
    with pytest.raises(BrokenGameError, match="game 4"):
        list(read_pgn(path, Skipped(strict=True)))


@pytest.mark.parametrize(
    ("movetext", "transcript"),
    [
        ("1.e4 e5 2.0-0-0!! 0-0+", "1.e4 e5 2.O-O-O O-O+"),
        ("1. e8Q 1... a1n+ 2. exd6 e.p.", "1.e8=Q a1=N+ 2.exd6"),
        ("1. e4 ; a comment with a }\n1... e5", "1.e4 e5"),
        ("", ""),
        ("1/2-1/2", ""),
        ("1. e4 1/2-1/2 2. e5", "1.e4"),
    ],
)
def test_spellings_come_to_that_of_transcripts(movetext, transcript):
    assert transcribe(movetext)[0] == transcript


@pytest.mark.parametrize("movetext", ["1. e4 (1. d4", "1. e4 e5) 2. d4", "1. e4 {", "1. e4 Пf6", "1. e4 } e5"])
def test_what_is_no_movetext_is_refused(movetext):
    with pytest.raises(TranscriptError):
        transcribe(movetext)


def test_games_without_tags_are_parted_by_empty_lines(tmp_path):
    path = tmp_path / "bare.pgn"
    path.write_text("1. e4 e5 1-0\n\n1. d4\nd5 *\n\n\n% a line for programs\n1. c4 *")
    assert [g.transcript for g in read_pgn(path, Skipped(strict=True))] == ["1.e4 e5", "1.d4 d5", "1.c4"]


def test_the_legal_part_ends_before_the_first_illegal_move():
    assert legal_part("1.e4 e5 2.Nf3 Nc6") == ("1.e4 e5 2.Nf3 Nc6", None)
    part, error = legal_part("1.e4 e5 2.Nf3 Nf3 3.d4", 9)
    assert part == "1.e4 e5 2.Nf3" and "game 9, ply 3: 'Nf3'" in str(error)
    assert legal_part("zzz")[0] == ""
    long = "1.e4 e5 2.Nf3 Nx"
    assert legal_part(long, context=16)[1] is None and legal_part(long)[1] is not None, "half a move at the end"
    mate = "1.g4 e5 2.f3 Qh4#"
    assert is_over(mate) and not is_over("1.g4 e5") and legal_part(mate + " 3.a3")[0] == mate


def test_random_chess_is_legal_uniform_and_follows_from_the_seed(chess_games):
    assert take(random_chess(3, plies=40), 3) == chess_games[:3]
    assert take(random_chess(3, plies=40, start=2), 1) == chess_games[2:3]
    assert take(random_chess(4, plies=40), 1)[0].transcript != chess_games[0].transcript
    assert all(legal_part(g.transcript)[1] is None and len(g.transcript.split()) <= 40 for g in chess_games)
    first = [g.transcript for g in take(random_chess(0, plies=1), 800)]
    counts = np.unique(first, return_counts=True)[1]
    assert len(counts) == 20
    assert ((counts - 40) ** 2 / 40).sum() < 19 + 5 * np.sqrt(38), "chi squared of 20 equally likely first moves"


def write_wtb(path, games, discs, size=8, count=None, year=2001):
    """The format from its description, square names to bytes; shares nothing with the reader."""
    out = struct.pack("<4BIHHBBBB", 20, 1, 12, 31, len(games) if count is None else count, 0, year, size, 0, 0, 0)
    for game, black in zip(games, discs, strict=True):
        names = [square_name(int(s)) for s in game if s != NO_MOVE]
        moves = [10 * int(name[1]) + " abcdefgh".index(name[0]) for name in names]
        out += struct.pack("<3H2B60B", 1, 2, 3, black, black, *moves, *[0] * (60 - len(moves)))
    path.write_bytes(out)
    return path


def test_wthor_files_are_read_as_they_are_described(tmp_path):
    games = random_games(50, np.random.default_rng(0))
    games[7, 12:] = NO_MOVE
    discs = np.arange(50).astype(np.uint8)
    path = write_wtb(tmp_path / "WTH_2001.wtb", games, discs)
    assert len(path.read_bytes()) == 16 + 50 * 68
    found = read_wtb(path)
    assert np.array_equal(found.moves, games) and np.array_equal(found.black_discs, discs)
    f5 = path.read_bytes()[:16] + struct.pack("<3H2B60B", 0, 0, 0, 99, 0, 56, *[0] * 59)
    path.write_bytes(f5[:4] + struct.pack("<I", 1) + f5[8:])
    assert square_name(int(read_wtb(path).moves[0, 0])) == "f5" and read_wtb(path).black_discs[0] == UNKNOWN


def test_wthor_files_in_every_state_of_repair(tmp_path):
    games = random_games(3, np.random.default_rng(0))
    path = write_wtb(tmp_path / "a.wtb", games, [30] * 3)
    whole = path.read_bytes()
    for content, said in (
        (whole[:-1], "cut short"),
        (whole[:9], "9 bytes"),
        (whole[:12] + b"\x0a" + whole[13:], "10 x 10"),
    ):
        path.write_bytes(content)
        with pytest.raises(GamesError, match=said):
            read_wtb(path)
    with pytest.raises(GamesError, match="no such file"):
        read_wtb(tmp_path / "none.wtb")
    path.write_bytes(whole[: 16 + 8 + 5] + bytes([99]) + whole[16 + 8 + 6 :])
    skipped = Skipped()
    kept = list(only_legal_othello([read_wtb(path)], skipped, "a.wtb"))
    assert sum(map(len, kept)) == 2 and "a.wtb: game 0, ply 5: 254 is not a square" in skipped.sentence()


def test_real_games_survive_wthor(tmp_path, shared):
    with np.load(shared / "data" / "othello" / "wthor_moves_u8.npz") as archive:
        games = archive["moves"][:3000]
    path = write_wtb(tmp_path / "real.wtb", games, [32] * len(games))
    assert np.array_equal(read_wtb(path).moves, games)
    names = [square_name(int(s)) for s in games[:, 0]]
    assert names.count("f5") > 2700, "the transcribers turn every game so that it begins with f5"


@pytest.mark.parametrize(
    "line", ["f5d6c3", "F5 d6 c3", "1. f5 d6 2. c3", "+f5-d6+c3", "f5,d6,c3", "f5 d6 pass c3", "f5-d6--c3\n"]
)
def test_lines_of_moves_in_many_hands(line):
    assert [square_name(s) for s in parse_line(line)] == ["f5", "d6", "c3"]


@pytest.mark.parametrize("line", ["", "e4 e5 Nf3", "f5 d6 z9", "f5d6c", "hello a1"])
def test_lines_that_are_no_games(line):
    assert parse_line(line) is None


def test_text_of_othello_is_read_and_its_faults_named(tmp_path):
    games = random_games(20, np.random.default_rng(1))
    lines = ["".join(square_name(int(s)) for s in g if s != NO_MOVE) for g in games]
    path = tmp_path / "games.txt.gz"
    path.write_bytes(gzip.compress("\n".join(["# ours", "", *lines, "rubbish", "f5" * 61]).encode()))
    assert find_game(path) == "othello"
    skipped = Skipped()
    found = list(read_othello(path, skipped))
    assert np.array_equal(np.concatenate([f.moves for f in found]), games)
    assert skipped.counts["broken"] == 2 and "line 23: 'rubbish'" in skipped.sentence()


def ids_as(path, rows):
    if path.suffix == ".npy":
        np.save(path, rows)
    elif path.suffix == ".npz":
        np.savez(path, tokens=rows)
    else:
        path.write_text("\n".join(" ".join(map(str, row)) for row in rows.tolist()))
    return path


@pytest.mark.parametrize("kind", [".npy", ".npz", ".txt"])
def test_files_of_ids_hold_the_same_games(tmp_path, kind, chess_games):
    games = random_games(30, np.random.default_rng(2))
    path = ids_as(tmp_path / f"othello{kind}", to_tokens(games).astype(np.uint8))
    assert find_game(path) == "othello"
    assert np.array_equal(next(read_othello(path, Skipped(strict=True))).moves, games)
    texts = [g.transcript for g in chess_games]
    rows = encode(texts, 600).astype(np.uint8)
    path = ids_as(tmp_path / f"chess{kind}", rows)
    assert find_game(path) == "chess"
    assert [g.transcript for g in read_chess(path, Skipped(strict=True))] == texts
    cut = ids_as(tmp_path / f"cut{kind}", rows[:, :100])
    for found, text in zip(read_chess(cut, Skipped()), texts, strict=True):
        assert text.startswith(found.transcript + " ") and 99 > len(found.transcript) > 90, "a half move goes"


def test_blocks_of_several_games_and_rows_of_nonsense(tmp_path):
    text = ";1.e4 e5 ;1.d4 d5 2.c4 "
    ids = np.array([[VOCABULARY.index(c) for c in text], [99] * len(text)])
    skipped = Skipped()
    path = ids_as(tmp_path / "blocks.npy", ids)
    assert [g.transcript for g in read_chess(path, skipped)] == ["1.e4 e5", "1.d4 d5 2.c4"]
    assert "game 1" in skipped.sentence()
    path = ids_as(tmp_path / "o.npy", np.array([[41, 70], [41, 0]]))
    skipped = Skipped()
    assert len(next(read_othello(path, skipped))) == 1 and skipped.counts["broken"] == 1
    for rows, said in ((np.array([[3, 4]]), "give --game"), (np.zeros(3, int), r"int64\[3\]"), (np.ones((2, 2)), "fl")):
        with pytest.raises(GamesError, match=said):
            find_game(ids_as(tmp_path / "odd.npy", rows))


def test_transcripts_keep_what_their_columns_say(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(
        "transcript,white_elo,black_elo,winner\n1.e4,1500,?,black\n;1.d4 d5,,0,draw\n,1,1,white\n1.c4,9,8,\n"
    )
    assert list(read_games(path)) == [
        ChessGame("1.e4", 1500, None, "0-1", None, 0),
        ChessGame("1.d4 d5", None, None, "1/2-1/2", None, 1),
        ChessGame("1.c4", 9, 8, None, None, 3),
    ]


def test_written_games_are_read_again_and_their_bytes_do_not_change(tmp_path, monkeypatch, chess_games):
    games = [ChessGame(g.transcript, 1500 + n, None, "1-0", "2020.01.01", n) for n, g in enumerate(chess_games)]
    random = random_games(9, np.random.default_rng(0))
    othello = OthelloGames(random, np.arange(9).astype(np.uint8), np.arange(9))
    written = []
    for name, clock in (("a", 1.0e9), ("b", 1.7e9)):
        monkeypatch.setattr("time.time", lambda clock=clock: clock)
        (tmp_path / name).mkdir()
        assert write_chess(tmp_path / name / "c.csv.gz", games) == 12
        assert write_othello(tmp_path / name / "o.npz", [othello[:4], othello[4:]]) == 9
        written.append([(tmp_path / name / file).read_bytes() for file in ("c.csv.gz", "o.npz")])
    assert written[0] == written[1]
    assert list(read_chess(tmp_path / "a" / "c.csv.gz", Skipped())) == games
    (back,) = read_othello(tmp_path / "a" / "o.npz", Skipped())
    assert np.array_equal(back.moves, random) and np.array_equal(back.black_discs, othello.black_discs)


def test_a_file_is_whole_or_as_it_was(tmp_path):
    path = tmp_path / "c.csv"
    path.write_text("before")

    def failing():
        yield ChessGame("1.e4")
        raise TranscriptError("no more")

    with pytest.raises(TranscriptError, match="no more"):
        write_chess(path, failing())
    with pytest.raises(GamesError, match="no games"):
        write_chess(path, [])
    with pytest.raises(GamesError, match="no games"):
        write_othello(tmp_path / "o.npz", [])
    assert path.read_text() == "before" and [p.name for p in tmp_path.iterdir()] == ["c.csv"]
    for name, game in (("c.npz", "chess"), ("o.csv", "othello")):
        with pytest.raises(GamesError, match="choose such a name"):
            check_name(name, game)


@pytest.mark.parametrize("packed", [".gz", ".bz2", ".zst"])
def test_packed_text_that_is_damaged_says_so(tmp_path, packed):
    text = "".join(f"line {n} {n * n % 977}\n" for n in range(20_000))
    whole = PACKERS[packed](text.encode())
    path = tmp_path / f"text.txt{packed}"
    path.write_bytes(whole)
    with open_lines(path) as lines:
        assert "".join(lines) == text
    path.write_bytes(whole + whole)
    with open_lines(path) as lines:
        assert "".join(lines) == text + text, "several frames are one text"
    for content in (whole[: len(whole) // 2], whole[:-3], b"plain text, not packed at all"):
        path.write_bytes(content)
        with pytest.raises(LinesError, match=f"text.txt{packed}: damaged"), open_lines(path) as lines:
            list(lines)
    assert kind_of(path) == ".txt" and kind_of("a.b/c") == ""


def test_zstd_without_its_package_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "zstandard", None)
    (tmp_path / "a.pgn.zst").write_bytes(b"x")
    with pytest.raises(TranscriptError, match="install the package `zstandard`"):
        list(read_pgn(tmp_path / "a.pgn.zst", Skipped()))
