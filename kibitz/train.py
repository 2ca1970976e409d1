"""`kibitz train`: one dictionary, a sweep, or many sites at once, in a run folder that survives a kill at any moment.

The same command again goes on from the last checkpoint, and ends with the weights that an undisturbed run has.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kibitz.dry_run import dry_run
from kibitz.lasting_runs import lasting_run
from kibitz.material import Material, MaterialOptions
from kibitz.runs import RunError, plain
from kibitz.stacks import StackOptions, folder_name
from kibitz.watched import WatchOptions
from saes.architectures import AffineDictionary
from saes.checkpoint import save_dictionary
from saes.files import write_json, write_text
from saes.ranks import ALONE, Ranks, joined
from saes.recipes import trainer_for
from saes.recorder import Console, JSONLines, Recorder, Several, WandB
from saes.run_checkpoints import Checkpoints
from saes.sweep import Row, Sweep, score
from saes.trainer import Trainer
from saes.training import train_stacks

# settings that change no result, or whose content is compared in their place
_IGNORED = (
    *("model", "corpus", "games", "activations", "out"),
    *("prefetch", "feature_ranks", "step", "keep", "log_every", "save_every", "console", "wandb", "dry_run"),
)


@dataclass(frozen=True)
class RunConfig(MaterialOptions, StackOptions, WatchOptions):
    """Train dictionaries at one site or several from one pass; the same command again goes on where it stopped."""

    save_every: int = 500
    """steps between checkpoints"""
    keep: int = 2
    """checkpoints that are kept"""
    log_every: int = 50
    """steps between lines of metrics.jsonl"""
    console: bool = False
    """print a table line for every line of metrics.jsonl"""
    wandb: str | None = None
    """a project of Weights & Biases to write to as well; WANDB_MODE=offline needs no network"""
    out: Path = Path("runs/train")
    """folder for the run; one that is there is gone on with"""
    step: Literal["auto", "dense", "active"] = "auto"
    """compute through active features only, through all, or whichever is faster; all are exact"""
    feature_ranks: int = 1
    """with torchrun: processes that share the features of each dictionary; the rows are divided among all processes"""
    dry_run: bool = False
    """only say how large the run would be, how long it would take and what bounds it"""

    def __post_init__(self) -> None:
        MaterialOptions.__post_init__(self)
        StackOptions.__post_init__(self)
        WatchOptions.__post_init__(self)
        if self.board_every and not self.board_games and (self.corpus is not None or self.activations is not None):
            raise ValueError("--board-every needs games: give --board-games, or leave out --corpus and --activations")
        for name in ("save_every", "keep", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: choose 1 or more")

    def trainers(self, material: Material, ranks: Ranks = ALONE) -> dict[str, Trainer[AffineDictionary]]:
        """One stack a site."""
        return {
            site.name: trainer_for(
                self.architecture,
                self.members(),
                self.train_config(),
                [site],
                width=width,
                features=self.expansion * width,
                auxk=self.auxk(),
                device=material.device,
                ranks=ranks,
                step=self.step,
            )
            for site, width in material.widths.items()
        }


def run_train(config: RunConfig) -> str:
    """The table to print, in the first of several processes; nothing in the others."""
    with joined(config.feature_ranks, config.device) as ranks:
        material = config.open_material(config.batch_size, ranks)
        trainers = config.trainers(material, ranks)
        if config.dry_run:
            if ranks.size > 1:
                raise RunError("--dry-run measures one process; leave torchrun out")
            return dry_run(material, trainers, config.batch_size, config.steps, config.keep)
        if ranks.leads:
            with lasting_run(config.out, config, _IGNORED, material.identity()) as run:
                ranks.wait()  # the others may read the folder now
                return _train(config, material, trainers, run)
        ranks.wait()
        _train(config, material, trainers, Path(os.path.abspath(config.out)))
        return ""


def _train(config: RunConfig, material: Material, trainers: dict[str, Trainer[AffineDictionary]], run: Path) -> str:
    """Train to the end; the first process writes what has been found, and returns the table."""
    leads = next(iter(trainers.values())).ranks.leads
    names = [folder_name(member) for member in config.members()]
    with _recorder(config, run) if leads else nullcontext() as recorder:
        stacks = train_stacks(
            trainers,
            material.stream,
            recorder=recorder,
            checkpoints=Checkpoints(run / "checkpoints", config.keep),
            save_every=config.save_every,
            log_every=config.log_every,
            observe=config.watch(material, run, names, recorder),
            observe_every=max(1, config.board_every),
        )
    if not leads:
        return ""
    members = config.members()
    folders = {name: [f"dictionaries/{name}/{of_member}" for of_member in names] for name in stacks}
    for name, dictionaries in stacks.items():  # before they are scored: whatever happens then, they are there
        for dictionary, folder in zip(dictionaries, folders[name], strict=True):
            save_dictionary(dictionary, run / folder)
    unseen = material.unseen(config.batch_size, config.steps)
    qualities = iter(material.qualities([each for dictionaries in stacks.values() for each in dictionaries]))
    tables, rows = [], []
    for name, dictionaries in stacks.items():
        numbers = zip(members, score(trainers[name], dictionaries, unseen), strict=True)
        found = Sweep(tuple(Row(config.architecture, member, {**n, **next(qualities)}) for member, n in numbers))
        rows += [{"site": name, "folder": f, **row} for f, row in zip(folders[name], found.to_json(), strict=True)]
        tables.append(f"{name}\n{found.table()}")
    note = material.note()
    write_json(run / "results.json", {"rows": rows, "note": note})
    table = "\n\n".join([*tables, note, *filter(None, [config.said(run)])])
    write_text(run / "table.txt", table + "\n")
    return f"{table}\nDictionaries: {config.out / 'dictionaries'}"


@contextmanager
def _recorder(config: RunConfig, run: Path) -> Iterator[Recorder]:
    """All that were asked for; wandb is told whether training ended well."""
    recorders: list[Recorder] = [JSONLines(run / "metrics.jsonl"), *([Console()] if config.console else [])]
    if config.wandb is None:
        yield Several(*recorders)
        return
    project = WandB(config.wandb, run, plain(config))
    try:
        yield Several(*recorders, project)
    except BaseException:
        project.close(failed=True)
        raise
    project.close()
