"""What bounding the gradient of f^p costs and gains: the figures of docs/p_annealing.md.

    python scripts/p_annealing_bound.py

Trains p-annealed dictionaries of the shipped OthelloGPT with several bounds, coefficients and seeds, and beside them
plain L1; then measures L0, variance explained, coverage and board reconstruction on games that training never saw. A
second part trains pairs that start one ulp apart and follows how far their weights drift. A dictionary that is already
in the JSON file is not trained again, so that a killed run goes on where it was.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from tqdm import tqdm

from boardgames.lm import load_othello_gpt
from boardgames.othello.streams import stream
from boardgames.othello.transcript import PAD
from boardgames.report import activations, board_score
from kibitz.chain.games import prepare_games
from saes.architectures import ReLUConfig, ReLUDictionary
from saes.buffer import ActivationBuffer
from saes.families import find_site
from saes.files import atomic, read_json, write_json
from saes.objective import Batch, SparseReconstruction
from saes.p_annealing import PAnneal, PAnnealConfig
from saes.penalties import Lp, LpConfig
from saes.trainer import TrainConfig, Trainer


@dataclass(frozen=True)
class Settings:
    site: str = "resid_1"
    steps: int = 2000
    batch_size: int = 1024
    expansion: int = 8
    p_end: float = 0.2
    bounds: tuple[float, ...] = (0.0, 0.01, 0.03, 0.1, 0.3)
    coefficients: tuple[float, ...] = (0.03, 0.08)
    seeds: tuple[int, ...] = (0, 1)
    drift_bounds: tuple[float, ...] = (0.0, 0.01, 0.03, 0.1)
    learning_rate: float = 3e-3
    games: int = 40_000
    out: Path = Path("docs/results/p_annealing_bound.json")
    figure: Path = Path("docs/img/p_annealing_bound.png")


def trainer(s: Settings, width: int, site: Any, seed: int, bound: float | None, coefficients: list[float]) -> Trainer:
    """A stack over coefficients; `bound` None is plain L1."""
    rise = s.steps // 10
    if bound is None:
        penalty: Any = Lp([LpConfig(c, warmup=rise) for c in coefficients])
    else:
        penalty = PAnneal(
            [
                PAnnealConfig(c, p_end=s.p_end, start=s.steps // 5, end=s.steps * 4 // 5, warmup=rise, bound=bound)
                for c in coefficients
            ]
        )
    dictionaries = [ReLUDictionary(ReLUConfig(width, s.expansion * width), [site], seed=seed) for _ in coefficients]
    config = TrainConfig(steps=s.steps, learning_rate=s.learning_rate, warmup=0.05)
    return Trainer(dictionaries, SparseReconstruction(penalty), config)


def run(t: Trainer, batches: Iterator[torch.Tensor], sample: torch.Tensor, label: str) -> Trainer:
    t.initialise(Batch(sample, sample))
    for _ in tqdm(range(t.config.steps), desc=label, leave=False):
        x = next(batches)
        t.step(Batch(x, x))
    return t


def main(s: Settings) -> None:
    model = load_othello_gpt()
    site = find_site(model, s.site)
    games = prepare_games(None, s.games, 500, 1000, stream("p_annealing", 0))
    tokens, held_out = games.tokens(games.training), games.tokens(games.held_out)
    buffer = ActivationBuffer(model, [site], tokens, tokens != PAD, batch_size=s.batch_size)
    sample = buffer.sample()[site]
    test = ActivationBuffer(model, [site], held_out, held_out != PAD, batch_size=s.batch_size, rows_per_refill=1000)
    unseen = test.sample()[site]
    splits = [(activations(model, site, p), p.board) for p in (games.selection, games.scoring)]
    settings = {k: v for k, v in asdict(s).items() if k not in ("out", "figure")}
    settings = {k: list(v) if isinstance(v, tuple) else v for k, v in settings.items()}
    done: dict[str, Any] = {"settings": settings, "rows": [], "drift": []}
    if s.out.is_file():
        before = read_json(s.out)
        done = before if before["settings"] == settings else done

    def batches() -> Iterator[torch.Tensor]:
        return (activations_[site] for activations_ in buffer.batches())

    for bound in (None, *s.bounds):
        for seed in s.seeds:
            if any(r["bound"] == bound and r["seed"] == seed for r in done["rows"]):
                continue
            label = "L1" if bound is None else f"bound {bound}"
            t = run(
                trainer(s, sample.shape[1], site, seed, bound, list(s.coefficients)),
                batches(),
                sample,
                f"{label} seed {seed}",
            )
            for coefficient, dictionary in zip(s.coefficients, t.finish(), strict=True):
                x = unseen
                features = dictionary.encode(x)
                left = (x - dictionary.decode(features)).double().square().sum()
                scored = board_score(dictionary, *splits)
                done["rows"].append(
                    {
                        "bound": bound,
                        "seed": seed,
                        "coefficient": coefficient,
                        "l0": float((features != 0).sum(-1).double().mean()),
                        "variance_explained": 1 - float(left / (x - x.mean(0)).double().square().sum()),
                        "alive": float((features != 0).any(0).double().mean()),
                        "coverage": scored.coverage,
                        "reconstruction": scored.reconstruction,
                    }
                )
                print({k: round(v, 4) if isinstance(v, float) else v for k, v in done["rows"][-1].items()}, flush=True)
            write_json(s.out, done)
    for bound in (None, *s.drift_bounds):
        if not any(r["bound"] == bound for r in done["drift"]):
            done["drift"].append({"bound": bound, **drift(s, site, sample, batches(), bound)})
            print(done["drift"][-1], flush=True)
            write_json(s.out, done)
    draw(done, s.figure)


def drift(s: Settings, site: Any, sample: torch.Tensor, batches: Iterator[torch.Tensor], bound: float | None) -> dict:
    """Relative L2 distance of all weights of two runs, of which the second starts one ulp away, over training."""
    coefficient = s.coefficients[len(s.coefficients) // 2]
    pair = [trainer(s, sample.shape[1], site, s.seeds[0], bound, [coefficient]) for _ in range(2)]
    for t in pair:
        t.initialise(Batch(sample, sample))
    with torch.no_grad():
        weights = pair[1].stack.W_enc
        weights.copy_(torch.nextafter(weights, torch.full_like(weights, torch.inf)))
    steps, distances = [], []
    for step in tqdm(range(s.steps), desc=f"drift, bound {bound}", leave=False):
        x = next(batches)
        for t in pair:
            t.step(Batch(x, x))
        if (step + 1) % max(1, s.steps // 40) == 0:
            vectors = [torch.cat([p.detach().flatten() for p in t.stack.parameters()]) for t in pair]
            steps.append(step + 1)
            distances.append(float((vectors[0] - vectors[1]).norm() / vectors[0].norm()))
    ends = [t.measure(Batch(sample, sample))[0] for t in pair]
    return {
        "steps": steps,
        "distance": distances,
        "ends": [{k: e[k] for k in ("l0", "variance_explained")} for e in ends],
    }


def draw(done: dict[str, Any], path: Path) -> None:
    """Quality against L0 for every bound, and the drift of pairs."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 4, figsize=(17, 4), layout="constrained")
    bounds = sorted({r["bound"] for r in done["rows"]}, key=lambda b: -1 if b is None else b)
    colours = dict(zip(bounds, plt.get_cmap("viridis")(np.linspace(0, 0.92, len(bounds))), strict=True))
    colours[None] = "tab:red"
    for axis, quantity in zip(axes, ("variance_explained", "coverage", "reconstruction"), strict=False):
        for bound in bounds:
            rows = sorted((r for r in done["rows"] if r["bound"] == bound), key=lambda r: r["l0"])
            label = "L1" if bound is None else f"bound {bound:g}"
            axis.plot(
                [r["l0"] for r in rows], [r[quantity] for r in rows], "o", color=colours[bound], label=label, ms=5
            )
            for seed in {r["seed"] for r in rows}:
                line = [r for r in rows if r["seed"] == seed]
                axis.plot([r["l0"] for r in line], [r[quantity] for r in line], "-", color=colours[bound], alpha=0.5)
        axis.set(xscale="log", xlabel="L0 (held-out games)", ylabel=quantity.replace("_", " "))
    axes[0].legend(fontsize=8)
    for run_ in done["drift"]:
        label = "L1" if run_["bound"] is None else f"bound {run_['bound']:g}"
        axes[3].plot(run_["steps"], run_["distance"], color=colours.get(run_["bound"], "grey"), label=label)
    axes[3].set(yscale="log", xlabel="step", ylabel="relative distance of weights", title="pairs one ulp apart")
    axes[3].legend(fontsize=8)
    with atomic(path) as part:
        figure.savefig(part, format="png", dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    main(tyro.cli(Settings))
