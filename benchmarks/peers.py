"""The peers' own trainers, each as step(x) on given weights and tensors, for the benchmarks beside this file.

python benchmarks/peers.py --features 4096 --l0 64    (where the peers are installed: see scripts/check_formats.py)

Each step is everything that the package's own training loop does for one batch with logging off: forward, backward,
clipping where it clips, its optimiser, its schedules, its counters of dead features. Nothing is re-implemented, and
nothing is left out. The learning rate is so small that the number of active features stays where the case puts it;
`Step.l0` measures that with the peer's own encoder.
"""

import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
import tyro
from jaxtyping import Float
from torch import Tensor

BATCHES = 4  # different rows each step, as in a run


@dataclass(frozen=True)
class Run:
    """What all contenders share. The defaults are a moment of a long run in which nothing moves but time passes."""

    steps: int = 100_000
    learning_rate: float = 1e-6
    """Adam moves a weight by about this much a step, whatever the gradient"""
    penalty: float = 0.03
    """of the order of the board-game configurations; it changes no cost"""
    warmup: int = 0
    """steps over which the learning rate and the penalty rise"""
    annealing: tuple[int, int] = (0, 999)
    """first and last step of p-annealing; by default the timed steps lie between its first two updates of p"""


@dataclass(frozen=True)
class Case:
    """One shape: `l0` features of `features` are active per row, on average."""

    batch: int
    width: int
    features: int
    l0: float
    seed: int = 0
    device: str = "cpu"
    bf16: bool = False  # the packages' own autocast


@dataclass(frozen=True)
class Problem:
    """What every contender starts from, float32. pre = (x - b_dec) W_encᵀ + b_enc; x̂ = relu(pre) W_dec + b_dec."""

    case: Case
    x: Float[Tensor, "batches batch width"]
    W_enc: Float[Tensor, "features width"]
    b_enc: Float[Tensor, "features"]
    W_dec: Float[Tensor, "features width"]  # unit rows
    b_dec: Float[Tensor, "width"]
    run: Run = Run()


@dataclass(frozen=True)
class Step:
    """One training step of a peer when called; encoder and decoder are its own, with the weights as they are then."""

    train: Callable[[Tensor], object]
    encode: Callable[[Tensor], Tensor]
    decode: Callable[[Tensor], Tensor]

    def __call__(self, x: Float[Tensor, "batch width"]) -> object:
        return self.train(x)

    @torch.no_grad()
    def l0(self, x: Float[Tensor, "batch width"]) -> float:
        return (self.encode(x) != 0).sum(-1).float().mean().item()


Factory = Callable[[Problem], Step]


