"""Every chess property against a literal reading of it, on random and real games, and on boards drawn for each."""

import random

import chess
import numpy as np
import pytest

from boardgames.chess.positions import of_boards, positions
from boardgames.chess.properties import CORRECTED, PAPER, SETS, STRATEGY
from boardgames.chess.transcript import read_transcripts
from boardgames.game import label
from tests.boardgames.plain_chess import true_columns


def random_transcript(rng: random.Random, plies: int) -> str:
    """Random legal play, with a taste for captures, promotions, checks and en passant, so that they come up."""
    board, words = chess.Board(), []
    for ply in range(plies):
        moves = list(board.legal_moves)
        if not moves:
            break
        wild = [
            m for m in moves if board.is_en_passant(m) or m.promotion or board.is_capture(m) or board.is_castling(m)
        ]
        move = rng.choice(wild if wild and rng.random() < 0.4 else moves)
        words.append((f"{ply // 2 + 1}." if ply % 2 == 0 else "") + board.san(move))
        board.push(move)
    return " ".join(words)


def names_of(labels) -> list[set[str]]:
    columns = np.array(labels.columns)
    return [set(columns[row].tolist()) for row in labels.matrix]


def board_at(game: str, ply: int) -> chess.Board:
    board = chess.Board()
    for word in game.split(" ")[:ply]:
        board.push_san(word.split(".")[-1])
    return board


def assert_labels_are_literal(games, **options):
    found = positions(games, **options)
    sets = {name: names_of(label(found, list(chosen.values()))) for name, chosen in SETS.items()}
    for row, (game, ply) in enumerate(zip(found.game, found.ply, strict=True)):
        board = board_at(games[game], int(ply))
        for name, rows in sets.items():
            expected = true_columns(board, paper=name == "paper")
            assert rows[row] == expected, f"{name}, {board.fen()}: {sorted(rows[row] ^ expected)}"
    return sets


def test_labels_are_literal_on_random_games():
    games = [random_transcript(rng, 110) for rng in map(random.Random, (7, 11)) for _ in range(2)]
    sets = assert_labels_are_literal(games, at="moves", context=2000)
    seen = {name: set().union(*rows) for name, rows in sets.items()}
    rare = {"legal en passant", "fork", "pin", "check", "mate threat", "ambiguous move", "can capture queen"}
    assert rare <= seen["corrected"], "the games must show what they are to test"


def test_labels_are_literal_on_real_games(shared):
    games = list(read_transcripts(shared / "data" / "chess" / "lichess_transcripts.csv.gz"))
    assert_labels_are_literal(games[100::1500], at="dots")
    assert_labels_are_literal(games[7::7000], at="moves")


def test_the_colours_do_not_matter_to_the_mover():
    """The same board with colours exchanged and ranks turned over: the same labels on the turned squares."""
    rng = random.Random(8)
    boards = [board_at(game, ply) for game in (random_transcript(rng, 90) for _ in range(3)) for ply in range(4, 90, 5)]
    for board in boards:
        board.clear_stack()
    turned = str.maketrans("12345678", "87654321")
    asked = [p for name, p in CORRECTED.items() if name not in ("white moves", "last move", "last own move")]
    straight, mirrored = (label(of_boards(b), asked) for b in (boards, [b.mirror() for b in boards]))
    column = {c: i for i, c in enumerate(straight.columns)}
    partner = [
        column[c[:-2] + c[-2:].translate(turned)] if s else i
        for i, (c, s) in enumerate(zip(straight.columns, straight.squares, strict=True))
    ]
    assert straight.matrix.any(0).sum() > 400
    assert np.array_equal(straight.matrix, mirrored.matrix[:, partner])


