"""UnitNormAdam against torch's Adam and a plain loop; schedules point by point; what training starts from."""

from math import cos, pi

import pytest
import torch
from scipy.optimize import minimize

from saes.initialise import geometric_median, scale_of
from saes.optim import UnitNormAdam
from saes.schedules import Trapezoid
from saes.trainer import TrainConfig
from tests.saes.dictionaries_for_tests import rows as random_rows

MEMBERS = 2


def start(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Unit rows [2, 7, 5] and something free [2, 5] of two members."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(MEMBERS, 7, 5, generator=generator, dtype=torch.float64)
    free = torch.randn(MEMBERS, 5, generator=generator, dtype=torch.float64)
    return (rows / rows.norm(dim=-1, keepdim=True)).requires_grad_(), free.requires_grad_()


def gradients(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(100 + step)
    return (
        torch.randn(MEMBERS, 7, 5, generator=generator, dtype=torch.float64),
        torch.randn(MEMBERS, 5, generator=generator, dtype=torch.float64),
    )


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.0, 0.99)])
def test_it_is_adam_on_the_sphere_and_adam_elsewhere(betas):
    rows, free = start()
    ours = UnitNormAdam([rows, free], [rows], lr=0.05, betas=betas)
    plain, moment, square = start()[0].detach(), torch.zeros(2, 7, 5), torch.zeros(2, 7, 5)
    reference = start()[1]
    adam = torch.optim.Adam([reference], lr=0.05, betas=betas)
    b1, b2 = betas
    for step in range(30):
        g_rows, g_free = gradients(step)
        rows.grad, free.grad, reference.grad = g_rows.clone(), g_free.clone(), g_free.clone()
        ours.step()
        adam.step()
        tangent = g_rows - (g_rows * plain).sum(-1, keepdim=True) * plain
        moment, square = b1 * moment + (1 - b1) * tangent, b2 * square + (1 - b2) * tangent**2
        size = (square / (1 - b2 ** (step + 1))).sqrt() + 1e-8
        plain = plain - 0.05 * moment / (1 - b1 ** (step + 1)) / size
        plain = plain / plain.norm(dim=-1, keepdim=True)
        norms = rows.detach().norm(dim=-1)
        torch.testing.assert_close(norms, torch.ones_like(norms), rtol=0, atol=1e-12)
        torch.testing.assert_close(rows.detach(), plain)
        torch.testing.assert_close(free.detach(), reference.detach())
    assert (rows.detach() - start()[0].detach()).abs().max() > 0.1


def test_a_gradient_along_the_rows_moves_nothing():
    rows, free = start()
    before = rows.detach().clone()
    optimizer = UnitNormAdam([rows, free], [rows], lr=0.05)
    rows.grad, free.grad = 0.5 * before, torch.zeros_like(free)  # powers of two: the projection leaves rounding only
    optimizer.step()
    assert optimizer.state[rows]["exp_avg"].abs().max() < 1e-16, "the moments never hold the part along the row"
    assert optimizer.state[rows]["exp_avg_sq"].abs().max() < 1e-32
    # what is left of the gradient is rounding, of which Adam would make a whole step were it not for its eps of 1e-8
    torch.testing.assert_close(rows.detach(), before, rtol=0, atol=1e-8)


def test_rows_without_a_gradient_stay_where_they_are():
    rows, free = start()
    before = rows.detach().clone()
    free.grad = torch.ones_like(free)
    UnitNormAdam([rows, free], [rows], lr=0.05).step()
    torch.testing.assert_close(rows.detach(), before, rtol=1e-15, atol=1e-15)


