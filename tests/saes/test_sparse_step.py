"""The step through the active features is the dense step: same weights, same state, chosen when it pays."""

import copy

import pytest
import torch

from saes import objective as objectives
from saes.penalties import Lp, LpConfig
from saes.trainer import Trainer
from tests.saes.stacks_for_tests import CASES, FEATURES, Case, distance, is_active, unchecked, worst

EVERY = pytest.mark.parametrize("name", CASES)


@EVERY
def test_the_weights_are_equal_after_100_steps(name):
    case = CASES[name]
    dense, active = (case.trainer(step=step) for step in ("dense", "active"))
    start = dense.stack.W_enc.detach().clone()
    seen = set()
    with unchecked():
        for number in range(100):
            batch = case.batch(number)
            losses = dense.step(batch), active.step(batch)
            assert [is_active(loss) for loss in losses] == [False, True]
            assert losses[0].terms.keys() == losses[1].terms.keys()
            seen |= losses[0].terms.keys()
            assert distance(losses[1].total, losses[0].total) < 1e-10
    assert distance(start, dense.stack.W_enc) > 0.1, "nothing was learnt"
    assert "auxk" in seen or not any(part.name == "auxk" for part in case.parts), "no feature died: nothing shown"
    assert worst(active.stack.state_dict(), dense.stack.state_dict())[0] < 1e-10
    moments = [[s[k] for s in t.optimizer.state.values() for k in ("exp_avg", "exp_avg_sq")] for t in (active, dense)]
    assert max(map(distance, *moments)) < 1e-9
    if case.parts:
        assert torch.equal(active.objective.idle, dense.objective.idle)
    numbers = [t.measure(case.batch(101))[0] for t in (active, dense)]
    assert numbers[0] == pytest.approx(numbers[1], rel=1e-9)


def gradients(trainer: Trainer, batch: objectives.Batch) -> dict[str, torch.Tensor]:
    batch = batch.scaled(trainer.scale_in, trainer.scale_out)
    names, parameters = zip(*trainer.stack.named_parameters(), strict=True)
    loss = trainer.objective(trainer.stack, batch, trainer.steps_done).total.sum()
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return {n: torch.zeros_like(p) if g is None else g for n, p, g in zip(names, parameters, found, strict=True)}


@EVERY
def test_single_float32_steps_from_the_same_state_are_equal(name):
    case = CASES[name]
    dense = case.trainer(step="dense", dtype=torch.float32)
    for number in range(61):
        batch = case.batch(number, torch.float32)
        if number % 20 == 0:
            active = case.trainer(step="active", dtype=torch.float32)
            active.load_state_dict(copy.deepcopy(dense.state_dict()))
            assert worst(gradients(active, batch), gradients(dense, batch)) < (1e-5,)
            active.step(batch)
            dense.step(batch)
            assert worst(active.stack.state_dict(), dense.stack.state_dict()) < (1e-5,)
        else:
            with unchecked():
                dense.step(batch)


# ---- the choice ----

SPARSE = Case("relu", lambda members: Lp(LpConfig(1.0, warmup=10)))  # strong enough for fewer than 2 of 40 features


def test_a_run_that_becomes_sparse_switches_and_ends_where_the_dense_one_does():
    auto, dense = SPARSE.trainer(step="auto"), SPARSE.trainer(step="dense")
    ways, densities = [], []
    with unchecked():
        for number in range(100):
            batch = SPARSE.batch(number)
            loss = auto.step(batch)
            ways.append(is_active(loss))
            densities.append(float(loss.encoded.features.l0()) / FEATURES)
            dense.step(batch)
    switch = ways.index(True)
    assert 1 < switch < 80 and not any(ways[:switch])
    # the share is measured every tenth step, for the steps that follow
    measured = [densities[n - 1 - (n - 1) % objectives.MEASURE_EVERY] for n in range(1, 100)]
    assert ways[1:] == [share < objectives.ACTIVE_BELOW for share in measured]
    assert worst(auto.stack.state_dict(), dense.stack.state_dict())[0] < 1e-10


def test_a_resumed_run_goes_on_in_the_way_it_was_going():
    trainer = SPARSE.trainer(step="auto")
    with unchecked():
        ways = [is_active(trainer.step(SPARSE.batch(number))) for number in range(95)]
    assert ways[-1]
    resumed = SPARSE.trainer(step="auto")
    resumed.load_state_dict(copy.deepcopy(trainer.state_dict()))
    assert resumed.objective.density == trainer.objective.density < objectives.ACTIVE_BELOW
    for number in range(95, 100):
        assert is_active(resumed.step(SPARSE.batch(number)))
        trainer.step(SPARSE.batch(number))
    for key, value in trainer.stack.state_dict().items():
        assert torch.equal(resumed.stack.state_dict()[key], value), key


def test_the_choice_can_be_made_by_the_caller():
    for step in ("dense", "active"):
        trainer = SPARSE.trainer(step=step)
        assert {is_active(trainer.step(SPARSE.batch(number))) for number in range(12)} == {step == "active"}
