"""The training loop: logging is free of side effects, resuming is bit-exact, sites do not disturb one another."""

import copy
import itertools

import pytest
import torch

from saes.architectures import ARCHITECTURES, CrosscoderDictionary, ReLUConfig, ReLUDictionary
from saes.buffer import ActivationBuffer
from saes.dead_features import AuxK, DeadPreActivation, Resample
from saes.families import find_site
from saes.files import FileError
from saes.initialise import geometric_median
from saes.objective import Batch, SparseReconstruction
from saes.p_annealing import PAnneal, PAnnealConfig
from saes.penalties import L0, L0Config, Lp, LpConfig
from saes.recorder import JSONLines, read_records
from saes.run_checkpoints import Checkpoints
from saes.sites import Site
from saes.streams import ActivationStream
from saes.target_l0 import TargetL0, TargetL0Config
from saes.trainer import TrainConfig, Trainer
from saes.training import TrainingError, batch_for, train, train_stacks
from tests.saes.dictionaries_for_tests import OTHER, SITE, VARIANTS, Stream, fresh, objective_for
from tests.saes.models_for_tests import hook_count, some_tokens, tiny

STEPS = 40
ANNEAL = PAnnealConfig(start=5, end=33, updates=6, queue=4, warmup=10)
SITES = ("attn_0", "resid_0", "resid_1")


def trainer_for(site: Site, steps: int = STEPS, width: int = 16) -> Trainer:
    dictionary = ReLUDictionary(ReLUConfig(width=width, features=24), [site])
    config = TrainConfig(steps=steps, learning_rate=5e-3, warmup=0.125, decay=0.25)
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
    untouched = ReLUDictionary(ReLUConfig(width=16, features=24), [Site("x", "x")])
    for state in silent.values():
        assert (state["W_enc"] - untouched.W_enc).abs().max() > 0.05


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
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    options = {"checkpoints": checkpoints, "save_every": 10, "log_every": 1}
    with pytest.raises(Interrupted):
        run(recorder=Fails(at), **options)
    assert (checkpoints.load() is not None) == (at >= 10)
    resumed, trainers = run(**options)
    assert_same_weights(silent, resumed)
    assert {t.steps_done for t in trainers.values()} == {STEPS}
    assert sorted(p.name for p in checkpoints.folder.iterdir()) == [
        "index.json",
        "step-000000030.pt",
        "step-000000040.pt",
    ]


def test_a_finished_run_is_not_trained_again(silent, tmp_path):
    options = {"checkpoints": Checkpoints(tmp_path / "checkpoints"), "save_every": 10}
    run(**options)
    again, _ = run(recorder=Fails(STEPS - 1), log_every=1, **options)
    assert_same_weights(silent, again)


def test_a_site_trains_the_same_alone_as_in_company(silent):
    for name in SITES:
        alone, _ = run([name])
        assert_same_weights(alone, {name: silent[name]})


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    run(["resid_0"], checkpoints=checkpoints)
    before = {file.name: file.read_bytes() for file in checkpoints.folder.iterdir()}
    with pytest.raises(FileError, match="another training configuration"):
        run(["resid_0"], steps=STEPS + 1, checkpoints=checkpoints)
    with pytest.raises(FileError, match=r"checkpoints: holds \['resid_0'\]"):
        run(["resid_1"], checkpoints=checkpoints)
    assert {file.name: file.read_bytes() for file in checkpoints.folder.iterdir()} == before


