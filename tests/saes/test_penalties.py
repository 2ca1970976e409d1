"""Lp and p-annealing against a slow, plain implementation, and the promises about state."""

import copy

import pytest
import torch

from saes.penalties import Lp, LpConfig, PAnneal, PAnnealConfig, lp_power


def features(rows: int = 40, width: int = 30, seed: int = 0) -> torch.Tensor:
    """Sparse, non-negative float64 features on both sides of every bound used here."""
    generator = torch.Generator().manual_seed(seed)
    size = torch.rand(rows, width, generator=generator, dtype=torch.float64)
    return torch.where(size < 0.6, 0.0, (8 * (size - 0.9)).exp())


def slow_lp_power(f: torch.Tensor, p: float, bound: float) -> float:
    total = 0.0
    for row in f.tolist():
        for value in row:
            if value > bound:
                total += value**p - bound**p + p * bound ** (p - 1) * bound
            elif value > 0:
                total += p * bound ** (p - 1) * value
    return total / len(f)


@pytest.mark.parametrize("p", [0.2, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("bound", [0.01, 0.3])
def test_value_and_gradient_equal_the_plain_form(p, bound):
    f = features()
    assert ((f > 0) & (f < bound)).any() or bound < 0.1
    assert float(lp_power(f, p, bound)) == pytest.approx(slow_lp_power(f, p, bound), rel=1e-12)
    f.requires_grad_()
    (gradient,) = torch.autograd.grad(lp_power(f, p, bound), f)
    slope = p * f.detach().clamp_min(bound).pow(p - 1) / len(f)
    torch.testing.assert_close(gradient[f > 0], slope[f > 0], rtol=1e-12, atol=0)
    if p < 1:
        assert not gradient[f == 0].any(), "features that are off are left alone"


@pytest.mark.parametrize("p", [0.05, 0.2, 0.7])
def test_slope_is_bounded_and_the_curve_has_no_kink_or_jump(p):
    bound = 0.03
    f = torch.logspace(-12, 1, 4000, dtype=torch.float64)[None].requires_grad_()
    (slope,) = torch.autograd.grad(lp_power(f, p, bound), f)
    limit = p * bound ** (p - 1)
    assert float(slope.max()) == pytest.approx(limit, rel=1e-12)
    assert (slope.diff() <= 1e-15).all(), "the slope never rises: small features are pushed hardest"
    values, slopes = [], []
    for at in (bound * (1 - 1e-9), bound, bound * (1 + 1e-9)):
        x = torch.tensor([[at]], dtype=torch.float64, requires_grad=True)
        value = lp_power(x, p, bound)
        values.append(value.item())
        slopes.append(float(torch.autograd.grad(value, x)[0]))
    assert values == pytest.approx([values[0]] * 3, rel=1e-8)
    assert slopes == pytest.approx([limit] * 3, rel=1e-8)


def test_p_1_is_l1_for_every_bound():
    f = features()
    for bound in (0.001, 0.3, 10.0):
        torch.testing.assert_close(lp_power(f, 1.0, bound), f.abs().sum(1).mean())
    below_one = lp_power(f, 1 - 1e-9, 0.03)
    torch.testing.assert_close(below_one, f.sum(1).mean(), rtol=1e-6, atol=0)


def test_fixed_penalty_warms_up_and_has_no_state():
    f = features()
    penalty = Lp(LpConfig(coefficient=0.3, p=0.5, warmup=4, bound=0.1))
    full = 0.3 * slow_lp_power(f, 0.5, 0.1)
    for step, share in ((0, 0.25), (1, 0.5), (3, 1.0), (4, 1.0), (1000, 1.0)):
        assert float(penalty(f, step)) == pytest.approx(share * full)
    assert penalty.state_dict() == {}
    with pytest.raises(ValueError, match="no state"):
        penalty.load_state_dict({"drops": 1})


CONFIG = PAnnealConfig(coefficient=0.3, p_start=1.0, p_end=0.2, start=10, end=30, updates=5, queue=3, warmup=4)


def annealed(config: PAnnealConfig, steps: int, batches=None) -> PAnneal:
    penalty = PAnneal(config)
    for step in range(steps):
        penalty.observe(features(seed=0) if batches is None else batches(step), step)
    return penalty


def test_p_falls_in_equal_drops_at_the_steps_of_the_schedule_and_ends_exactly():
    penalty, history = PAnneal(CONFIG), []
    for step in range(40):
        history.append(penalty.p)
        penalty.observe(features(), step)
    drops = [step for step in range(39) if history[step + 1] != history[step]]
    assert drops == [10, 15, 20, 25, 30]
    assert [history[step + 1] for step in drops] == pytest.approx([0.84, 0.68, 0.52, 0.36, 0.2])
    assert history[0] == 1.0 and history[30] > 0.2
    assert history[31] == 0.2 and history[-1] == 0.2, "p_end exactly, not up to rounding"


@pytest.mark.parametrize("updates", [1, 2, 7, 21])
def test_p_end_is_reached_exactly_after_the_last_step_whatever_the_number_of_drops(updates):
    config = PAnnealConfig(p_start=0.9, p_end=0.3, start=10, end=30, updates=updates, queue=3)
    assert annealed(config, 30).p > 0.3
    assert annealed(config, 31).p == 0.3


def test_the_penalty_on_constant_features_never_jumps():
    f = features()
    penalty = PAnneal(CONFIG)
    level = float(penalty(f, 1000))
    for step in range(40):
        penalty.observe(f, step)
        assert float(penalty(f, 1000)) == pytest.approx(level, rel=1e-12)
    assert penalty.p == 0.2 and float(penalty.coefficient) != pytest.approx(0.3, rel=0.05)


def test_the_coefficient_is_rescaled_from_the_last_batches_only():
    def batch(step):
        return features(seed=step) * (1 + step)  # the level drifts, so that the choice of batches shows

    before, after = annealed(CONFIG, 10, batch), annealed(CONFIG, 11, batch)
    assert (before.p, after.p) == pytest.approx((1.0, 0.84))
    recent, all_of_them = range(8, 11), range(11)

    def level(penalty, steps):
        return sum(float(penalty(batch(s), 1000)) for s in steps)

    assert level(after, recent) == pytest.approx(level(before, recent), rel=1e-12)
    assert level(after, all_of_them) != pytest.approx(level(before, all_of_them), rel=1e-4)
    assert level(after, [10]) != pytest.approx(level(before, [10]), rel=1e-4)


def test_silent_features_leave_the_coefficient_alone():
    penalty = annealed(CONFIG, 40, lambda step: torch.zeros(8, 5))
    assert penalty.p == 0.2
    assert float(penalty.coefficient) == 0.3


def test_asking_moves_nothing():
    penalty = annealed(CONFIG, 20)
    before = copy.deepcopy(penalty.state_dict())
    first, second = penalty(features(seed=5), 20), penalty(features(seed=5), 20)
    penalty.numbers()
    assert torch.equal(first, second)
    assert same(before, penalty.state_dict())


def test_the_caller_can_change_nothing_through_state_dict():
    penalty = annealed(CONFIG, 20)
    state = penalty.state_dict()
    before = copy.deepcopy(state)
    penalty.observe(features(), 20)
    assert same(before, state), "a saved state does not go on with the run"
    assert not same(before, penalty.state_dict())


def same(a: dict, b: dict) -> bool:
    queues = len(a["queue"]) == len(b["queue"]) and all(map(torch.equal, a["queue"], b["queue"]))
    return queues and a["drops"] == b["drops"] and torch.equal(a["coefficient"], b["coefficient"])


@pytest.mark.parametrize("stop", [1, 9, 10, 11, 14, 30])
def test_state_round_trip_in_the_middle_of_a_queue(stop):
    def batch(step):
        return features(seed=step) * (1 + step % 4)

    undisturbed = annealed(CONFIG, 40, batch)
    resumed = PAnneal(CONFIG)
    resumed.load_state_dict(copy.deepcopy(annealed(CONFIG, stop, batch).state_dict()))
    for step in range(stop, 40):
        resumed.observe(batch(step), step)
    assert same(undisturbed.state_dict(), resumed.state_dict())
    assert undisturbed.p == resumed.p


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"p_end": 0.0}, "p_end is 0"),
        ({"p_start": 1.2}, "p_start is 1.2"),
        ({"p_start": 0.3, "p_end": 0.5}, "p_end 0.5 is above p_start 0.3"),
        ({"coefficient": 0.0}, "coefficient is 0"),
        ({"bound": -1.0}, "bound is -1"),
        ({"updates": 0}, "updates is 0"),
        ({"queue": 0}, "queue is 0"),
        ({"start": 50, "end": 40}, "do not fit between steps 50 and 40"),
        ({"start": 10, "end": 15, "updates": 10}, "10 drops do not fit between steps 10 and 15"),
        ({"start": -1}, "do not fit"),
    ],
)
def test_faulty_annealing_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        PAnnealConfig(**fields)


@pytest.mark.parametrize("fields", [{"p": 0.0}, {"p": 1.5}, {"coefficient": -0.1}, {"bound": 0.0}])
def test_faulty_fixed_penalties_are_refused(fields):
    with pytest.raises(ValueError, match="choose a value above 0"):
        LpConfig(**fields)
