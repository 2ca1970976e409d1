"""What a rater is shown: the strongest first, repeats and controls hidden, groups that detect the same."""

import math
from dataclasses import replace

import pytest
import torch

from boardgames.matching import Match
from saes.families import find_site
from shift.candidates import Candidate, Effects
from shift.grouping import ambiguous_activations, group_by_activation, group_by_property
from shift.judge import Opinion, run_judge
from shift.judgements import JudgementLog
from shift.queue import QueueConfig, QueueError, queue, reliability, singles, to_judge, without_effect
from tests.shift.judging_for_tests import SITES, candidate, judged
from tests.shift.planted_for_tests import Planted

GROUPS = [(candidate(f, effect=(-1) ** f * (f + 1.0)),) for f in range(40)]
IDLE = [candidate(f, effect=0.0, site=1) for f in range(10)]


@pytest.mark.parametrize("seed", range(8))
def test_the_strongest_come_first_and_the_rest_is_hidden_between(seed):
    config = QueueConfig(repeats=0.25, controls=0.1, gap=6, seed=seed)
    items = queue(GROUPS, IDLE, config)
    roles = [item.role for item in items]
    assert (roles.count("candidate"), roles.count("repeat"), roles.count("control")) == (40, 10, 4)
    judged_once = [abs(item.group[0].effect) for item in items if item.role == "candidate"]
    assert judged_once == sorted(judged_once, reverse=True)
    assert [item.name for item in items] == [str(i) for i in range(1, 55)]  # a name tells no role
    first = {item.group: i for i, item in enumerate(items) if item.role == "candidate"}
    for i, item in enumerate(items):
        if item.role == "repeat":
            assert i - first[item.group] > config.gap
    assert {item.group[0] for item in items if item.role == "control"} <= set(IDLE)
    assert items == queue(GROUPS, IDLE, config)
    assert items != queue(GROUPS, IDLE, QueueConfig(repeats=0.25, controls=0.1, gap=6, seed=seed + 100))


def test_too_few_controls_are_an_error_and_a_short_queue_repeats_what_it_can():
    with pytest.raises(QueueError, match="40 controls were asked for and 10 features"):
        queue(GROUPS, IDLE, QueueConfig(controls=1.0))
    items = queue(GROUPS[:4], config=QueueConfig(repeats=1.0, controls=0.0, gap=3))
    assert [item.role for item in items] == ["candidate"] * 4 + [
        "repeat"
    ]  # of the first alone, behind the three others
    assert items[4].group == items[0].group


def test_features_without_effect():
    effects = Effects({SITES[0]: torch.tensor([0.0, -2.0, 1e-4, 0.0]), SITES[1]: torch.tensor([0.5])}, {})
    assert [c.feature for c in without_effect(effects, least=0.5)] == [0, 2, 3]
    fires = {SITES[0]: torch.tensor([False, True, True, True]), SITES[1]: torch.tensor([True])}
    assert [c.feature for c in without_effect(effects, least=-0.5, fires=fires)] == [2, 3]


def test_who_was_interrupted_goes_on_where_he_stopped(tmp_path):
    items = queue(
        [(candidate(1, -3.0), candidate(2, -2.0, site=1)), *GROUPS[5:9]], IDLE, QueueConfig(repeats=0.4, gap=1)
    )
    log = JudgementLog(tmp_path / "j.jsonl", "task")
    seen = []

    class Tired(Exception):
        pass

    class Judge:
        name = "ann"

        def __call__(self, card):
            if len(seen) == 3:
                raise Tired
            seen.append(card.group)
            return Opinion("trim", "so", 0.5)

    with pytest.raises(Tired):
        run_judge(Judge(), items, log)
    assert to_judge(items, log.standing(), "ann") == items[3:]
    assert to_judge(items, log.standing(), "bob") == items
    log.undo("ann")
    assert to_judge(items, log.standing(), "ann") == items[2:]
    seen.clear()
    with pytest.raises(Tired):
        run_judge(Judge(), items, log)
    run_judge(type("Awake", (), {"name": "ann", "__call__": lambda self, card: Opinion("keep", "so")})(), items, log)
    assert to_judge(items, log.standing(), "ann") == []
    members = {(c.site.name, c.feature, item.role) for item in items for c in item.group}
    assert {(j.site, j.feature, j.role) for j in log.standing()} == members  # a verdict for each member of a group
    half = [j for j in log.standing() if j.site != "resid_1" or j.role == "control"]
    assert {len(item.group) for item in to_judge(items, half, "ann")} == {2}  # a group judged in part is shown again


def test_reliability_counts_groups_once():
    first = [judged(f, "trim") for f in range(4)]
    again = [judged(0, "trim", role="repeat", item="9"), judged(1, "keep", role="repeat", item="9")]
    again += [judged(2, "trim", role="repeat", item="11")]
    controls = [judged(50, "trim", role="control", item="3"), judged(51, "keep", role="control", item="5")]
    other = [judged(3, "keep", rater="bob", role="repeat", item="12")]
    found = reliability([*first, *again, *controls, *other], "ann")
    assert (found.consistency, found.repeats, found.control_trim_rate, found.controls) == (0.5, 2, 0.5, 2)
    nothing = reliability(first, "ann")
    assert (nothing.consistency, nothing.control_trim_rate) == (None, None)


class TestGroups:
    def test_hold_what_fires_together_across_sites(self):
        base = torch.rand(200, 3).relu()
        acts = torch.stack([base[:, 0], 5 * base[:, 0], base[:, 1] * (base[:, 1] > 0.7), torch.zeros(200)], 1)
        candidates = [candidate(1, 1.0), candidate(2, -4.0, site=1), candidate(3, 3.0), candidate(4, 2.0)]
        a, b, c, d = candidates
        assert group_by_activation(candidates, acts, 0.95) == [(b, a), (c,), (d,)]

    def test_a_token_that_begins_every_text_counts_for_nothing(self, tmp_path):
        planted = Planted(tmp_path, length=3)
        site = find_site(planted.model, "embed")
        found = [Candidate(site, f, -1.0) for f in range(4)]
        for start in (0, 1):
            reading = replace(planted.task.reading, start=start)
            acts = ambiguous_activations(planted.model, planted.dictionaries, found, reading, planted.task.train, 10)
            assert acts.shape == (10 * (3 - start), 4)

    def test_are_no_chains(self):
        angle = torch.tensor([0.0, 20.0, 40.0]) * math.pi / 180
        acts = torch.stack([angle.cos(), angle.sin()])  # neighbours have a cosine of .94, the ends one of .77
        ends_first = [candidate(0, 3.0), candidate(1, 2.0), candidate(2, 1.0)]
        assert [len(g) for g in group_by_activation(ends_first, acts, 0.9)] == [2, 1]
        middle_first = [candidate(0, 2.0), candidate(1, 3.0), candidate(2, 1.0)]
        assert [len(g) for g in group_by_activation(middle_first, acts, 0.9)] == [3]

    def test_by_property(self):
        candidates = [candidate(f, 5.0 - f) for f in range(5)]
        columns = {0: ("mine a1", 0.9), 1: ("mine b2", 0.9), 2: ("mine a1", 0.6), 3: ("mine a1", 0.3)}
        matches = {("resid_0", f): Match(c, c[-2:], f1, 1.0, 1.0, 0, 0.1) for f, (c, f1) in columns.items()}
        found = group_by_property(candidates, matches, 0.5)
        assert [[c.feature for c in g] for g in found] == [[0, 2], [1], [3], [4]]


def test_singles_keep_the_order_given():
    assert [item.group[0] for item in singles(IDLE)] == IDLE
