"""SHIFT repairs a planted confound, and nothing can look at the balanced labels before the freeze."""

import dataclasses

import pytest

from shift.judgements import JudgementLog
from shift.preparing import prepare
from shift.scoring import judge_all, outcome
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
