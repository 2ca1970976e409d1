"""A verdict that was acknowledged is never lost, mixed with another, or changed unnoticed."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from shift.append_log import LogError, read_lines, writing
from shift.judgements import Frozen, JudgementLog, merge, read_schema
from shift.verdicts import JudgementError, Policy, trimmed
from tests.shift.judging_for_tests import judged


@pytest.fixture
def log(tmp_path):
    return JudgementLog(tmp_path / "j.jsonl", "task")


def verdicts(log: JudgementLog) -> dict[int, str]:
    return {j.feature: j.verdict for j in log.standing()}


class TestKilled:
    """A kill can cut the file at any byte."""

    def test_at_any_byte_every_whole_verdict_stays_and_judging_goes_on(self, tmp_path, monkeypatch):
        monkeypatch.setattr(os, "fsync", lambda handle: None)  # what is on disk is not asked here
        whole = tmp_path / "whole.jsonl"
        log = JudgementLog(whole, "tâche")
        ends = []
        for feature in range(3):
            log.add(replace(judged(feature, "trim"), reason="ein Läufer ♗"))
            ends.append(whole.stat().st_size)
        content = whole.read_bytes()
        first = content.index(b"\n") + 1
        cuts = {first, *range(first, len(content), 23), *(end + by for end in ends for by in (-1, 0, 1))}
        for cut in sorted(cuts - {len(content) + 1}):
            path = tmp_path / "cut.jsonl"
            path.write_bytes(content[:cut])
            left = sum(end <= cut for end in ends)
            again = JudgementLog(path, "tâche")
            assert sorted(verdicts(again)) == list(range(left))
            again.add(judged(9, "keep"))
            assert verdicts(again) == {**dict.fromkeys(range(left), "trim"), 9: "keep"}
            assert path.read_bytes().startswith(content[:cut])  # nothing is erased
            torn = cut not in (first, *ends)
            assert len(again.notes()) == torn
            assert len(again.freeze().judgements) == left + 1

    def test_a_line_that_lacks_only_its_end_does_not_count(self, log):
        log.add(judged(1, "trim"))
        log.add(judged(2, "trim"))
        log.path.write_bytes(log.path.read_bytes()[:-1])
        assert verdicts(log) == {1: "trim"}  # before the repair, and after
        log.add(judged(3, "keep"))
        assert verdicts(log) == {1: "trim", 3: "keep"}

    def test_while_the_repair_is_written(self, log):
        log.add(judged(1, "trim"))
        sound = log.path.read_bytes()
        log.path.write_bytes(sound + b'{"kind": "judg')
        log.add(judged(2, "trim"))
        repaired = log.path.read_bytes()
        note = repaired.index(b'{"kind": "torn"')
        for cut in range(note, repaired.index(b"\n", note) + 1):
            log.path.write_bytes(repaired[:cut])
            log.add(judged(3, "keep"))
            assert verdicts(log) == {1: "trim", 3: "keep"}

    def test_a_process_killed_in_the_middle_of_writing(self, tmp_path):
        path = tmp_path / "j.jsonl"
        script = f"""
import os, pathlib, shift.append_log as a
path = pathlib.Path({str(path)!r})
with a.writing(path) as w:
    w.append([{{"kind": "task", "task": "task"}}])
with a.writing(path) as w:
    w._stream.write(b'{{"kind": "judgement", "si'); w._stream.flush()
    os.kill(os.getpid(), 9)
"""
        process = _python(script)
        process.communicate()
        assert process.returncode == -9
        log = JudgementLog(path, "task")  # the lock went with the process
        log.add(judged(4, "trim"))
        assert verdicts(log) == {4: "trim"} and "line 2" in log.notes()[0]

    def test_a_damaged_line_elsewhere_is_not_passed_over(self, log):
        log.add(judged(1, "trim"))
        log.add(judged(2, "trim"))
        lines = log.path.read_bytes().splitlines(keepends=True)
        log.path.write_bytes(lines[0] + lines[1][:20] + b"\n" + lines[2])
        with pytest.raises(LogError, match="line 2 is no JSON object"):
            read_lines(log.path)
        with pytest.raises(JudgementError, match="line 2"):
            log.add(judged(3, "trim"))


def _python(script: str) -> subprocess.Popen:
    """Without the package's __init__, which loads torch: only the log is under test."""
    light = "import sys, types; m = types.ModuleType('shift'); m.__path__ = [sys.argv[1]]; sys.modules['shift'] = m\n"
    root = Path(__file__).parents[2]
    stub = "m = types.ModuleType('saes.files'); import contextlib; m.full_disk = lambda p: contextlib.nullcontext()\n"
    stub += "sys.modules['saes'] = types.ModuleType('saes'); sys.modules['saes.files'] = m\n"
    command = [sys.executable, "-c", light + stub + script, str(root / "shift")]
    return subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_processes_that_append_at_once_lose_and_mix_nothing(tmp_path):
    path = tmp_path / "j.jsonl"
    script = """
import pathlib, shift.append_log as a
print("ready", flush=True)
input()
for i in range(15):
    with a.writing(pathlib.Path({path!r})) as w:
        w.append([{{"kind": "n", "by": {by}, "i": i, "pad": "x" * 10000}}])
"""
    running = [_python(script.format(path=str(path), by=by)) for by in range(2)]
    for process in running:
        assert process.stdout.readline() == "ready\n"
    for process in running:
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in running:
        process.communicate()
        assert process.returncode == 0
    lines = read_lines(path)
    assert not lines.notes
    for by in range(2):
        assert [line.value["i"] for line in lines.whole if line.value["by"] == by] == list(range(15))


