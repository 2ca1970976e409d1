"""Linear probes where the answer is known: planted directions, brute force over cuts, boards that are there or not."""

import numpy as np
import pytest
import torch

from boardgames.linear_probe import (
    CUTS,
    ProbeError,
    board_accuracy,
    exclusive_states,
    fit_probe,
    score_probe,
    squares_right,
)

COLUMNS = 12


def planted(rows: int, seed: int, noise: float = 0.3) -> tuple[torch.Tensor, np.ndarray]:
    """Columns of many base rates, written along fixed directions of 20, off centre and with unequal variances."""
    fixed = np.random.default_rng(5)
    directions, scale = np.linalg.qr(fixed.normal(size=(20, 20)))[0][:COLUMNS], fixed.uniform(0.01, 30, 20)
    rng = np.random.default_rng(seed)
    labels = rng.random((rows, COLUMNS)) < np.geomspace(0.02, 0.7, COLUMNS)
    x = (labels @ directions + noise * rng.normal(size=(rows, 20)) + 3) * scale
    return torch.from_numpy(x).float(), labels


@pytest.fixture(scope="module")
def fitted():
    x, labels = planted(6000, 0)
    return fit_probe(x, labels), x, labels


def test_a_probe_finds_planted_directions_of_any_base_rate():
    x, labels = planted(6000, 0, noise=0.05)
    score = score_probe(fit_probe(x, labels), *planted(3000, 1, noise=0.05))
    assert score.f1.shape == (COLUMNS,) and score.f1.min() > 0.98
    assert score.coverage > 0.99 and score.reconstruction > 0.99


def test_a_probe_reaches_the_logistic_regression_that_newton_finds():
    x, labels = planted(6000, 0, noise=0.4)
    probe = fit_probe(x, labels, epochs=60)
    standard = ((x - x.mean(0)) / x.std(0, correction=0)).double().numpy()
    design = np.column_stack([standard, np.ones(len(x))])
    probability = torch.sigmoid(probe.logits(x)).double().numpy()
    for column in (0, 5, 11):
        weights = np.zeros(21)
        for _ in range(25):
            p = 1 / (1 + np.exp(-design @ weights))
            hessian = (design * (p * (1 - p))[:, None]).T @ design + 1e-6 * np.eye(21)
            weights += np.linalg.solve(hessian, design.T @ (labels[:, column] - p))
        best = 1 / (1 + np.exp(-design @ weights))

        def loss(p, truth=labels[:, column]):
            return -np.where(truth, np.log(p), np.log(1 - p)).mean()

        assert loss(best) <= loss(probability[:, column]) < 1.05 * loss(best) + 1e-3


def test_cuts_are_the_best_of_the_grid_on_the_rows_fitted_on(fitted):
    probe, x, labels = fitted
    probability, chosen = torch.sigmoid(probe.logits(x)).numpy(), torch.sigmoid(probe.cuts).numpy()
    assert sorted(CUTS) == pytest.approx(np.arange(1, 20) / 20) and len(set(np.round(chosen, 2))) > 2
    for column in range(COLUMNS):
        f1 = {}
        for cut in CUTS:
            predicted = probability[:, column] > cut
            f1[cut] = 2 * (predicted & labels[:, column]).sum() / (predicted.sum() + labels[:, column].sum())
        assert f1[min(CUTS, key=lambda cut: abs(cut - chosen[column]))] == max(f1.values())


def test_predictions_are_logits_above_cuts_however_many_rows_at_a_time(fitted, monkeypatch):
    probe, x, _ = fitted
    whole = probe.logits(x)
    assert np.array_equal(probe.predict(x), (whole > probe.cuts).numpy())
    monkeypatch.setattr("boardgames.linear_probe._CHUNK", 77)
    torch.testing.assert_close(probe.logits(x), whole)
    assert (probe.predict(x) != (whole > probe.cuts).numpy()).mean() < 1e-4


def test_scores_are_the_f1_of_the_predictions(fitted):
    probe, _, _ = fitted
    x, labels = planted(500, 2, noise=0.6)
    labels[:, 3] = False  # a column that does not occur here
    score, predicted = score_probe(probe, x, labels), probe.predict(x)
    hits, total = (predicted & labels).sum(0), predicted.sum(0) + labels.sum(0)
    expected = [2 * h / t if t else 0 for h, t in zip(hits, total, strict=True)]
    assert score.f1.tolist() == pytest.approx(expected)
    assert score.coverage == pytest.approx(np.mean(np.delete(expected, 3))), "only what occurs counts"
    assert score.reconstruction == pytest.approx(2 * hits.sum() / total.sum())
    assert 0.1 < score.reconstruction < 0.99