@pytest.mark.parametrize("clip", [0.5, 1e3])
def test_each_member_is_clipped_by_the_norm_of_what_moves_it(clip):
    """As torch.nn.utils.clip_grad_norm_ clips it alone, after the part along the rows has been taken out."""
    rows, free = start()
    ours = UnitNormAdam([rows, free], [rows], lr=0.05, clip=clip, betas=(0.0, 0.5))
    members = [tuple(p.detach()[n].clone().requires_grad_() for p in start()) for n in range(MEMBERS)]
    adams = [torch.optim.Adam(pair, lr=0.05, betas=(0.0, 0.5)) for pair in members]
    for step in range(5):
        g_rows, g_free = gradients(step)
        g_rows[1] *= 100  # one member's gradient clips nothing of the other's
        rows.grad, free.grad = g_rows.clone(), g_free.clone()
        ours.step()
        for n, ((own, own_free), adam) in enumerate(zip(members, adams, strict=True)):
            along = (g_rows[n] * own.detach()).sum(-1, keepdim=True)
            own.grad, own_free.grad = g_rows[n] - along * own.detach(), g_free[n].clone()
            torch.nn.utils.clip_grad_norm_([own, own_free], clip)
            adam.step()
            with torch.no_grad():
                own /= own.norm(dim=-1, keepdim=True)
            torch.testing.assert_close(rows.detach()[n], own.detach(), rtol=1e-9, atol=1e-9)
            torch.testing.assert_close(free.detach()[n], own_free.detach(), rtol=1e-9, atol=1e-9)


def test_half_precision_takes_torch_s_way_to_the_same_place():
    starts = [p.detach().bfloat16() for p in start()]
    half = [p.clone().requires_grad_() for p in starts]
    full = [p.float().requires_grad_() for p in starts]
    steps = []
    for rows, free in (half, full):
        optimizer = UnitNormAdam([rows, free], [rows], lr=0.05, clip=1.0)
        for step in range(5):
            rows.grad, free.grad = (g.bfloat16().to(rows.dtype) for g in gradients(step))
            optimizer.step()
        steps.append([rows.detach().float(), free.detach().float()])
    for a, b in zip(*steps, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0.03)


def test_forgetting_touches_the_moments_of_some_rows_of_one_member_alone():
    rows, free = start()
    optimizer = UnitNormAdam([rows, free], [rows], lr=0.05)
    optimizer.forget([rows, free], 1, torch.tensor([0]))  # before there is anything to forget
    rows.grad, free.grad = gradients(0)
    optimizer.step()
    before = {p: {k: optimizer.state[p][k].clone() for k in ("exp_avg", "exp_avg_sq")} for p in (rows, free)}
    optimizer.forget([rows, free], 1, torch.tensor([2, 4]))
    for p in (rows, free):
        for name, old in before[p].items():
            new = optimizer.state[p][name]
            assert old[1, [2, 4]].all() and not new[1, [2, 4]].any()
            old[1, [2, 4]] = 0
            assert torch.equal(new, old)


# ---- schedules ----


def test_trapezoid_rises_holds_and_falls():
    schedule = Trapezoid(total=20, warmup=4, decay=5)
    assert [schedule(s) for s in range(5)] == pytest.approx([0.25, 0.5, 0.75, 1, 1])
    assert [schedule(s) for s in range(14, 21)] == pytest.approx([1, 1, 0.8, 0.6, 0.4, 0.2, 0])
    assert schedule(1000) == 0
    assert all(schedule(s) == 1 for s in range(4, 16))
    assert [Trapezoid(total=3)(s) for s in range(3)] == [1, 1, 1]


def test_the_original_warm_up_starts_at_zero():
    schedule = Trapezoid(total=20, warmup=4, first=0)
    assert [schedule(s) for s in range(6)] == pytest.approx([0, 0.25, 0.5, 0.75, 1, 1])


def test_a_cosine_falls_as_far_and_more_gently():
    schedule = Trapezoid(total=20, warmup=4, decay=10, shape="cosine")
    assert [schedule(s) for s in range(5)] == pytest.approx([0.25, 0.5, 0.75, 1, 1]), "the warm-up stays linear"
    assert [schedule(s) for s in range(10, 21)] == pytest.approx([(1 + cos(pi * i / 10)) / 2 for i in range(11)])
    assert (schedule(10), schedule(15), schedule(20)) == pytest.approx((1, 0.5, 0))
    linear = Trapezoid(total=20, warmup=4, decay=10)
    assert all(schedule(s) > linear(s) for s in range(11, 15))
    assert all(schedule(s) < linear(s) for s in range(16, 20))


