"""Dead features: who counts as dead, and what AuxK, the pre-activation penalty and resampling do to them."""

import copy

import pytest
import torch

from saes.architectures import ReLUConfig, ReLUDictionary
from saes.dead_features import AuxK, DeadPreActivation, Resample
from saes.objective import Batch, SparseReconstruction
from saes.penalties import Lp, LpConfig
from saes.trainer import TrainConfig, Trainer
from tests.saes.dictionaries_for_tests import OPTIONS, SITE, fresh
from tests.saes.planted_data import Planted
from tests.saes.stacks_for_tests import unchecked

WIDTH, FEATURES, ROWS = 12, 30, 32
DEAD = [1, 4, 5, 11, 20, 29]
ALIVE = [f for f in range(FEATURES) if f not in DEAD]
DATA = Planted(width=WIDTH, atoms=24)
COMPETING = ("topk", "batch_topk", "matryoshka")


def batch(number: int) -> Batch:
    x = DATA.rows(ROWS, seed=number)
    return Batch(x, x)


def trainer_with_dead(name: str, *parts: object, steps: int = 400, step: str = "auto") -> Trainer:
    """DEAD will not fire: in top-k types their encoder rows are too small to win, elsewhere their biases too low."""
    dictionary = fresh(name, width=WIDTH, features=FEATURES, **({"k": 2} if name in COMPETING else {}))
    with torch.no_grad():
        dictionary.W_enc[DEAD] *= 1e-3
        if name in COMPETING:
            dictionary.b_enc[ALIVE] = 0.3  # or a row with few positive features would make the dead ones win
        for key in ("b_enc", "b_gate"):
            if getattr(dictionary, key, None) is not None and name not in COMPETING:
                getattr(dictionary, key)[DEAD] = -0.3
    penalty = None if name in COMPETING else Lp(LpConfig(0.02, warmup=10))
    trainer = Trainer(
        dictionary, SparseReconstruction(penalty, parts, step=step), TrainConfig(steps=steps, learning_rate=5e-3)
    )
    trainer.initialise(Batch(DATA.rows(2048, seed=10**6), DATA.rows(2048, seed=10**6)))
    return trainer


def train(trainer: Trainer, until: int) -> Trainer:
    with unchecked():
        while trainer.steps_done < until:
            trainer.step(batch(trainer.steps_done))
    return trainer


def firing(trainer: Trainer) -> torch.Tensor:
    """Which features fire on held-out rows, as training encodes them."""
    x = DATA.rows(1024, seed=10**6 + 1)
    b = Batch(x, x).scaled(trainer.scale_in, trainer.scale_out)
    return trainer.objective(trainer.stack, b, trainer.steps_done).encoded.features.fired()[0]


# ---- revival ----


@pytest.mark.parametrize("name", COMPETING)
def test_auxk_revives_features_that_stay_dead_without_it(name):
    without = train(trainer_with_dead(name), 200)
    assert not firing(without)[DEAD].any()
    with_it = train(trainer_with_dead(name, AuxK(alpha=0.25, dead_after=5 * ROWS)), 200)
    assert firing(with_it)[DEAD].sum() >= 2


def test_the_pre_activation_penalty_revives_relu_features():
    without = train(trainer_with_dead("relu"), 200)
    assert not firing(without)[DEAD].any()
    revived = train(trainer_with_dead("relu", DeadPreActivation(0.1, dead_after=5 * ROWS)), 200)
    assert firing(revived)[DEAD].all()


@pytest.mark.parametrize("name", ["relu", "gated", "topk"])
def test_resampling_revives_features(name):
    assert not firing(train(trainer_with_dead(name), 120))[DEAD].any()
    part = Resample(every=50, until=51, dead_after=20 * ROWS, encoder_scale=1.0)
    assert firing(train(trainer_with_dead(name, part), 120))[DEAD].float().mean() > 0.6


# ---- who is dead ----


