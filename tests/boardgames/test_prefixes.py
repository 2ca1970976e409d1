"""Prefixes against sets of tuples, hashes seen before against a set, parts of the split, and the counts of stats."""

import numpy as np
import pytest

from boardgames.chess.transcript import ChessGame, encode, lengths
from boardgames.duplicates import Seen, game_hash
from boardgames.game_stats import chess_stats, othello_stats, table
from boardgames.othello.rules import NO_MOVE, IllegalMoveError, random_games
from boardgames.othello.transcript import OthelloGames, to_tokens
from boardgames.prefixes import ended, first_seen, prefixes
from boardgames.splits import SHARES, part_of, split


def slow(parts):
    """(exists, first, elsewhere, earlier) of each part, from prefixes as tuples in dictionaries."""
    games = [(p, g, tuple(map(int, row))) for p, part in enumerate(parts) for g, row in enumerate(part)]
    owners = {}
    for place, (p, _, row) in enumerate(games):
        for i in range(len(row)):
            if min(row[: i + 1]) >= 0:
                owners.setdefault(row[: i + 1], []).append((place, p))
    found = [np.zeros((4, *part.shape), bool) for part in parts]
    for place, (p, g, row) in enumerate(games):
        for i in range(len(row)):
            who = owners.get(row[: i + 1])
            if who:
                found[p][:, g, i] = True, who[0][0] == place, len(who) > 1, any(q < p for _, q in who)
    return found


@pytest.mark.parametrize("tokens", [2, 3, 40])
@pytest.mark.parametrize("seed", range(4))
def test_prefixes_are_those_of_a_dictionary_of_tuples(seed, tokens):
    rng = np.random.default_rng([seed, tokens])
    parts = [rng.integers(0, tokens, (n, width)) for n, width in ((30, 9), (0, 4), (25, 12), (40, 9))]
    parts[3][:10] = parts[0][:10]  # whole games again, in another part
    parts[3][10:13] = parts[3][13:16]  # and in the same
    parts = [ended(part, rng.integers(0, part.shape[1] + 1, len(part))) for part in parts]
    parts[2] = parts[2].astype(np.int16)  # types may differ
    for ours, theirs, first in zip(prefixes(parts), slow(parts), first_seen(parts), strict=True):
        for name, expected in zip(("exists", "first", "elsewhere", "earlier"), theirs, strict=True):
            assert np.array_equal(getattr(ours, name), expected), name
        assert np.array_equal(first, ours.first)


def test_what_is_kept_of_all_parts_is_every_prefix_once():
    rng = np.random.default_rng(0)
    parts = [to_tokens(random_games(n, rng)) for n in (300, 200, 100)]
    kept = first_seen(parts)
    prefixes_of = {tuple(row[: i + 1]) for part in parts for row in part.tolist() for i in range(60)}
    assert sum(int(mask.sum()) for mask in kept) == len(prefixes_of)
    chosen = [
        tuple(row[: i + 1])
        for part, mask in zip(parts, kept, strict=True)
        for row, m in zip(part.tolist(), mask, strict=True)
        for i in np.flatnonzero(m)
    ]
    assert set(chosen) == prefixes_of and len(chosen) == len(prefixes_of)


def test_large_tokens_empty_parts_and_no_parts():
    big = np.array([[2**31, 5], [2**31, 6]])
    (found,) = prefixes([big])
    assert found.first.tolist() == [[True, True], [False, True]]
    assert first_seen([]) == [] and first_seen([np.zeros((0, 3), int)])[0].shape == (0, 3)
    assert first_seen([np.zeros((2, 0), int)])[0].shape == (2, 0)


def test_a_space_behind_the_end_is_no_token_of_a_game():
    games = ["1.e4", "1.e4 e5"]
    ids = encode(games, 12)
    (padded,) = prefixes([ids])
    (right,) = prefixes([ended(ids, lengths(games, 12))])
    assert padded.elsewhere[1, 5] and not right.elsewhere[1, 5], "PAD of the first looks like the space of the second"
    assert right.exists.sum(1).tolist() == [5, 8]


def test_seen_is_a_set():
    rng, seen, plain = np.random.default_rng(0), Seen(), set()
    for size in (1, 700, 0, 3, 5000, 200, 200, 200, 20_000, 1):
        hashes = rng.integers(0, 9000, size).astype(np.uint64) * np.uint64(2**50)
        expected = []
        for value in hashes.tolist():
            expected.append(value not in plain)
            plain.add(value)
        assert seen.add(hashes).tolist() == expected
        assert len(seen) == len(plain)
    assert len(seen._runs) < 15, "runs are merged, so that a look-up stays logarithmic"


