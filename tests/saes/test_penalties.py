"""Lp, p-annealing and L0 against slow, plain implementations, and the promises about state."""

import copy

import pytest
import torch

from saes.architectures.affine import Encoded
from saes.p_annealing import PAnneal, PAnnealConfig
from saes.penalties import L0, L0Config, Lp, LpConfig, lp_sum
from tests.saes.dictionaries_for_tests import LAYOUTS, dense_entries, encoded

BOTH = pytest.mark.parametrize("layout", LAYOUTS)
FUNCTIONS = pytest.mark.parametrize("function", ["Lp^p", "Lp"])


def features(rows: int = 40, width: int = 30, seed: int = 0) -> torch.Tensor:
    """Sparse, non-negative float64 features on both sides of every bound used here."""
    generator = torch.Generator().manual_seed(seed)
    size = torch.rand(rows, width, generator=generator, dtype=torch.float64)
    return torch.where(size < 0.6, 0.0, (8 * (size - 0.9)).exp())


def lp(f: torch.Tensor, p: float, bound: float, function: str = "Lp^p", layout: str = "dense") -> torch.Tensor:
    """lp_sum of one member, as a scalar."""
    (value,) = lp_sum(LAYOUTS[layout](f), [p], bound, function)
    return value


def slow_lp(f: torch.Tensor, p: float, bound: float, function: str = "Lp^p") -> float:
    total = 0.0
    for row in f.tolist():
        of_row = 0.0
        for value in row:
            if value > bound:
                of_row += value**p - (bound**p - p * bound ** (p - 1) * bound if bound else 0.0)
            elif value > 0:
                of_row += p * bound ** (p - 1) * value
        total += of_row if function == "Lp^p" else of_row ** (1 / p)
    return total / len(f)


@BOTH
@FUNCTIONS
@pytest.mark.parametrize("p", [0.2, 0.5, 0.9, 1.0, 1.7])
@pytest.mark.parametrize("bound", [0.0, 0.01, 0.3])
def test_value_and_gradient_equal_the_plain_form(p, bound, function, layout):
    f = features()
    f[7] = 0  # a silent row has a penalty and a gradient of 0
    assert ((f > 0) & (f < bound)).any() or bound < 0.1
    assert float(lp(f, p, bound, function, layout)) == pytest.approx(slow_lp(f, p, bound, function), rel=1e-12)
    f.requires_grad_()
    (gradient,) = torch.autograd.grad(lp(f, p, bound, function, layout), f)
    slope = p * f.detach().clamp_min(bound).pow(p - 1) / len(f)
    if function == "Lp":
        rows = torch.tensor([slow_lp(row[None], p, bound) for row in f.detach()], dtype=torch.float64)[:, None]
        slope = slope * (rows ** (1 / p - 1) / p).nan_to_num(posinf=0.0)
    torch.testing.assert_close(gradient[f > 0], slope[f > 0], rtol=1e-12, atol=0)
    if p != 1:
        assert not gradient[f == 0].any(), "features that are off are left alone"
    assert gradient.isfinite().all()


@pytest.mark.parametrize("p", [0.05, 0.2, 0.7])
def test_slope_is_bounded_and_the_curve_has_no_kink_or_jump(p):
    bound = 0.03
    f = torch.logspace(-12, 1, 4000, dtype=torch.float64)[None].requires_grad_()
    (slope,) = torch.autograd.grad(lp(f, p, bound), f)
    limit = p * bound ** (p - 1)
    assert float(slope.max()) == pytest.approx(limit, rel=1e-12)
    assert (slope.diff() <= 1e-15).all(), "the slope never rises: small features are pushed hardest"
    (unbounded,) = torch.autograd.grad(lp(f, p, 0.0), f)
    assert unbounded.max() > 1e3 * limit, "what the bound is for"
    assert torch.equal(unbounded[f > bound], slope[f > bound])
    values, slopes = [], []
    for at in (bound * (1 - 1e-9), bound, bound * (1 + 1e-9)):
        x = torch.tensor([[at]], dtype=torch.float64, requires_grad=True)
        value = lp(x, p, bound)
        values.append(value.item())
        slopes.append(float(torch.autograd.grad(value, x)[0]))
    assert values == pytest.approx([values[0]] * 3, rel=1e-8)
    assert slopes == pytest.approx([limit] * 3, rel=1e-8)