def test_columns_that_never_or_always_hold_are_finite_and_right():
    x, labels = planted(800, 3)
    labels[:, 0], labels[:, 1] = False, True
    probe = fit_probe(x, labels)
    assert all(p.isfinite().all() for p in (*probe.parameters(), *probe.buffers()))
    assert not probe.predict(x)[:, 0].any() and probe.predict(x)[:, 1].all()
    assert torch.sigmoid(probe.cuts)[:2].tolist() == pytest.approx([0.5, 0.5])
    constant = fit_probe(torch.cat([x, torch.full((800, 1), 7.0)], 1), labels)  # a coordinate that never moves
    assert constant.logits(torch.cat([x, torch.full((800, 1), 7.0)], 1)).isfinite().all()


def test_the_same_seed_gives_the_same_probe():
    x, labels = planted(500, 4)
    torch.manual_seed(1)
    first = fit_probe(x, labels, epochs=2, batch_size=100, seed=3)
    torch.manual_seed(2)
    assert torch.equal(first.linear.weight, fit_probe(x, labels, epochs=2, batch_size=100, seed=3).linear.weight)
    other = fit_probe(x, labels, epochs=2, batch_size=100, seed=4)
    assert not torch.equal(first.linear.weight, other.linear.weight)


def boards(rows: int, seed: int, told: float) -> tuple[torch.Tensor, np.ndarray]:
    """Three exclusive states of eight squares, the first twice as frequent; `told` of the squares are in x."""
    rng = np.random.default_rng(seed)
    state = rng.choice(3, (rows, 8), p=[0.5, 0.25, 0.25])
    labels = (state[:, :, None] == np.arange(3)).transpose(0, 2, 1).reshape(rows, 24)  # state by state
    x = labels.astype(np.float32).copy()
    x[:, np.tile(np.arange(8) >= told * 8, 3)] = 0
    return torch.from_numpy(x + 0.05 * rng.normal(size=x.shape).astype(np.float32)), labels


NAMES = [f"{square}" for _ in range(3) for square in "abcdefgh"]


def test_groups_are_the_columns_of_a_square():
    groups = exclusive_states(NAMES)
    assert groups.tolist() == [[s, s + 8, s + 16] for s in range(8)]


@pytest.mark.parametrize(("told", "expected"), [(1.0, 1.0), (0.5, 0.75), (0.0, 0.5)])
def test_accuracy_counts_squares_whose_most_probable_state_is_right(told, expected):
    probe = fit_probe(*boards(5000, 0, told))
    x, labels = boards(3000, 1, told)
    accuracy = board_accuracy(probe, x, labels, exclusive_states(NAMES))
    assert accuracy == pytest.approx(expected, abs=0.03), "squares that are not told are guessed by frequency"
    right = squares_right(probe, x, labels, exclusive_states(NAMES))
    logits = probe.logits(x).numpy()
    for row, square in ((0, 0), (7, 5), (99, 7)):
        states = logits[row, square::8]
        assert right[row, square] == labels[row, square::8][states.argmax()]
    assert right.mean() == accuracy


def test_what_does_not_fit_together_is_refused():
    x, labels = boards(50, 0, 1.0)
    with pytest.raises(ProbeError, match="49 rows of activations and 50 of labels"):
        fit_probe(x[1:], labels)
    with pytest.raises(ProbeError, match="0 rows"):
        fit_probe(x[:0], labels[:0])
    probe = fit_probe(x, labels, epochs=1)
    both = labels.copy()
    both[4, [2, 10]] = True
    with pytest.raises(ProbeError, match=r"row 4: 2 of the columns \[2, 10, 18\] are true"):
        board_accuracy(probe, x, both, exclusive_states(NAMES))
    with pytest.raises(ProbeError, match="as many states of every square"):
        exclusive_states(["a", "a", "b"])
    with pytest.raises(ProbeError, match="as many states of every square"):
        exclusive_states(["", ""])
