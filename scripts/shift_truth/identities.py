"""What the measurements of a run depend on, so that none is gone on with, or written up, under other settings.

How many tasks a part has is no part of its identity: a longer run goes on where a shorter one ended.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any, Literal

from boardgame_sweep.plan import ScaleName
from boardgame_sweep.training import IDENTITY, check_same

from boardgames.dictionaries import load_dictionaries
from boardgames.lm import load_othello_gpt
from kibitz.runs import plain
from saes.digests import weights_digest
from saes.files import FileError, read_json
from saes.sites import Site
from shift_truth.dictionaries import SCALES
from shift_truth.injected import STUDY, study_identity
from shift_truth.phases import SIZES, Sizes
from shift_truth.study import read_all
from shift_truth.tasks import POOLS

Measured = Literal["battery", "dictionaries", "noise", "left_out"]
FOLDERS: Mapping[Measured, str] = {
    "battery": "battery",
    "dictionaries": "compared",
    "noise": "noise",
    "left_out": "left_out",
}
"""where each part's measurements are, below the run's folder"""


def check_tasks(run: Path, scale: ScaleName) -> None:
    """Begin a run's pool of tasks, or find it made by the same settings; FileError otherwise."""
    wanted = POOLS[scale]
    if (run / "tasks.json").exists() and not (run / IDENTITY).exists():
        pool = read_json(run / "tasks.json")
        pairs = sum(task["family"] == "pair" for task in pool)
        sizes = {(task["spec"]["train"], task["spec"]["test"], task["spec"]["cell"]) for task in pool}
        if pairs != wanted.pairs or sizes != {(wanted.train, wanted.test, wanted.cell)}:
            raise FileError(f"{run}: tasks.json is of another scale than {scale}; choose another --run or delete it")
    check_same(run, {"pool": plain(wanted), **_shipped()})


def check_part(part: Measured, run: Path, scale: ScaleName) -> None:
    """Begin a part, or find its measurements made by the same settings; FileError says what differs.

    Measurements without a record of what they depend on are taken over unless their tasks are of other sizes.
    """
    folder, sizes = run / FOLDERS[part], SIZES[scale]
    identity = part_identity(part, sizes) | _dictionaries_of(part, run, scale)
    if not (folder / IDENTITY).exists():
        _check_sizes(folder, identity)
    check_same(folder, identity)


def part_identity(part: Measured, sizes: Sizes) -> dict[str, Any]:
    """Entries of the sizes that the measurements of a part follow from."""
    settings = sizes.quick if part == "dictionaries" else sizes.settings
    own = {"left_out_judgements": sizes.left_out_judgements} if part == "left_out" else {}
    return {
        **asdict(settings),
        "train": sizes.quick_train if part == "dictionaries" else sizes.train,
        "cell": sizes.quick_cell if part in ("dictionaries", "noise") else sizes.cell,
        **own,
    }


def check_measured(run: Path, scale: ScaleName) -> None:
    """FileError unless all that a run has measured is of this scale, and of the weights that ship."""
    check_tasks(run, scale)
    for part, name in FOLDERS.items():
        if any((run / name).glob("*/**/*.json")):
            check_part(part, run, scale)
    if (run / "injected" / STUDY).exists():
        check_same(run / "injected", study_identity(SCALES[scale]))


def recorded(part: Measured, run: Path) -> dict[str, Any] | None:
    """What a part was begun with; None if it was not."""
    file = run / FOLDERS[part] / IDENTITY
    return read_json(file) if file.exists() else None


def dictionaries_digest(dictionaries: Mapping[Site, Any]) -> str:
    """Of a set of dictionaries, one for each site."""
    lines = (f"{site.name} {weights_digest(dictionary)}" for site, dictionary in dictionaries.items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _dictionaries_of(part: Measured, run: Path, scale: ScaleName) -> dict[str, Any]:
    """The model, and the dictionaries: those that ship, or the sets of the run, which must be of this scale, too."""
    if part != "dictionaries":
        return _shipped()
    model = _shipped()["model"]
    sets = read_json(run / "dictionaries" / IDENTITY)
    check_same(run / "dictionaries", sets | {"scale": plain(SCALES[scale]), "model": model})
    return {"model": model, "sets": sets}


def _check_sizes(folder: Path, identity: Mapping[str, Any]) -> None:
    for found in (r for below in folder.glob("**/") for r in read_all(below) if "judge" in r):
        task, expected = found["task"], {name: identity[name] for name in ("train", "cell")}
        other = [f"{name} {task[name]}, not {value}" for name, value in expected.items() if task[name] != value]
        if other:
            raise FileError(f"{folder}: {found['file']} has {', '.join(other)}; choose another --run or delete it")


@cache
def _shipped() -> dict[str, str]:
    model = load_othello_gpt()
    return {"model": weights_digest(model), "dictionaries": dictionaries_digest(load_dictionaries(model))}
