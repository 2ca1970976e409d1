"""Othello's rules on bitboards against known counts, a plain implementation, and what transcripts may hold."""

import numpy as np
import pytest

from boardgames.game import unpack
from boardgames.othello.rules import (
    BLACK,
    NO_MOVE,
    START_BLACK,
    START_WHITE,
    WHITE,
    IllegalMoveError,
    flips,
    flips_by_direction,
    legal_moves,
    pick_bit,
    random_games,
    replay,
    replay_while_legal,
    square_index,
    square_name,
)
from tests.boardgames.plain_othello import Game

# the shortest possible game: black wins 13-0 after nine moves
WIPE_OUT = ["e6", "f4", "e3", "f6", "g5", "d6", "e7", "f5", "c5"]


def transcript(*squares) -> np.ndarray:
    """One row of moves from names or numbers."""
    row = np.full((1, 60), NO_MOVE, np.uint8)
    row[0, : len(squares)] = [square_index(s) if isinstance(s, str) else s for s in squares]
    return row


def bits(board) -> list[int]:
    return [s for s in range(64) if int(board) >> s & 1]


def plain_replay(moves):
    """(turned by direction, mover, game after the move) of every ply of one game, by the plain rules."""
    game = Game()
    for square in moves[moves != NO_MOVE].tolist():
        mover = game.turn
        yield game.play(square), mover, game


def test_perft():
    own, opponent = np.array([START_BLACK]), np.array([START_WHITE])
    counts = [len(own)]
    for _ in range(6):
        legal = unpack(legal_moves(own, opponent))
        position, square = np.nonzero(legal)
        move = np.uint64(1) << square.astype(np.uint64)
        own, opponent = own[position], opponent[position]
        turned = flips(own, opponent, move)
        own, opponent = opponent & ~turned, own | move | turned
        counts.append(len(own))
    assert (legal_moves(own, opponent) != 0).all(), "no pass can happen this early"
    counts.append(int(np.bitwise_count(legal_moves(own, opponent)).sum()))
    assert counts == [1, 4, 12, 56, 244, 1396, 8200, 55092]


def test_replay_agrees_with_the_plain_rules():
    moves = np.concatenate([random_games(30, np.random.default_rng(3)), transcript(*WIPE_OUT)])
    games = replay(moves)
    passes = endings = 0
    for g, row in enumerate(moves):
        ply = -1
        for ply, (turned, mover, game) in enumerate(plain_replay(row)):
            at = (g, ply)
            assert bits(games.black[at]) == game.discs("black") and bits(games.white[at]) == game.discs("white")
            assert games.mover[at] == {"black": BLACK, "white": WHITE}[mover]
            assert games.next_mover[at] == {"black": BLACK, "white": WHITE, None: 0}[game.turn]
            assert bits(games.legal[at]) == game.legal(game.turn)
            assert bits(games.flipped[at]) == sorted(sum(turned, []))
            assert bits(games.mine[at]) == game.discs(mover)
            assert bits(games.yours[at]) == game.discs("white" if mover == "black" else "black")
            passes += game.turn == mover
        assert game.turn is None, "a game goes on while somebody can move"
        endings += ply < 59
        for board in (games.black, games.white, games.legal, games.flipped, games.mover, games.next_mover):
            assert not board[g, ply + 1 :].any()
    assert passes >= 10 and endings >= 1, "these games hold forced passes and an early end"


def test_flips_by_direction_agree_with_the_plain_rules():
    for row in random_games(5, np.random.default_rng(4)):
        before = Game()
        for square in row[row != NO_MOVE].tolist():
            own = "black" if before.turn == "black" else "white"
            boards = [np.array([sum(1 << s for s in before.discs(c))], np.uint64) for c in ("black", "white")]
            mine, yours = boards if own == "black" else boards[::-1]
            ours = flips_by_direction(mine, yours, np.array([1 << square], np.uint64))
            assert [bits(b[0]) for b in ours] == [sorted(line) for line in before.play(square)]


def test_no_move_turns_nothing_over():
    zero = np.zeros(1, np.uint64)
    assert not flips(np.array([START_BLACK]), np.array([START_WHITE]), zero).any()


def test_unpack_puts_square_s_at_index_s():
    boards = np.uint64(1) << np.arange(64, dtype=np.uint64)
    assert np.array_equal(unpack(boards), np.eye(64, dtype=bool))
    assert unpack(boards.reshape(8, 8)).shape == (8, 8, 64)


def test_pick_bit_finds_every_bit_by_rank():
    rng = np.random.default_rng(0)
    for _ in range(30):
        board = int(rng.integers(1, 2**64, dtype=np.uint64) & rng.integers(1, 2**64, dtype=np.uint64)) | 1 << 63
        members = bits(board)
        boards = np.full(len(members), board, np.uint64)
        assert pick_bit(boards, np.arange(len(members))).tolist() == members


