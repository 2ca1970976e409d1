"""Run by torchrun from test_ranks.py: every architecture, trained by several processes and by one on the same rows.

Each run changes its division of work half way, through a state as a checkpoint holds it. Rank 0 compares and writes.
"""

import json
import sys
from typing import Any

import torch
import torch.distributed as dist
from torch.utils import _pytree as pytree

from saes.objective import Batch
from saes.ranks import ALONE, Ranks, join
from saes.trainer import Trainer
from tests.saes.stacks_for_tests import CASES, ROWS, Case

STEPS = {2: 50, 4: 15}  # of so many processes; all schedules end within 50, and a step of four takes four times as long
MEMBERS = (0, 1)
DIVISIONS = {2: [(1, 2), (2, 1)], 4: [(1, 2), (2, 4), (4, 1)]}  # feature ranks before and after the change


def rows_of(case: Case, number: int, ranks: Ranks) -> Batch:
    """This process's rows of the global batch: the ranks' rows in their order."""
    whole = case.batch(number)
    own = slice(ranks.rank * ROWS // ranks.size, (ranks.rank + 1) * ROWS // ranks.size)
    inputs = whole.inputs[own]
    return Batch(inputs, inputs if whole.targets is whole.inputs else whole.targets[own])


def trained(case: Case, way: Any, divisions: tuple[Ranks, ...]) -> tuple[Trainer[Any], list[dict[str, float]]]:
    """The trainer after all steps, an equal share of them under each division, and what it measures."""
    trainer, steps = case.trainer(MEMBERS, way, ranks=divisions[0]), STEPS[dist.get_world_size()]
    for number in range(steps):
        ranks = divisions[number * len(divisions) // steps]
        if ranks is not trainer.ranks:
            state = [trainer.state_dict()]
            dist.broadcast_object_list(state, 0)
            trainer = case.trainer(MEMBERS, way, ranks=ranks)
            trainer.load_state_dict(state[0])
        trainer.step(rows_of(case, number, ranks))
    return trainer, trainer.measure(rows_of(case, steps, trainer.ranks))


def weights(dictionaries: list[Any]) -> list[dict[str, torch.Tensor]]:
    return [dictionary.state_dict() for dictionary in dictionaries]


def distance(ours: Any, theirs: Any) -> float:
    """The largest relative difference of two nested states, tensor by tensor."""
    a, shape_a = pytree.tree_flatten(ours)
    b, shape_b = pytree.tree_flatten(theirs)
    assert shape_a == shape_b, (shape_a, shape_b)
    worst = 0.0
    for x, y in zip(a, b, strict=True):
        if isinstance(x, torch.Tensor):
            assert x.shape == y.shape
            x, y = x.double(), y.double()
            worst = max(worst, float((x - y).norm() / y.norm().clamp_min(1e-12)))
        elif isinstance(x, float):
            worst = max(worst, abs(x - y) / max(abs(y), 1e-12))
        else:
            assert x == y, (x, y)
    return worst


def main(out: str) -> None:
    torch.set_num_threads(1)
    size = join().size
    meshes = {features: join(features) for features in sorted({f for pair in DIVISIONS[size] for f in pair})}
    found: dict[str, dict[str, float]] = {}
    for number, (name, case) in enumerate(CASES.items()):
        # two processes make all runs; four take turns, for a step of theirs takes four times as long
        divisions = DIVISIONS[size] if size == 2 else [DIVISIONS[size][number % len(DIVISIONS[size])]]
        for turn, (before, after) in enumerate(divisions):
            way = "dense" if (number + turn) % 2 else "active"
            trainer, measured = trained(case, way, (meshes[before], meshes[after]))
            state, finished = trainer.state_dict(), trainer.finish()
            if not trainer.ranks.leads:
                assert finished == []
                continue
            alone, numbers = trained(case, way, (ALONE,))
            found[f"{name}, {way}, {before} to {after} feature ranks"] = {
                "state": distance({**state, "feature_ranks": 1}, alone.state_dict()),
                "measured": distance(measured, numbers),
                "finished": distance(weights(finished), weights(alone.finish())),
            }
    if dist.get_rank() == 0:
        with open(out, "w", encoding="utf-8") as stream:
            json.dump(found, stream)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
