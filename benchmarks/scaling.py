"""Milliseconds of one training step when several processes share it, and the bytes that they exchange.

    python benchmarks/scaling.py [--processes 2] [--features 4096] [--l0 64] [--device cpu] [--json FILE]

The same global batch is trained on by one process, by data ranks, and by feature ranks; each process has its own
thread (or GPU). Weights and rows are those of benchmarks/train_step.py.
"""

import json
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
import tyro
from peers import Case, problem

from saes.architectures import ReLUConfig, ReLUDictionary
from saes.files import write_json
from saes.objective import Batch, SparseReconstruction
from saes.p_annealing import PAnneal, PAnnealConfig
from saes.ranks import join, launched
from saes.sites import Site
from saes.trainer import TrainConfig, Trainer

SITE = Site("x", "x")


@dataclass(frozen=True)
class Settings:
    processes: int = 2
    """how many share a step; by data ranks and by feature ranks"""
    features: int = 4096
    width: int = 512
    batch: int = 2048
    l0: int = 64
    rounds: int = 9
    """timed steps; two more come before them"""
    device: str = "cpu"
    json: Path | None = None
    feature_ranks: int = 0
    """set for the processes that this starts"""


def main(settings: Settings) -> None:
    found = {}
    for name, processes, feature_ranks in (
        ("one process", 1, 1),
        (f"{settings.processes} data ranks", settings.processes, 1),
        (f"{settings.processes} feature ranks", settings.processes, settings.processes),
    ):
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        options = {k: str(v) for k, v in vars(settings).items() if k not in ("json", "feature_ranks")}
        arguments = [part for k, v in options.items() for part in (f"--{k}", v)]
        done = subprocess.run(
            [*command, __file__, *arguments, "--feature-ranks", str(feature_ranks)], capture_output=True, text=True
        )
        if done.returncode:
            raise SystemExit(done.stderr)
        found[name] = json.loads(done.stdout.splitlines()[-1])
        print(f"{name:16s} {found[name]:8.1f} ms", flush=True)
    if settings.json is not None:
        write_json(settings.json, {"settings": vars(settings) | {"json": None}, "milliseconds": found})


def one_rank(settings: Settings) -> None:
    """Time this process's share; rank 0 prints the median."""
    torch.set_num_threads(1)
    ranks = join(settings.feature_ranks, settings.device)
    case = Case(settings.batch, settings.width, settings.features, settings.l0, device=settings.device)
    start = problem(case)
    dictionary = ReLUDictionary(ReLUConfig(case.width, case.features), [SITE])
    weights = {name: getattr(start, name) for name in ("W_enc", "W_dec", "b_enc", "b_dec")}
    dictionary.load_state_dict(weights)
    penalty = PAnneal(PAnnealConfig(coefficient=0.03, start=0, end=1000, updates=2, queue=1000, warmup=0))
    objective = SparseReconstruction(penalty, step="active")
    config = TrainConfig(steps=100_000, learning_rate=1e-6, normalise="none", first_bias="zero", clip=None)
    trainer = Trainer(dictionary.to(case.device), objective, config, ranks)
    own = slice(ranks.rank * case.batch // ranks.size, (ranks.rank + 1) * case.batch // ranks.size)
    times = []
    for turn in range(settings.rounds + 2):
        rows = start.x[turn % len(start.x)][own]
        if ranks.size > 1:
            dist.barrier()
        began = time.perf_counter()
        trainer.step(Batch(rows, rows))
        if rows.is_cuda:
            torch.cuda.synchronize()
        times.append(1000 * (time.perf_counter() - began))
    if ranks.leads:
        print(json.dumps(statistics.median(times[2:])))
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    settings = tyro.cli(Settings, description=__doc__)
    one_rank(settings) if settings.feature_ranks or launched() else main(settings)