@pytest.mark.parametrize(
    "fields",
    [{"total": 0}, {"total": 5, "warmup": 3, "decay": 3}, {"total": 5, "warmup": -1}, {"total": 5, "decay": -1}],
)
def test_schedules_that_do_not_fit_are_refused(fields):
    with pytest.raises(ValueError, match="cannot hold"):
        Trapezoid(**fields)


def test_a_training_config_gives_its_schedule_in_shares_of_the_steps():
    config = TrainConfig(steps=200, warmup=0.1, decay=0.25, decay_shape="cosine")
    assert config.rate() == Trapezoid(200, 20, 50, "cosine", 1)
    assert TrainConfig(steps=200, schedule="dictionary_learning").rate().first == 0
    # the same config fits a run of any length
    assert [TrainConfig(steps=n).rate().total for n in (1, 2, 3, 7, 1000)] == [1, 2, 3, 7, 1000]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"warmup": 5}, "warmup is 5: choose a share of the steps between 0 and 1"),
        ({"decay": -0.1}, "decay is -0.1: choose a share"),
        ({"warmup": 0.6, "decay": 0.6}, "cannot hold"),
        ({"steps": 0}, "cannot hold"),
    ],
)
def test_training_configs_that_do_not_fit_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**fields)


# ---- what training starts from ----


def total_distance(x: torch.Tensor, y: torch.Tensor) -> float:
    return float((x - y).norm(dim=1).sum())


def by_scipy(x: torch.Tensor) -> torch.Tensor:
    """From every point and the mean, because the sum of distances has kinks at the points."""
    starts = [x.mean(0), *x]
    found = [
        minimize(lambda y: total_distance(x, torch.from_numpy(y)), s.numpy(), method="Nelder-Mead", tol=1e-12)
        for s in starts
    ]
    ends = [torch.from_numpy(result.x) for result in found] + starts
    return min(ends, key=lambda y: total_distance(x, y))


SETS = {
    "plain": random_rows(9, 3),
    "far from the origin": random_rows(9, 3) + 50,
    "duplicate points": random_rows(6, 3)[[0, 1, 1, 1, 2, 3, 4, 5, 5]],
    "the median is a point, and more than one": random_rows(6, 2)[[0, 0, 0, 0, 0, 1, 2, 3]],
    "the mean is a point and no median": torch.tensor([[0.0, 0], [0, 0], [0, 1], [3, 0.25], [12, 0]]).double(),
    "the mean is twice a point": torch.tensor([[-1.0, 0], [0, 0], [0, 0], [-2, 3], [3, -3]]).double(),
}


@pytest.mark.parametrize("case", SETS)
def test_the_geometric_median_is_what_scipy_finds(case):
    x = SETS[case]
    if case == "the mean is a point and no median":
        assert torch.equal(x.mean(0), x[3])
    before, expected = x.clone(), by_scipy(x)
    found = geometric_median(x, iterations=2000, tolerance=1e-9)
    assert total_distance(x, found) <= total_distance(x, expected) * (1 + 1e-6)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-3)
    quick = geometric_median(x)
    assert total_distance(x, quick) <= total_distance(x, expected) * (1 + 1e-3), "with the default effort"
    assert torch.equal(x, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("value", [0.0, 7.3])
def test_the_geometric_median_of_one_repeated_point_is_that_point(value, dtype):
    x = torch.full((5, 3), value, dtype=dtype)
    torch.testing.assert_close(geometric_median(x), x[0])
    torch.testing.assert_close(geometric_median(x[:1]), x[0])


def test_scales_are_what_their_names_say():
    x = 3 * random_rows(200, 16) + 1
    unit, by_width = (x / scale_of(x, normalise) for normalise in ("unit", "sqrt_d"))
    assert float(unit.square().sum(1).mean()) == pytest.approx(1)
    assert float(by_width.norm(dim=1).mean()) == pytest.approx(4)
    assert scale_of(x, "none") == 1
    for normalise in ("unit", "sqrt_d"):
        for bad in (torch.zeros(4, 3), torch.full((4, 3), torch.nan), torch.full((4, 3), torch.inf)):
            with pytest.raises(ValueError, match="cannot be normalised"):
                scale_of(bad, normalise)
