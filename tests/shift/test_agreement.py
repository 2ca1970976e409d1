"""Kappa, precision and recall against values by hand and against scikit-learn; intervals hold what they should."""

import math
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score, precision_score, recall_score

from shift.agreement import agreement, all_agreements, quality
from shift.verdicts import VERDICTS, JudgementError, Policy
from tests.shift.judging_for_tests import judged


def two(ann: str, bob: str, effects: list[float] | None = None) -> list:
    """Verdicts by first letter, feature by feature; a dash is none."""
    by_letter = {v[0]: v for v in VERDICTS}
    weight = [1.0] * len(ann) if effects is None else effects
    return [
        judged(f, by_letter[letter], rater=rater, effect=weight[f])
        for rater, said in (("ann", ann), ("bob", bob))
        for f, letter in enumerate(said)
        if letter != "-"
    ]


def test_by_hand():
    # Cohen's own kind of table: 20 both keep, 15 both trim, 5 and 10 apart; observed .7, by chance .5
    said = two("k" * 20 + "t" * 15 + "k" * 5 + "t" * 10, "k" * 20 + "t" * 15 + "t" * 5 + "k" * 10)
    found = agreement(said, "ann", "bob")
    assert found.features == 50
    assert found.same.value == pytest.approx(0.7)
    assert found.kappa.value == pytest.approx(0.4)
    assert found.kappa.low < 0.4 < found.kappa.high


def test_weights_by_hand():
    said = two("tk", "tt", [-3.0, 1.0])
    found = agreement(said, "ann", "bob")
    assert found.same.value == pytest.approx(0.5) and found.weighted_same.value == pytest.approx(0.75)
    assert found.weighted_kappa.value == pytest.approx(0.0)  # bob says the same whatever is shown
    good = quality(said, "bob", "ann")
    assert (good.precision.value, good.recall.value) == (0.5, 1.0)
    assert good.weighted_precision.value == pytest.approx(0.75)


def test_what_was_judged_as_one_is_drawn_as_one():
    alone = two("ttkkttkk", "tktkttkk")
    grouped = [replace(j, feature=8 * j.feature + i, item=str(j.feature)) for j in alone for i in range(8)]
    few, many = (agreement(said, "ann", "bob") for said in (alone, grouped))
    assert many.kappa.value == pytest.approx(few.kappa.value)
    assert (many.kappa.low, many.kappa.high) == pytest.approx((few.kappa.low, few.kappa.high), abs=0.05)


@pytest.mark.parametrize("seed", range(5))
def test_against_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    n = 60
    ann = rng.choice(list("ktum"), n)
    bob = np.where(rng.random(n) < 0.6, ann, rng.choice(list("ktum"), n))
    effects = rng.normal(size=n).round(3)
    said = two("".join(ann), "".join(bob), effects.tolist())
    found, good = agreement(said, "ann", "bob"), quality(said, "bob", "ann")
    for weight, kappa, precision, recall in (
        (None, found.kappa, good.precision, good.recall),
        (np.abs(effects), found.weighted_kappa, good.weighted_precision, good.weighted_recall),
    ):
        assert kappa.value == pytest.approx(cohen_kappa_score(ann, bob, sample_weight=weight))
        truth, says = ann == "t", bob == "t"
        assert precision.value == pytest.approx(precision_score(truth, says, sample_weight=weight))
        assert recall.value == pytest.approx(recall_score(truth, says, sample_weight=weight))


def plain_kappa(ann: list[str], bob: list[str]) -> float:
    n = len(ann)
    same = sum(a == b for a, b in zip(ann, bob, strict=True)) / n
    by_chance = sum(ann.count(v) * bob.count(v) for v in "ktum") / n**2
    return (same - by_chance) / (1 - by_chance)


def test_the_interval_is_the_slow_bootstrap():
    rng = np.random.default_rng(1)
    ann = rng.choice(list("ktu"), 80)
    bob = np.where(rng.random(80) < 0.7, ann, rng.choice(list("ktu"), 80))
    found = agreement(two("".join(ann), "".join(bob)), "ann", "bob").kappa
    slow = [plain_kappa(ann[i].tolist(), bob[i].tolist()) for i in rng.integers(80, size=(1000, 80))]
    assert [found.low, found.high] == pytest.approx(np.quantile(slow, [0.025, 0.975]), abs=0.03)


def test_undefined_is_nan_without_bounds():
    same = agreement(two("ttt", "ttt"), "ann", "bob")
    assert same.same.value == 1 and math.isnan(same.kappa.value) and same.kappa.low is None
    none = quality(two("kkt", "kkk"), "ann", "bob")
    assert none.precision.value == 0 and math.isnan(none.recall.value)
    assert agreement(two("t", "t"), "ann", "bob").same.low is None  # one feature says nothing of how it varies


def test_only_what_both_judged_counts():
    said = [*two("tk-u", "tkt-"), judged(7, "trim", rater="ann", role="control")]
    found = agreement(said, "ann", "bob")
    assert found.features == 2 and found.same.value == 1
    pairs = all_agreements([*said, judged(0, "keep", rater="cat"), judged(9, "keep", rater="dan")])
    assert set(pairs) == {("ann", "bob"), ("ann", "cat"), ("bob", "cat")}
    with pytest.raises(JudgementError, match="no feature in common"):
        agreement([*said, judged(9, "keep", rater="dan")], "ann", "dan")


def test_the_policy_says_what_unsure_counts_as():
    said = two("uttk", "tttk")
    assert quality(said, "ann", "bob").recall.value == pytest.approx(2 / 3)
    assert quality(said, "ann", "bob", Policy(unsure="trim")).recall.value == 1
