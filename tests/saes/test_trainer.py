"""The training loop: logging is free of side effects, resuming is bit-exact, sites do not disturb one another."""

import pytest
import torch

from saes.architectures import ReLUConfig, ReLUDictionary
from saes.buffer import ActivationBuffer
from saes.families import find_site
from saes.files import FileError
from saes.objective import Batch, SparseReconstruction
from saes.penalties import PAnneal, PAnnealConfig
from saes.recorder import JSONLines, read_records
from saes.sites import Site
from saes.trainer import TrainConfig, Trainer, train
from tests.saes.models_for_tests import hook_count, some_tokens, tiny

STEPS = 40
ANNEAL = PAnnealConfig(start=5, end=33, updates=6, queue=4, warmup=10)
SITES = ("attn_0", "resid_0", "resid_1")


def trainer_for(site: Site, steps: int = STEPS, width: int = 16) -> Trainer:
    dictionary = ReLUDictionary(ReLUConfig(width=width, features=24), [site])
    config = TrainConfig(steps=steps, learning_rate=5e-3, warmup=5, decay=10)
    return Trainer(dictionary, SparseReconstruction(PAnneal(ANNEAL)), config)


def run(names=SITES, steps=STEPS, **options):
    model, tokens = tiny("gpt2"), some_tokens(rows=24, length=10)
    sites = [find_site(model, name) for name in names]
    mask = torch.ones_like(tokens, dtype=torch.bool)
    buffer = ActivationBuffer(model, sites, tokens, mask, batch_size=16, rows_per_refill=7, seed=1)
    trainers = {site: trainer_for(site, steps) for site in sites}
    finished = train(trainers, buffer, progress=False, **options)
    return {site.name: dictionary.state_dict() for site, dictionary in finished.items()}, trainers


def assert_same_weights(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].keys() == b[name].keys()
        for key in a[name]:
            assert torch.equal(a[name][key], b[name][key]), (name, key)


@pytest.fixture(scope="module")
def silent():
    """The weights of an undisturbed run that logs and saves nothing."""
    return run(log_every=10**9)[0]


def test_training_moves_the_weights(silent):
    fresh = ReLUDictionary(ReLUConfig(width=16, features=24), [Site("x", "x")])
    for state in silent.values():
        assert (state["W_enc"] - fresh.W_enc).abs().max() > 0.05


def test_logging_every_step_changes_no_weight(silent, tmp_path):
    log = tmp_path / "metrics.jsonl"
    logged, _ = run(log_every=1, recorder=JSONLines(log))
    assert_same_weights(silent, logged)
    records = read_records(log)
    assert len(records) == STEPS * len(SITES)
    of_one = [r for r in records if r["site"] == "resid_1"]
    assert [r["step"] for r in of_one] == list(range(STEPS))
    assert (of_one[0]["p"], of_one[-1]["p"]) == (1.0, 0.2)
    assert of_one[-1]["variance_explained"] > of_one[0]["variance_explained"]


class Interrupted(Exception):
    pass


class Fails:
    """A recorder that raises at one step."""

    def __init__(self, at: int) -> None:
        self.at = at

    def record(self, step, values):
        if step == self.at:
            raise Interrupted


@pytest.mark.parametrize("at", [9, 10, 25, 39])
def test_an_interrupted_run_continues_bit_for_bit(silent, tmp_path, at):
    checkpoint = tmp_path / "state.pt"
    options = {"checkpoint": checkpoint, "save_every": 10, "log_every": 1}
    with pytest.raises(Interrupted):
        run(recorder=Fails(at), **options)
    assert checkpoint.exists() == (at >= 10)
    resumed, trainers = run(**options)
    assert_same_weights(silent, resumed)
    assert {t.steps_done for t in trainers.values()} == {STEPS}
    assert [p.name for p in tmp_path.iterdir()] == ["state.pt"]


def test_a_finished_run_is_not_trained_again(silent, tmp_path):
    options = {"checkpoint": tmp_path / "state.pt", "save_every": 10}
    run(**options)
    again, _ = run(recorder=Fails(STEPS - 1), log_every=1, **options)
    assert_same_weights(silent, again)


def test_a_site_trains_the_same_alone_as_in_company(silent):
    for name in SITES:
        alone, _ = run([name])
        assert_same_weights(alone, {name: silent[name]})


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    checkpoint = tmp_path / "state.pt"
    run(["resid_0"], checkpoint=checkpoint)
    before = checkpoint.read_bytes()
    with pytest.raises(FileError, match="another training configuration"):
        run(["resid_0"], steps=STEPS + 1, checkpoint=checkpoint)
    with pytest.raises(FileError, match=r"state\.pt: holds sites \['resid_0'\]"):
        run(["resid_1"], checkpoint=checkpoint)
    assert checkpoint.read_bytes() == before


