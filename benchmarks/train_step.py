"""Milliseconds of one whole training step: ours, ours dense, the floor of a dense step, and the peers.

    python benchmarks/train_step.py [--features 4096 16384] [--l0 16 64 256] [--json FILE]

All contenders start from the same weights, see the same rows and take turns, so that what else the machine does falls
on all of them; each figure is the median over rounds. Every step is complete: forward, backward, penalty, clipping
where it is done, optimiser, schedules. The floor is five products of 2 B D F operations, what a dense step cannot do
without. Peers are timed where they are installed (scripts/check_formats.py says how).
"""

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from peers import Case, Problem, peers, problem
from torch import Tensor

from saes.architectures import ReLUConfig, ReLUDictionary, TopKConfig, TopKDictionary
from saes.files import write_json
from saes.objective import Batch, SparseReconstruction
from saes.p_annealing import PAnneal, PAnnealConfig
from saes.sites import Site
from saes.trainer import TrainConfig, Trainer

SITE = Site("x", "x")


@dataclass(frozen=True)
class Settings:
    features: tuple[int, ...] = (4096, 16384)
    l0: tuple[int, ...] = (16, 64, 256)
    batch: int = 2048
    width: int = 512
    threads: int = 2
    rounds: int = 7
    """timed steps of each contender; two more come before them"""
    device: str = "cpu"
    bf16: bool = False
    members: int = 1
    """size of the sweep that our step trains at once; its time is of the whole sweep"""
    all_peers: bool = False
    """also time the peers' L1 and top-k trainers"""
    json: Path | None = None


def kibitz(start: Problem, step: str, members: int, topk: bool = False) -> Callable[[Tensor], object]:
    """Our trainer with p-annealing between two changes of p, its queue filling as the peer's does; or TopK."""
    case = start.case
    if topk:
        dictionary: Any = TopKDictionary(TopKConfig(case.width, case.features, k=round(case.l0)), [SITE])
        penalty = None
    else:
        dictionary = ReLUDictionary(ReLUConfig(case.width, case.features), [SITE])
        config = PAnnealConfig(coefficient=0.03, start=0, end=1000, updates=2, queue=1000, warmup=0)
        penalty = PAnneal(config)
    dictionary.load_state_dict(
        {
            **dictionary.state_dict(),
            "W_enc": start.W_enc,
            "W_dec": start.W_dec,
            "b_dec": start.b_dec,
            "b_enc": torch.zeros_like(start.b_enc) if topk else start.b_enc,
        }
    )
    config = TrainConfig(
        steps=100_000,
        learning_rate=1e-6,
        normalise="none",
        first_bias="zero",
        clip=None,
        compute="bfloat16" if case.bf16 else "float32",
    )
    objective = SparseReconstruction(penalty, step=step)  # type: ignore[arg-type]
    objective.density = case.l0 / case.features
    trainer = Trainer([dictionary.to(case.device)] * members, objective, config)
    return lambda x: trainer.step(Batch(x, x))


def floor(start: Problem) -> Callable[[Tensor], object]:
    """Encoder, decoder, and the gradients of features and both weights."""
    dtype = torch.bfloat16 if start.case.bf16 else torch.float32
    W, f = start.W_enc.to(dtype), torch.randn(start.case.batch, start.case.features, device=start.x.device).to(dtype)

    def products(x: Tensor) -> None:
        x = x.to(dtype)
        x @ W.T, f @ W, x @ W.T, f.T @ x, f.T @ x

    return products


def time_in_turns(contenders: dict[str, Callable[[Tensor], object]], x: Tensor, rounds: int) -> dict[str, float]:
    """Median milliseconds of each; they take turns, two steps each, of which the second is timed."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(rounds + 2):
        for name, step in contenders.items():
            step(x[turn % len(x)])  # brings its weights back to the cache
            synchronise(x)
            began = time.perf_counter()
            step(x[(turn + 1) % len(x)])
            synchronise(x)
            if turn >= 2:
                times[name].append(1e3 * (time.perf_counter() - began))
    return {name: statistics.median(values) for name, values in times.items()}


def synchronise(x: Tensor) -> None:
    if x.device.type == "cuda":
        torch.cuda.synchronize()


def main(settings: Settings) -> None:
    torch.set_num_threads(settings.threads)
    names = {"dictionary_learning PAnneal": "dictionary_learning_ms", "SAELens standard": "saelens_ms"}
    rows = []
    print(
        f"B {settings.batch}, D {settings.width}, {settings.threads} threads, {settings.device}"
        f"{', bf16' if settings.bf16 else ''}; medians of {settings.rounds} steps, in ms"
    )
    for features in settings.features:
        for l0 in settings.l0:
            start = problem(Case(settings.batch, settings.width, features, l0, 0, settings.device, settings.bf16))
            contenders = {
                "ours_ms": kibitz(start, "auto", settings.members),
                "ours_topk_ms": kibitz(start, "auto", settings.members, topk=True),
                "dense_ms": kibitz(start, "dense", settings.members),
                "floor_ms": floor(start),
            }
            for name, factory in peers().items():
                if name in names or settings.all_peers:
                    contenders[names.get(name, name)] = factory(start)
            times = time_in_turns(contenders, start.x, settings.rounds)
            rows.append({"F": features, "l0": l0, "members": settings.members, **times})
            print(
                f"F {features:6d}  L0 {l0:4d}  "
                + "  ".join(f"{n.removesuffix('_ms')} {t:.0f}" for n, t in times.items())
            )
            ours = times["ours_ms"]
            ratios = {
                n: t * (1 if n in ("dense_ms",) else settings.members) / ours
                for n, t in times.items()
                if n != "ours_ms"
            }
            print(
                " " * 10
                + "ours is faster by  "
                + "  ".join(f"{n.removesuffix('_ms')} {r:.2f}x" for n, r in ratios.items()),
                flush=True,
            )
    if settings.json:
        used = {name: value for name, value in vars(settings).items() if name != "json"}
        write_json(settings.json, {"settings": used, "rows": rows})
        print(json.dumps({"written": str(settings.json)}))


if __name__ == "__main__":
    main(tyro.cli(Settings))
