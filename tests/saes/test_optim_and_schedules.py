"""UnitNormAdam against torch's Adam and a plain loop; schedules point by point."""

import pytest
import torch

from saes.optim import UnitNormAdam
from saes.schedules import Constant, Trapezoid


def start(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Unit rows [7, 5] and something free [5]."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(7, 5, generator=generator, dtype=torch.float64)
    free = torch.randn(5, generator=generator, dtype=torch.float64)
    return (rows / rows.norm(dim=1, keepdim=True)).requires_grad_(), free.requires_grad_()


def gradients(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(100 + step)
    return (
        torch.randn(7, 5, generator=generator, dtype=torch.float64),
        torch.randn(5, generator=generator, dtype=torch.float64),
    )


def test_it_is_adam_on_the_sphere_and_adam_elsewhere():
    rows, free = start()
    ours = UnitNormAdam([rows, free], [rows], lr=0.05)
    plain, moment, square = start()[0].detach(), torch.zeros(7, 5), torch.zeros(7, 5)
    reference = start()[1]
    adam = torch.optim.Adam([reference], lr=0.05)
    for step in range(30):
        g_rows, g_free = gradients(step)
        rows.grad, free.grad, reference.grad = g_rows.clone(), g_free.clone(), g_free.clone()
        ours.step()
        adam.step()
        tangent = g_rows - (g_rows * plain).sum(1, keepdim=True) * plain
        moment, square = 0.9 * moment + 0.1 * tangent, 0.999 * square + 0.001 * tangent**2
        size = (square / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8
        plain = plain - 0.05 * moment / (1 - 0.9 ** (step + 1)) / size
        plain = plain / plain.norm(dim=1, keepdim=True)
        torch.testing.assert_close(rows.detach().norm(dim=1), torch.ones(7, dtype=torch.float64), rtol=0, atol=1e-12)
        torch.testing.assert_close(rows.detach(), plain)
        torch.testing.assert_close(free.detach(), reference.detach())
    assert (rows.detach() - start()[0].detach()).abs().max() > 0.1


def test_a_gradient_along_the_rows_moves_nothing():
    rows, free = start()
    before = rows.detach().clone()
    optimizer = UnitNormAdam([rows, free], [rows], lr=0.05)
    rows.grad, free.grad = 0.5 * before, torch.zeros_like(free)  # powers of two: the projection leaves rounding only
    optimizer.step()
    left = rows.grad.abs().max()
    assert left < 1e-15
    assert optimizer.state[rows]["exp_avg"].abs().max() < 1e-15, "the moments never hold the part along the row"


def test_rows_without_a_gradient_stay_where_they_are():
    rows, free = start()
    before = rows.detach().clone()
    free.grad = torch.ones_like(free)
    UnitNormAdam([rows, free], [rows], lr=0.05).step()
    torch.testing.assert_close(rows.detach(), before, rtol=1e-15, atol=1e-15)


def test_trapezoid_rises_holds_and_falls():
    schedule = Trapezoid(total=20, warmup=4, decay=5)
    assert [schedule(s) for s in range(5)] == pytest.approx([0.25, 0.5, 0.75, 1, 1])
    assert [schedule(s) for s in range(14, 21)] == pytest.approx([1, 1, 0.8, 0.6, 0.4, 0.2, 0])
    assert schedule(1000) == 0
    assert all(schedule(s) == 1 for s in range(4, 16))
    assert [Trapezoid(total=3)(s) for s in range(3)] == [1, 1, 1]
    assert [Constant(0.7)(s) for s in (0, 10**6)] == [0.7, 0.7]


@pytest.mark.parametrize(
    "fields",
    [{"total": 0}, {"total": 5, "warmup": 3, "decay": 3}, {"total": 5, "warmup": -1}, {"total": 5, "decay": -1}],
)
def test_schedules_that_do_not_fit_are_refused(fields):
    with pytest.raises(ValueError, match="cannot hold"):
        Trapezoid(**fields)