@pytest.mark.parametrize("step", ["dense", "active"])
def test_the_counter_counts_inputs_since_the_last_firing(step):
    trainer = trainer_with_dead("topk", AuxK(dead_after=10**9), step=step)
    last = torch.zeros(FEATURES, dtype=torch.int64)
    for number in range(1, 31):
        loss = trainer.step(batch(trainer.steps_done))
        fired = (loss.encoded.features.dense()[0] != 0).any(0)
        last[fired] = number
        assert torch.equal(trainer.objective.idle[0], (number - last) * ROWS)
    assert trainer.objective.idle[0, DEAD].eq(30 * ROWS).all()
    assert 0 < trainer.objective.idle[0, ALIVE].max() < 30 * ROWS, "no feature was silent for a while"


def test_the_counter_counts_rows_not_batches():
    trainer = trainer_with_dead("topk", AuxK(dead_after=100))
    for rows in (7, 20, 1):
        x = DATA.rows(rows, seed=rows)
        trainer.step(Batch(x, x))
    assert trainer.objective.idle[0, DEAD].eq(28).all()


def test_evaluating_counts_nothing():
    trainer = train(trainer_with_dead("topk", AuxK(dead_after=3 * ROWS)), 5)
    before = trainer.objective.idle.clone()
    for number in range(3):
        trainer.measure(batch(number))
    assert torch.equal(trainer.objective.idle, before)


@pytest.mark.parametrize("part", [AuxK(0.5, 10 * ROWS), DeadPreActivation(0.5, 10 * ROWS)], ids=lambda p: p.name)
def test_a_part_changes_nothing_before_a_feature_can_be_dead(part):
    plain, helped = trainer_with_dead("topk"), trainer_with_dead("topk", part)
    for number in range(9):
        losses = plain.step(batch(number)), helped.step(batch(number))
        assert part.name not in losses[1].terms
        assert torch.equal(losses[0].total, losses[1].total)
    for name, value in plain.stack.state_dict().items():
        assert torch.equal(helped.stack.state_dict()[name], value), name
    assert helped.step(batch(9)).terms[part.name] > 0


def test_resampling_waits_as_long():
    plain, helped = trainer_with_dead("topk"), trainer_with_dead("topk", Resample(every=3, dead_after=10 * ROWS))
    for number in range(12):
        plain.step(batch(number))
        helped.step(batch(number))
        equal = torch.equal(plain.stack.W_enc, helped.stack.W_enc)
        assert equal == (number < 11), "steps 2, 5 and 8 come too early for a feature to be dead"


# ---- what resampling does ----


def resampled(name: str, x: torch.Tensor, **options: object) -> tuple[Trainer, dict, dict]:
    """One resampling by hand, in the middle of a training: the trainer, and states before and after."""
    part = Resample(every=1, dead_after=5 * ROWS, **options)
    trainer = trainer_with_dead(name, AuxK(0.0, dead_after=10**9))
    train(trainer, 20)
    b = Batch(x, x).scaled(trainer.scale_in, trainer.scale_out)
    loss = trainer.objective(trainer.stack, b, trainer.steps_done)
    trainer.objective.idle = loss.forward.idle  # as observe() does before parts see the step
    before = copy.deepcopy(trainer.state_dict())
    part.after_step(loss.forward, trainer.optimizer, trainer.steps_done)
    return trainer, before, trainer.state_dict()


def test_dead_features_are_pointed_at_what_is_reconstructed_badly():
    x = DATA.rows(ROWS, seed=77)
    x[13] = 40 * torch.randn(WIDTH)  # nearly all of the squared loss
    trainer, before, after = resampled("relu", x)
    bias = before["dictionary"]["b_dec"][0]
    direction = x[13] / trainer.scale_in - bias
    direction = direction / direction.norm()
    norms = before["dictionary"]["W_enc"][0].norm(dim=1)
    for row in DEAD:
        torch.testing.assert_close(after["dictionary"]["W_dec"][0, row], direction)
        torch.testing.assert_close(after["dictionary"]["W_enc"][0, row], 0.2 * norms[ALIVE].mean() * direction)
        assert after["dictionary"]["b_enc"][0, row] == 0