def test_the_hash_of_a_game_is_that_of_its_bytes_and_decides_its_part():
    assert game_hash("1.e4") == game_hash(b"1.e4") != game_hash("1.e4 e5")
    # SHA-256 of "abc" begins ba7816bf 8f01cfea: the parts of shipped models hang on it
    assert game_hash("abc") == 0xBA7816BF8F01CFEA and part_of("abc") == "language_model"


def test_splits_are_disjoint_whole_and_those_of_part_of():
    moves = random_games(600, np.random.default_rng(0))
    parts = split(moves)
    assert list(parts) == list(SHARES) and sum(map(len, parts.values())) == 600
    seen = set()
    for part, games in parts.items():
        keys = {game.tobytes() for game in games}
        assert all(part_of(key) == part for key in keys) and not keys & seen
        seen |= keys
    again = split(moves[::-1])
    assert all(np.array_equal(again[p][::-1], games) for p, games in parts.items())
    texts = [f"1.e4 e5 {n}" for n in range(600)]
    by_text = split(texts)
    assert [g for p in SHARES for g in by_text[p]] == [g for p in SHARES for g in texts if part_of(g) == p]
    assert split([";" + t for t in texts])["dictionary"] == [";" + t for t in by_text["dictionary"]]


def test_stats_of_chess_count_dots_that_games_share():
    games = [
        ChessGame("1.e4 e5 2.Nf3", 1500, 1700, "1-0"),
        ChessGame("1.e4 e5 2.f4", None, 1900, "0-1"),
        ChessGame("1.d4", result="1-0"),
        ChessGame("1.e4 e5 2.f4"),  # a duplicate
    ]
    found = chess_stats(games)
    assert (found.games, found.unique, found.results) == (4, 3, {"1-0": 2, "0-1": 1, "unknown": 1})
    assert found.plies.mean == 2.5 and found.characters.largest == 13
    assert (found.elo.games, found.elo.mean) == (3, 1700)
    positions = sum(p.positions for p in found.parts.values())
    assert positions == 5, "the dots of the different games"
    assert found.shared == 1.0, "';1.' is in all three, ';1.e4 e5 2.' in two"
    kept = sum(round(p.first * p.positions) for p in found.parts.values() if p.positions)
    assert kept == 2, "each of the two prefixes once"
    assert "3 different" in table(found)
    long = ChessGame(" ".join(f"{n}.Na3 Na6" for n in range(1, 40)))
    assert sum(p.positions for p in chess_stats([long]).parts.values()) == 20


def test_stats_of_othello_agree_with_a_count_by_hand():
    moves = random_games(400, np.random.default_rng(5))
    moves[3, 20:] = NO_MOVE
    moves = np.concatenate([moves, moves[:7]])
    found = othello_stats([OthelloGames.of_moves(moves[:250]), OthelloGames.of_moves(moves[250:])])
    assert (found.games, found.unique) == (407, 400) and found.results["unfinished"] == 2
    assert sum(found.results.values()) == 407
    tokens = to_tokens(moves[:400])[:, :59]
    by_part = [tokens[[part_of(g.tobytes()) == p for g in moves[:400]]] for p in SHARES]
    expected = slow([np.where(part > 0, part, -1) for part in by_part])
    for stats, (exists, first, elsewhere, earlier) in zip(found.parts.values(), expected, strict=True):
        assert (stats.games, stats.positions) == (len(exists), exists.sum())
        assert stats.first == pytest.approx(first.sum() / exists.sum())
        assert stats.shared == pytest.approx(elsewhere.sum() / exists.sum())
        assert stats.earlier == pytest.approx(earlier.sum() / exists.sum())
    bad = moves[:5].copy()
    bad[2, 1] = bad[2, 0]
    with pytest.raises(IllegalMoveError, match="game 2, ply 1"):
        othello_stats([OthelloGames.of_moves(bad)])


def test_stats_of_nothing():
    assert chess_stats([]).games == 0 == othello_stats([]).games
    assert table(chess_stats([])).startswith("games")


def test_a_fifth_to_two_fifths_of_real_positions_are_in_other_games(shared):
    from boardgames.game_files import read_chess
    from boardgames.skipped import Skipped

    found = chess_stats(read_chess(shared / "data" / "chess" / "lichess_transcripts.csv.gz", Skipped()))
    assert found.games == found.unique == 14_920 and found.elo.games == 2 * 14_920
    assert found.shared == pytest.approx(0.23, abs=0.01)
    assert found.parts["scoring"].earlier == pytest.approx(0.23, abs=0.02)
