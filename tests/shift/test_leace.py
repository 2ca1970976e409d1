"""LEACE: what is erased is gone for every linear predictor, and nothing less could have been changed for it."""

import numpy as np
import pytest
import torch

from shift.baselines.leace import fit_eraser
from shift.probe import fit_head


def plant(rank: int = 8, width: int = 8, labels: int = 1, rows: int = 600, seed: int = 0):
    """Rows that vary in `rank` skewed directions about a far mean, and labels that depend on them."""
    random = torch.Generator().manual_seed(seed)
    hidden = torch.randn(rows, rank, generator=random, dtype=torch.float64)
    mixing = torch.randn(rank, width, generator=random, dtype=torch.float64)
    noise = 0.5 * torch.randn(rows, labels, generator=random, dtype=torch.float64)
    z = hidden[:, :labels] + hidden[:, labels : 2 * labels] + noise > 0
    return hidden @ mixing * torch.logspace(-2, 2, width, dtype=torch.float64) + 100, z


def covariance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    a, b = a.double(), b.double()
    return (a - a.mean(0)).T @ (b - b.mean(0)) / len(a)


@pytest.mark.parametrize(("rank", "width", "labels"), [(8, 8, 1), (8, 8, 3), (5, 12, 2), (4, 9, 1)])
def test_no_covariance_is_left(rank, width, labels):
    x, z = plant(rank, width, labels)
    gone = covariance(fit_eraser(x, z)(x), z)
    scale = x.std(0)[:, None] * z.double().std(0)
    assert (covariance(x, z).abs() / scale).max() > 0.1
    assert (gone.abs() / scale).max() < 1e-10


def test_no_linear_predictor_beats_a_constant():
    x, z = plant(labels=1)
    label = z[:, 0]
    rate = label.double().mean()
    chance = -(rate * rate.log() + (1 - rate) * (1 - rate).log())

    def best_loss(x):
        head = fit_head(x, label, weight_decay=0.0, iterations=500)
        return torch.nn.functional.binary_cross_entropy_with_logits(head(x)[:, 0], label.double())

    assert best_loss(x) < chance - 0.2
    assert best_loss(fit_eraser(x, z)(x)) == pytest.approx(float(chance), abs=1e-8)


@pytest.mark.parametrize("norm", ["euclidean", "mahalanobis", "skewed"])
def test_the_change_is_the_least_in_every_norm(norm):
    """Against the linear map found by solving the Karush-Kuhn-Tucker system of each norm, all entries at once."""
    x, z = plant(rank=5, width=5, labels=2)
    n = x - x.mean(0)
    sigma, cross = covariance(x, x).numpy(), covariance(x, z).numpy()
    random = np.random.default_rng(1).normal(size=(5, 5))
    metric = {"euclidean": np.eye(5), "mahalanobis": np.linalg.inv(sigma), "skewed": random @ random.T}[norm]
    # minimise tr(M (P - I) sigma (P - I)^T) so that P cross = 0, over the 25 entries of P (row by row)
    quadratic = np.kron(metric, sigma)
    constraint = np.kron(np.eye(5), cross.T)
    system = np.block([[quadratic, constraint.T], [constraint, np.zeros((10, 10))]])
    solved = np.linalg.solve(system, np.concatenate([quadratic @ np.eye(5).ravel(), np.zeros(10)]))
    best = solved[:25].reshape(5, 5)
    ours = fit_eraser(x, z)(x) - x.mean(0)
    assert torch.allclose(ours, n @ torch.from_numpy(best).T, rtol=0, atol=1e-6 * float(n.abs().max()))


def test_constant_directions_are_left_alone():
    x, z = plant(rank=4, width=9)
    moved = fit_eraser(x, z)(x) - x
    _, size, axes = torch.linalg.svd(x - x.mean(0), full_matrices=False)
    assert size[4] < 1e-8 * size[0]
    assert (moved @ axes[4:].T).abs().max() < 1e-8 * moved.abs().max()


def test_erasing_twice_is_erasing_once_and_nothing_to_erase_changes_nothing():
    x, z = plant(labels=2)
    once = fit_eraser(x, z)(x)
    assert torch.allclose(fit_eraser(x, z)(once), once, atol=1e-8 * float(x.abs().max()))
    assert torch.allclose(fit_eraser(once, z)(once), once, atol=1e-6 * float((x - x.mean(0)).abs().max()))
    constant = torch.ones(len(x), 1, dtype=torch.bool)
    assert torch.equal(fit_eraser(x, constant)(x), x)


def test_kinds_are_kept_and_bad_inputs_named():
    x, z = plant()
    assert fit_eraser(x.float(), z)(x.float()).dtype == torch.float32
    with pytest.raises(ValueError, match="1 examples to fit"):
        fit_eraser(x[:1], z[:1])