def problem(case: Case) -> Problem:
    """Gaussian rows, tied random weights, and the one bias for all features that gives the wanted L0 on the data."""
    if not 0 < case.l0 < case.features / 2:
        raise ValueError(f"l0 must be between 0 and half the {case.features} features, and is {case.l0}")
    random = torch.Generator().manual_seed(case.seed)
    x = torch.randn(BATCHES, case.batch, case.width, generator=random)
    decoder = torch.randn(case.features, case.width, generator=random)
    decoder /= decoder.norm(dim=1, keepdim=True)
    bias = 0.1 * torch.randn(case.width, generator=random)
    share = case.l0 / case.features
    # one row in four is enough: the quantile is then known to a part in a thousand or so
    pre = (x[:, : max(1, case.batch // 4)].flatten(0, 1) - bias) @ decoder.T
    threshold = pre.flatten().kthvalue(round(pre.numel() * (1 - share))).values
    on = (case.device, torch.float32)
    return Problem(
        case=case,
        x=x.to(*on),
        W_enc=decoder.clone().to(*on),
        b_enc=(-threshold).expand(case.features).clone().to(*on),
        W_dec=decoder.to(*on),
        b_dec=bias.to(*on),
    )


def peers() -> dict[str, Factory]:
    """Name -> what makes a step; only the packages that are installed, imported when first used."""
    found: dict[str, Factory] = {}
    if find_spec("dictionary_learning"):
        found["dictionary_learning PAnneal"] = dictionary_learning_p_anneal
        found["dictionary_learning Standard"] = dictionary_learning_standard
        found["dictionary_learning TopK"] = dictionary_learning_topk
    if find_spec("sae_lens"):
        found["SAELens standard"] = saelens_standard
        found["SAELens topk"] = saelens_topk
    return found


def dictionary_learning_p_anneal(start: Problem) -> Step:
    """PAnnealTrainer with Lp^p at p 0.9, while it compares with the next p, as it does from its first update on."""
    from dictionary_learning.trainers.p_anneal import PAnnealTrainer

    run = start.run
    began, ended = run.annealing
    trainer = PAnnealTrainer(
        **_dictionary_learning(start),
        steps=run.steps,
        sparsity_warmup_steps=run.warmup or None,
        sparsity_function="Lp^p",
        initial_sparsity_penalty=run.penalty,
        anneal_start=began,
        anneal_end=ended,
        p_start=1.0 if began else 0.9,
        p_end=0.2,
        n_sparsity_updates=10,
    )
    with torch.no_grad():
        trainer.ae.bias.copy_(start.b_dec)
    if began == 0:
        # step 0 sets p and the next p; with none of the timed steps in that state, it is asked for here
        trainer.loss(start.x[0][:2], 0)
        if trainer.next_p is None or not trainer.next_p < trainer.p < 1:
            raise RuntimeError(f"p-annealing is not under way: p {trainer.p}, next {trainer.next_p}")
    return _dictionary_learning_step(trainer, start)


def dictionary_learning_standard(start: Problem) -> Step:
    from dictionary_learning.trainers.standard import StandardTrainer

    run = start.run
    trainer = StandardTrainer(
        **_dictionary_learning(start),
        steps=run.steps,
        sparsity_warmup_steps=run.warmup or None,
        l1_penalty=run.penalty,
    )
    with torch.no_grad():
        trainer.ae.bias.copy_(start.b_dec)
    return _dictionary_learning_step(trainer, start)


def dictionary_learning_topk(start: Problem) -> Step:
    """TopKTrainer; the encoder bias is 0, so that no row has fewer than k positive features to choose from."""
    from dictionary_learning.trainers.top_k import TopKTrainer

    settings = _dictionary_learning(start)
    trainer = TopKTrainer(**settings, steps=start.run.steps, k=round(start.case.l0), threshold_start_step=0)
    with torch.no_grad():
        trainer.ae.b_dec.copy_(start.b_dec)
    return _dictionary_learning_step(trainer, start, bias=False)


def saelens_standard(start: Problem) -> Step:
    from sae_lens import StandardTrainingSAE, StandardTrainingSAEConfig

    run = start.run
    config = StandardTrainingSAEConfig(**_saelens(start.case), l1_coefficient=run.penalty, l1_warm_up_steps=run.warmup)
    return _saelens_step(StandardTrainingSAE(config), start)


def saelens_topk(start: Problem) -> Step:
    """As it comes: dense activations, the selection scaled by decoder norms; the encoder bias is 0."""
    from sae_lens import TopKTrainingSAE, TopKTrainingSAEConfig

    config = TopKTrainingSAEConfig(**_saelens(start.case), k=round(start.case.l0))
    return _saelens_step(TopKTrainingSAE(config), start, bias=False)


def _dictionary_learning(start: Problem) -> dict[str, Any]:
    case = start.case
    return {
        "activation_dim": case.width,
        "dict_size": case.features,
        "layer": 0,
        "lm_name": "",
        "lr": start.run.learning_rate,
        "warmup_steps": start.run.warmup,
        "device": case.device,
        "seed": case.seed,
    }


def _dictionary_learning_step(trainer: Any, start: Problem, bias: bool = True) -> Step:
    """One turn of trainSAE's loop. Step 0 is left out: it is the one that sets p, or the TopK decoder bias."""
    with torch.no_grad():
        trainer.ae.encoder.weight.copy_(start.W_enc)
        trainer.ae.encoder.bias.copy_(start.b_enc * bias)
        trainer.ae.decoder.weight.copy_(start.W_dec.T)
    count = 0

    def train(x: Tensor) -> None:
        nonlocal count
        count += 1
        with torch.autocast(x.device.type, torch.bfloat16, enabled=start.case.bf16):
            trainer.update(count, x)

    return Step(train, trainer.ae.encode, trainer.ae.decode)


def _saelens(case: Case) -> dict[str, Any]:
    return {"d_in": case.width, "d_sae": case.features, "device": case.device}


def _saelens_step(sae: Any, start: Problem, bias: bool = True) -> Step:
    """One turn of SAETrainer.fit's loop."""
    from sae_lens.config import SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    with torch.no_grad():
        sae.W_enc.copy_(start.W_enc.T)
        sae.b_enc.copy_(start.b_enc * bias)
        sae.W_dec.copy_(start.W_dec)
        sae.b_dec.copy_(start.b_dec)
    config = SAETrainerConfig(
        total_training_samples=start.run.steps * start.case.batch,
        train_batch_size_samples=start.case.batch,
        lr=start.run.learning_rate,
        lr_end=start.run.learning_rate / 10,
        lr_warm_up_steps=start.run.warmup,
        device=start.case.device,
        autocast=start.case.bf16,
    )
    trainer = SAETrainer(config, sae, data_provider=iter(()))

    def train(x: Tensor) -> None:
        trainer.step(x)
        trainer.n_training_steps += 1

    return Step(train, sae.encode, sae.decode)


def milliseconds(steps: dict[str, Step], start: Problem, repeats: int = 5, warm_up: int = 2) -> dict[str, float]:
    """Median time of a step of each. They take turns, so that whatever else the machine does falls on all alike."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(warm_up + repeats):
        x = start.x[turn % len(start.x)]
        for name, step in steps.items():
            begun = time.perf_counter()
            step(x)
            if x.is_cuda:
                torch.cuda.synchronize()
            if turn >= warm_up:
                times[name].append(1000 * (time.perf_counter() - begun))
    return {name: statistics.median(taken) for name, taken in times.items()}


def main(
    features: int = 4096,
    l0: float = 64,
    batch: int = 2048,
    width: int = 512,
    threads: int = 2,
    repeats: int = 5,
    device: str = "cpu",
    bf16: bool = False,
) -> None:
    """Times the installed peers on one case, and checks that the number of active features stayed where it was."""
    warnings.filterwarnings("ignore", module=r"pydantic\b")  # what an import of SAELens sets off
    torch.set_num_threads(threads)
    start = problem(Case(batch, width, features, l0, device=device, bf16=bf16))
    steps = {name: make(start) for name, make in peers().items()}
    if not steps:
        raise SystemExit("neither dictionary_learning nor sae_lens is installed here")
    taken = milliseconds(steps, start, repeats)
    print(f"B {batch}, D {width}, F {features}, L0 {l0:g}, {device}, {threads} threads, median of {repeats} steps")
    for name, step in steps.items():
        left = step.l0(start.x[-1])
        print(f"{name:30s} {taken[name]:8.0f} ms   L0 after {left:7.2f}")
        if not abs(left / l0 - 1) < 0.1:
            raise SystemExit(f"{name}: L0 went to {left:.1f} from {l0:g}, so its time is that of another problem")


if __name__ == "__main__":
    tyro.cli(main)