@pytest.mark.parametrize("p", [0.05, 0.5])
@pytest.mark.parametrize("config", [LpConfig, PAnnealConfig])
def test_the_default_bound_holds_the_gradient_of_both_penalties(p, config):
    f = torch.cat([torch.zeros(1), torch.logspace(-30, 1, 500)])[None].requires_grad_()  # float32, as in training
    if config is LpConfig:
        penalty = Lp(LpConfig(coefficient=1.0, p=p, warmup=0))
    else:
        penalty = PAnneal(PAnnealConfig(coefficient=1.0, p_start=p, p_end=p, warmup=0))
    (gradient,) = torch.autograd.grad(penalty(encoded(f), 0).sum(), f)
    assert float(gradient.max()) == pytest.approx(p * config().bound ** (p - 1), rel=1e-5)
    assert gradient[0, 0] == 0


def test_p_1_is_l1_for_every_bound():
    f = features()
    for bound in (0.0, 0.001, 0.3, 10.0):
        torch.testing.assert_close(lp(f, 1.0, bound), f.abs().sum(1).mean())
        torch.testing.assert_close(lp(f, 1.0, bound, "Lp"), f.abs().sum(1).mean())
    below_one = lp(f, 1 - 1e-9, 0.03)
    torch.testing.assert_close(below_one, f.sum(1).mean(), rtol=1e-6, atol=0)


@BOTH
def test_fixed_penalty_warms_up_and_has_no_state(layout):
    f = encoded(features(), layout)
    penalty = Lp(LpConfig(coefficient=0.3, p=0.5, warmup=4, bound=0.1))
    full = 0.3 * slow_lp(features(), 0.5, 0.1)
    for step, share in ((0, 0.25), (1, 0.5), (3, 1.0), (4, 1.0), (1000, 1.0)):
        assert float(penalty(f, step)) == pytest.approx(share * full)
    replica = Lp(LpConfig(coefficient=0.3, p=0.5, warmup=4, bound=0.1, schedule="dictionary_learning"))
    for step, share in ((0, 0.0), (1, 0.25), (3, 0.75), (4, 1.0), (1000, 1.0)):
        assert float(replica(f, step)) == pytest.approx(share * full)
    assert penalty.state_dict() == {}
    with pytest.raises(ValueError, match="no state"):
        penalty.load_state_dict({"drops": 1})


def test_penalties_look_at_what_an_architecture_gives_them():
    small, large = dense_entries(features()), dense_entries(3 * features())
    penalty = Lp(LpConfig(coefficient=1.0, warmup=0))
    assert float(penalty(Encoded(small, large), 0)) == pytest.approx(float(large.values.sum()) / 40)


@BOTH
@pytest.mark.parametrize("target", [None, 9.0])
def test_l0_counts_what_fires(layout, target):
    f = features()
    on = LAYOUTS[layout]((f > 0).double().requires_grad_())
    penalty = L0(L0Config(coefficient=0.5, target=target, warmup=2))
    l0 = float((f > 0).sum(1).double().mean())
    expected = l0 if target is None else (l0 / target - 1) ** 2
    value = penalty(Encoded(LAYOUTS[layout](f), LAYOUTS[layout](f), on), 0)
    assert float(value.detach()) == pytest.approx(0.25 * expected)
    (gradient,) = torch.autograd.grad(value.sum(), on.values)
    slope = 0.25 / 40 * (1.0 if target is None else 2 * (l0 / target - 1) / target)
    torch.testing.assert_close(gradient, torch.full_like(gradient, slope))
    with pytest.raises(ValueError, match="use jumprelu"):
        penalty(encoded(f), 0)


# ---- p-annealing ----

CONFIG = PAnnealConfig(coefficient=0.3, p_start=1.0, p_end=0.2, start=10, end=30, updates=5, queue=3, warmup=4)


def with_fields(**fields) -> PAnnealConfig:
    return PAnnealConfig(**{**CONFIG.__dict__, **fields})


def annealed(config, steps: int, batches=None, layout: str = "dense") -> PAnneal:
    penalty = PAnneal(config)
    for step in range(steps):
        penalty.observe(encoded(features(seed=0) if batches is None else batches(step), layout), step)
    return penalty


def drifting(step: int) -> torch.Tensor:
    """Features whose level changes from batch to batch, so that the choice of batches shows."""
    return features(rows=12, width=10, seed=step) * (1 + step % 4)


def test_p_falls_in_equal_drops_at_the_steps_of_the_schedule_and_ends_exactly():
    penalty, history = PAnneal(CONFIG), []
    for step in range(40):
        history.append(penalty.p)
        penalty.observe(encoded(features()), step)
    drops = [step for step in range(39) if history[step + 1] != history[step]]
    assert drops == [10, 15, 20, 25, 30]
    assert [history[step + 1] for step in drops] == pytest.approx([0.84, 0.68, 0.52, 0.36, 0.2])
    assert history[0] == 1.0 and history[30] > 0.2
    assert history[31] == 0.2 and history[-1] == 0.2, "p_end exactly, not up to rounding"