@pytest.mark.parametrize("where", ["activations", "learning_rate"])
def test_a_loss_that_is_not_finite_ends_the_run_and_spoils_no_checkpoint(where, tmp_path):
    site = SITE

    class Stream:
        def sample(self):
            return {site: torch.randn(64, 8, generator=torch.Generator().manual_seed(0))}

        def batches(self, start=0):
            for number in itertools.count(start):
                x = torch.randn(64, 8, generator=torch.Generator().manual_seed(number))
                yield {site: x.index_fill(0, torch.tensor([3]), torch.nan) if number == 14 else x}

    rate = 1e-3 if where == "activations" else 1e30
    d = ReLUDictionary(ReLUConfig(8, 16, unit_norm=False), [site])
    trainer = Trainer(d, SparseReconstruction(Lp(LpConfig(0.1))), TrainConfig(steps=40, learning_rate=rate, warmup=0.3))
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    said = "hold NaN or infinite" if where == "activations" else "a lower learning rate may help"
    options = {"checkpoints": checkpoints, "save_every": 5 if where == "activations" else 1, "log_every": 50}
    with pytest.raises(TrainingError, match=said):
        train_stacks({"x": trainer}, Stream(), progress=False, **options)
    state = checkpoints.load()
    if state is not None:
        assert all(t.isfinite().all() for t in state["x"]["dictionary"].values())
    assert where == "learning_rate" or state["x"]["steps_done"] == 10


def test_weights_that_are_not_finite_are_not_saved_though_the_loss_is(tmp_path):
    """A silent feature's encoder row shows in no loss."""
    trainer, batches = short("relu")
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    taken = trainer.step

    def spoil(batch):
        loss = taken(batch)
        if trainer.steps_done == 12:
            with torch.no_grad():
                trainer.stack.W_enc[0, 0] = torch.nan
        return loss

    trainer.step = spoil

    class Batches:
        def sample(self):
            return {SITE: batches[0].inputs}

        def batches(self, start=0):
            return (({SITE: batches[n % len(batches)].inputs}) for n in itertools.count(start))

    with pytest.raises(TrainingError, match="x: W_enc hold NaN or infinite values after step 11"):
        train_stacks({"x": trainer}, Batches(), checkpoints=checkpoints, save_every=6, log_every=10**6, progress=False)
    assert checkpoints.load()["x"]["steps_done"] == 6


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


# ---- units ----


def stream_for(dictionary, batch: int = 32, seed: int = 0) -> Stream:
    """Activations at all sites that a dictionary reads and writes, in different units."""
    widths = getattr(dictionary.config, "widths", None) or (dictionary.width_in,)
    by_site = dict(zip(dictionary.reads, widths, strict=True))
    if dictionary.reads != dictionary.writes:
        by_site[dictionary.writes[0]] = dictionary.width
    return Stream(by_site, batch=batch, seed=seed)


NORMALISE = pytest.mark.parametrize("normalise", ["unit", "sqrt_d", "none"])


@NORMALISE
@pytest.mark.parametrize("name", ["relu", "topk skip", "crosscoder"])
def test_the_callers_tensors_are_left_alone(name, normalise):
    d = fresh(name)
    trainer = Trainer(d, objective_for(name), TrainConfig(steps=3, normalise=normalise))
    stream = stream_for(d)
    batches = [batch_for(d, activations) for activations in (stream.sample(), next(stream.batches()))]
    before = [(b.inputs.clone(), b.targets.clone()) for b in batches]
    weights = {key: t.clone() for key, t in d.state_dict().items()}
    trainer.initialise(batches[0])
    trainer.step(batches[1])
    trainer.measure(batches[1])
    trainer.finish()
    for batch, (inputs, targets) in zip(batches, before, strict=True):
        assert torch.equal(batch.inputs, inputs) and torch.equal(batch.targets, targets)
    assert all(torch.equal(weights[key], t) for key, t in d.state_dict().items()), "nor is the dictionary"
    assert all(p.grad is None for p in d.parameters())


def size(x: torch.Tensor, normalise: str) -> float:
    norms = x.double().norm(dim=1)
    return {"unit": norms.square().mean().sqrt(), "sqrt_d": norms.mean() / x.shape[1] ** 0.5, "none": 1.0}[normalise]


