"""Pretraining: resuming is bit-exact, and the expected loss is the mean over the moves that could have come."""

from dataclasses import asdict

import numpy as np
import pytest
import torch

from boardgames import pretrain as loop
from boardgames.lm import load_othello_gpt, save_board_model
from boardgames.othello import pretraining
from boardgames.othello.legality import legality
from boardgames.othello.pretraining import OthelloTraining, batches, held_out_games, othello_gpt, pretrain_othello
from boardgames.othello.rules import random_games
from boardgames.othello.transcript import from_tokens, to_tokens
from saes.files import FileError, read_json
from tests.boardgames.test_rules import plain_replay

TINY = {"layers": 1, "width": 16, "heads": 2, "steps": 4, "games_per_step": 4, "warmup": 2, "decay": 2}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Blocks of 12 games, so that these four steps of four games cross from one block to the next."""
    monkeypatch.setattr(pretraining, "_GAMES_PER_BLOCK", 12)


class Interrupted(BaseException):
    pass


@pytest.mark.parametrize("options", [{}, {"targets": "moves", "muon": 0.0}], ids=["muon, legal", "adam, moves"])
def test_an_interrupted_run_continues_bit_for_bit(tmp_path, monkeypatch, options):
    config = OthelloTraining(**TINY, **options)
    whole, log, _ = pretrain_othello(config, tmp_path / "whole.pt", save_every=2)
    write, saves = loop.write_state, []

    def failing(path, state):
        saves.append(state["step"])
        if state["step"] == 4:
            raise Interrupted
        write(path, state)

    monkeypatch.setattr(loop, "write_state", failing)
    with pytest.raises(Interrupted):
        pretrain_othello(config, tmp_path / "part.pt", save_every=2)
    assert saves == [2, 4]
    monkeypatch.setattr(loop, "write_state", write)
    torch.manual_seed(99)  # nothing may hang on the global generator
    resumed, resumed_log, _ = pretrain_othello(config, tmp_path / "part.pt", save_every=2)
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert log == resumed_log and [x["step"] for x in log] == [0, 3]
    fresh = othello_gpt(config).state_dict()
    assert any((fresh[k] - v).abs().max() > 1e-3 for k, v in whole.state_dict().items())


def test_a_checkpoint_of_another_configuration_is_refused(tmp_path):
    pretrain_othello(OthelloTraining(**{**TINY, "steps": 2, "warmup": 1, "decay": 1}), tmp_path / "a.pt")
    with pytest.raises(FileError, match=r"a\.pt: belongs to another configuration"):
        pretrain_othello(OthelloTraining(**TINY, seed=1), tmp_path / "a.pt")


def first_batch(**options):
    return next(iter(batches(OthelloTraining(**TINY, **options), 0)))


def test_the_expected_loss_is_the_mean_over_the_legal_moves(tmp_path):
    tokens, target = first_batch()
    config = OthelloTraining(**TINY)
    model = othello_gpt(config).eval()
    with torch.no_grad():
        log_p = model(input_ids=tokens).logits.log_softmax(-1)
    losses = []
    sampled, one_hot = first_batch(targets="moves")
    assert torch.equal(sampled, tokens), "both kinds of target belong to the same games"
    for g, row in enumerate(from_tokens(tokens.numpy())):
        for p, (*_, game) in enumerate(plain_replay(row)):
            legal = to_tokens(np.array([game.legal(game.turn)], np.uint8))[0].tolist()
            if legal:
                losses.append(sum(-float(log_p[g, p, t]) for t in legal) / len(legal))
                expected = torch.zeros(61)
                expected[legal] = 1 / len(legal)
                torch.testing.assert_close(target[g, p], expected)
                assert one_hot[g, p].sum() == 1 and one_hot[g, p].argmax() in legal
            else:
                assert not target[g, p].any() and not one_hot[g, p].any()
    _, log, _ = pretrain_othello(config, tmp_path / "state.pt")
    assert log[0]["loss"] == pytest.approx(np.mean(losses), rel=1e-5)


def test_sampled_moves_average_to_the_legal_targets():
    games = torch.from_numpy(to_tokens(random_games(3000, np.random.default_rng(1))))
    third = torch.nn.functional.one_hot(games[games[:, 0] == games[0, 0], 1], 61).float().mean(0)
    tokens, target = first_batch()
    same = (tokens[:, 0] == games[0, 0]).nonzero()
    expected = torch.zeros(61)
    expected[third > 0] = 1 / 3
    torch.testing.assert_close(third, expected, rtol=0, atol=0.1)
    for row in same:
        torch.testing.assert_close(target[row[0], 0], expected)


def test_batches_follow_from_the_step_alone():
    config = OthelloTraining(**TINY, targets="moves")
    stream = batches(config, 0)
    ahead = [next(stream) for _ in range(6)]
    for step in (3, 4, 5):
        tokens, target = next(iter(batches(config, step)))
        assert torch.equal(tokens, ahead[step][0]) and torch.equal(target, ahead[step][1])
    assert len({t[0].numpy().tobytes() for t in ahead}) == 6


def test_held_out_games_are_never_trained_on():
    held_out = held_out_games(200)
    assert np.array_equal(held_out, held_out_games(200)) and not np.array_equal(held_out, held_out_games(200, seed=1))
    stream = batches(OthelloTraining(**TINY, targets="moves"), 0)
    trained = {g.tobytes() for _ in range(5) for g in next(stream)[0].numpy()}
    assert not trained & {g.tobytes() for g in to_tokens(held_out[:, :59])}


def test_uneven_blocks_are_refused():
    with pytest.raises(ValueError, match="games_per_step is 5: choose a divisor"):
        OthelloTraining(games_per_step=5)


def test_a_saved_model_plays_as_before(tmp_path):
    model = othello_gpt(OthelloTraining(**TINY)).eval()
    games = held_out_games(5)
    quality = save_board_model(model, tmp_path / "gpt", {"steps": 0}, lambda shipped: legality(shipped, games))
    assert read_json(tmp_path / "gpt" / "training.json") == {"training": {"steps": 0}, "quality": asdict(quality)}
    assert {p.name for p in (tmp_path / "gpt").iterdir()} == {"config.json", "model.safetensors", "training.json"}
    loaded = load_othello_gpt(tmp_path / "gpt")
    assert quality == legality(loaded, games), "the quality is that of the weights in the folder"
    assert loaded.dtype == torch.float32 and not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())
    tokens = torch.from_numpy(to_tokens(games[:, :59]))
    with torch.no_grad():
        torch.testing.assert_close(loaded(input_ids=tokens).logits, model(input_ids=tokens).logits, rtol=0, atol=2e-3)
    assert torch.equal(loaded.lm_head.weight, loaded.transformer.wte.weight)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_model_folder_that_is_not_whole_is_refused_by_name(tmp_path, name):
    model = othello_gpt(OthelloTraining(**TINY))
    save_board_model(model, tmp_path, {}, lambda shipped: legality(shipped, held_out_games(2)))
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FileError, match=tmp_path.name):
        load_othello_gpt(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(FileError, match=name):
        load_othello_gpt(tmp_path)