@pytest.mark.parametrize("updates", [1, 2, 7, 21, "continuous"])
def test_p_end_is_reached_exactly_after_the_last_step_whatever_the_number_of_drops(updates):
    config = PAnnealConfig(p_start=0.9, p_end=0.3, start=10, end=30, updates=updates, queue=3)
    assert annealed(config, 10).p == 0.9
    assert annealed(config, 30).p > 0.3
    assert annealed(config, 31).p == 0.3


def test_continuous_annealing_is_a_straight_line():
    config = with_fields(updates="continuous")
    penalty, history = PAnneal(config), []
    for step in range(35):
        history.append(penalty.p)
        penalty.observe(encoded(features()), step)
    assert history[:11] == [1.0] * 11
    assert history[10:32] == pytest.approx([1 - 0.8 * i / 21 for i in range(22)])
    assert history[31:] == [0.2] * 4


@BOTH
@FUNCTIONS
@pytest.mark.parametrize("updates", [5, "continuous"])
def test_the_penalty_on_constant_features_never_jumps(layout, function, updates):
    f = encoded(features(), layout)
    penalty = PAnneal(with_fields(function=function, updates=updates))
    level = float(penalty(f, 1000))
    for step in range(40):
        penalty.observe(f, step)
        assert float(penalty(f, 1000)) == pytest.approx(level, rel=1e-12)
    assert penalty.p == 0.2 and float(penalty.coefficient) != pytest.approx(0.3, rel=0.05)


@pytest.mark.parametrize("updates", [5, "continuous"])
def test_the_penalty_on_recent_features_does_not_jump_at_a_drop(updates):
    penalty = PAnneal(with_fields(updates=updates))
    drops = 0
    for step in range(40):
        # from its first change on, a continuous annealing knows the features under each pair of p from one batch
        recent = range(max(0, step - 2), step + 1) if updates == 5 or step <= 10 else [step]
        before, p = sum(float(penalty(encoded(drifting(s)), 1000)) for s in recent), penalty.p
        penalty.observe(encoded(drifting(step)), step)
        after = sum(float(penalty(encoded(drifting(s)), 1000)) for s in recent)
        assert after == pytest.approx(before, rel=1e-12)
        drops += penalty.p != p
    assert drops == (5 if updates == 5 else 21)


def test_the_coefficient_is_rescaled_from_the_last_batches_only():
    def batch(step):
        return features(seed=step) * (1 + step)  # the level drifts, so that the choice of batches shows

    before, after = annealed(CONFIG, 10, batch), annealed(CONFIG, 11, batch)
    assert (before.p, after.p) == pytest.approx((1.0, 0.84))
    recent, all_of_them = range(8, 11), range(11)

    def level(penalty, steps):
        return sum(float(penalty(encoded(batch(s)), 1000)) for s in steps)

    assert level(after, recent) == pytest.approx(level(before, recent), rel=1e-12)
    assert level(after, all_of_them) != pytest.approx(level(before, all_of_them), rel=1e-4)
    assert level(after, [10]) != pytest.approx(level(before, [10]), rel=1e-4)


@BOTH
def test_silent_features_leave_the_coefficient_alone(layout):
    penalty = annealed(CONFIG, 40, lambda step: torch.zeros(8, 5), layout)
    assert penalty.p == 0.2
    assert float(penalty.coefficient) == pytest.approx(0.3)


def test_asking_moves_nothing():
    penalty = annealed(CONFIG, 20)
    before = copy.deepcopy(penalty.state_dict())
    first, second = penalty(encoded(features(seed=5)), 20), penalty(encoded(features(seed=5)), 20)
    numbers = penalty.numbers()
    assert torch.equal(first, second)
    assert same(before, penalty.state_dict())
    assert float(numbers["p"]) == pytest.approx(penalty.p) and numbers["coefficient"] is penalty.coefficient


def test_the_caller_can_change_nothing_through_state_dict():
    penalty = annealed(CONFIG, 20)
    state = penalty.state_dict()
    before = copy.deepcopy(state)
    penalty.observe(encoded(features()), 20)
    assert same(before, state), "a saved state does not go on with the run"
    assert not same(before, penalty.state_dict())


def same(a: dict, b: dict) -> bool:
    queues = len(a["queue"]) == len(b["queue"]) and all(map(torch.equal, a["queue"], b["queue"]))
    return queues and a["changes_done"] == b["changes_done"] and torch.equal(a["coefficient"], b["coefficient"])


