"""Chess as characters: encoding, files of transcripts, the split by hash, and pretraining that resumes bit for bit."""

import gzip

import numpy as np
import pytest
import torch

from boardgames import pretrain as loop
from boardgames.chess import pretraining
from boardgames.chess.pretraining import ChessTraining, chess_gpt, pretrain_chess
from boardgames.chess.transcript import (
    CONTEXT,
    PAD,
    VOCABULARY,
    TranscriptError,
    decode,
    encode,
    lengths,
    read_transcripts,
)
from boardgames.splits import SHARES, part_of
from saes.files import FileError

GAMES = [
    "1.e4 e5 2.Nf3 Nc6 3.Bb5 a6",
    "1.d4 d5 2.c4 e6 3.Nc3 Nf6 4.Bg5 Be7",
    "1.g4 e5 2.f3 Qh4#",
    "1.e4 c5 2.Nf3 d6 3.d4 cxd4 4.Nxd4 Nf6 5.Nc3 a6",
    "1.c4 e5 2.g3 Nf6 3.Bg2 d5 4.cxd5 Nxd5",
    "1.f4 d5 2.Nf3 g6 3.e3 Bg7 4.Be2 Nf6 5.O-O O-O",
]
TINY = {"layers": 1, "width": 16, "heads": 2, "steps": 4, "games_per_step": 2, "warmup": 2, "decay": 2}


def test_encoding_is_the_place_in_the_vocabulary_and_decoding_undoes_it():
    ids = encode(GAMES)
    assert ids.shape == (len(GAMES), CONTEXT) and ids[0, :3].tolist() == [15, 6, 4]  # the reference's ";1."
    for game, row, length in zip(GAMES, ids, lengths(GAMES), strict=True):
        assert decode(row[:length]) == ";" + game
        assert (row[length:] == PAD).all()
    assert np.array_equal(encode([";" + g for g in GAMES]), ids), "a game that has its start is not given another"
    long = "1.e4 " * 100
    assert lengths([long]) == CONTEXT and decode(encode([long])[0]) == (";" + long)[:CONTEXT]
    assert decode(encode([VOCABULARY], 33)[0]) == ";" + VOCABULARY


@pytest.mark.parametrize("wrong", ["ä", "!", "\n", "p", "😀"])
def test_a_character_outside_the_vocabulary_is_named_with_its_game(wrong):
    with pytest.raises(TranscriptError, match=r"game 1: .* is not in the vocabulary") as error:
        encode(["1.e4", f"1.e4{wrong} e5"])
    assert repr(wrong) in str(error.value)
    assert encode([" " * CONTEXT + wrong]).shape == (1, CONTEXT), "what is not read may hold anything"


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gz"])
@pytest.mark.parametrize("kind", [".csv", ".txt"])
def test_files_of_transcripts_are_read_in_order(tmp_path, kind, packed):
    lines = ["id,transcript", *(f"{n},{';' if n % 2 else ''}{g}" for n, g in enumerate(GAMES)), "9,"]
    text = "\n".join(lines) if kind == ".csv" else "\n".join([*GAMES[:3], "", *(";" + g for g in GAMES[3:])])
    path = tmp_path / (f"games{kind}" + (".gz" if packed else ""))
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    assert list(read_transcripts(path)) == GAMES


def test_files_that_hold_no_transcripts_are_refused_by_name(tmp_path):
    packed = gzip.compress(b"transcript\n" + b"1.e4 e5\n" * 2000)
    broken = packed[:30] + bytes(x ^ 255 for x in packed[30:60]) + packed[60:]
    cases = {
        "absent.csv": (None, "no such file"),
        "games.pgn": (b"1. e4", r"a \.pgn file"),
        "games": (b"1. e4", "a nameless file"),
        "other.csv": (b"a,b\n1,2\n", "no column `transcript`; there are: a, b"),
        "empty.csv": (b"", "no column"),
        "cut.csv.gz": (packed[: len(packed) // 2], "damaged"),
        "broken.csv.gz": (broken, "damaged"),
        "plain.csv.gz": (b"transcript\n1.e4", "damaged"),
        "binary.txt": (b"\xff\xfe\x00", "damaged"),
    }
    for name, (content, message) in cases.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(TranscriptError, match=message) as error:
            list(read_transcripts(tmp_path / name))
        assert name in str(error.value)


def test_a_game_keeps_its_part_and_the_parts_have_their_shares():
    games = [f"1.e4 e5 {n}" for n in range(4000)]
    parts = [part_of(g) for g in games]
    assert parts == [part_of(g.encode()) for g in games], "text and bytes of it are one game"
    assert abs(sum(SHARES.values()) - 1) < 1e-12
    for part, share in SHARES.items():
        assert abs(parts.count(part) / len(games) - share) < 4 * (share * (1 - share) / len(games)) ** 0.5


def batches(step=0):
    ids = torch.from_numpy(encode(GAMES).astype(np.uint8))
    return pretraining._batches(ids, torch.from_numpy(lengths(GAMES)), ChessTraining(**TINY), step)


def test_targets_are_the_next_characters_and_stop_at_the_end_of_a_game():
    seen = []
    stream = batches()
    for _ in range(3):  # one epoch
        tokens, target = next(stream)
        assert tokens.shape == (2, CONTEXT - 1) and target.shape == (2, CONTEXT - 1, len(VOCABULARY))
        for row, given in zip(tokens, target, strict=True):
            told = int(given.sum())
            assert not given[told:].any() and (given[:told].sum(-1) == 1).all()
            seen.append(";" + decode(given[:told].argmax(-1).numpy()))
            assert decode(row[:told].numpy()) == seen[-1][:-1]
    assert sorted(seen) == sorted(";" + g for g in GAMES), "an epoch is every game once"


def test_batches_follow_from_the_step_alone():
    stream = batches()
    for step in range(5):  # into the second epoch, which has another order
        for a, b in zip(next(stream), next(batches(step)), strict=True):
            assert torch.equal(a, b)


def test_an_interrupted_run_continues_bit_for_bit(tmp_path, monkeypatch):
    config = ChessTraining(**TINY)
    whole, log, _ = pretrain_chess(config, GAMES, tmp_path / "whole.pt", save_every=2)
    write = loop.write_state

    class Interrupted(BaseException):
        pass

    def failing(path, state):
        if state["step"] == 4:
            raise Interrupted
        write(path, state)

    monkeypatch.setattr(loop, "write_state", failing)
    with pytest.raises(Interrupted):
        pretrain_chess(config, GAMES, tmp_path / "part.pt", save_every=2)
    monkeypatch.setattr(loop, "write_state", write)
    torch.manual_seed(99)  # nothing may hang on the global generator
    resumed, resumed_log, _ = pretrain_chess(config, GAMES, tmp_path / "part.pt", save_every=2)
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    fresh = chess_gpt(config).state_dict()
    assert log == resumed_log and any(not torch.equal(fresh[k], v) for k, v in whole.state_dict().items())
    with pytest.raises(FileError, match="belongs to another configuration"):
        pretrain_chess(config, GAMES[::-1], tmp_path / "part.pt")


def test_fewer_games_than_a_batch_are_refused(tmp_path):
    with pytest.raises(ValueError, match="1 games are fewer than a batch of 2"):
        pretrain_chess(ChessTraining(**TINY), GAMES[:1], tmp_path / "x.pt")
