"""`kibitz train --board-every`: boards scored on the way, the best kept, and not one bit of training moved by it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from boardgames.chess.transcript import encode
from boardgames.othello.rules import random_games
from boardgames.watch import best_so_far
from kibitz import material
from kibitz.train import RunConfig, run_train
from saes.checkpoint import load_dictionary
from saes.files import read_state
from saes.models import save_model
from saes.recorder import read_records
from saes.run_checkpoints import Checkpoints
from tests.kibitz.test_board import chess_games
from tests.saes.models_for_tests import tiny

MEMBERS = {f"resid_0/coefficient-{c}_seed-0" for c in ("0.02", "0.1")}


@pytest.fixture(autouse=True)
def few_games(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(material, "GAME_TOKENS", 15_000)


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    return RunConfig(
        architecture="relu",
        sites=("resid_0",),
        coefficients=(0.02, 0.1),
        steps=20,
        batch_size=64,
        expansion=2,
        save_every=8,
        log_every=10,
        board_every=6,
        out=tmp_path / "run",
    )


def files(out: Path) -> dict[str, bytes]:
    """Dictionaries and the index of the best, byte by byte."""
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.name in ("dictionary.safetensors", "best.json")
    }


def whole_state(out: Path) -> dict[str, torch.Tensor]:
    """All tensors of the last checkpoint."""
    found = {}

    def collect(name: str, value: object) -> None:
        if isinstance(value, dict):
            for key, each in value.items():
                collect(f"{name}/{key}", each)
        elif isinstance(value, torch.Tensor):
            found[name] = value

    collect("", read_state(max((out / "checkpoints").glob("step-*.pt"))))
    return found


def test_scores_are_recorded_the_best_is_kept_and_training_is_untouched(config):
    printed = run_train(config)
    bare = replace(config, board_every=0, out=config.out.parent / "bare")
    run_train(bare)
    with_board, without = whole_state(config.out), whole_state(bare.out)
    assert with_board.keys() == without.keys() and len(without) > 10
    assert all(torch.equal(with_board[name], tensor) for name, tensor in without.items())
    trained = files(config.out)
    for name, weights in files(bare.out).items():
        assert name.startswith("dictionaries/") and trained[name] == weights

    records = {
        (f"{r['site']}/coefficient-{config.coefficients[r['member']]:g}_seed-0", r["step"]): r
        for r in read_records(config.out / "metrics.jsonl")
    }
    scored = {key: r for key, r in records.items() if "coverage" in r}
    assert {step for _, step in scored} == {5, 11, 17, 19} and {name for name, _ in scored} == MEMBERS
    assert all("l0" in records[name, 19] for name in MEMBERS)  # what is logged at the same step is there too
    best = best_so_far(config.out / "best")
    assert best.keys() == MEMBERS
    for name, kept in best.items():
        coverages = {step: r["coverage"] for (of, step), r in scored.items() if of == name}
        assert kept["coverage"] == max(coverages.values()) == coverages[kept["step"]]
        assert kept["step"] == min(step for step, c in coverages.items() if c == kept["coverage"])
        assert f"{name}: step {kept['step']}, coverage {kept['coverage']:.3f}" in printed
        last = load_dictionary(config.out / "dictionaries" / name).state_dict()
        same = all(torch.equal(t, last[k]) for k, t in load_dictionary(config.out / "best" / name).state_dict().items())
        assert same == (kept["step"] == 19)


def test_the_best_survives_a_stop_with_the_same_bytes(config, monkeypatch):
    run_train(config)
    other = replace(config, out=config.out.parent / "other")
    saved = Checkpoints.save

    def save(self, step, state):
        if step == 16:  # scores behind the last checkpoint are there
            raise KeyboardInterrupt
        saved(self, step, state)

    monkeypatch.setattr(Checkpoints, "save", save)
    with pytest.raises(KeyboardInterrupt, match="the same command goes on with"):
        run_train(other)
    assert {kept["step"] for kept in best_so_far(other.out / "best").values()} <= {5, 11}
    monkeypatch.setattr(Checkpoints, "save", saved)
    run_train(other)
    assert files(other.out) == files(config.out)


def test_nothing_is_kept_where_nothing_is_asked_for(config):
    run_train(replace(config, board_every=20, keep_best="none"))
    assert not (config.out / "best").exists()
    assert sum("reconstruction" in r for r in read_records(config.out / "metrics.jsonl")) == 2


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"board_every": -1}, "board_every is -1"),
        ({"corpus": "t.txt"}, "--board-every needs games"),
        ({"activations": Path("a")}, "--board-every needs games"),
        ({"board_every": 0, "board_games": (Path("g.csv"),)}, "give --board-every"),
        ({"board_split": 5}, "board_split is 5"),
        ({"held_out_tokens": 500}, "needs 40 games kept apart, and there are 9"),
    ],
)
def test_runs_without_boards_are_refused(config, changed, said):
    with pytest.raises(ValueError, match=said):
        run_train(replace(config, **changed))


def test_chess_on_games_of_a_file(config, tmp_path):
    shape = GPT2Config(
        vocab_size=32, n_positions=256, n_embd=16, n_layer=1, n_head=2, bos_token_id=None, eos_token_id=None
    )
    torch.manual_seed(0)
    save_model(GPT2LMHeadModel(shape), tmp_path / "lm")
    games = chess_games(60)
    (tmp_path / "games.txt").write_text("\n".join(games) + "\n")
    np.save(tmp_path / "rows.npy", np.repeat(encode(games)[:, :64], 20, axis=0).astype(np.uint8))
    chess = replace(
        config,
        model=str(tmp_path / "lm"),
        corpus=str(tmp_path / "rows.npy"),
        context=64,
        held_out_tokens=500,
        board_every=20,
        board_games=(tmp_path / "games.txt",),
        board_split=25,
    )
    assert "coverage 0." in run_train(chess)
    assert set(best_so_far(chess.out / "best")) == MEMBERS
    with pytest.raises(ValueError, match="--board-every needs games"):
        replace(chess, board_games=())


def test_a_model_of_something_else_is_refused(config, tmp_path):
    tiny("gpt2").save_pretrained(tmp_path / "lm")
    np.savez(tmp_path / "games.npz", moves=random_games(300, np.random.default_rng(0)))
    with pytest.raises(
        ValueError, match="the model plays neither Othello nor chess|97 tokens are the vocabulary of no game"
    ):
        run_train(replace(config, model=str(tmp_path / "lm"), games=tmp_path / "games.npz"))