@NORMALISE
def test_scales_and_the_centre_are_those_of_the_sample(normalise):
    x = 7 + 3 * torch.randn(64, 12)
    y = 100 * torch.randn(64, 12) - 5
    config = TrainConfig(steps=3, normalise=normalise)
    same = Trainer(fresh("relu"), objective_for("relu"), config)
    same.initialise(Batch(x, x))
    assert float(same.scale_in) == pytest.approx(float(size(x, normalise)))
    assert torch.equal(same.scale_in, same.scale_out)
    torch.testing.assert_close(same.dictionary.b_dec * same.scale_out, x.mean(0))
    between = Trainer(fresh("relu transcoder"), objective_for("relu transcoder"), config)
    between.initialise(Batch(x[:, :9], y))
    assert float(between.scale_in) == pytest.approx(float(size(x[:, :9], normalise)))
    assert float(between.scale_out) == pytest.approx(float(size(y, normalise)))
    torch.testing.assert_close(between.dictionary.b_dec * between.scale_out, y.mean(0), rtol=1e-4, atol=1e-4)
    crosscoder = Trainer(fresh("crosscoder"), objective_for("crosscoder"), config)
    both = torch.cat([x[:, :5], y[:, :7]], 1)
    crosscoder.initialise(Batch(both, both))
    sizes = [float(size(part, normalise)) for part in (x[:, :5], y[:, :7])]
    torch.testing.assert_close(crosscoder.scale_in, torch.tensor([sizes[0]] * 5 + [sizes[1]] * 7))
    torch.testing.assert_close(crosscoder.dictionary.b_dec * crosscoder.scale_in, both.mean(0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("units", [1e-6, 1.0, 1e4])
def test_the_decoder_bias_starts_where_it_is_told(units):
    x = units * (torch.randn(64, 12).exp() + 2)  # skewed, so that mean and median differ
    median = units * geometric_median(x.double() / units, iterations=1000, tolerance=1e-9).float()
    assert (median - x.mean(0)).norm() > 0.2 * units
    starts = {"mean": x.mean(0), "geometric_median": median, "zero": torch.zeros(12)}
    for first_bias, expected in starts.items():
        trainer = Trainer(
            [fresh("relu", seed=1), fresh("relu", seed=2)], objective_for("relu"), TrainConfig(first_bias=first_bias)
        )
        trainer.initialise(Batch(x, x))
        for member in trainer.finish():
            torch.testing.assert_close(member.b_dec, expected, rtol=1e-3, atol=1e-3 * units)


def test_targets_are_scaled_too_when_they_are_another_tensor():
    x, y = torch.randn(4, 3), torch.randn(4, 3)
    scaled = Batch(x, y).scaled(torch.tensor(2.0), torch.tensor(4.0))
    assert torch.equal(scaled.inputs, x / 2) and torch.equal(scaled.targets, y / 4)
    same = Batch(x, x).scaled(torch.tensor(2.0), torch.tensor(2.0))
    assert torch.equal(same.inputs, x / 2) and same.targets is same.inputs


@pytest.mark.parametrize("name", VARIANTS)
def test_finished_dictionaries_read_the_callers_units(name):
    d = fresh(name)
    trainer, stream = Trainer(d, objective_for(name), TrainConfig(steps=5, learning_rate=1e-2)), stream_for(d)
    batch = batch_for(d, {site: 40 * x + 3 for site, x in stream.sample().items()})
    trainer.initialise(batch)
    for _ in range(5):
        trainer.step(batch)
    inner, (outer,) = trainer.dictionary, trainer.finish()
    expected = inner.reconstruct(batch.inputs / trainer.scale_in) * trainer.scale_out
    torch.testing.assert_close(outer.reconstruct(batch.inputs), expected.detach(), rtol=1e-4, atol=1e-3)
    assert not outer.training and not any(p.requires_grad for p in outer.parameters())
    again = trainer.finish()[0].state_dict()
    assert all(torch.equal(again[key], t) for key, t in outer.state_dict().items()), (
        "finishing leaves the trainer alone"
    )


def test_measuring_moves_nothing_and_agrees_with_the_definitions():
    trainer = trainer_for(Site("x", "x"))
    x = torch.randn(64, 16) + 1
    trainer.initialise(Batch(x, x))
    for _ in range(3):
        trainer.step(Batch(x, x))
    before = {k: v.clone() for k, v in trainer.stack.state_dict().items()}
    (numbers,) = trainer.measure(Batch(x, x))
    assert [numbers] == trainer.measure(Batch(x, x))
    assert all(torch.equal(before[k], v) for k, v in trainer.stack.state_dict().items())
    assert all(p.grad is None for p in trainer.stack.parameters())
    z = x / trainer.scale_in
    f = trainer.dictionary.requires_grad_(False).encode(z)
    error = (z - trainer.dictionary.requires_grad_(False).decode(f)).square().sum()
    assert numbers["l0"] == pytest.approx(float((f > 0).sum(1).float().mean()))
    assert numbers["error"] == pytest.approx(float(error / 64), rel=1e-5)
    assert numbers["loss"] == pytest.approx(numbers["error"] + numbers["penalty"], rel=1e-5)
    assert numbers["variance_explained"] == pytest.approx(1 - float(error / (z - z.mean(0)).square().sum()), rel=1e-5)


def test_a_dictionary_of_another_width_is_refused_before_the_first_step():
    x = torch.randn(8, 16)
    with pytest.raises(ValueError, match=r"width 16, the dictionary 12"):
        trainer_for(Site("x", "x"), width=12).initialise(Batch(x, x))


# ---- every architecture, every part ----

PARTS = {
    "": (),
    "auxk": (AuxK(dead_after=100, k=3),),
    "dead_pre_activation": (DeadPreActivation(coefficient=1e-2, dead_after=100),),
    "resample": (Resample(every=5, dead_after=100),),
    "all": (AuxK(dead_after=64), DeadPreActivation(dead_after=64), Resample(every=5, dead_after=96)),
}
PENALTIES = {
    "Lp": lambda: Lp(LpConfig(coefficient=0.2, p=0.5, warmup=5)),
    "p-annealing": lambda: PAnneal(PAnnealConfig(coefficient=0.2, start=2, end=9, updates=4, queue=3, warmup=5)),
    "continuous": lambda: PAnneal(
        PAnnealConfig(coefficient=0.2, start=2, end=9, updates="continuous", queue=3, warmup=5, function="Lp")
    ),
    "original": lambda: PAnneal(
        PAnnealConfig(coefficient=0.2, start=2, end=12, updates=4, queue=3, warmup=5, schedule="dictionary_learning")
    ),
    "target L0": lambda: TargetL0(PENALTIES["p-annealing"](), TargetL0Config(target=3.0, start=1, freeze=10)),
}
SHORT = 12


def short(
    name: str,
    parts: str = "",
    step: str = "auto",
    penalty: str | None = None,
    members: int = 1,
    options: dict | None = None,
    **config,
):
    """A trainer with some features that never fire at the start, its batches, and nothing else."""
    objective = objective_for(name, PARTS[parts], step, None if penalty is None else PENALTIES[penalty]())
    dictionaries = [fresh(name, seed=seed, **(options or {})) for seed in range(members)]
    for d in dictionaries:
        with torch.no_grad():
            for bias in d.in_feature_units():
                bias[:5] += 5.0 if bias is getattr(d, "threshold", None) else -5.0
    config = {"steps": SHORT, "learning_rate": 1e-2, "decay_shape": "cosine", **config}
    trainer = Trainer(dictionaries, objective, TrainConfig(**config))
    stream = stream_for(dictionaries[0])
    trainer.initialise(batch_for(dictionaries[0], stream.sample()))
    generator = stream.batches()
    return trainer, [batch_for(dictionaries[0], next(generator)) for _ in range(SHORT)]


def frozen(trainer: Trainer) -> dict:
    return copy.deepcopy(trainer.state_dict())


def assert_same_state(a, b, path: str = "") -> None:
    """Equal to the last bit, whatever is nested in it."""
    assert type(a) is type(b), path
    if isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for key in a:
            assert_same_state(a[key], b[key], f"{path}/{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), path
        for n, pair in enumerate(zip(a, b, strict=True)):
            assert_same_state(*pair, f"{path}/{n}")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a.nan_to_num(-12345.0), b.nan_to_num(-12345.0)), path
    else:
        assert a == b, path


WAYS = ("dense", "active")
CASES = [
    *((name, "all", None, step) for name in ARCHITECTURES for step in WAYS),
    *((name, "all", None, "dense" if name.endswith("skip") else "active") for name in VARIANTS if " " in name),
    *(("relu", parts, None, "active") for parts in PARTS if parts != "all"),
    *(("gated", "", penalty, "dense") for penalty in PENALTIES),
    *(("relu", "", penalty, "active") for penalty in PENALTIES),
    ("topk", "", "target L0", "dense"),
]
STEP = pytest.mark.parametrize("step", WAYS)


@pytest.mark.parametrize(("name", "parts", "penalty", "step"), CASES)
def test_resuming_and_measuring_change_no_bit(name, parts, penalty, step):
    """One run that is left alone; one that is measured at every step; one that is stopped, saved and resumed."""
    alone, batches = short(name, parts, step, penalty)
    started = frozen(alone)
    measured, _ = short(name, parts, step, penalty)
    stopped, _ = short(name, parts, step, penalty)
    for number, batch in enumerate(batches):
        alone.step(batch)
        measured.step(batch)
        measured.measure(batch)
        stopped.step(batch)
        if number in (0, 4, 8):
            saved = frozen(stopped)
            stopped, _ = short(name, parts, step, penalty)
            stopped.load_state_dict(saved)
    assert_same_state(alone.state_dict(), measured.state_dict())
    assert_same_state(alone.state_dict(), stopped.state_dict())
    assert not torch.equal(started["dictionary"]["W_enc"], alone.stack.W_enc)
    assert all(t.isfinite().all() for t in alone.stack.state_dict().values())


@pytest.mark.parametrize("name", ["relu", "batch_topk", "jumprelu"])
def test_the_choice_of_a_way_resumes_too(name):
    """With `auto` the density that was last measured decides, and is part of the state."""
    alone, batches = short(name)
    stopped, _ = short(name)
    for number, batch in enumerate(batches):
        alone.step(batch)
        stopped.step(batch)
        if number == 5:  # between two measurements
            saved = frozen(stopped)
            stopped, _ = short(name)
            stopped.load_state_dict(saved)
    assert_same_state(alone.state_dict(), stopped.state_dict())
    assert 0 < alone.objective.density < 1


def double(batch: Batch) -> Batch:
    inputs = batch.inputs.double()
    return Batch(inputs, inputs if batch.targets is batch.inputs else batch.targets.double())


@pytest.mark.parametrize("name", VARIANTS)
def test_both_ways_of_a_step_train_the_same(name):
    states = []
    for step in ("dense", "active"):
        trainer, batches = short(name, "auxk", step)
        trainer.stack.double()
        trainer.scale_in, trainer.scale_out = trainer.scale_in.double(), trainer.scale_out.double()
        for batch in batches[:8]:
            trainer.step(double(batch))
        states.append(trainer.stack.state_dict())
    for key, tensor in states[0].items():
        torch.testing.assert_close(tensor, states[1][key], rtol=1e-9, atol=1e-9, msg=f"{key}: dense and active differ")


@pytest.mark.parametrize("name", VARIANTS)
def test_members_of_a_stack_train_as_they_would_alone(name):
    together, batches = short(name, "all", "dense", members=2)
    for batch in batches[:4]:  # float32: rounding differs between a batched product and two of them
        together.step(batch)
    for n, member in enumerate(together.finish()):
        alone, _ = short(name, "all", "dense", members=2)
        single = Trainer(fresh(name, seed=n), objective_for(name, PARTS["all"], "dense"), alone.config)
        single.stack.load_state_dict({key: t[n : n + 1].clone() for key, t in alone.stack.state_dict().items()})
        single.scale_in, single.scale_out = alone.scale_in, alone.scale_out
        for batch in batches[:4]:
            single.step(batch)
        (expected,) = single.finish()
        for key, tensor in expected.state_dict().items():
            torch.testing.assert_close(member.state_dict()[key], tensor, rtol=1e-3, atol=1e-4, msg=key)


@pytest.mark.parametrize("name", ["relu", "gated", "jumprelu", "topk", "crosscoder", "relu skip"])
def test_bfloat16_computes_the_products_alone(name):
    full, batches = short(name)
    half, _ = short(name, compute="bfloat16")
    for batch in batches:
        for trainer in (full, half):
            loss = trainer.step(batch)
    assert all(t.dtype == torch.float32 for t in half.stack.state_dict().values())
    moments = [m for state in half.optimizer.state.values() for m in state.values()]
    assert moments and all(m.dtype == torch.float32 for m in moments)
    assert all(d.dtype == torch.float32 for member in half.finish() for d in member.state_dict().values())
    (expected,), (found,) = full.measure(batches[0]), half.measure(batches[0])
    assert found != expected, "something was computed in half precision"
    assert found["loss"] == pytest.approx(expected["loss"], rel=0.05)
    assert found["l0"] == pytest.approx(expected["l0"], rel=0.1)
    assert found["variance_explained"] == pytest.approx(expected["variance_explained"], abs=0.03)
    assert loss.total.shape == (1,)


# ---- dead features ----


@pytest.mark.parametrize("name", VARIANTS)
@STEP
def test_resampling_refreshes_dead_features_and_the_optimiser_forgets_them(name, step):
    trainer, batches = short(name, "resample", step, members=2)  # every 5 steps; dead after 100 inputs, so 4 steps
    seen = torch.stack([trainer.objective.idle if trainer.objective.idle is not None else torch.zeros(2, 20)])
    assert not seen.any()
    for batch in batches[:4]:
        trainer.step(batch)
    before = frozen(trainer)
    # what the fifth step does without resampling
    plain, _ = short(name, "resample", step, members=2)
    plain.load_state_dict(before)
    plain.objective.parts = (Resample(every=10**9, dead_after=100),)
    plain.step(batches[4])
    trainer.step(batches[4])
    dead = plain.objective.idle >= 100
    assert dead[:, :5].all(), "the five that were silenced"
    d, other = trainer.stack, plain.stack
    for n in range(2):
        lost, alive = dead[n], ~dead[n]
        assert alive.any()
        for key in ("W_enc", "W_dec"):
            new, old = getattr(d, key)[n], getattr(other, key)[n]
            assert torch.equal(new[alive], old[alive]), "living features are left alone"
            assert ((new[lost] - old[lost]).norm(dim=1) > 1e-3).all()
            assert not trainer.optimizer.state[getattr(d, key)]["exp_avg"][n, lost].any()
            assert not trainer.optimizer.state[getattr(d, key)]["exp_avg_sq"][n, lost].any()
            assert trainer.optimizer.state[getattr(d, key)]["exp_avg_sq"][n, alive].any()
        norms = d.W_enc[n].norm(dim=1)
        torch.testing.assert_close(norms[lost], 0.2 * norms[alive].mean().expand(int(lost.sum())))
        torch.testing.assert_close(
            d.W_dec[n, lost].norm(dim=1), d.W_dec[n, alive].norm(dim=1).mean().expand(int(lost.sum()))
        )
        for bias in d.in_feature_units():
            if bias is not getattr(d, "threshold", None):
                assert not bias[n, lost].any()
        assert not trainer.objective.idle[n, lost].any(), "a fresh feature is given time"
        assert torch.equal(trainer.objective.idle[n, alive], plain.objective.idle[n, alive])
        if d.config.center:  # a new feature reads what it writes, up to the scales
            rows = [w[n, lost] / w[n, lost].norm(dim=1, keepdim=True) for w in (d.W_enc, d.W_dec)]
            torch.testing.assert_close(*rows)


@STEP
def test_resampled_features_come_back_to_life(step):
    trainer, batches = short("relu", "resample", step, learning_rate=1e-3)
    for batch in batches:
        trainer.step(batch)
    without, _ = short("relu", "", step, learning_rate=1e-3)
    for batch in batches:
        without.step(batch)
    x = torch.cat([b.inputs for b in batches])
    alive = [(t.dictionary.encode(x / t.scale_in) > 0).any(0).sum() for t in (trainer, without)]
    assert alive[0] > alive[1] and not (without.dictionary.encode(x / without.scale_in)[:, :5] > 0).any()


ROUNDING = 1e-6  # of decoder rows that are brought back to norm 1


def moved_by(part: str, trainer: Trainer, batches: list[Batch]) -> dict[str, float]:
    """How far the five silent features' parameters come in eight steps with that part alone."""
    trainer.objective.parts = PARTS[part]
    before = {key: p.detach().clone() for key, p in trainer.stack.named_parameters()}
    for batch in batches[:8]:
        trainer.step(batch)
    after = {key: p.detach() for key, p in trainer.stack.named_parameters()}
    assert (trainer.objective.idle is None) == (part == "")
    return {key: float((after[key] - p)[0, :5].abs().max()) for key, p in before.items() if p.shape[1] == 20}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_penalty_on_dead_pre_activations_lifts_them(name):
    alone = moved_by("", *short(name))
    assert max(alone.values()) < ROUNDING, "nothing else gives dead features a gradient"
    trainer, batches = short(name)
    bias = trainer.stack.b_gate if name == "gated" else trainer.stack.b_enc
    start = bias[0, :5].detach().clone()
    lifted = moved_by("dead_pre_activation", trainer, batches)
    assert lifted["W_enc"] > 1e-3
    assert (bias[0, :5] > start + 1e-3).all(), "what decides on firing is what rises"
    assert lifted["W_dec"] < ROUNDING


@pytest.mark.parametrize("name", ["gated", "topk", "batch_topk", "jumprelu", "matryoshka"])
@STEP
def test_auxk_lets_dead_features_explain_what_is_left(name, step):
    """For architectures whose features can be silent though their pre-activation is positive."""

    def silent():
        competing = name in ("topk", "batch_topk", "matryoshka")
        trainer, batches = short(name, "", step, options={"k": 1} if competing else None)
        with torch.no_grad():
            if name != "gated":
                trainer.stack.b_enc.zero_()
            if competing:
                trainer.stack.W_enc[:, :5] *= 1e-3  # too weak to win
        return trainer, batches

    assert max(moved_by("", *silent()).values()) < ROUNDING
    moved = moved_by("auxk", *silent())
    assert moved["W_enc"] > 1e-3 and moved["W_dec"] > 1e-3


# ---- several sites ----


@pytest.mark.parametrize("name", [n for n in VARIANTS if " " in n] + ["crosscoder"])
def test_dictionaries_between_sites_train_on_a_stream(name, tmp_path):
    d = fresh(name)
    stream = stream_for(d, batch=64)
    assert isinstance(stream, ActivationStream)
    log = tmp_path / "metrics.jsonl"
    config = TrainConfig(steps=40, learning_rate=3e-2)
    options = {
        "log_every": 20,
        "progress": False,
        "recorder": JSONLines(log),
        "checkpoints": Checkpoints(tmp_path / "checkpoints"),
    }
    finished = train({d.reads[0]: Trainer(d, objective_for(name), config)}, stream, **options)
    trained = finished[d.reads[0]]
    assert type(trained) is type(d) and (trained.reads, trained.writes) == (d.reads, d.writes)
    activations = stream.sample()
    read = torch.cat([activations[site] for site in d.reads], 1)
    written = torch.cat([activations[site] for site in d.writes], 1)
    residual = written - trained.reconstruct(read)
    explained = 1 - float(residual.square().sum() / (written - written.mean(0)).square().sum())
    records = read_records(log)
    assert explained > 0.2 and records[-1]["variance_explained"] > records[0]["variance_explained"] + 0.1
    if isinstance(trained, CrosscoderDictionary):
        for site, part in trained.split(trained.reconstruct(read)).items():
            x = activations[site]
            assert float((x - part).square().sum() / (x - x.mean(0)).square().sum()) < 0.8, site


def test_a_skip_term_learns_what_is_linear():
    """The target is a linear map of the input: features are not needed for it."""
    generator = torch.Generator().manual_seed(3)
    W = torch.randn(9, 12, generator=generator)
    trainer = Trainer(fresh("relu skip"), objective_for("relu skip"), TrainConfig(steps=120, learning_rate=5e-2))
    x = torch.randn(256, 9, generator=generator)
    trainer.initialise(Batch(x, x @ W))
    for _ in range(120):
        trainer.step(Batch(x, x @ W))
    (d,) = trainer.finish()
    y = x @ W
    assert float((y - d.bypass(x) - d.b_dec).square().sum() / y.square().sum()) < 0.05


def test_batches_for_crosscoders_and_transcoders_stand_as_their_sites_do():
    a, b = torch.randn(4, 5), torch.randn(4, 7)
    both = batch_for(fresh("crosscoder"), {OTHER: b, SITE: a})
    assert torch.equal(both.inputs, torch.cat([a, b], 1)) and both.targets is both.inputs
    between = batch_for(fresh("relu transcoder"), {OTHER: b, SITE: a})
    assert between.inputs is a and between.targets is b


def test_a_sweep_shares_batches_and_logs_its_members(tmp_path):
    members = [fresh("relu", seed=seed) for seed in range(3)]
    coefficients = (0.01, 0.1, 1.0)

    def sweep(which):
        penalty = Lp([LpConfig(coefficient=coefficients[n], warmup=5) for n in which])
        config = TrainConfig(steps=15, learning_rate=2e-2)
        return Trainer([members[n] for n in which], SparseReconstruction(penalty), config)

    log = tmp_path / "metrics.jsonl"
    stacks = train_stacks(
        {"sweep": sweep(range(3))}, stream_for(members[0]), log_every=5, progress=False, recorder=JSONLines(log)
    )
    assert len(stacks["sweep"]) == 3
    records = read_records(log)
    assert [(r["step"], r["member"]) for r in records] == [(s, n) for s in (0, 5, 10, 14) for n in range(3)]
    assert [r["coefficient"] for r in records[:3]] == pytest.approx(coefficients)
    assert records[-1]["l0"] < records[-3]["l0"]
    for n, member in enumerate(stacks["sweep"]):
        alone = train({SITE: sweep([n])}, stream_for(members[0]), progress=False)[SITE]
        for key, tensor in alone.state_dict().items():
            torch.testing.assert_close(member.state_dict()[key], tensor, rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match=r"resid_0.*train_stacks"):
        train({SITE: sweep(range(3))}, stream_for(members[0]), progress=False)


def test_a_penalty_on_l0_needs_thresholds():
    trainer, batches = short("relu")
    trainer.objective.penalty = L0(L0Config())
    with pytest.raises(ValueError, match="use jumprelu"):
        trainer.step(batches[0])


# ---- does it learn ----


def test_p_annealing_recovers_a_planted_dictionary():
    """Sparse combinations of 24 atoms in 16 dimensions, away from the origin and in units of their own."""
    scale = 25.0
    generator = torch.Generator().manual_seed(77)  # not the seed of the dictionary, which would start at the atoms
    atoms = torch.randn(24, 16, generator=generator)
    atoms /= atoms.norm(dim=1, keepdim=True)

    def draw(rows: int) -> torch.Tensor:
        on = torch.rand(rows, 24, generator=generator) < 0.06
        return scale * ((on * (0.5 + torch.rand(rows, 24, generator=generator))) @ atoms + 0.3)

    def batch(rows: int) -> Batch:
        x = draw(rows)
        return Batch(x, x)

    site, steps = Site("x", "x"), 400
    penalty = PAnneal(PAnnealConfig(coefficient=0.3, start=100, end=300, warmup=40))
    config = TrainConfig(steps=steps, learning_rate=1e-2, warmup=1 / 30, decay=0.25)
    trainer = Trainer(ReLUDictionary(ReLUConfig(width=16, features=48), [site]), SparseReconstruction(penalty), config)
    trainer.initialise(batch(4096))
    start = (atoms @ trainer.dictionary.W_dec.T).amax(1)
    for _ in range(steps):
        trainer.step(batch(256))
    assert penalty.p == 0.2
    (dictionary,) = trainer.finish()
    found = (atoms @ dictionary.W_dec.T).amax(1)
    assert (start > 0.95).sum() <= 2
    assert (found > 0.95).sum() >= 23
    x = draw(2000)
    f = dictionary.encode(x)
    left = (x - dictionary.decode(f)).square().sum() / (x - x.mean(0)).square().sum()
    assert left < 0.15 and (f > 0).sum(1).float().mean() < 3, "finished dictionaries read the caller's units"
