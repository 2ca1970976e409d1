"""What a rater's work leaves in the judgement file, without HTTP."""

import json
import time
from dataclasses import replace

import pytest

from kibitz.pages.judging import Judging
from kibitz.pages.serving import PageError, SealedError, UnknownError
from kibitz.shift_problem import ShiftError
from kibitz.shift_report import ReportConfig, run_report
from shift.judge import Opinion, verdicts_on
from shift.judgements import Frozen, JudgementError, JudgementLog
from shift.run_folder import RunFolderError, judgements_path, write_card, write_outcome, write_task
from tests.pages.run_for_tests import BESIDE, ITEMS, OUTCOME, PROPERTY, make_run, scored, scorer

KEEP, TRIM = Opinion("keep", "because", 0.8), Opinion("trim", "")


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "run")


def verdicts(judging: Judging) -> list[str | None]:
    return [item["verdict"] for item in judging.state()["items"]]


def test_a_verdict_is_written_for_each_member(run):
    judging = Judging(run, "ann")
    judging.judge("1", KEEP, 12.5, None)
    judging.judge("3", TRIM, 1.0, None)
    log = JudgementLog(judgements_path(run), "a task")
    found = [(j.site, j.feature, j.effect, j.verdict, j.role, j.item, j.seconds) for j in log.standing()]
    assert found == [
        ("resid_0", 3, -2.0, "keep", "candidate", "1", 12.5),
        ("resid_1", 4, -1.5, "keep", "candidate", "1", 12.5),
        ("resid_0", 9, 0.0, "trim", "control", "3", 1.0),
    ]
    assert verdicts(judging) == ["keep", None, "trim", None, None, None]
    assert judging.state()["unjudged"] == 4


def test_it_resumes_and_tells_raters_apart(run):
    Judging(run, "ann").judge("2", KEEP, 1.0, None)
    again, ben = Judging(run, "ann"), Judging(run, "ben")
    assert verdicts(again) == [None, "keep", None, None, None, None] and verdicts(ben) == [None] * 6
    assert ben.state()["others"] == {"ann": 1} and again.state()["others"] == {}


def test_a_repeat_is_judged_for_itself(run):
    judging = Judging(run, "ann")
    judging.judge("2", KEEP, 1.0, None)
    assert verdicts(judging)[5] is None
    judging.judge("6", TRIM, 1.0, None)
    assert verdicts(judging)[1] == "keep" and verdicts(judging)[5] == "trim"


def test_undo_takes_back_the_whole_group(run):
    judging = Judging(run, "ann")
    judging.judge("2", KEEP, 1.0, None)
    judging.judge("1", TRIM, 1.5, None)
    assert judging.undo() == {"item": "1", "reason": "", "confidence": None, "seconds": 1.5}
    assert verdicts(judging)[:2] == [None, "keep"]
    assert judging.undo() == {"item": "2", "reason": "because", "confidence": 0.8, "seconds": 1.0}
    with pytest.raises(JudgementError, match="no verdict to take back"):
        judging.undo()


def test_another_window(run):
    one, other = Judging(run, "ann"), Judging(run, "ann")
    other.judge("2", TRIM, 1.0, None)
    with pytest.raises(PageError, match="judged 'trim' elsewhere"):
        one.judge("2", KEEP, 1.0, None)
    one.judge("2", KEEP, 1.0, "trim")
    other.undo()
    with pytest.raises(PageError, match="judged 'trim' elsewhere"):  # what was said before counts again
        one.judge("2", TRIM, 1.0, "keep")


def test_the_freeze_is_confirmed_with_what_is_left(run):
    judging, other = Judging(run, "ann"), Judging(run, "ann")
    judging.judge("1", KEEP, 1.0, None)
    other.judge("2", KEEP, 1.0, None)
    with pytest.raises(PageError, match="4 cards are not judged by now, and not 5"):
        judging.freeze(5)
    judging.freeze(4)
    assert other.state()["frozen"] and verdicts(other)[:2] == ["keep", "keep"]
    for act in (lambda: other.judge("3", KEEP, 1.0, None), other.undo, lambda: other.freeze(4)):
        with pytest.raises(JudgementError, match="frozen"):
            act()


