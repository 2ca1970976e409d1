"""The files of a run: what was written is read again, and what is broken is named."""

import json

import pytest

from shift.queue import Item
from shift.run_folder import (
    RunFolderError,
    card_path,
    outcome_path,
    queue_path,
    read_card,
    read_outcome,
    read_queue,
    read_task,
    task_path,
    write_card,
    write_outcome,
    write_queue,
    write_task,
)
from tests.shift.judging_for_tests import SITES, candidate

TASK = {"name": "t", "intended": "a", "spurious": "b", "kind": "text", "site": "resid_1"}
ITEMS = [Item("1", (candidate(3), candidate(4, 0.25, site=2)), "candidate"), Item("2", (candidate(5),), "control")]
ROW = {"name": "before", "cells": [[0.1, 0.2], [0.3, 0.4]], "worst_group": 0.1}


def test_round_trips(tmp_path):
    write_task(tmp_path, {**TASK, "more": [1]})
    assert read_task(tmp_path) == {**TASK, "game": None, "blind": False, "more": [1]}
    write_queue(tmp_path, ITEMS)
    assert read_queue(tmp_path, SITES) == ITEMS
    assert [c.site.name for c in read_queue(tmp_path)[0].group] == ["resid_0", "resid_2"]
    card = {"features": [{"site": "resid_0", "feature": 3}], "showings": {}}
    write_card(tmp_path, "1", card)
    assert read_card(tmp_path, "1") == card
    write_outcome(tmp_path, {"rows": [ROW], "trimmed": 3})
    assert read_outcome(tmp_path) == {"rows": [ROW], "trimmed": 3}


@pytest.mark.parametrize("name", ["", ".", "..", "../queue", "a/b", "a\\b", "a.b", "a b", "a\n", "é", "x" * 65, "a\0"])
def test_names_that_are_no_plain_words(tmp_path, name):
    with pytest.raises(RunFolderError, match="a name is letters"):
        card_path(tmp_path, name)
    with pytest.raises(RunFolderError, match="no plain word"):
        write_queue(tmp_path, [Item(name, ITEMS[0].group, "candidate")])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": ""}, "name is ''"),
        ({"intended": None}, "intended is None"),
        ({"kind": "chess"}, "kind is 'chess': choose one of board, text, classifier"),
        ({"game": "go"}, "game is 'go'"),
        ({"blind": "yes"}, "blind is 'yes'"),
    ],
)
def test_bad_tasks(tmp_path, change, message):
    with pytest.raises(RunFolderError, match=message):
        write_task(tmp_path, {**TASK, **change})
    task_path(tmp_path).write_text(json.dumps({**TASK, **change}))
    with pytest.raises(RunFolderError, match=message):
        read_task(tmp_path)


FEATURE = {"site": "s", "feature": 1, "effect": 0.5}


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([], "has no items"),
        ("x", "has no items"),
        ([3], "item 1 is no JSON object"),
        ([{"name": "1", "role": "boss", "features": [FEATURE]}], "role 'boss'"),
        ([{"name": "1", "role": "control", "features": []}], "names no features"),
        ([{"name": "1", "role": "control", "features": [{**FEATURE, "feature": -1}]}], "the feature is -1"),
        ([{"name": "1", "role": "control", "features": [{**FEATURE, "feature": True}]}], "the feature is True"),
        ([{"name": "1", "role": "control", "features": [{**FEATURE, "effect": "x"}]}], "effect is 'x'"),
        ([{"name": "1", "role": "control", "features": [{**FEATURE, "site": ""}]}], "site is ''"),
        ([{"name": "1", "role": "control", "features": [FEATURE]}] * 2, "names two items 1"),
    ],
)
def test_bad_queues(tmp_path, items, message):
    queue_path(tmp_path).write_text(json.dumps({"items": items}))
    with pytest.raises(RunFolderError, match=message):
        read_queue(tmp_path)


@pytest.mark.parametrize(
    ("outcome", "message"),
    [
        ({}, "has no rows"),
        ({"rows": [{}]}, "row 1 has no name"),
        ({"rows": [{**ROW, "worst_group": None}]}, "'before' has no worst_group"),
        ({"rows": [{**ROW, "cells": [[1, 2], [3]]}]}, "no four cells"),
        ({"rows": [{**ROW, "cells": [[1, 2], [3, "x"]]}]}, "no four cells"),
        ([], "no JSON object"),
    ],
)
def test_bad_outcomes(tmp_path, outcome, message):
    outcome_path(tmp_path).write_text(json.dumps(outcome))
    with pytest.raises(RunFolderError, match=message):
        read_outcome(tmp_path)


def test_missing_and_damaged(tmp_path):
    for read in (read_task, read_queue, read_outcome):
        with pytest.raises(RunFolderError, match="no such file"):
            read(tmp_path)
    task_path(tmp_path).write_text("{")
    with pytest.raises(RunFolderError, match="not readable as JSON"):
        read_task(tmp_path)
    write_card(tmp_path, "1", {"features": []})
    with pytest.raises(RunFolderError, match="names no features"):
        read_card(tmp_path, "1")
