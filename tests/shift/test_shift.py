"""SHIFT repairs a planted confound, and nothing can look at the balanced labels before the freeze."""

import dataclasses

import numpy as np
import pytest
import torch

from shift.baselines import ALL
from shift.judge import JudgeError
from shift.judgements import JudgementLog
from shift.preparing import prepare
from shift.scoring import Row, judge_all, open_contest, outcome, run_methods
from shift.trim import Cells
from shift.verdicts import Judgement, JudgementError
from tests.shift.planted_for_tests import Planted


@pytest.fixture
def planted(tmp_path):
    return Planted(tmp_path)


def test_a_planted_confound_is_repaired(planted):
    model, dictionaries, task, opened = planted.model, planted.dictionaries, planted.task, planted.opened
    prepared = prepare(model, dictionaries, task, candidates=12, examples=40, steps=3, progress=False)
    assert prepared.ambiguous_accuracy > 0.99
    frozen = judge_all(prepared, planted.oracle(), planted.path, task)
    assert not opened  # the balanced set does not exist yet
    result = outcome(model, dictionaries, task, prepared, frozen, examples=40, steps=3, progress=False)
    assert opened
    assert result["original"].worst_group < 0.6  # both coordinates tell the label, so the head leans on both
    assert result["shift"].worst_group > 0.95
    assert result["shift_mean"].worst_group > 0.95
    assert result["shift_retrained"].worst_group > 0.95
    assert result["shift"].runs[0].spurious_accuracy == pytest.approx(0.5, abs=0.05)
    assert result["feature_skyline"].worst_group > 0.9
    assert result["random"].worst_group < 0.8
    assert result.count >= 2


def test_without_verdicts_nothing_changes(planted):
    model, dictionaries, task = planted.model, planted.dictionaries, planted.task
    prepared = prepare(model, dictionaries, task, candidates=5, examples=20, steps=2, progress=False)
    frozen = JudgementLog(planted.path, task.name).freeze()
    result = outcome(model, dictionaries, task, prepared, frozen, examples=20, steps=2, progress=False)
    assert result.count == 0
    assert (result["shift"].runs[0].accuracy == result["original"].runs[0].accuracy).all()


def test_judgements_of_other_features_are_refused(planted):
    model, dictionaries, task = planted.model, planted.dictionaries, planted.task
    prepared = prepare(model, dictionaries, task, candidates=5, examples=20, steps=2, progress=False)
    log = JudgementLog(planted.path, task.name)
    known = {(c.site.name, c.feature) for c in prepared.candidates}
    other = next(f for f in range(32) if ("embed", f) not in known)
    log.add(Judgement("embed", other, -0.5, "trim", "of another run", "me"))
    with pytest.raises(JudgeError, match=f"no candidates of this run, such as embed/{other}"):
        outcome(model, dictionaries, task, prepared, log.freeze(), examples=20, steps=2, progress=False)
    assert not planted.opened


@pytest.mark.parametrize("stored", [torch.bfloat16, pytest.param("cuda", marks=pytest.mark.gpu)])
def test_models_of_other_types_than_their_heads(tmp_path, stored):
    """Heads are fitted and asked in float32 on the CPU, whatever the model is stored in, and where."""
    planted = Planted(tmp_path)
    model = planted.model.to(stored)
    for dictionary in planted.dictionaries.values():
        dictionary.to(stored)
    prepared = prepare(model, planted.dictionaries, planted.task, candidates=12, examples=40, steps=3, progress=False)
    assert next(prepared.head.parameters()).dtype == torch.float32
    frozen = judge_all(prepared, planted.oracle(), planted.path, planted.task)
    contest = open_contest(
        model, planted.dictionaries, planted.task, prepared, frozen, labelled=planted.labelled, examples=40, steps=3,
        progress=False,
    )  # fmt: skip
    found = run_methods(contest, ALL)
    assert found["shift"].worst_group > 0.95 and found["neuron_skyline_mean"].worst_group > 0.9


def test_the_interval_of_several_runs_is_about_their_mean():
    half, most = (Cells(np.full((2, 2), a), 0.5, np.full((2, 2), 40)) for a in (0.2, 0.8))
    row = Row("random", "Random", "ambiguous", (half, most, most))
    bounds = row.interval()
    assert bounds.value == pytest.approx(0.6) and bounds.low < 0.6 < bounds.high + 0.1
    assert bounds.high > most.worst_group_draws().mean() - 0.2 and bounds.low > half.worst_group_draws().max()


def test_frozen_means_frozen(tmp_path):
    path = tmp_path / "judgements.jsonl"
    log = JudgementLog(path, "planted")
    log.freeze()
    with pytest.raises(JudgementError, match="frozen"):
        log.add(_judgement())
    with pytest.raises(JudgementError, match="frozen"):
        JudgementLog(path, "planted")


def test_the_latest_verdict_of_a_rater_counts(tmp_path):
    log = JudgementLog(tmp_path / "j.jsonl", "t")
    log.add(_judgement())
    log.add(dataclasses.replace(_judgement(), verdict="trim"))
    log.add(dataclasses.replace(_judgement(), feature=8))
    assert log.freeze().trimmed() == {"resid_0": [7]}


def _judgement() -> Judgement:
    return Judgement("resid_0", 7, -0.5, "keep", "looks fine", "me")