def test_a_verdict_is_on_disk_when_add_returns(log, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(os.fstat(handle).st_size))
    for feature in range(3):
        log.add(judged(feature, "keep"))
        assert synced[-1] == log.path.stat().st_size
    assert len(synced) == 3


class TestUndo:
    def test_gives_back_what_was_said_before_and_erases_nothing(self, log):
        log.add(judged(1, "keep"))
        log.add(judged(1, "trim"))
        before = log.path.read_bytes()
        assert [j.verdict for j in log.undo("ann")] == ["trim"]
        assert verdicts(log) == {1: "keep"}
        assert log.path.read_bytes().startswith(before)
        log.undo("ann")
        assert verdicts(log) == {}
        with pytest.raises(JudgementError, match="'ann' has no verdict"):
            log.undo("ann")

    def test_takes_a_group_as_a_whole_and_only_its_last_verdict(self, log):
        log.add(judged(1, "keep", item="1"), judged(2, "keep", item="1"))
        log.add(judged(1, "trim", item="1"), judged(2, "trim", item="1"))
        log.add(judged(7, "unsure", rater="bob"))
        assert {j.feature for j in log.undo("ann")} == {1, 2}
        assert verdicts(log) == {1: "keep", 2: "keep", 7: "unsure"}
        assert {j.feature for j in log.undo("ann")} == {1, 2}
        assert verdicts(log) == {7: "unsure"}

    def test_of_one_rater_leaves_the_other_alone(self, log):
        log.add(judged(1, "trim"))
        log.add(judged(1, "keep", rater="bob"))
        log.undo("ann")
        assert [(j.rater, j.verdict) for j in log.standing()] == [("bob", "keep")]

    def test_of_lines_that_are_no_verdicts_is_refused(self, log):
        log.add(judged(1, "trim"))
        with writing(log.path) as file:
            file.append([{"kind": "undo", "rater": "ann", "lines": [1]}])
        with pytest.raises(JudgementError, match=re.escape("takes back [1]")):
            log.standing()


class TestFreeze:
    def test_any_changed_byte_before_it_is_noticed(self, log):
        log.add(judged(1, "keep"))
        log.add(judged(2, "trim"))
        frozen = log.freeze()
        assert frozen.trimmed() == {"resid_0": [2]}
        content = log.path.read_bytes()
        end = content.index(b'{"kind": "freeze"')
        for at in range(0, end, 7):
            changed = bytearray(content)
            changed[at] ^= 1
            log.path.write_bytes(changed)
            with pytest.raises(JudgementError):
                Frozen.read(log.path)
        log.path.write_bytes(content)
        assert Frozen.read(log.path) == frozen

    def test_only_openings_follow_it(self, log):
        frozen = log.freeze()
        frozen.record_opening("scoring")
        assert Frozen.read(log.path) == frozen
        for refused in (lambda: log.add(judged(1, "trim")), lambda: log.undo("ann"), log.freeze):
            with pytest.raises(JudgementError, match="frozen"):
                refused()
        with writing(log.path) as file:
            file.append([{"kind": "judgement", "site": "resid_0"}])
        with pytest.raises(JudgementError, match="after the freeze"):
            Frozen.read(log.path)


