"""Seconds of training until a dictionary is as sparse and as good as asked: whole runs, ours and the peers'.

    python benchmarks/time_to_quality.py [--l0 32 --explained 0.85] [--json FILE] [--figure FILE]

A ReLU dictionary starts with half of its features on, where a step through the active features gains nothing: a single
step says little about a run. Here every contender trains from the same weights on the same planted rows with the same
penalty and warm-up; they take turns step by step, and only the steps are timed. L0 and variance explained are those of
held-out rows. The learning rate is the same too, but dictionary_learning, whose Adam has no momentum and whose
p-annealing clips nothing, loses all features at ours, so that it runs at several of its own. Peers are timed where
they are installed (scripts/check_formats.py says how).
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import tyro
from peers import Case, Problem, Run, peers, problem
from torch import Tensor
from tqdm import tqdm

from saes.architectures import ReLUConfig, ReLUDictionary
from saes.files import write_json
from saes.objective import Batch, SparseReconstruction
from saes.p_annealing import PAnneal, PAnnealConfig
from saes.penalties import Lp, LpConfig
from saes.sites import Site
from saes.sweep import save_figure
from saes.synthetic import Planted, PlantedConfig
from saes.trainer import TrainConfig, Trainer

PEERS = ("dictionary_learning PAnneal", "SAELens standard")


@dataclass(frozen=True)
class Settings:
    l0: float = 32.0
    """reached when the held-out L0 is at most this"""
    explained: float = 0.85
    """and the variance explained at least this"""
    features: int = 4096
    width: int = 512
    batch: int = 1024
    atoms: int = 1024
    """planted; 16 of them are on in a row"""
    steps: int = 240
    learning_rate: float = 6e-3
    dictionary_learning_rates: tuple[float, ...] = (5e-4, 1e-3, 2e-3)
    penalty: float = 0.3
    threads: int = 2
    check: int = 10
    """steps between looks at the held-out rows"""
    seed: int = 0
    json: Path | None = None
    figure: Path | None = None


@dataclass(frozen=True)
class Contender:
    """A run that goes on by a step when called, and how it encodes and decodes."""

    step: Callable[[Tensor], object]
    encode: Callable[[Tensor], Tensor]
    decode: Callable[[Tensor], Tensor]


def kibitz(start: Problem, annealed: bool, way: str) -> Contender:
    """Our trainer in the units of the peers; its own gradient clipping, betas and bound."""
    case, run = start.case, start.run
    dictionary = ReLUDictionary(ReLUConfig(case.width, case.features), [Site("x", "x")])
    weights = {"W_enc": start.W_enc, "W_dec": start.W_dec, "b_dec": start.b_dec, "b_enc": start.b_enc}
    dictionary.load_state_dict({**dictionary.state_dict(), **weights})
    if annealed:
        begin, end = run.annealing
        penalty: Any = PAnneal(PAnnealConfig(run.penalty, p_end=0.2, start=begin, end=end, warmup=run.warmup))
    else:
        penalty = Lp(LpConfig(run.penalty, warmup=run.warmup))
    config = TrainConfig(
        run.steps, run.learning_rate, run.warmup / run.steps, decay=0.0, normalise="none", first_bias="zero"
    )
    trainer = Trainer([dictionary], SparseReconstruction(penalty, step=way), config)  # type: ignore[arg-type]
    return Contender(
        lambda x: trainer.step(Batch(x, x)),
        lambda x: trainer.dictionary.encode(x),
        lambda f: trainer.dictionary.decode(f),
    )


def contenders(start: Problem, dictionary_learning_rates: tuple[float, ...]) -> dict[str, Contender]:
    found = {
        "Kibitz p-annealing": kibitz(start, annealed=True, way="auto"),
        "Kibitz L1": kibitz(start, annealed=False, way="auto"),
        "Kibitz p-annealing, dense steps": kibitz(start, annealed=True, way="dense"),
    }
    for name, factory in peers().items():
        if name in PEERS:
            rates = dictionary_learning_rates if name.startswith("dictionary") else (start.run.learning_rate,)
            for rate in rates:
                step = factory(replace(start, run=replace(start.run, learning_rate=rate)))
                label = f"{name}, rate {rate:g}" if len(rates) > 1 else name
                found[label] = Contender(step, step.encode, step.decode)
    return found


@torch.no_grad()
def quality(contender: Contender, x: Tensor) -> dict[str, float]:
    """Held-out L0 and variance explained."""
    features = contender.encode(x)
    left = (x - contender.decode(features)).double().square().sum()
    total = (x - x.mean(0)).double().square().sum()
    return {"l0": float((features != 0).sum(-1).double().mean()), "variance_explained": 1 - float(left / total)}


def race(s: Settings) -> dict[str, list[dict[str, float]]]:
    """Of each contender what was seen after so many seconds."""
    planted = Planted(PlantedConfig("easy", s.atoms, (s.width,), 16.0, seed=s.seed), s.batch)
    (site,) = planted.sites
    run = Run(s.steps, s.learning_rate, s.penalty, s.steps // 20, (s.steps // 5, s.steps * 4 // 5))
    start = problem(Case(s.batch, s.width, s.features, s.features / 4, s.seed))
    start = replace(start, b_enc=torch.zeros_like(start.b_enc), b_dec=planted.sample()[site].mean(0), run=run)
    running = contenders(start, s.dictionary_learning_rates)
    unseen = torch.cat([planted.draw(10**6 + n).activations[site] for n in range(2)])
    seconds = dict.fromkeys(running, 0.0)
    seen: dict[str, list[dict[str, float]]] = {name: [] for name in running}
    batches = planted.batches()
    for step in tqdm(range(1, s.steps + 1), desc="steps of all", mininterval=5):
        x = next(batches)[site]
        for name, contender in running.items():
            began = time.perf_counter()
            contender.step(x)
            seconds[name] += time.perf_counter() - began
            if step % s.check == 0:
                seen[name].append({"step": step, "seconds": seconds[name], **quality(contender, unseen)})
    return seen


def reached(rows: list[dict[str, float]], s: Settings) -> dict[str, float] | None:
    """The first look that found both; None if none did."""
    return next((r for r in rows if r["l0"] <= s.l0 and r["variance_explained"] >= s.explained), None)


def main(s: Settings) -> None:
    torch.set_num_threads(s.threads)
    seen = race(s)
    print(f"until L0 <= {s.l0:g} and variance explained >= {s.explained:g}: D {s.width}, F {s.features}, B {s.batch}")
    found = {name: reached(rows, s) for name, rows in seen.items()}
    ours = found["Kibitz p-annealing"]
    for name, row in found.items():
        last = seen[name][-1]
        end = f"at the end L0 {last['l0']:6.1f}, explained {last['variance_explained']:.3f}, {last['seconds']:.0f} s"
        if row is None:
            print(f"{name:40s} not in {s.steps} steps                  {end}")
        else:
            ratio = row["seconds"] / ours["seconds"] if ours else float("nan")
            print(f"{name:40s} {row['seconds']:7.1f} s  step {row['step']:5.0f}  {ratio:5.2f}x   {end}")
    if s.json:
        used = {name: value for name, value in asdict(s).items() if name not in ("json", "figure")}
        write_json(s.json, {"settings": used, "reached": found, "seen": seen})
    if s.figure:
        draw(seen, s)


def draw(seen: dict[str, list[dict[str, float]]], s: Settings) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for name, rows in seen.items():
        for axis, key in zip(axes, ("l0", "variance_explained"), strict=True):
            axis.plot([r["seconds"] for r in rows], [r[key] for r in rows], label=name)
    axes[0].axhline(s.l0, color="grey", lw=0.8, ls=":")
    axes[1].axhline(s.explained, color="grey", lw=0.8, ls=":")
    axes[0].set(yscale="log", xlabel="seconds of training", ylabel="L0, held-out")
    axes[1].set(xlabel="seconds of training", ylabel="variance explained, held-out", ylim=(0.5, 1))
    axes[0].legend(fontsize=8)
    save_figure(figure, s.figure)


if __name__ == "__main__":
    main(tyro.cli(Settings))
