"""What scripts/shift_ground_truth.py stands on: tasks, sets of dictionaries, and measurements of one setting only."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from boardgames.othello.properties import SQUARES
from boardgames.othello.transcript import CONTEXT, VOCABULARY
from saes.files import FileError, write_json
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


@pytest.fixture
def identities(truth, monkeypatch):
    """The module, with weights that need not be loaded."""
    from shift_truth import identities

    monkeypatch.setattr(identities, "_shipped", lambda: {"model": "a", "dictionaries": "b"})
    return identities


def _measured(file: Path, train: int, cell: int) -> None:
    write_json(file, {"task": {"train": train, "cell": cell}, "judge": "causal oracle"})


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("battery", {"train": 1000}),
        ("battery", {"cell": 7}),
        ("noise", {"quick_cell": 7}),
        ("left_out", {"left_out_judgements": 3}),
        ("battery", {"settings": ("examples", 31)}),
        ("dictionaries", {"quick": ("steps", 5)}),
    ],
)
def test_measurements_of_other_sizes_are_refused(identities, monkeypatch, tmp_path, part, change):
    small = identities.SIZES["small"]
    write_json(tmp_path / "dictionaries" / "identity.json", {
        "scale": identities.plain(identities.SCALES["small"]), "model": "a"})  # fmt: skip
    identities.check_part(part, tmp_path, "small")
    identities.check_part(part, tmp_path, "small")
    entry, value = next(iter(change.items()))
    if isinstance(value, tuple):
        value = replace(getattr(small, entry), **dict([value]))
    monkeypatch.setitem(identities.SIZES, "small", replace(small, **{entry: value}))
    with pytest.raises(FileError, match=r"was begun with another \w+; choose another --run"):
        identities.check_part(part, tmp_path, "small")


def test_more_tasks_go_on_and_other_weights_do_not(identities, monkeypatch, tmp_path):
    small = identities.SIZES["small"]
    identities.check_part("battery", tmp_path, "small")
    more = replace(small, whole_pairs=99, noisy_tasks=99, compared_tasks=99, left_out_tasks=99)
    monkeypatch.setitem(identities.SIZES, "small", more)
    identities.check_part("battery", tmp_path, "small")
    for other in ("model", "dictionaries"):
        shipped = {"model": "a", "dictionaries": "b"} | {other: "c"}
        monkeypatch.setattr(identities, "_shipped", lambda shipped=shipped: shipped)
        with pytest.raises(FileError, match=f"another {other};"):
            identities.check_part("battery", tmp_path, "small")


def test_measurements_without_identity_are_taken_over_if_their_tasks_agree(identities, tmp_path):
    sizes = identities.SIZES["small"]
    own, other = tmp_path / "own", tmp_path / "other"
    _measured(own / "battery" / "shipped" / "x.causal.json", sizes.train, sizes.cell)
    identities.check_part("battery", own, "small")
    assert identities.recorded("battery", own)["train"] == sizes.train
    _measured(other / "battery" / "shipped" / "x.causal.json", sizes.train, sizes.cell + 1)
    with pytest.raises(FileError, match=f"x.causal has cell {sizes.cell + 1}, not {sizes.cell}"):
        identities.check_part("battery", other, "small")
    assert identities.recorded("battery", other) is None


def test_sets_and_tasks_of_another_scale_are_refused(identities, tmp_path):
    sets = {"scale": identities.plain(identities.SCALES["paper"]), "model": "a"}
    write_json(tmp_path / "dictionaries" / "identity.json", sets)
    with pytest.raises(FileError, match="dictionaries: was begun with another scale"):
        identities.check_part("dictionaries", tmp_path, "small")
    specs = [{"family": "pair", "spec": {"train": 4000, "test": 1000, "cell": 1000}}] * 20
    write_json(tmp_path / "tasks.json", specs)
    with pytest.raises(FileError, match="of another scale than paper"):
        identities.check_tasks(tmp_path, "paper")
    identities.check_tasks(tmp_path, "small")
    with pytest.raises(FileError, match="another pool"):
        identities.check_tasks(tmp_path, "paper")


def test_an_injected_study_of_other_weights_is_refused(truth, monkeypatch, tmp_path):
    from shift_truth import injected

    scale = truth[0].SCALES["small"]
    found = {name: GPT2LMHeadModel(GPT2Config(vocab_size=8, n_positions=4, n_embd=8, n_layer=1, n_head=1))
             for name in ("masked", "unmasked")}  # fmt: skip
    monkeypatch.setattr(injected, "load_othello_gpt", lambda folder: found[folder.name])
    monkeypatch.setattr(injected, "_shipped", lambda _: {})
    write_json(tmp_path / "study.json", {"kept": 1})
    assert injected.study(scale, tmp_path) == {"kept": 1}
    found["unmasked"].transformer.wte.weight.data += 1
    with pytest.raises(FileError, match="another unmasked;"):
        injected.study(scale, tmp_path)


def test_seeds_on_text_of_another_recipe_are_refused(truth, model, tmp_path):
    from shift_text import Recipe, check_recipe

    table = tmp_path / "table.csv"
    table.write_text("text\n")
    recipe = Recipe(table, "tiny", run=tmp_path / "run")
    check_recipe(recipe, model)
    check_recipe(replace(recipe, seeds=9, out=tmp_path), model)
    with pytest.raises(FileError, match="another k;"):
        check_recipe(replace(recipe, k=9), model)
    table.write_text("text\nmore\n")
    with pytest.raises(FileError, match="another table;"):
        check_recipe(recipe, model)
    write_json(tmp_path / "unknown" / "0" / "result.json", {})
    with pytest.raises(FileError, match="does not say how its seeds were measured"):
        check_recipe(replace(recipe, run=tmp_path / "unknown"), model)


def _battery(run: Path, squares: str, after: dict[str, float], judges: dict[str, float]) -> None:
    """Finished tasks with the same worst groups in each; what is retrained follows B as often as `judges` says."""
    titles = {"original": 0.5, "oracle": 0.9, "shift": 0.5, "shift_mean": 0.5, "shift_retrained": 0.7} | after
    for number, square in enumerate(squares.split()):
        task = {"intended": f"mine {square}", "spurious": "mine h8", "site": "resid_2"}
        words = f"mine-{square}-mine-h8-0"
        folder = run / "battery" / "shipped"
        write_json(folder / f"{words}.case.json", {"task": task, "outside": 0.5, "readability": 0.9 - 0.1 * number})
        for judge, spurious in judges.items():
            rows = {
                name: {"title": name, "labels": "ambiguous", "worst_group": group + 0.01 * number, "intended": 0.8,
                       "spurious": spurious if name == "shift_retrained" else 0.5, "cells": [[0.9, 0.9], [0.9, 0.9]]}
                for name, group in titles.items()
            }  # fmt: skip
            measured = {"task": task, "judge": judge, "candidates": 9, "trimmed": 3, "error_share": 0.1}
            write_json(
                folder / f"{words}.{judge}.json", {**measured, "effect_of_verdicts": {}, "quality": {}, "rows": rows}
            )


def test_the_document_is_worded_by_its_numbers(truth, monkeypatch, tmp_path):
    from shift_truth import writing

    limits = {"probe": 0.95, "worst_group": 0.6, "feature": 0.8}
    spec = {"intended": "mine c3", "spurious": "mine h7", "site": "resid_2", "train": 4000}
    drawn = {"spec": spec, "probe_intended": 0.9, "probe_spurious": 0.97, "original_worst_group": 0.5, "limits": limits,
             "intended_feature": {"f1": 0.9}, "spurious_feature": None, "passed": False}  # fmt: skip
    run = tmp_path / "run"
    write_json(run / "tasks.json", [{"family": "pair", **drawn}, {"family": "pair", "spec": spec, "passed": False}])
    write_json(run / "battery" / "identity.json", {
        "train": 1234, "cell": 5, "candidates": 9, "examples": 8, "steps": 7, "labelled": 6, "names": 4})  # fmt: skip
    rivals = {f"{name}{kind}": 0.8 for name in ("token_sites_full", "tokens_erased") for kind in ("", "_retrained")}
    after = {"shift": 0.3, "random": 0.5, "leace": 0.6, **rivals}
    _battery(run, "a1 b2 c3 d4", after, {"causal": 0.5, "concept": 0.51, "one-square": 0.52, "turned": 0.83})
    study = {"variance_explained": {}, "trimmed": {}, "scores": {}, "recovered": {"trimmed": -0.1, "random 0": 0.25}}
    write_json(run / "injected" / "study.json", {"shipped dictionaries": {}, "first": study, "second": study})
    monkeypatch.setattr(writing, "check_measured", lambda *_: None)
    writing.write_results(run, tmp_path / "shift.md", tmp_path, "small")
    text = (tmp_path / "shift.md").read_text()
    short, rest = text.split("## Tasks")
    for claim in (
        "Un-retrained SHIFT widens the gap",
        "closes -0.50 [-0.50, -0.50]",
        "0.00 [0.00, 0.00], SHIFT behind (-0.50",
        "LEACE 0.25 [0.25, 0.25], behind (-0.25",
        "right about B in 0.83 (else 0.51)",
        "ahead on the deeper half of the cues in 0 of 4 comparisons and behind on the shallower half in 4",
        "bring back -10%, as many random features 25% in the mean (dictionaries: first)",
        "(dictionaries: second)",
    ):
        assert claim in short
    for claim in (
        "Of the 1 that could be drawn",
        "of A reaches 0.95 in 0; one of B reaches 0.95 in 1;",
        "| methods, judges, depth |             1234 |",
    ):
        assert claim in rest
    judges = next(line for line in rest.splitlines() if line.startswith("| turned"))
    assert judges.rstrip(" |").endswith("0.83")
    assert "sets of dictionaries" not in rest.partition("## Settings")[2]
