"""Counts by bins and by products against a dense loop, on values that lie exactly on thresholds."""

import numpy as np
import pytest
import torch

from boardgames import confusion
from boardgames.confusion import count, count_by_levels, count_by_products, count_confusion
from boardgames.firing import THRESHOLDS, SparseActivations, SparseLabels

ROWS, FEATURES, PROPERTIES = 120, 9, 5


def case(seed: int = 0):
    """Features of every kind: sparse, dense, on thresholds, louder than their maximum, dead, negative."""
    generator = torch.Generator().manual_seed(seed)
    maxima = 3 * torch.rand(FEATURES, generator=generator) + 0.1
    values = torch.rand(ROWS, FEATURES, generator=generator) * 1.2 * maxima
    f = torch.where(torch.rand(ROWS, FEATURES, generator=generator) < 0.2, values, 0.0)
    f[:, 1] = values[:, 1]
    on_threshold = torch.randint(11, (ROWS,), generator=generator)
    f[:, 2] = THRESHOLDS[on_threshold] * maxima[2]
    f[:, 3] = torch.where(
        f[:, 3] > 0, torch.nextafter(THRESHOLDS[on_threshold] * maxima[3], torch.tensor(torch.inf)), 0
    )
    f[:, 4], maxima[4] = 0, 0
    f[:, 5], maxima[5] = -values[:, 5], -0.5
    f[::2, 6] = -f[::2, 6]
    maxima[7] = 0  # fires here although it never did on the selection split
    labels = torch.rand(ROWS, PROPERTIES, generator=generator).numpy() < np.array([0.0, 0.05, 0.3, 0.7, 1.0])
    return f, labels, maxima


def by_loop(f, labels, maxima):
    tp = np.zeros((11, FEATURES, PROPERTIES), int)
    fires = np.zeros((11, FEATURES), int)
    for t in range(11):
        for i in range(FEATURES):
            cut = np.float32(THRESHOLDS[t].item()) * np.float32(maxima[i].item())
            if maxima[i] <= 0:
                continue
            for n in range(len(f)):
                if np.float32(f[n, i].item()) > cut:
                    fires[t, i] += 1
                    tp[t, i] += labels[n]
    return tp, fires


@pytest.mark.parametrize("counting", [count_by_products, count_by_levels, count])
@pytest.mark.parametrize("batch", [ROWS, 17])
def test_counts_equal_a_dense_loop(counting, batch):
    f, labels, maxima = case()
    firing = SparseActivations.of(f.split(batch)).firing(maxima)
    counts = counting(firing, SparseLabels.of(labels))
    tp, fires = by_loop(f, labels, maxima)
    assert np.array_equal(counts.true_positives, tp)
    assert np.array_equal(counts.fires, fires)
    assert counts.positives.tolist() == labels.sum(0).tolist() and counts.rows == ROWS
    assert not fires[:, [4, 5, 7]].any() and fires[10, 3] > 0 and fires[0, 6] < fires[0, 1]


@pytest.mark.parametrize("rows", [3000, 500])
def test_levels_and_products_are_identical_on_many_rows(monkeypatch, rows):
    monkeypatch.setattr(confusion, "_ROWS", rows)
    generator = torch.Generator().manual_seed(1)
    f = torch.randn(3000, 40, generator=generator).relu() * (torch.rand(3000, 40, generator=generator) < 0.1)
    labels = SparseLabels.of(torch.rand(3000, 70, generator=generator).numpy() < 0.2)
    firing = SparseActivations.of([f]).firing(f.amax(0))
    found = [counting(firing, labels) for counting in (count_by_products, count_by_levels)]
    assert np.array_equal(found[0].true_positives, found[1].true_positives)
    assert np.array_equal(found[0].fires, found[1].fires)
    assert found[0].fires[0].min() > 50 and not found[0].fires[10].any(), "strictly above t = 1 there is nothing"


@pytest.mark.parametrize(("dense", "way"), [(True, "count_by_products"), (False, "count_by_levels")])
def test_the_cheaper_way_is_taken(monkeypatch, dense, way):
    def taken(*_):
        raise LookupError

    monkeypatch.setattr(confusion, way, taken)
    f = torch.ones(100, 20) if dense else torch.eye(100)[:, :20]
    with pytest.raises(LookupError):
        count(SparseActivations.of([f]).firing(torch.ones(20)), SparseLabels.of(np.ones((100, 6), bool)))


def test_the_best_feature_is_the_first_of_those_with_the_highest_f1():
    f, labels, maxima = case()
    f[:, 8] = f[:, 0]  # a tie with an earlier feature
    maxima[8] = maxima[0]
    counts = count_confusion([(f, labels)], maxima)
    best, which = counts.best()
    assert np.array_equal(best, counts.f1().max(1)) and np.array_equal(which, counts.f1().argmax(1))
    assert not (which == 8).any()


def test_f1_is_the_harmonic_mean_of_precision_and_recall():
    f, labels, maxima = case()
    counts = count_confusion([(f, labels)], maxima)
    f1 = counts.f1()
    for t in range(11):
        for i in range(FEATURES):
            for p in range(PROPERTIES):
                tp, fires, true = counts.true_positives[t, i, p], counts.fires[t, i], counts.positives[p]
                if tp == 0:
                    assert f1[t, i, p] == 0
                else:
                    precision, recall = tp / fires, tp / true
                    assert f1[t, i, p] == pytest.approx(2 * precision * recall / (precision + recall))


def test_thresholds_are_the_float32_products_of_the_reference():
    maximum = torch.tensor([0.7], dtype=torch.float32)
    on = (torch.arange(0, 1.1, 0.1) * maximum)[:, None]  # float32; strictly greater, so each exceeds those below it
    counts = count_confusion([(on, np.ones((11, 1), bool))], maximum)
    assert counts.fires[:, 0].tolist() == [10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0]


def test_nothing_to_count_is_an_error():
    with pytest.raises(ValueError, match="no positions"):
        count_confusion([], torch.ones(3))


def test_other_rows_than_those_of_the_labels_are_an_error():
    sparse = SparseActivations.of([torch.ones(4, 3)])
    with pytest.raises(ValueError, match="4 rows of features and 5 rows of labels"):
        count(sparse.firing(torch.ones(3)), SparseLabels.of(np.ones((5, 2), bool)))