def test_trainers_of_different_lengths_do_not_share_batches():
    model, tokens = tiny("gpt2"), some_tokens(rows=24, length=10)
    sites = [find_site(model, name) for name in SITES[:2]]
    buffer = ActivationBuffer(model, sites, tokens, torch.ones_like(tokens, dtype=torch.bool), batch_size=16)
    trainers = {site: trainer_for(site, steps) for site, steps in zip(sites, (30, 40), strict=True)}
    with pytest.raises(ValueError, match=r"same number of steps, not \[30, 40\]"):
        train(trainers, buffer, progress=False)


def test_no_hook_outlives_training():
    model, tokens = tiny("gpt2"), some_tokens(rows=24, length=10)
    site = find_site(model, "resid_0")
    buffer = ActivationBuffer(model, [site], tokens, torch.ones_like(tokens, dtype=torch.bool), batch_size=16)
    with pytest.raises(Interrupted):
        train({site: trainer_for(site)}, buffer, recorder=Fails(0), progress=False)
    assert hook_count(model) == 0


def test_the_callers_tensors_are_left_alone():
    trainer = trainer_for(Site("x", "x"))
    x = 7 + 3 * torch.randn(64, 16)
    before = x.clone()
    trainer.initialise(x)
    assert trainer.scale == pytest.approx(float(x.square().sum(1).mean().sqrt()))
    torch.testing.assert_close(trainer.dictionary.b_dec * trainer.scale, x.mean(0))
    trainer.step(Batch(x, x))
    trainer.measure(Batch(x, x))
    assert torch.equal(x, before)


def test_targets_are_scaled_too_when_they_are_another_tensor():
    x, y = torch.randn(4, 3), torch.randn(4, 3)
    scaled = Batch(x, y).scaled(2.0)
    assert torch.equal(scaled.inputs, x / 2) and torch.equal(scaled.targets, y / 2)
    assert torch.equal(Batch(x, x).scaled(2.0).targets, x / 2)


def test_measuring_moves_nothing_and_agrees_with_the_definitions():
    trainer = trainer_for(Site("x", "x"))
    x = torch.randn(64, 16) + 1
    trainer.initialise(x)
    for _ in range(3):
        trainer.step(Batch(x, x))
    before = {k: v.clone() for k, v in trainer.dictionary.state_dict().items()}
    numbers = trainer.measure(Batch(x, x))
    assert numbers == trainer.measure(Batch(x, x))
    assert all(torch.equal(before[k], v) for k, v in trainer.dictionary.state_dict().items())
    assert all(p.grad is None for p in trainer.dictionary.parameters())
    z = x / trainer.scale
    f = trainer.dictionary.requires_grad_(False).encode(z)
    error = (z - trainer.dictionary.decode(f)).square().sum()
    assert numbers["l0"] == pytest.approx(float((f > 0).sum(1).float().mean()))
    assert numbers["error"] == pytest.approx(float(error / 64), rel=1e-5)
    assert numbers["loss"] == pytest.approx(numbers["error"] + numbers["penalty"], rel=1e-5)
    assert numbers["variance_explained"] == pytest.approx(1 - float(error / (z - z.mean(0)).square().sum()), rel=1e-5)


def test_a_dictionary_of_another_width_is_refused_before_the_first_step():
    with pytest.raises(ValueError, match=r"width 16, the dictionary 12"):
        trainer_for(Site("x", "x"), width=12).initialise(torch.randn(8, 16))


def test_p_annealing_recovers_a_planted_dictionary():
    """Sparse combinations of 24 atoms in 16 dimensions, away from the origin and in units of their own."""
    scale = 25.0
    generator = torch.Generator().manual_seed(77)  # not the seed of the dictionary, which would start at the atoms
    atoms = torch.randn(24, 16, generator=generator)
    atoms /= atoms.norm(dim=1, keepdim=True)

    def draw(rows: int) -> torch.Tensor:
        on = torch.rand(rows, 24, generator=generator) < 0.06
        return scale * ((on * (0.5 + torch.rand(rows, 24, generator=generator))) @ atoms + 0.3)

    site, steps = Site("x", "x"), 1500
    penalty = PAnneal(PAnnealConfig(coefficient=0.3, start=375, end=1125, warmup=150))
    config = TrainConfig(steps=steps, learning_rate=3e-3, warmup=50, decay=375)
    trainer = Trainer(ReLUDictionary(ReLUConfig(width=16, features=48), [site]), SparseReconstruction(penalty), config)
    trainer.initialise(draw(4096))
    start = (atoms @ trainer.dictionary.W_dec.T).amax(1)
    for _ in range(steps):
        x = draw(256)
        trainer.step(Batch(x, x))
    assert penalty.p == 0.2
    dictionary = trainer.finish()
    found = (atoms @ dictionary.W_dec.T).amax(1)
    assert (start > 0.95).sum() <= 2
    assert (found > 0.95).sum() >= 23
    x = draw(2000)
    f = dictionary.encode(x)
    left = (x - dictionary.decode(f)).square().sum() / (x - x.mean(0)).square().sum()
    assert left < 0.15 and (f > 0).sum(1).float().mean() < 3, "finished dictionaries read the caller's units"