def test_the_outcome(run):
    judging = Judging(run, "ann", score=scorer(run))
    scorer(run)()
    with pytest.raises(SealedError):
        judging.outcome()
    with pytest.raises(SealedError):
        judging.start_scoring()
    for item, opinion in zip(ITEMS, (KEEP, TRIM, TRIM, KEEP, TRIM, KEEP), strict=True):
        judging.judge(item.name, opinion, 1.0, None)
    judging.freeze(0)
    scorer(run)()
    found = judging.outcome()
    assert found["outcome"] == scored(run)
    assert found["verdicts"] == {"keep": 3, "trim": 2}  # features of candidates: the group counts twice
    assert found["reliability"] == {"consistency": 0.0, "repeats": 1, "control_trim_rate": 1.0, "controls": 1}
    assert found["sha256"] == Frozen.read(judgements_path(run)).sha256


def settled(judging: Judging) -> dict:
    for _ in range(500):
        scoring = judging.state()["scoring"]
        if scoring["state"] != "running":
            return scoring
        time.sleep(0.01)
    raise AssertionError("still running")


def test_scoring(run):
    def fail() -> None:
        raise ValueError("no games are left")

    with pytest.raises(PageError, match="kibitz shift score"):
        Judging(run, "ann").start_scoring()
    failing = Judging(run, "ann", score=fail)
    failing.freeze(6)
    failing.start_scoring()
    assert settled(failing) == {"possible": True, "state": "failed", "error": "no games are left"}
    forgetful = Judging(run, "ann", score=lambda: None)
    forgetful.start_scoring()
    assert "outcome.json: no such file" in settled(forgetful)["error"]
    judging = Judging(run, "ann", score=scorer(run))
    judging.start_scoring()
    assert settled(judging)["state"] == "done" and judging.outcome()["outcome"] == scored(run)


@pytest.mark.parametrize("frozen", [{}, {"frozen": None}, {"frozen": "0" * 64}])
def test_an_outcome_of_other_judgements_is_none(run, frozen):
    """Such as that of a run whose judgements were taken away and made again."""
    judging = Judging(run, "ann", score=lambda: None)
    judging.freeze(6)
    write_outcome(run, {**OUTCOME, **frozen})
    assert judging.outcome()["outcome"] is None
    judging.start_scoring()
    assert "not of the judgements that were frozen" in settled(judging)["error"]
    with pytest.raises(ShiftError, match=r"not of these judgements; run kibitz shift score .* again"):
        run_report(ReportConfig(run))
    assert not (run / "report.html").exists()
    scorer(run)()
    assert "0.72" in run_report(ReportConfig(run)) and judging.outcome()["outcome"] == scored(run)


def test_cards_hold_what_may_be_seen_and_no_more(run):
    shown, blind = (json.dumps([Judging(run, "ann", blind=b).card(i.name) for i in ITEMS]) for b in (False, True))
    assert PROPERTY in shown and BESIDE in shown and "-1.25" in shown
    for text in (shown, blind):
        assert "role" not in text and "control" not in text
    assert PROPERTY not in blind and BESIDE not in blind and "effect" not in blind and "-1.25" not in blind
    assert "resid_0" in blind and "caption" in blind
    with pytest.raises(UnknownError):
        Judging(run, "ann").card("7")


def test_the_run_may_be_blind_by_itself(tmp_path):
    run = make_run(tmp_path, blind=True)
    assert Judging(run, "ann").state()["task"]["blind"]
    assert PROPERTY not in json.dumps(Judging(run, "ann").card("1"))


def test_broken_runs(run, tmp_path):
    with pytest.raises(RunFolderError, match="task.json: no such file"):
        Judging(tmp_path, "ann")
    with pytest.raises(PageError, match="no name"):
        Judging(run, "  ")
    swapped = json.loads((run / "cards" / "2.json").read_text())
    write_card(run, "1", swapped)
    with pytest.raises(PageError, match="card of item 1 shows other features"):
        Judging(run, "ann")
    (run / "cards" / "1.json").unlink()
    with pytest.raises(RunFolderError, match=r"cards/1.json: no such file"):
        Judging(run, "ann")


def test_another_tasks_file(run):
    judging = Judging(run, "ann")
    log = JudgementLog(judgements_path(run), "another task")
    with pytest.raises(JudgementError, match="another task"):
        judging.state()
    log.freeze()
    with pytest.raises(PageError, match="another task"):
        judging.state()


def test_a_group_that_was_judged_in_part_is_open(run):
    item = replace(ITEMS[0], group=ITEMS[0].group[:1])
    JudgementLog(judgements_path(run), "a task").add(*verdicts_on(item, KEEP, "ann"))
    assert verdicts(Judging(run, "ann"))[0] is None


def test_task_entries_beside_the_known_ones_stay_here(run):
    given = json.loads((run / "task.json").read_text())
    write_task(run, {**given, "labels": "xsecret"})
    assert "xsecret" not in json.dumps(Judging(run, "ann").state())