def test_random_games_are_reproducible_and_follow_the_generator():
    games = random_games(300, np.random.default_rng(5))
    assert np.array_equal(games, random_games(300, np.random.default_rng(5)))
    assert not np.array_equal(games, random_games(300, np.random.default_rng(6)))
    assert len(np.unique(games, axis=0)) == 300


def chi_square(counts) -> float:
    expected = sum(counts) / len(counts)
    return sum((c - expected) ** 2 / expected for c in counts)


def test_random_moves_are_uniform_over_the_legal_ones():
    games = random_games(4000, np.random.default_rng(7))
    first, counts = np.unique(games[:, 0], return_counts=True)
    assert [square_name(int(s)) for s in first] == ["c4", "d3", "e6", "f5"]
    assert chi_square(counts) < 20  # 3 degrees of freedom: beyond 20 with probability 0.0002
    for square in first:
        replies, counts = np.unique(games[games[:, 0] == square][:, 1], return_counts=True)
        assert len(replies) == 3 and chi_square(counts) < 20
    # over all plies: the rank of the chosen move among k legal ones is uniform, whatever k
    games = games[:1500]
    states = replay(games)
    for ply in (5, 20, 40):
        legal = states.legal[:, ply]
        rank = np.bitwise_count(legal & ((np.uint64(1) << (games[:, ply + 1] & 63).astype(np.uint64)) - np.uint64(1)))
        options = np.bitwise_count(legal)
        share = (rank[options > 0] + 0.5) / options[options > 0]
        assert abs(share.mean() - 0.5) < 5 * np.sqrt(1 / 12 / len(share)), f"ply {ply}"


def test_the_shortest_game_ends_after_nine_moves():
    games = replay(transcript(*WIPE_OUT))
    assert games.white[0, 8] == 0 and np.bitwise_count(games.black[0, 8]) == 13
    assert games.next_mover[0, 8] == 0 and games.legal[0, 8] == 0
    assert games.next_mover[0, 7] == BLACK
    assert games.played[0].tolist() == [True] * 9 + [False] * 51


def test_square_names():
    assert (square_name(0), square_name(18), square_name(63), square_name(7)) == ("a1", "c3", "h8", "a8")
    assert [square_index(square_name(s)) for s in range(64)] == list(range(64))
    for wrong in ("", "a", "a9", "i1", "1a", "a11"):
        with pytest.raises(ValueError, match="expected a letter a-h"):
            square_index(wrong)


@pytest.mark.parametrize(
    ("squares", "message"),
    [
        (("a1",), r"game 1, ply 0: a1 is not legal for black, who may play c4, d3, e6, f5"),
        (("c4", "c4"), r"game 1, ply 1: c4 is not legal for white, who may play c3, c5, e3"),
        (("c4", "d4"), r"game 1, ply 1: d4 is not legal for white"),
        (("c4", NO_MOVE, "c3"), r"game 1, ply 2: c3 follows an empty ply; passes are not stored"),
        ((NO_MOVE, "c4"), r"game 1, ply 1: c4 follows an empty ply"),
        (("c4", 64), r"game 1, ply 1: 64 is not a square \(0-63, or 255"),
        ((254,), r"game 1, ply 0: 254 is not a square"),
        ((*WIPE_OUT, "a1"), r"game 1, ply 9: a1 is played after the end of the game"),
    ],
)
def test_illegal_transcripts_name_game_ply_and_square(squares, message):
    good = transcript("c4", "c3")
    games = np.concatenate([good, transcript(*squares), transcript("h8")])
    with pytest.raises(IllegalMoveError, match=message) as caught:
        replay(games)
    assert isinstance(caught.value, ValueError)
    assert "\n" not in str(caught.value)


def test_an_illegal_move_in_a_later_chunk_keeps_its_game_number():
    games = random_games(4100, np.random.default_rng(0))  # more than one chunk
    assert len(np.unique(games, axis=0)) == 4100
    games[4098, 0] = 0
    with pytest.raises(IllegalMoveError, match="game 4098, ply 0: a1"):
        replay(games)


def test_replaying_while_legal_keeps_what_came_before():
    games = np.concatenate([transcript("c4", "c3", "a1", "d3"), transcript("c4", "c3"), transcript(*WIPE_OUT, "a1")])
    states, illegal = replay_while_legal(games)
    assert illegal.tolist() == [2, 60, 9]
    assert states.played.sum(1).tolist() == [2, 2, 9]
    whole = replay(games[1:2])
    for name in ("black", "white", "legal", "mover", "next_mover", "flipped"):
        assert np.array_equal(getattr(states, name)[0], getattr(whole, name)[0])


@pytest.mark.parametrize("moves", [np.zeros((2, 61), np.uint8), np.zeros((2, 5), np.int64), np.zeros(5, np.uint8)])
def test_arrays_of_another_form_are_refused(moves):
    with pytest.raises((ValueError, TypeError)):
        replay(moves)


def test_short_arrays_are_padded():
    games = replay(np.array([[26, 18]], np.uint8))
    assert games.moves.shape == (1, 60) and games.played.sum() == 2