@pytest.mark.parametrize("stop", [1, 9, 10, 11, 14, 30])
@pytest.mark.parametrize("schedule", ["exact", "dictionary_learning"])
@pytest.mark.parametrize("updates", [5, "continuous"])
def test_state_round_trip_in_the_middle_of_a_queue(stop, schedule, updates):
    members = [with_fields(schedule=schedule, updates=updates, p_end=p_end) for p_end in (0.2, 0.6)]
    undisturbed = annealed(members, 40, drifting_twice)
    resumed = PAnneal(members)
    resumed.load_state_dict(copy.deepcopy(annealed(members, stop, drifting_twice).state_dict()))
    for step in range(stop, 40):
        resumed.observe(encoded(drifting_twice(step)), step)
    assert same(undisturbed.state_dict(), resumed.state_dict())
    assert undisturbed.p_of_members == resumed.p_of_members


# ---- the schedule of dictionary_learning ----


def replayed(config: PAnnealConfig, steps: int) -> list[tuple[float, float]]:
    """p and coefficient used at every step by PAnnealTrainer, written down from its loss()."""
    end = config.end
    events = torch.linspace(config.start, end, config.changes, dtype=torch.int).tolist()
    values = [*torch.linspace(config.p_start, config.p_end, config.changes).tolist(), config.p_end]
    p, coefficient, following, count, queue, used = config.p_start, config.coefficient, None, 0, [], []
    for step in range(steps):
        f = drifting(step)
        used.append((p, coefficient))
        if following is not None:
            queue = [*queue, (slow_lp(f, p, 0.0), slow_lp(f, following, 0.0))][-config.queue :]
        if step in events and count < len(events) and step >= events[count]:
            if following is not None:
                coefficient *= sum(a for a, _ in queue) / sum(b for _, b in queue)
            p, following, count = values[count], values[count + 1], count + 1
    return used


@pytest.mark.parametrize("fields", [{"updates": 5}, {"updates": "continuous"}, {"end": 25, "updates": 4, "queue": 9}])
def test_the_original_schedule_is_replicated_step_for_step(fields):
    config = with_fields(**{"end": 40, "bound": 0.0, "schedule": "dictionary_learning", **fields})
    penalty = PAnneal(config)
    for step, (p, coefficient) in enumerate(replayed(config, 40)):
        assert penalty.p == p
        assert float(penalty.coefficient) == pytest.approx(coefficient, rel=1e-9)
        expected = coefficient * slow_lp(drifting(step), p, 0.0) * min(1.0, step / 4)
        assert float(penalty(encoded(drifting(step)), step)) == pytest.approx(expected, rel=1e-9)
        penalty.observe(encoded(drifting(step)), step)


def test_the_original_schedule_never_reaches_p_end_and_ours_does():
    """The board-game runs: p from 1 to 0.2 in 10 updates until the last step."""
    steps = 100
    fields = {"start": 10, "end": steps, "updates": 10, "bound": 0.0}
    original = annealed(with_fields(schedule="dictionary_learning", **fields), steps)
    assert original.p == pytest.approx(0.2889, abs=1e-4)
    assert annealed(with_fields(**{**fields, "end": steps - 1}), steps).p == 0.2


# ---- stacks ----


def drifting_twice(step: int) -> torch.Tensor:
    """Two members' features [2, B, F], which have nothing to do with one another."""
    return torch.stack([drifting(step), 0.3 * drifting(step + 50)])


@BOTH
@FUNCTIONS
@pytest.mark.parametrize("schedule", ["exact", "dictionary_learning"])
@pytest.mark.parametrize("updates", [5, "continuous"])
def test_members_of_a_stack_anneal_as_they_would_alone(layout, function, schedule, updates):
    shared = {"function": function, "schedule": schedule, "updates": updates, "start": 2, "end": 9}
    members = [with_fields(p_end=0.3, **shared), with_fields(coefficient=0.07, p_start=0.9, p_end=0.6, **shared)]
    together, alone = PAnneal(members), [PAnneal(c) for c in members]
    for step in range(12):
        f = drifting_twice(step)
        value = together(encoded(f, layout), step)
        gradient_of = f.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(together(encoded(gradient_of, layout), step).sum(), gradient_of)
        together.observe(encoded(f, layout), step)
        for n, single in enumerate(alone):
            own = f[n].clone().requires_grad_()
            of_one = single(encoded(own, layout), step)
            assert float(value[n]) == pytest.approx(float(of_one.detach()), rel=1e-12)
            (own_gradient,) = torch.autograd.grad(of_one.sum(), own)
            on = own.detach() > 0  # p = 1 alone is L1 itself, whose slope at features that are off meets a ReLU
            torch.testing.assert_close(gradient[n][on], own_gradient[on], rtol=1e-11, atol=0)
            single.observe(encoded(f[n], layout), step)
            assert together.p_of_members[n] == single.p
            assert float(together.coefficient[n]) == pytest.approx(float(single.coefficient), rel=1e-12)
    assert together.p_of_members[0] < 0.5 < together.p_of_members[1]


