"""Annealing to a target L0: held-out L0 lands on it, from whatever coefficient training starts with."""

import copy

import pytest
import torch

from saes.architectures import ReLUConfig, ReLUDictionary
from saes.objective import Batch, SparseReconstruction
from saes.p_annealing import PAnneal, PAnnealConfig
from saes.penalties import Lp, LpConfig, Penalty
from saes.sites import Site
from saes.target_l0 import TargetL0, TargetL0Config
from saes.trainer import TrainConfig, Trainer
from tests.saes.planted_data import Planted
from tests.saes.stacks_for_tests import unchecked

WIDTH, FEATURES, ROWS, STEPS = 16, 64, 128, 1000
DATA = Planted(width=WIDTH, atoms=32)
FREEZE = 900
# coefficients that end at an L0 of about 4 and 8 without a controller; members start 10 times below and above
TARGETS = (4.0, 4.0, 8.0, 8.0)
START = {"p-annealing": (0.012, 1.2, 0.005, 0.5), "L1": (0.03, 3.0, 0.013, 1.3)}


def inner(kind: str) -> Penalty:
    if kind == "L1":
        return Lp([LpConfig(c, p=1.0, warmup=100) for c in START[kind]])
    return PAnneal([PAnnealConfig(c, start=200, end=700, warmup=100) for c in START[kind]])


def trainer_for(kind: str, controlled: bool = True) -> Trainer[ReLUDictionary]:
    penalty = inner(kind)
    if controlled:
        penalty = TargetL0(penalty, TargetL0Config(target=TARGETS, freeze=FREEZE))
    dictionaries = [ReLUDictionary(ReLUConfig(WIDTH, FEATURES), [Site("x", "x")]) for _ in TARGETS]
    trainer = Trainer(dictionaries, SparseReconstruction(penalty), TrainConfig(steps=STEPS, learning_rate=2e-3))
    sample = DATA.rows(4096, seed=10**6)
    trainer.initialise(Batch(sample, sample))
    return trainer


def train(trainer: Trainer[ReLUDictionary], until: int) -> Trainer[ReLUDictionary]:
    with unchecked():
        while trainer.steps_done < until:
            x = DATA.rows(ROWS, seed=trainer.steps_done)
            trainer.step(Batch(x, x))
    return trainer


def held_out_l0(trainer: Trainer[ReLUDictionary]) -> torch.Tensor:
    x = DATA.rows(8192, seed=10**6 + 1)
    return torch.tensor([float((d.encode(x) != 0).sum(1).float().mean()) for d in trainer.finish()])


@pytest.mark.parametrize("kind", START)
def test_held_out_l0_lands_within_5_percent_of_the_target(kind):
    trainer = train(trainer_for(kind), FREEZE)
    frozen = trainer.objective.penalty.log_factor.clone()
    assert frozen.abs().max() > 1
    train(trainer, STEPS)
    assert torch.equal(trainer.objective.penalty.log_factor, frozen), "it moved after it was frozen"
    off = held_out_l0(trainer) / torch.tensor(TARGETS) - 1
    assert off.abs().max() < 0.05, off
    if kind == "p-annealing":
        assert trainer.objective.penalty.penalty.p == 0.2


def test_without_the_controller_the_coefficients_land_far_away():
    off = held_out_l0(train(trainer_for("L1", controlled=False), 400)) / torch.tensor(TARGETS)
    assert ((off > 1.5) | (off < 0.5)).all(), off


def test_a_resumed_run_continues_bit_for_bit():
    whole = train(trainer_for("p-annealing"), 260)
    state = copy.deepcopy(whole.state_dict())
    assert state["objective"]["penalty"]["log_factor"].all()
    train(whole, 320)
    resumed = trainer_for("p-annealing")
    resumed.load_state_dict(state)
    train(resumed, 320)
    for name, value in whole.stack.state_dict().items():
        assert torch.equal(resumed.stack.state_dict()[name], value), name
    for name in ("log_factor", "log_l0"):
        assert torch.equal(getattr(resumed.objective.penalty, name), getattr(whole.objective.penalty, name))


def test_evaluating_moves_nothing():
    trainer = train(trainer_for("L1"), 120)
    x = DATA.rows(ROWS, seed=5)
    before = copy.deepcopy(trainer.objective.penalty.state_dict())
    numbers = trainer.measure(Batch(x, x))
    assert numbers == trainer.measure(Batch(x, x))
    after = trainer.objective.penalty.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in ("log_factor", "log_l0"))
    assert numbers[0]["coefficient"] == pytest.approx(START["L1"][0] * float(before["log_factor"][0].exp()), rel=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": 0.0}, "target is 0.0"),
        ({"gain": -1.0}, "gain is -1.0"),
        ({"start": 10, "freeze": 10}, "starts at step 10 and freezes at 10"),
        ({"average": 1.0}, "average is 1.0"),
    ],
)
def test_bad_settings_are_one_sentence(options, message):
    with pytest.raises(ValueError, match=message):
        TargetL0Config(**options)
