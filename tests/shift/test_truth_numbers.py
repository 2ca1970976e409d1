"""Shares of the gap and rank correlations of scripts/shift_ground_truth.py, on numbers whose answer is known."""

from pathlib import Path

import numpy as np
import pytest

from saes.sites import Site
from shift.candidates import Candidate
from shift.cards import bare

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(str(SCRIPTS))
    from shift_truth.numbers import cluster_draws, gap_closed, gap_draws, mean, rank_correlation
    from shift_truth.study import NoisyJudge


def test_clusters_are_drawn_whole():
    draws = cluster_draws(["a", "a", "b", "c"])
    assert (draws[0] == 1).all()
    assert (draws[:, 0] == draws[:, 1]).all() and (draws[:, 0] + draws[:, 2] + draws[:, 3] == 3).all()


def test_the_gap_is_of_sums():
    draws = cluster_draws(["a", "b"])
    closed = gap_closed([0.7, 0.5], [0.5, 0.5], [0.9, 0.5], draws)  # a task without a gap divides by nothing
    assert closed.value == pytest.approx(0.5)
    assert np.isnan(gap_draws([0.5], [0.5], [0.5], np.ones((1, 1)))[0])
    assert mean([0.2, 0.4], draws).value == pytest.approx(0.3)


def test_rank_correlation_of_a_known_order():
    quality = [1.0, 2.0, 3.0, 4.0, 5.0]
    gains = np.repeat(np.array([[1.0], [2.0], [4.0], [8.0], [16.0]]), 51, axis=1)
    up, down = rank_correlation(quality, gains), rank_correlation(quality, -gains)
    assert up.value == pytest.approx(1) and down.value == pytest.approx(-1)
    assert up.low is not None and up.low > 0.99
    noise = np.random.default_rng(0).normal(size=(40, 400))
    loose = rank_correlation(list(range(40)), noise)
    assert loose.low is not None and loose.high is not None and loose.low < 0 < loose.high


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
