"""SHIFT against what is known: board tasks x sets of dictionaries x judges, and a rule planted in the model itself.

    python scripts/shift_ground_truth.py                  # --scale small: 2.5 hours of CPU time; two cores, half of it
    python scripts/shift_ground_truth.py --scale paper    # 100 tasks, three seeds; for a GPU

Writes docs/results/shift.md and its figures. Every measurement is a file of its own below the run's folder, and is not
made again; a killed run goes on with the same command, and a run of other settings or weights needs a folder of its
own. The document is of what is there.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import tyro
from shift_truth.dictionaries import SCALES, train_sets
from shift_truth.identities import FOLDERS, Measured, check_part, check_tasks
from shift_truth.injected import study
from shift_truth.phases import PARTS, SIZES, Job
from shift_truth.study import run_jobs
from shift_truth.tasks import POOLS, task_pool
from shift_truth.writing import write_results

from boardgames.dictionaries import load_dictionaries
from boardgames.lm import load_othello_gpt
from saes.files import FileError, read_json, write_json
from shift.specs import BoardTaskSpec

Part = Literal["tasks", "battery", "sets", "dictionaries", "noise", "left_out", "injected", "document"]
SEEDS = {"small": 1, "paper": 3}


@dataclass(frozen=True)
class Recipe:
    scale: Literal["small", "paper"] = "small"
    parts: tuple[Part, ...] = ("tasks", "battery", "sets", "dictionaries", "noise", "left_out", "injected", "document")
    run: Path = Path("runs/shift_truth")
    out: Path = Path("docs/results/shift.md")
    images: Path = Path("docs/img")
    workers: int = 2
    """processes of one thread each"""


def main(recipe: Recipe) -> None:
    run, sizes = recipe.run, SIZES[recipe.scale]
    check_tasks(run, recipe.scale)
    if "tasks" in recipe.parts and not (run / "tasks.json").exists():
        model = load_othello_gpt()
        pool = task_pool(model, load_dictionaries(model), scale=POOLS[recipe.scale])
        write_json(run / "tasks.json", [{"family": t.family, **t.admission.to_json()} for t in pool])
    if "sets" in recipe.parts:
        train_sets(load_othello_gpt(), SCALES[recipe.scale], run / "dictionaries")
    pool = read_json(run / "tasks.json")
    specs, pairs = (
        [
            replace(BoardTaskSpec.from_json(task["spec"]), seed=seed)
            for seed in range(SEEDS[recipe.scale])
            for task in pool
            if "probe_intended" in task and task["family"] in families  # the others could not be drawn
        ]
        for families in (("pair", "depth", "consequence"), ("pair",))
    )
    whole = {spec.name for spec in specs if spec not in pairs} | {spec.name for spec in pairs[: sizes.whole_pairs]}
    alone: dict[Measured, list[BoardTaskSpec]] = {
        "battery": specs,
        "noise": pairs[: sizes.noisy_tasks],
        "left_out": pairs[: sizes.left_out_tasks],
    }
    for part, chosen in alone.items():
        if part in recipe.parts:
            check_part(part, run, recipe.scale)
            run_jobs(
                PARTS[part],
                [Job(part, run, sizes, (spec,), whole=spec.name in whole) for spec in chosen],
                recipe.workers,
                part,
            )
    if "dictionaries" in recipe.parts:
        check_part("dictionaries", run, recipe.scale)
        folders = sorted(record.parent for record in (run / "dictionaries").glob("*/*/scores.json"))
        jobs = [
            Job("dictionaries", run / FOLDERS["dictionaries"], sizes, tuple(pairs[: sizes.compared_tasks]), folder)
            for folder in folders
        ]
        run_jobs(PARTS["dictionaries"], jobs, recipe.workers, "dictionaries")
    if "injected" in recipe.parts:
        study(SCALES[recipe.scale], run / "injected")
    if "document" in recipe.parts:
        write_results(run, recipe.out, recipe.images, recipe.scale)
        print(f"Written: {recipe.out}")


if __name__ == "__main__":
    try:
        main(tyro.cli(Recipe))
    except FileError as error:
        raise SystemExit(str(error)) from None
