"""Which character belongs to which board, and what transcripts may hold."""

import chess
import numpy as np
import pytest

from boardgames.chess.positions import FLAGS, IllegalMoveError, find_positions, of_boards, positions
from boardgames.chess.properties import CORRECTED
from boardgames.chess.transcript import TranscriptError, read_transcripts

GAME = "1.e4 e5 2.Nf3 Nc6 3.Bb5"


def test_characters_belong_to_the_board_after_as_many_moves_as_there_are_spaces():
    text = ";" + GAME
    found = positions([GAME], at="characters")
    assert found.character.tolist() == list(range(len(text)))
    assert "".join(map(str, found.ply)) == "0" * 5 + "1" * 3 + "2" * 6 + "3" * 4 + "4" * 6
    boards, board = [chess.Board().occupied], chess.Board()
    for move in GAME.split():
        board.push_san(move.split(".")[-1])
        boards.append(board.occupied)
    occupied = found.board("white") | found.board("black")
    assert occupied.tolist() == [boards[ply] for ply in found.ply]
    assert found.white_moves.tolist() == [ply % 2 == 0 for ply in found.ply]


def test_dots_and_moves_are_some_of_the_characters():
    everything = positions([GAME, ";" + GAME + " a6"], at="characters")
    for at, character in (("dots", "."), ("moves", " ")):
        some = positions([GAME, ";" + GAME + " a6"], at=at)
        texts = [";" + GAME, ";" + GAME + " a6"]
        rows = [
            n
            for n, (g, c) in enumerate(zip(everything.game, everything.character, strict=True))
            if texts[g][c] == character
        ]
        for field in ("game", "ply", "character", "white_moves", "facts", "earlier"):
            assert np.array_equal(getattr(some, field), getattr(everything, field)[rows]), (at, field)
    assert positions([GAME], at="dots").ply.tolist() == [0, 2, 4]
    assert positions([GAME], at="moves").ply.tolist() == [1, 2, 3, 4], "the space tells that a move is complete"


def test_no_more_than_the_context_and_the_first_dots_are_scored():
    long = " ".join(f"{n + 1}.{w} {b}" for n, (w, b) in enumerate([("Nf3", "Nf6"), ("Ng1", "Ng8")] * 20))
    assert len(find_positions(";" + long, "dots")) == 20
    assert len(find_positions(";" + long, "dots", dots=3)) == 3
    assert all(c < 30 for c, _ in find_positions(";" + long, "characters", context=30))
    for context in range(2, 60):  # wherever a transcript is cut, half a move is no move
        whole, cut = positions([long], at="characters", context=context), (";" + long)[:context]
        assert len(whole) == context
        assert np.array_equal(positions([cut], at="characters", context=context).facts, whole.facts)
    draws = CORRECTED["can claim draw"].labels(positions([long], at="dots"))[:, 0]
    assert draws.tolist() == [False] * 4 + [True] * 16, "the start stands a third time at the fifth dot"


@pytest.mark.parametrize(
    ("game", "message"),
    [
        ("1.e4 e5 2.Ke3", r"game 1, ply 2: '2.Ke3': not legal in rnbqkbnr/"),
        ("1.e4 e5 2.Nf3 Nf6 3.Nh4 Nh5 4.N", r"game 1, ply 6: '4.N': expected a move in SAN"),
        ("1.e4 e5 2.d4 d5 3.c4 c5 4.Nd2 Nd7 5.Nf3 Nf6 6.Ne2 Ke7 7.Qe", "expected a move|not legal|more than one"),
        ("1.Nf3 a6 2.Nd4 a5 3.Nc3 a4 4.Nb5", r"game 1, ply 6: '4.Nb5': more than one piece can make it"),
        ("1.e4 e5 3.Nf3", r"game 1, ply 2: '3.Nf3': expected White's move 2, such as '2.e4'"),
        ("e4 e5", r"game 1, ply 0: 'e4': expected White's move 1"),
        ("1.e4  e5", r"game 1, ply 1: '': expected a move in SAN"),
        ("1.e4 2.e5", r"game 1, ply 1: '2.e5': expected a move in SAN"),
        ("1. e4 e5", r"game 1, ply 0: '1.': expected White's move 1"),
        ("1.e4 --", r"game 1, ply 1: '--': a null move"),
        ("1.f3 e5 2.g4 Qh4# 3.a3", r"game 1, ply 4: '3.a3': not legal"),
    ],
)
def test_what_is_no_game_is_told_with_game_ply_and_text(game, message):
    with pytest.raises(IllegalMoveError, match=message):
        positions([GAME, game])
    assert issubclass(IllegalMoveError, TranscriptError)


def test_a_transcript_without_moves():
    assert len(positions([""])) == 0 and positions([""], at="characters").ply.tolist() == [0]


def test_boards_without_a_transcript():
    found = of_boards([chess.Board(), chess.Board("4k3/8/8/8/8/8/8/R3K3 b - - 0 1")])
    assert found.game.tolist() == [0, 1] and found.white_moves.tolist() == [True, False] and len(found) == 2
    assert not any(found.flag(name).any() for name in FLAGS)
    assert len(of_boards([])) == len(positions([])) == 0
    assert CORRECTED["pieces"].labels(of_boards([])).shape == (0, 768)
    with pytest.raises(KeyError):
        found.board("unicorns")


def test_forks_are_as_frequent_in_real_games_as_the_reference_counts(shared):
    """The reference counts one corrected fork in 223 positions of the Lichess games; here, of one game in forty."""
    games = list(read_transcripts(shared / "data" / "chess" / "lichess_transcripts.csv.gz"))
    usable = [game for game in games if len(find_positions(";" + game, "dots")) == 20]
    found = positions(usable[::40])
    assert len(found) == 20 * len(usable[::40])
    share = CORRECTED["fork"].labels(found).mean()
    assert abs(share - 1 / 223) < 4 * (1 / 223 / len(found)) ** 0.5
