"""Shares of the gap and rank correlations of scripts/shift_ground_truth.py, on numbers whose answer is known."""

from pathlib import Path

import numpy as np
import pytest

from circuits.intervals import Interval
from saes.sites import Site
from shift.candidates import Candidate
from shift.cards import bare

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(str(SCRIPTS))
    from shift_text import by_method
    from shift_truth.figures import precision_label
    from shift_truth.numbers import (
        cluster_draws,
        clustered_correlation,
        gap_closed,
        gap_difference,
        gap_draws,
        mean,
        rank_correlation,
    )
    from shift_truth.study import NoisyJudge
    from shift_truth.words import compared, depends, kept, unkept
    from shift_truth.writing_depth import lead_of
    from shift_truth.writing_judges import PERFECT, finished_tasks, grid_of, precision_had
    from shift_truth.writing_short import needed


def test_clusters_are_drawn_whole():
    draws = cluster_draws(["a", "a", "b", "c"])
    assert (draws[0] == 1).all()
    assert (draws[:, 0] == draws[:, 1]).all() and (draws[:, 0] + draws[:, 2] + draws[:, 3] == 3).all()


def test_a_single_cluster_has_no_bounds():
    for found in (mean([0.5, 1.5], cluster_draws(["a", "a"])), clustered_correlation([1, 2, 3], [1, 2, 3], ["a"] * 3)):
        assert found.value == pytest.approx(1) and found.low is None and found.high is None


def test_the_gap_is_of_sums():
    draws = cluster_draws(["a", "b"])
    closed = gap_closed([0.7, 0.5], [0.5, 0.5], [0.9, 0.5], draws)  # a task without a gap divides by nothing
    assert closed.value == pytest.approx(0.5)
    assert np.isnan(gap_draws([0.5], [0.5], [0.5], np.ones((1, 1)))[0])
    assert mean([0.2, 0.4], draws).value == pytest.approx(0.3)


def test_what_one_closes_beyond_another_is_of_the_same_resamples():
    draws = cluster_draws(["a", "b", "c"])
    original, oracle = [0.5, 0.4, 0.3], [0.9, 0.8, 0.7]
    first, second = [0.9, 0.5, 0.3], [0.7, 0.3, 0.1]  # far apart over tasks, the difference the same in each
    found = gap_difference(first, second, original, oracle, draws)
    assert found.value == pytest.approx(0.5) and found.low == pytest.approx(0.5) == found.high


def test_rank_correlation_of_a_known_order():
    quality = [1.0, 2.0, 3.0, 4.0, 5.0]
    gains = np.repeat(np.array([[1.0], [2.0], [4.0], [8.0], [16.0]]), 51, axis=1)
    up, down = rank_correlation(quality, gains), rank_correlation(quality, -gains)
    assert up.value == pytest.approx(1) and down.value == pytest.approx(-1)
    assert up.low is not None and up.low > 0.99
    noise = np.random.default_rng(0).normal(size=(40, 400))
    loose = rank_correlation(list(range(40)), noise)
    assert loose.low is not None and loose.high is not None and loose.low < 0 < loose.high