class TestRaters:
    POLICIES = (
        (Policy(), {1, 2}),
        (Policy(raters="any"), {1, 2, 3}),
        (Policy(raters="all"), {1}),
        (Policy(unsure="trim"), {1, 2, 4}),
        (Policy(unsure="abstain", raters="all"), {1, 2}),
        (Policy(mixed="trim"), {1, 2, 3}),
        (Policy(unsure="abstain", mixed="abstain"), {1, 2, 3}),
        (Policy(unsure="abstain", mixed="abstain", raters="all"), {1, 2, 3}),
    )
    SAID = ((1, "trim trim"), (2, "trim unsure trim"), (3, "trim mixed"), (4, "unsure"), (5, "keep"))

    @pytest.mark.parametrize(("policy", "expected"), POLICIES)
    def test_together(self, policy, expected):
        said = [judged(f, v, rater=f"r{i}") for f, several in self.SAID for i, v in enumerate(several.split())]
        assert {f for _, f in trimmed(said, policy)} == expected

    def test_chosen_ones(self):
        said = [judged(1, "trim"), judged(1, "keep", rater="bob"), judged(2, "trim", rater="bob")]
        assert trimmed(said) == {("resid_0", 2)}  # a tie is kept
        assert trimmed(said, raters=["ann"]) == {("resid_0", 1)}
        with pytest.raises(JudgementError, match="no verdict of cat: known are ann, bob"):
            trimmed(said, raters=["cat"])

    def test_repeats_and_controls_trim_nothing(self):
        said = [judged(1, "keep"), judged(1, "trim", role="repeat"), judged(2, "trim", role="control")]
        assert trimmed(said) == set()

    def test_merged_files_hold_what_the_sources_do(self, tmp_path):
        first, second = (JudgementLog(tmp_path / f"{name}.jsonl", "task") for name in ("a", "b"))
        first.add(judged(1, "trim", time="2026-01-02T00:00:00+00:00"))
        first.add(judged(2, "trim"))
        first.undo("ann")
        second.add(judged(1, "keep", rater="bob", time="2026-01-01T00:00:00+00:00"))
        both = merge([first.path, second.path], tmp_path / "both.jsonl", "task")
        assert [(j.rater, j.verdict) for j in both.standing()] == [("bob", "keep"), ("ann", "trim")]
        second.add(judged(1, "keep"))
        with pytest.raises(JudgementError, match="'ann' judged resid_0/1 in another file"):
            merge([first.path, second.path], tmp_path / "again.jsonl", "task")
        other = JudgementLog(tmp_path / "c.jsonl", "else")
        with pytest.raises(JudgementError, match="holds task 'else'"):
            merge([first.path, other.path], tmp_path / "again.jsonl", "task")


def test_every_line_fits_the_schema_and_no_other_does(log, tmp_path):
    log.add(judged(1, "trim", confidence=0.5, seconds=2.0, item="1", role="repeat"), judged(2, "mixed"))
    log.undo("ann")
    log.add(judged(3, "unsure"))
    with log.path.open("ab") as stream:
        stream.write(b'{"ki')
    merged = merge([log.path], tmp_path / "merged.jsonl", "task")
    log.freeze().record_opening("scoring")
    validator = Draft202012Validator(read_schema())
    lines = [line.value for path in (log.path, merged.path) for line in read_lines(path).whole]
    lines += [json.loads(raw) for raw in log.path.read_bytes().splitlines() if b'"torn"' in raw]
    kinds = {line["kind"] for line in lines}
    assert kinds == {d["properties"]["kind"]["const"] for d in read_schema()["$defs"].values() if "properties" in d}
    for line in lines:
        assert validator.is_valid(line), line
        assert not validator.is_valid({**line, "more": 1})
    verdict = next(line for line in lines if line["kind"] == "judgement")
    for wrong in ({"verdict": "maybe"}, {"confidence": 2}, {"feature": -1}, {"rater": ""}, {"role": "spare"}):
        assert not validator.is_valid({**verdict, **wrong})


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"confidence": 1.5}, "between 0 and 1"),
        ({"effect": float("nan")}, "no number"),
        ({"rater": ""}, "no rater"),
        ({"feature": -1}, "number from 0"),
        ({"seconds": -1.0}, "seconds"),
    ],
)
def test_a_verdict_that_cannot_be(wrong, message):
    with pytest.raises(JudgementError, match=message):
        replace(judged(1, "trim"), **wrong)


def test_unknown_fields_kinds_and_types_in_a_file_are_refused(log):
    sound = log.path.read_bytes()
    for line, message in (
        ({"kind": "verdict"}, "kind 'verdict'"),
        ({"kind": "judgement", **{k: v for k, v in vars(judged(1, "trim")).items() if v is not None}, "x": 1}, "x"),
        ({"kind": "judgement", "site": "resid_0", "feature": 7, "effect": 0.0, "verdict": "maybe"}, "no judgement"),
        ({"kind": "judgement", "site": "resid_0", "feature": "7", "reason": "", "rater": "a"}, "no whole number"),
    ):
        log.path.write_bytes(sound)
        with writing(log.path) as file:
            file.append([line])
        with pytest.raises(JudgementError, match=message):
            log.standing()