@BOTH
def test_members_of_fixed_penalties_are_what_they_would_be_alone(layout):
    f = drifting_twice(0)
    members = [LpConfig(0.1, p=0.5), LpConfig(0.4, p=1.0)]
    value = Lp(members)(encoded(f, layout), 3)
    assert value.tolist() == pytest.approx([float(Lp(c)(encoded(f[n], layout), 3)) for n, c in enumerate(members)])
    members = [L0Config(0.1, target=3.0), L0Config(0.4, target=30.0)]
    on = LAYOUTS[layout]((f > 0).double())
    value = L0(members)(Encoded(on, on, on), 3)
    singles = [LAYOUTS[layout]((each > 0).double()) for each in f]
    alone = [float(L0(c)(Encoded(s, s, s), 3)) for s, c in zip(singles, members, strict=True)]
    assert value.tolist() == pytest.approx(alone)


@pytest.mark.parametrize(
    "fields",
    [
        {"start": 9},
        {"end": 31},
        {"updates": 4},
        {"queue": 4},
        {"warmup": 5},
        {"bound": 0.1},
        {"function": "Lp"},
        {"schedule": "dictionary_learning"},
    ],
)
def test_members_that_anneal_at_different_times_are_refused(fields):
    (name,) = fields
    with pytest.raises(ValueError, match=f"members of a stack share {name}"):
        PAnneal([CONFIG, with_fields(**fields)])


@pytest.mark.parametrize("fields", [{"warmup": 5}, {"bound": 0.1}, {"schedule": "dictionary_learning"}])
def test_members_with_different_fixed_penalties_are_refused(fields):
    (name,) = fields
    with pytest.raises(ValueError, match=f"members of a stack share {name}"):
        Lp([LpConfig(), LpConfig(**fields)])
    if name != "bound":
        with pytest.raises(ValueError, match=f"members of a stack share {name}"):
            L0([L0Config(), L0Config(**fields)])


def test_a_target_is_for_all_members_or_none():
    with pytest.raises(ValueError, match="all members of a stack have a target L0 or none"):
        L0([L0Config(), L0Config(target=3.0)])


def test_a_stack_of_no_penalties_is_refused():
    for kind in (Lp, L0, PAnneal):
        with pytest.raises(ValueError, match="at least one config"):
            kind([])


# ---- faulty configs ----


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"p_end": 0.0}, "p_end is 0"),
        ({"p_start": 2.1}, "p_start is 2.1"),
        ({"p_start": 0.3, "p_end": 0.5}, "p_end 0.5 is above p_start 0.3"),
        ({"coefficient": 0.0}, "coefficient is 0"),
        ({"bound": -1.0}, "bound is -1"),
        ({"warmup": -1}, "warmup is -1"),
        ({"updates": 0}, "updates is 0"),
        ({"queue": 0}, "queue is 0"),
        ({"start": 50, "end": 40}, "do not fit between steps 50 and 40"),
        ({"start": 50, "end": 40, "updates": "continuous"}, "do not fit between steps 50 and 40"),
        ({"start": 10, "end": 15, "updates": 10}, "10 changes of p do not fit between steps 10 and 15"),
        ({"start": -1}, "do not fit"),
    ],
)
def test_faulty_annealing_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        PAnnealConfig(**fields)


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        (LpConfig, {"p": 0.0}, "p is 0.0: choose a value above 0"),
        (LpConfig, {"p": 2.5}, "p is 2.5: choose a value above 0"),
        (LpConfig, {"coefficient": -0.1}, "coefficient is -0.1: choose a value above 0"),
        (LpConfig, {"bound": -0.1}, "bound is -0.1: choose 0 or more"),
        (LpConfig, {"warmup": -1}, "warmup is -1: choose 0 or more"),
        (L0Config, {"coefficient": 0.0}, "coefficient is 0.0: choose a value above 0"),
        (L0Config, {"target": 0.0}, "target is 0.0: choose a value above 0"),
        (L0Config, {"warmup": -1}, "warmup is -1: choose 0 or more"),
    ],
)
def test_faulty_fixed_penalties_are_refused(kind, fields, message):
    with pytest.raises(ValueError, match=message):
        kind(**fields)