def test_clusters_make_the_interval_of_a_rank_correlation_wider():
    rng = np.random.default_rng(1)
    depth = np.repeat(rng.normal(size=4), 6) + 0.01 * rng.normal(size=24)  # alike within each of four clusters
    lead = np.repeat(rng.normal(size=4), 6) + 0.01 * rng.normal(size=24)
    every = {
        count: clustered_correlation(depth.tolist(), lead.tolist(), [i * count // 24 for i in range(24)])
        for count in (4, 24)
    }
    widths = {count: found.high - found.low for count, found in every.items()}
    assert every[4].value == every[24].value
    assert widths[4] > 1.3 * widths[24]


def test_the_lead_goes_with_depth_by_clusters_too():
    tasks = [f"mine {square}" for square in ("a1", "b2", "c3", "d4") for _ in range(6)]
    rng = np.random.default_rng(1)
    by_cluster = dict(zip(dict.fromkeys(tasks), rng.random((4, 2)), strict=True))
    points = [
        {
            "task": {"intended": task},
            "readability": by_cluster[task][0] + 0.001 * rng.random(),
            "rows": {"shift": by_cluster[task][1] + 0.001 * rng.random(), "rival": 0.2},
        }
        for task in tasks
    ]
    alone = [{**p, "task": {"intended": f"mine {i}"}} for i, p in enumerate(points)]
    together, apart = (lead_of(some, "shift", "rival") for some in (points, alone))
    for name in ("deep", "rho"):
        assert together[name].value == pytest.approx(apart[name].value)
        assert together[name].high - together[name].low > 1.3 * (apart[name].high - apart[name].low)
    order = sorted(points, key=lambda p: -p["readability"])
    assert together["shallow"].value == pytest.approx(np.mean([p["rows"]["shift"] - 0.2 for p in order[:12]]))


def test_a_common_cause_is_taken_out():
    rng = np.random.default_rng(0)
    cause = rng.normal(size=60)
    quality, gains = cause + 0.3 * rng.normal(size=60), cause[:, None] + 0.3 * rng.normal(size=(60, 1))
    gains = np.repeat(gains, 201, axis=1)
    plain, partial = rank_correlation(quality.tolist(), gains), rank_correlation(quality.tolist(), gains, cause)
    assert plain.value > 0.8
    assert partial.low is not None and partial.high is not None and partial.low < 0 < partial.high
    own = rank_correlation(quality.tolist(), np.repeat(quality[:, None] ** 3, 201, axis=1), cause)
    assert own.value == pytest.approx(1)


@pytest.mark.parametrize(("recall", "precision"), [(1.0, 1.0), (0.5, 1.0), (0.5, 0.5), (1.0, 0.25)])
def test_a_noisy_judge_has_the_recall_and_precision_asked_for(recall, precision):
    candidates = [Candidate(Site("resid_0", ""), f, 1.0) for f in range(40)]
    true = {("resid_0", f) for f in range(8)}
    judge = NoisyJudge(true, candidates, recall, precision, seed=0)
    trims = {("resid_0", c.feature) for c in candidates if judge(bare((c,))).verdict == "trim"}
    assert len(trims & true) == recall * 8
    assert len(trims & true) / len(trims) == pytest.approx(precision, abs=0.01)


@pytest.mark.parametrize(("recall", "had"), [(1.0, 20 / 40), (0.5, 10 / 30), (0.25, 5 / 20)])
def test_a_capped_judge_is_written_with_the_precision_it_had(recall, had):
    candidates = [Candidate(Site("resid_0", ""), f, 1.0) for f in range(40)]
    true = {("resid_0", f) for f in range(20)}  # half of all: three wrong for each right one there are not
    judge = NoisyJudge(true, candidates, recall, 0.25, seed=0)
    trims = {("resid_0", c.feature) for c in candidates if judge(bare((c,))).verdict == "trim"}
    assert len(trims & true) / len(trims) == pytest.approx(had)
    task = {PERFECT: {"trimmed": len(true)}, "worse": {"trimmed": len(trims)}}
    assert precision_had(task, "worse", recall) == pytest.approx(had)


def test_the_grid_has_the_mean_precision_and_leaves_unfinished_tasks_out():
    def result(task: str, judge: str, trimmed: int, after: float) -> dict:
        groups = {"original": 0.5, "oracle": 0.9, "shift": after, "shift_mean": 0.5, "shift_retrained": 0.7}
        rows = {name: {"worst_group": value} for name, value in groups.items()}
        return {"file": f"{task}.recall-{judge}", "trimmed": trimmed, "rows": rows}

    whole = [
        result("a", PERFECT, 20, 0.9),
        result("a", "0.5-precision-0.25", 40, 0.3),
        result("b", PERFECT, 10, 0.9),
        result("b", "0.5-precision-0.25", 20, 0.5),
        result("b", "0.1-precision-0.25", 0, 0.5),
        result("a", "0.1-precision-0.25", 0, 0.5),
    ]
    tasks = finished_tasks([*whole, result("unfinished", PERFECT, 1, 0.0)])
    assert len(tasks) == 2
    grid = grid_of(tasks)["to zero"]
    assert grid[1.0, 1.0] == pytest.approx((1, 1))
    assert grid[0.5, 0.25] == pytest.approx((-0.25, 0.25))
    assert (0.1, 0.25) not in grid  # nothing was trimmed
    assert precision_label([0.25, 0.352]) == "precision 0.25 to 0.35" and precision_label([1, 1]) == "precision 1.00"


def test_words_follow_the_interval():
    for bounds, depending, ahead in (
        ((0.1, 0.5), "rises with", "ahead"),
        ((-0.5, -0.1), "falls with", "behind"),
        ((-0.1, 0.5), "is not seen to depend on", "not seen to differ"),
        ((None, None), "is not seen to depend on", "not seen to differ"),
    ):
        value = Interval(0.2, *bounds)
        assert depends(value, "coverage").startswith(f"{depending} coverage (0.20")
        assert compared(value).startswith(f"{ahead} (0.20")
        assert unkept(kept(value)) == value
    assert kept(Interval(float("nan"), None, None))["value"] is None


def test_the_quality_a_judge_needs_ends_at_the_first_that_is_too_low():
    assert needed([(1.0, 0.6), (0.5, 0.4), (0.75, 0.1), (0.25, 0.5)], 0.3) == (1.0, 0.75)
    assert needed([(1.0, 0.6), (0.5, 0.4)], 0.3) == (0.5, None)


def test_seeds_on_text_are_joined_by_the_name_of_the_method():
    first = {"rows": [{"name": "shift", "v": 1}, {"name": "oracle", "v": 2}]}
    second = {"rows": [{"name": "oracle", "v": 3}, {"name": "extra", "v": 4}, {"name": "shift", "v": 5}]}
    assert [[row["v"] for row in rows] for rows in by_method([first, second])] == [[1, 5], [2, 3], [4]]