def test_inputs_are_drawn_in_proportion_to_their_squared_loss():
    """Two outliers, one with twice the squared error of the other: drawn four times as often."""
    counts = torch.zeros(2)
    x = 0.05 * DATA.rows(ROWS, seed=77)
    trainer = train(trainer_with_dead("relu", AuxK(0.0, dead_after=10**9)), 20)
    loss = trainer.objective(trainer.stack, Batch(x, x).scaled(trainer.scale_in, trainer.scale_out), 20)
    loss.forward.residual.mul_(1e-3)
    loss.forward.residual[0, 3] = torch.eye(WIDTH)[0]
    loss.forward.residual[0, 8] = torch.eye(WIDTH)[0] * 2**0.5
    rows = [x[i] / trainer.scale_in - trainer.stack.b_dec[0].detach() for i in (3, 8)]
    rows = [row / row.norm() for row in rows]
    for seed in range(60):
        loss.forward.idle[0, DEAD] = 5 * ROWS
        with unchecked():
            Resample(every=1, dead_after=5 * ROWS, seed=seed).after_step(loss.forward, trainer.optimizer, 20)
        for which, row in enumerate(rows):
            counts[which] += (trainer.stack.W_dec[0, DEAD].detach() @ row > 0.9999).sum()
    assert counts.sum() == 60 * len(DEAD)
    assert 0.72 < float(counts[1] / counts.sum()) < 0.88  # 4 / 5, four standard deviations


@pytest.mark.parametrize("name", ["relu", "gated", "topk", "jumprelu"])
def test_nothing_else_changes(name):
    trainer, before, after = resampled(name, DATA.rows(ROWS, seed=77))
    names = [key for key, _ in trainer.stack.named_parameters()]
    for index, key in enumerate(names):
        old, new = before["dictionary"][key][0], after["dictionary"][key][0]
        slots = (before["optimizer"]["state"][index], after["optimizer"]["state"][index])
        moments = [tuple(slot[m][0] for slot in slots) for m in ("exp_avg", "exp_avg_sq")]
        if key == "b_dec":
            assert torch.equal(old, new)
            assert all(torch.equal(a, b) for a, b in moments)
            continue
        assert torch.equal(old[ALIVE], new[ALIVE]), key
        assert all(torch.equal(a[ALIVE], b[ALIVE]) for a, b in moments), key
        assert all(not b[DEAD].any() for _, b in moments), key
        assert key in ("threshold", "r_mag") or not torch.equal(old[DEAD], new[DEAD]) or not new[DEAD].any(), key
    if "threshold" in names and name == "jumprelu":
        assert after["dictionary"]["threshold"][0, DEAD].eq(OPTIONS["jumprelu"]["first_threshold"]).all()
    steps = [s["step"] for state in (before, after) for s in state["optimizer"]["state"].values()]
    assert len({float(s) for s in steps}) == 1
    assert not trainer.objective.idle[0, DEAD].any(), "resampled features are given their time"
    assert torch.equal(trainer.objective.idle[0, ALIVE], before["objective"]["idle"][0, ALIVE])


def test_resampling_is_reproducible_and_depends_on_its_seed():
    x = DATA.rows(ROWS, seed=77)
    first, again, other = (resampled("relu", x, seed=seed)[2]["dictionary"]["W_dec"] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_dictionary_with_nothing_alive_or_nothing_dead_is_left_alone():
    trainer = train(trainer_with_dead("relu", AuxK(0.0, dead_after=10**9)), 5)
    for idle in (0, 10**9):
        loss = trainer.objective(trainer.stack, batch(5), 5)
        loss.forward.idle.fill_(idle)
        before = copy.deepcopy(trainer.stack.state_dict())
        Resample(every=1, dead_after=ROWS).after_step(loss.forward, trainer.optimizer, 5)
        assert all(torch.equal(value, before[key]) for key, value in trainer.stack.state_dict().items())


def test_auxk_on_a_batch_without_any_positive_dead_feature_has_no_gradient():
    for step in ("dense", "active"):
        d = ReLUDictionary(ReLUConfig(WIDTH, FEATURES), [SITE])
        with torch.no_grad():
            d.b_enc[DEAD] = -100.0
        trainer = Trainer(d, SparseReconstruction(None, [AuxK(1.0, dead_after=ROWS)], step=step), TrainConfig(steps=9))
        for number in range(3):
            loss = trainer.step(batch(number))
        # nothing decodes to nothing: the whole residual is left
        assert float(loss.terms["auxk"]) == pytest.approx(float(loss.terms["error"]), rel=1e-5)
        assert trainer.stack.b_enc[0, DEAD].eq(-100.0).all()
