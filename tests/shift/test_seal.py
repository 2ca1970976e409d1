"""Everything that a judge or a candidate could try to see balanced labels before the freeze, and what it gets."""

import copy
import dataclasses
import gc
import json
import pickle
from pathlib import Path

import jaxtyping
import numpy as np
import pytest
import torch

from saes.sites import Site
from shift.judgements import Frozen, Judgement, JudgementError, JudgementLog
from shift.specs import BoardTaskSpec
from shift.task import Balanced, Opening, Sealed, SealError
from shift.tasks.board import board_task

SITE = Site("resid_1", "transformer.h.1")
SPEC = BoardTaskSpec("mine c3", "mine f5", ("occupied c3", "occupied f5"), train=40, test=20, cell=5)
JUDGEMENT = Judgement("resid_0", 7, -0.5, "keep", "looks fine", "me")


@pytest.fixture(scope="module")
def task():
    return board_task(SPEC, SITE)


@pytest.fixture
def log(task, tmp_path):
    log = JudgementLog(tmp_path / "judgements.jsonl", task.name)
    log.add(JUDGEMENT)
    return log


def reachable(root):
    """Everything that the garbage collector can follow from an object, modules and classes left out."""
    found, todo = {}, [root]
    while todo:
        thing = todo.pop()
        if id(thing) in found or isinstance(thing, type) or type(thing).__name__ in ("module", "ModuleType"):
            continue
        found[id(thing)] = thing
        if isinstance(thing, dict) and "__builtins__" in thing:  # a module's globals
            continue
        todo += gc.get_referents(thing)
        if type(thing).__name__ == "Seen":
            todo += vars(thing).values()
    return list(found.values())


def test_no_balanced_example_can_be_reached(task, log):
    """Not by any attribute, closure or container: none exists; found by looking, then compared with what is drawn."""
    before = reachable(task)
    assert any(thing is task.train.tokens for thing in before)  # it does look inside
    assert not any(isinstance(thing, Balanced) for thing in before)
    splits = task.balanced.open(log.freeze(), "test")
    secret = {row[row != 0].tobytes() for data in (splits.train, splits.test) for row in data.tokens.numpy()}
    seen = 0
    for thing in before:
        array = thing.numpy() if isinstance(thing, torch.Tensor) else thing
        if isinstance(array, np.ndarray) and array.ndim == 2:
            seen += len(array)
            assert not {row[row != 0].astype(np.int64).tobytes() for row in array} & secret
    assert seen >= 60


@pytest.mark.parametrize("given", [None, "key", 0, object.__new__(Opening)])
def test_the_recipe_itself_takes_nothing_but_an_opening(task, given):
    with pytest.raises((SealError, AttributeError, TypeError, jaxtyping.TypeCheckError)):
        task.balanced._generate(given)


def test_before_the_freeze(task, log):
    with pytest.raises(SealError, match="frozen"):
        task.balanced.open(None, "curious")
    with pytest.raises(JudgementError, match="not frozen"):
        Frozen.read(log.path)
    with pytest.raises(JudgementError, match="not frozen"):
        task.balanced.open(Frozen(log.path, task.name, (JUDGEMENT,), "0" * 64), "forged")
    with pytest.raises(SealError, match="frozen"):
        Opening(task.name, None, "forged")
    with pytest.raises(SealError, match="no file of frozen judgements"):
        task.balanced.open(Frozen(log.path.parent / "nowhere", task.name, (), "0" * 64), "forged")


@pytest.mark.parametrize("store", [pickle.dumps, copy.copy, copy.deepcopy])
def test_it_cannot_be_stored_or_copied(task, log, store):
    for thing in (task.balanced, Opening(task.name, log.freeze(), "test")):
        with pytest.raises(SealError, match="cannot be copied or stored"):
            store(thing)
    with pytest.raises((SealError, TypeError)):
        dataclasses.asdict(task)


def test_the_task_made_again_from_its_spec_is_as_sealed(log):
    again = board_task(BoardTaskSpec.from_json(SPEC.to_json()), SITE)
    with pytest.raises(SealError, match="frozen"):
        again.balanced.open(None, "another copy")
    assert not any(isinstance(thing, Balanced) for thing in reachable(again))


