"""What scripts/shift_ground_truth.py stands on: which tasks are taken, and sets of dictionaries that are made once."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from boardgames.othello.properties import SQUARES
from boardgames.othello.transcript import CONTEXT, VOCABULARY
from saes.files import FileError
from shift.admission_games import Read
from shift.tasks.families import unrelated_owners
from shift.tasks.questions import on_one_line

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture(scope="module")
def truth():
    """The package of the scripts: (dictionaries, tasks)."""
    patch = pytest.MonkeyPatch()
    patch.syspath_prepend(str(SCRIPTS))
    from shift_truth import dictionaries, tasks

    yield dictionaries, tasks
    patch.undo()


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=VOCABULARY, n_positions=CONTEXT, n_embd=16, n_layer=2, n_head=1)
    return GPT2LMHeadModel(config).eval().requires_grad_(False)


def test_the_best_read_pairs_are_taken_and_squares_shared_out(truth):
    _, tasks = truth
    accuracy = dict(zip(SQUARES, np.random.default_rng(0).random(64), strict=True))
    scale = tasks.PoolScale(pairs=12, train=40, test=20, cell=7, seed=3)
    pool = list(tasks.pool_specs(accuracy, "resid_0", scale))
    assert Counter(family for family, _ in pool) == {"pair": 12, "depth": 4, "consequence": 3}
    for _, spec in pool:
        assert (spec.site, spec.train, spec.test, spec.cell, spec.seed) == ("resid_0", 40, 20, 7, 3)
    pairs = [(s.intended[-2:], s.spurious[-2:]) for family, s in pool if family == "pair"]
    assert len(set(map(frozenset, pairs))) == 12 and not any(on_one_line(*pair) for pair in pairs)
    for role in (0, 1):
        assert max(Counter(pair[role] for pair in pairs).values()) <= 2
    worst = [min(accuracy[a], accuracy[b]) for a, b in pairs]
    assert worst == sorted(worst, reverse=True)
    cues = [s.spurious[-2:] for family, s in pool if family == "consequence"][:2]
    assert cues == sorted(unrelated_owners("b4"), key=lambda s: -accuracy[s])[:2]


def test_screening_finds_the_square_that_can_be_read(truth, model, monkeypatch):
    _, tasks = truth

    def planted(model, sites, rows):
        owner = torch.from_numpy(rows.answer("mine c3") * 2.0 - 1)
        noise = torch.randn(len(owner), 4, generator=torch.Generator().manual_seed(0))
        return Read(rows, {sites[0]: torch.cat([owner[:, None].float(), noise], 1)})

    monkeypatch.setattr(tasks.Read, "of", planted)
    found = tasks.screen(model, tasks.find_site(model, "resid_0"), games=200, each=80)
    assert found["c3"] == 1
    others = [found[s] for s in SQUARES if s not in ("c3", "b3", "c4", "d3", "d4")]
    assert 0.4 < np.nanmean(others) < 0.65 and np.nanmax(others) < 0.8


@pytest.mark.slow
def test_sets_are_made_once_loaded_and_told_apart(truth, model, tmp_path, monkeypatch):
    dictionaries, _ = truth
    from boardgame_sweep.data import othello_parts
    from boardgame_sweep.plan import Scale

    scale = dictionaries.SetScale(Scale((3, 6), 30, 64, seeds=(0, 1)), 0.01, split=25)
    given = (scale, tmp_path, ("topk", "p_anneal"), ("resid_0", "resid_1"), othello_parts(60, 25))
    monkeypatch.setattr("boardgame_sweep.data.HELD_OUT", 10)
    sets = dictionaries.train_sets(model, *given)
    kinds = [(s.record["type"], s.record["target_l0"], s.record["seed"]) for s in sets]
    assert kinds == [(t, l0, seed) for t in ("topk", "p_anneal") for seed in (0, 1) for l0 in (3, 6)]
    for found in sets:
        loaded = found.load(model)
        assert [site.name for site in loaded] == ["resid_0", "resid_1"] == list(found.record["quality"])
        assert {d.architecture for d in loaded.values()} == {"topk" if found.record["type"] == "topk" else "relu"}
        for site, d in loaded.items():
            quality = found.record["quality"][site.name]
            if found.record["type"] == "topk":
                assert quality["l0"] <= found.record["target_l0"] == d.config.k
            assert quality["variance_explained"] <= 1 and 0 < quality["alive"] <= 1
        assert 0 <= found.record["board"]["coverage"] <= 1 and found.record["board"]["site"] == "resid_1"
    first, second = (s.load(model) for s in sets[:2])
    assert not any(torch.equal(first[site].W_dec, second[site].W_dec) for site in first)
    monkeypatch.setattr(dictionaries, "train_plan", lambda *_: pytest.fail("trained already"))
    monkeypatch.setattr(dictionaries, "evaluate_all", lambda *_: pytest.fail("measured already"))
    assert [s.record for s in dictionaries.train_sets(model, *given)] == [s.record for s in sets]
    with pytest.raises(FileError, match="another scale"):
        dictionaries.train_sets(model, replace(scale, rate=0.02), *given[1:])
