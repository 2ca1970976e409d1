"""A stack of three different dictionaries trains as each of them would alone, densely or through active features."""

import copy

import pytest
import torch

from saes.architectures import stack, unstack
from saes.trainer import Trainer
from tests.saes.stacks_for_tests import CASES, MEMBERS, distance, is_active, unchecked, worst

STEPS = 60
EVERY = pytest.mark.parametrize("name", CASES)


def assert_members_equal(together: Trainer, alone: list[Trainer], tolerance: float) -> None:
    for n, single in enumerate(alone):
        of_member = {key: t[n : n + 1] for key, t in together.stack.state_dict().items()}
        assert worst(of_member, single.stack.state_dict()) < (tolerance,), f"member {n}"


@EVERY
def test_float64(name):
    case = CASES[name]
    stacks = {step: case.trainer(MEMBERS, step, clip=0.3) for step in ("dense", "active")}
    alone = [case.trainer([n], "dense", clip=0.3) for n in MEMBERS]
    dead_sets_differ = False
    with unchecked():
        for number in range(STEPS):
            batch = case.batch(number)
            singles = [trainer.step(batch) for trainer in alone]
            total = torch.cat([single.total for single in singles])
            for step, together in stacks.items():
                loss = together.step(batch)
                assert is_active(loss) == (step == "active")
                assert distance(loss.total, total) < 1e-10
                if case.parts:
                    assert torch.equal(together.objective.idle, torch.cat([t.objective.idle for t in alone]))
            if case.parts:
                dead = torch.cat([t.objective.idle for t in alone]) >= case.parts[0].dead_after
                dead_sets_differ |= len({tuple(row.tolist()) for row in dead}) == len(MEMBERS)
    assert dead_sets_differ or not case.parts, "the members had the same dead features: nothing shown"
    batch = case.batch(STEPS)
    for together in stacks.values():
        assert_members_equal(together, alone, 1e-10)
        for numbers, single in zip(together.measure(batch), alone, strict=True):
            # a part is silent where no feature is dead, and 0 where those of other members are
            assert numbers == pytest.approx({**dict.fromkeys(numbers, 0.0), **single.measure(batch)[0]}, rel=1e-9)
        for ours, single in zip(together.finish(), alone, strict=True):
            (theirs,) = single.finish()
            assert ours.config == theirs.config == single.stack.config
            assert worst(ours.state_dict(), theirs.state_dict()) < (1e-10,)
            torch.testing.assert_close(ours.encode(batch.inputs), theirs.encode(batch.inputs))


@EVERY
def test_single_float32_steps_from_the_same_state(name):
    case = CASES[name]
    stacks = [case.trainer(MEMBERS, step, torch.float32) for step in ("dense", "active")]
    for number in range(21):
        batch = case.batch(number, torch.float32)
        if number % 20:
            with unchecked():
                stacks[0].step(batch)
            continue
        alone = [member_of(stacks[0], case.trainer([n], "dense", torch.float32), n) for n in MEMBERS]
        stacks[1].load_state_dict(copy.deepcopy(stacks[0].state_dict()))
        for trainer in (*alone, *stacks):
            trainer.step(batch)
        for together in stacks:
            assert_members_equal(together, alone, 1e-5)


def member_of(together: Trainer, single: Trainer, n: int) -> Trainer:
    """A trainer of one dictionary, in the state of member n of a stack."""
    state = copy.deepcopy(together.state_dict())
    state["dictionary"] = {key: t[n : n + 1] for key, t in state["dictionary"].items()}
    for moments in state["optimizer"]["state"].values():
        moments.update({key: moments[key][n : n + 1] for key in ("exp_avg", "exp_avg_sq")})
    objective = state["objective"]
    if objective["idle"] is not None:
        objective["idle"] = objective["idle"][n : n + 1]
    if "queue" in objective["penalty"]:
        objective["penalty"]["coefficient"] = objective["penalty"]["coefficient"][n : n + 1]
        objective["penalty"]["queue"] = [pair[:, n : n + 1] for pair in objective["penalty"]["queue"]]
    single.load_state_dict(state)
    return single


def test_each_member_is_clipped_by_its_own_norm():
    case = CASES["relu"]
    free, clipped = (case.trainer(MEMBERS, "dense", clip=clip) for clip in (None, 0.3))
    names = dict(clipped.stack.named_parameters())
    batch = case.batch(0).scaled(clipped.scale_in, clipped.scale_out)
    clipped.objective(clipped.stack, batch, 50).total.sum().backward()
    with torch.no_grad():
        for n, share in enumerate((1.0, 1e-3, 1e3)):
            for parameter in names.values():
                parameter.grad[n] *= share
    for ours, theirs in zip(free.stack.parameters(), names.values(), strict=True):
        ours.grad = theirs.grad.clone()
    norms = []
    rows = names["W_dec"].detach()
    for n in MEMBERS:
        g = {key: parameter.grad[n] for key, parameter in names.items()}
        across = g["W_dec"] - (g["W_dec"] * rows[n]).sum(-1, keepdim=True) * rows[n]
        norms.append(float(torch.cat([t.flatten() for t in {**g, "W_dec": across}.values()]).norm()))
    assert norms[0] > 0.3 > norms[1] and norms[2] > 300
    free.optimizer.step()
    clipped.optimizer.step()
    for n, norm in enumerate(norms):
        share = min(1.0, 0.3 / norm)
        for ours, theirs in zip(clipped.stack.parameters(), free.stack.parameters(), strict=True):
            first = (clipped.optimizer.state[ours]["exp_avg"][n], free.optimizer.state[theirs]["exp_avg"][n] * share)
            assert distance(*first) < 1e-5, n  # clipping divides by norm + 1e-6, as torch's does


def test_a_stack_comes_apart_into_what_it_was_made_of():
    for name in ("gated", "jumprelu", "topk", "skip transcoder"):
        trainers = [CASES[name].trainer([n]) for n in MEMBERS]
        singles = [trainer.dictionary for trainer in trainers]
        for before, after in zip(singles, unstack(stack(singles)), strict=True):
            assert before.config == after.config
            assert worst(after.state_dict(), before.state_dict())[0] == 0


def test_only_dictionaries_of_one_shape_can_be_stacked():
    with pytest.raises(ValueError, match="only dictionaries of one architecture"):
        stack([CASES["relu"].trainer().dictionary, CASES["gated"].trainer().dictionary])