def test_what_another_file_opens_is_not_what_will_score(task, log, tmp_path):
    """A throwaway file can be frozen by anyone; its games are not those of the run, and the opening stands in it."""
    throwaway = JudgementLog(tmp_path / "mine.jsonl", task.name).freeze()
    peeked = task.balanced.open(throwaway, "a look")
    scored = task.balanced.open(log.freeze(), "scoring")
    rows = [{row.tobytes() for row in data.test.tokens.numpy()} for data in (peeked, scored)]
    assert not rows[0] & rows[1]
    assert json.loads((tmp_path / "mine.jsonl").read_text().splitlines()[-1])["reason"] == "a look"


class Quiet(Frozen):
    """Says yes to every comparison and logs nothing."""

    def __eq__(self, other):
        return True

    def __ne__(self, other):
        return False

    def record_opening(self, reason):
        pass


def test_a_hand_made_frozen_opens_nothing(task, log):
    frozen = log.freeze()
    for forged in (
        dataclasses.replace(frozen, judgements=()),
        dataclasses.replace(frozen, judgements=(dataclasses.replace(JUDGEMENT, verdict="trim"),)),
        dataclasses.replace(frozen, sha256="0" * 64),
        dataclasses.replace(frozen, task="another"),
        Quiet(frozen.path, frozen.task, frozen.judgements, frozen.sha256),
    ):
        with pytest.raises(SealError):
            task.balanced.open(forged, "forged")
    assert "unsealed" not in log.path.read_text()


@pytest.mark.parametrize("change", [{"seed": 1}, {"cell": 6}, {"plies": (9, 50)}, {"filters": ("occupied c3",)}])
def test_the_frozen_file_of_another_task(task, tmp_path, change):
    other = dataclasses.replace(SPEC, **change)
    with pytest.raises(SealError, match="other judgements"):
        task.balanced.open(JudgementLog(tmp_path / "j.jsonl", other.name).freeze(), "mistake")
    opening = Opening(other.name, Frozen.read(tmp_path / "j.jsonl"), "mistake")
    with pytest.raises(SealError, match="opens nothing of"):
        opening.key(task.name)


@pytest.mark.parametrize(
    "alter",
    [
        lambda text: text.replace('"keep"', '"trim"'),
        lambda text: text.replace('"feature": 7', '"feature": 8'),
        lambda text: "".join(line for line in text.splitlines(True) if '"judgement"' not in line),
        lambda text: text.replace('{"kind": "freeze"', '{"kind": "judgement"}\n{"kind": "freeze"'),
        lambda text: text[: len(text) // 2],
        lambda text: "",
    ],
)
def test_an_altered_file(task, log, alter):
    frozen = log.freeze()
    log.path.write_text(alter(log.path.read_text()))
    with pytest.raises((SealError, JudgementError)):
        task.balanced.open(frozen, "scoring")


def test_every_opening_is_logged_with_reason_and_time_before_the_data(task, log):
    frozen = log.freeze()
    with pytest.raises(SealError, match="say why"):
        task.balanced.open(frozen, " ")
    task.balanced.open(frozen, "scoring")
    task.balanced.open(frozen, "scoring once more")
    lines = [json.loads(line) for line in log.path.read_text().splitlines()]
    assert [line["reason"] for line in lines if line["kind"] == "unsealed"] == ["scoring", "scoring once more"]
    assert all(line["time"].endswith("+00:00") for line in lines)

    def broken(opening):
        raise RuntimeError("no data")

    with pytest.raises(RuntimeError):
        Sealed(task.name, broken).open(frozen, "a failure")
    assert json.loads(log.path.read_text().splitlines()[-1])["reason"] == "a failure"


def test_what_cannot_be_logged_is_not_opened(task, log, monkeypatch):
    frozen, made = log.freeze(), []

    def full(self, reason):
        raise OSError("disk full")

    monkeypatch.setattr(Frozen, "record_opening", full)
    with pytest.raises(SealError, match="cannot be logged"):
        Sealed(task.name, made.append).open(frozen, "scoring")
    assert not made and Path(frozen.path).exists()