# name: boards where it is so, boards where it is not; for a property that the two sets see differently, each its own
CASES = {
    "fork": (
        ["r1q1k3/8/1N6/8/8/8/8/4K3 w - - 0 1", "2q1r1k1/3P4/8/8/8/8/8/4K3 w - - 0 1"],
        ["4k3/2r5/8/3N1N2/8/8/8/4K3 w - - 0 1", "rrq3k1/8/1N6/8/8/1K6/8/8 w - - 0 1"],
    ),
    "knight fork": (["r1q1k3/8/1N6/8/8/8/8/4K3 w - - 0 1"], ["2q1r1k1/3P4/8/8/8/8/8/4K3 w - - 0 1"]),
    "mate threat": (
        ["r5k1/5ppp/8/8/8/8/5PPP/6K1 w - - 0 1"],
        ["6k1/5ppp/8/8/8/8/5PPP/r5K1 w - - 0 1", "6k1/5ppp/8/8/8/8/5PPP/R5K1 w - - 0 1"],
    ),
    "ambiguous move": (
        ["4k3/8/8/8/8/8/4K3/R6R w - - 0 1"],
        ["4k3/8/8/3p4/2P1P3/8/8/4K3 w - - 0 1", "4k3/8/8/8/8/8/8/R3K2R w KQ - 0 1"],
    ),
    "can capture queen": (
        ["4k3/q6q/8/8/8/8/8/R5K1 w - - 0 1"],
        ["4k3/8/8/8/8/q7/8/1R4K1 w - - 0 1", "4r1k1/8/8/8/8/3q4/4R3/4K3 w - - 0 1"],
    ),
    "bishop pair": (["4k3/8/8/8/8/8/8/2B1KB2 w - - 0 1"], ["4k3/8/8/8/8/4B3/8/2B1K3 w - - 0 1"]),
    "pin": (
        ["4r1k1/8/8/8/8/8/4N3/4K3 w - - 0 1", "4k3/4n3/8/8/8/8/8/4R1K1 w - - 0 1"],
        ["4r1k1/4p3/8/8/8/8/4N3/4K3 w - - 0 1"],
    ),
    "check": (["4r1k1/8/8/8/8/8/8/4K3 w - - 0 1"], ["4r1k1/8/8/8/8/8/4P3/4K3 w - - 0 1"]),
    "can check next": (
        ["6k1/8/8/8/8/8/8/R5K1 w - - 0 1", "7k/8/8/4N3/8/2B5/8/6K1 w - - 0 1", "4k3/4N3/8/8/8/8/8/4R1K1 w - - 0 1"],
        ["6k1/5ppp/8/8/8/8/8/N5K1 w - - 0 1"],
    ),
    "legal en passant": (
        ["4k3/8/8/3pP3/8/8/8/4K3 w - d6 0 2"],
        ["4k3/8/8/3pP3/8/8/8/4K3 w - - 0 2", "4k3/8/8/K2pP2r/8/8/8/8 w - d6 0 2"],
    ),
    "connected rooks": (["4k3/8/8/8/8/8/5PPP/R4RK1 w - - 0 1"], ["4k3/8/8/8/8/8/8/R3K2R w KQ - 0 1"]),
    "castling rights": (["4k3/8/8/8/8/8/8/R3K3 w Q - 0 1"], ["4k3/8/8/8/8/8/8/R3K3 w - - 0 1"]),
    "kingside castling rights": (["4k3/8/8/8/8/8/8/4K2R w K - 0 1"], ["4k3/8/8/8/8/8/8/R3K3 w Q - 0 1"]),
    "queenside castling rights": (["r3k3/8/8/8/8/8/8/4K3 b q - 0 1"], ["4k2r/8/8/8/8/8/8/4K3 b k - 0 1"]),
    "has queen": (["4k3/8/8/8/8/8/8/Q3K3 w - - 0 1"], ["q3k3/8/8/8/8/8/8/4K3 w - - 0 1"]),
    "stalemate": (["7k/5Q2/6K1/8/8/8/8/8 b - - 0 1"], ["7k/6Q1/6K1/8/8/8/8/8 b - - 0 1"]),
    "can claim draw": (["4k3/8/8/8/8/8/8/R3K3 w - - 99 80"], ["4k3/8/8/8/8/8/8/R3K3 w - - 98 80"]),
}


@pytest.mark.parametrize("name", CASES)
def test_boards_that_show_a_property_and_boards_that_do_not(name):
    for fens, expected in zip(CASES[name], (True, False), strict=True):
        for fen in fens:
            board = chess.Board(fen)
            assert board.is_valid(), fen
            for turned in (board, board.mirror()):
                assert CORRECTED[name].labels(of_boards([turned])).tolist() == [[expected]], turned.fen()


def test_what_the_original_sees_differently():
    def answers(name, fen):
        found = of_boards([chess.Board(fen)])
        return bool(CORRECTED[name].labels(found)[0, 0]), bool(PAPER[name].labels(found)[0, 0])

    assert answers("fork", "r1q1k3/8/1N6/8/8/8/8/4K3 w - - 0 1") == (True, False), "rook and queen: two types"
    assert answers("fork", "4k3/2r5/8/3N1N2/8/8/8/4K3 w - - 0 1") == (False, False)
    assert answers("fork", "6k1/4r3/8/3N1N2/8/8/8/4K3 w - - 0 1") == (False, True), "two knights on one rook"
    assert answers("knight fork", "6k1/4r3/8/3N1N2/8/8/8/4K3 w - - 0 1") == (False, True)
    assert answers("mate threat", "6k1/5ppp/8/8/8/8/5PPP/R5K1 w - - 0 1") == (False, True), "its own mate"
    assert answers("mate threat", "r5k1/5ppp/8/8/8/8/5PPP/6K1 w - - 0 1") == (True, False)
    assert answers("ambiguous move", "4k3/8/8/3p4/2P1P3/8/8/4K3 w - - 0 1") == (False, True), "cxd5 and exd5"
    assert answers("can capture queen", "4k2q/8/8/8/8/8/q7/R5K1 w - - 0 1") == (True, False), "the lower queen"
    assert answers("bishop pair", "4k3/8/8/8/8/4B3/8/2B1K3 w - - 0 1") == (False, True)
    black = of_boards([chess.Board("4k3/8/8/8/8/8/8/R3K3 b - - 0 1")])
    assert not PAPER["legal"].labels(black).any() and CORRECTED["legal"].labels(black).any()
    assert CORRECTED["threatened"].labels(black)[0, 8] and not PAPER["threatened"].labels(black)[0, 8]


def test_earlier_boards_lie_as_far_back_as_asked():
    game = "1.e4 e5 2.Nf3 Nc6 3.Bb5 a6"
    found = positions([game], at="moves", plies_back=2)
    for row, rows in enumerate(names_of(label(found, [CORRECTED["pieces earlier"]]))):
        ply = int(found.ply[row])
        wanted = {c for c in true_columns(board_at(game, ply), plies_back=2) if " earlier " in c}
        assert rows == wanted and bool(rows) == (ply >= 2)


def test_sets_agree_on_their_names_and_columns():
    assert list(CORRECTED) and CORRECTED.keys() == PAPER.keys() and set(STRATEGY) < CORRECTED.keys()
    for chosen in SETS.values():
        columns = [c for p in chosen.values() for c in p.columns]
        assert len(set(columns)) == len(columns)
        assert all(len(p.columns) == len(p.squares) and p.description for p in chosen.values())
