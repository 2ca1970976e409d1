"""`kibitz train`: one dictionary, a sweep, or many sites at once, in a run folder that survives a kill at any moment.

The same command again goes on from the last checkpoint, and ends with the weights that an undisturbed run has.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kibitz.dry_run import dry_run
from kibitz.lasting_runs import lasting_run
from kibitz.material import Material, MaterialOptions
from kibitz.runs import plain
from kibitz.stacks import StackOptions, folder_name
from saes.architectures import AffineDictionary
from saes.checkpoint import save_dictionary
from saes.files import write_json, write_text
from saes.recipes import trainer_for
from saes.recorder import Console, JSONLines, Recorder, Several, WandB
from saes.run_checkpoints import Checkpoints
from saes.sweep import Row, Sweep, score
from saes.trainer import Trainer
from saes.training import train_stacks

# settings that change no result, or whose content is compared in their place
_IGNORED = (
    *("model", "corpus", "games", "activations", "out"),
    *("prefetch", "keep", "log_every", "save_every", "console", "wandb", "dry_run"),
)


@dataclass(frozen=True)
class RunConfig(MaterialOptions, StackOptions):
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
    dry_run: bool = False
    """only say how large the run would be, how long it would take and what bounds it"""

    def __post_init__(self) -> None:
        MaterialOptions.__post_init__(self)
        StackOptions.__post_init__(self)
        for name in ("save_every", "keep", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: choose 1 or more")

    def trainers(self, material: Material) -> dict[str, Trainer[AffineDictionary]]:
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
            )
            for site, width in material.widths.items()
        }


def run_train(config: RunConfig) -> str:
    """The table to print."""
    material = config.open_material(config.batch_size)
    trainers = config.trainers(material)
    if config.dry_run:
        return dry_run(material, trainers, config.batch_size, config.steps, config.keep)
    with lasting_run(config.out, config, _IGNORED, material.identity()) as run:
        with _recorder(config, run) as recorder:
            stacks = train_stacks(
                trainers,
                material.stream,
                recorder=recorder,
                checkpoints=Checkpoints(run / "checkpoints", config.keep),
                save_every=config.save_every,
                log_every=config.log_every,
            )
        folders = {name: [f"dictionaries/{name}/{folder_name(m)}" for m in config.members()] for name in stacks}
        for name, dictionaries in stacks.items():  # before they are scored: whatever happens then, they are there
            for dictionary, folder in zip(dictionaries, folders[name], strict=True):
                save_dictionary(dictionary, run / folder)
        tables, rows = [], []
        for name, dictionaries in stacks.items():
            found = _scored(config, material, trainers[name], dictionaries)
            rows += [{"site": name, "folder": f, **row} for f, row in zip(folders[name], found.to_json(), strict=True)]
            tables.append(f"{name}\n{found.table()}")
        note = material.note()
        write_json(run / "results.json", {"rows": rows, "note": note})
        table = "\n\n".join([*tables, note])
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


def _scored(
    config: RunConfig,
    material: Material,
    trainer: Trainer[AffineDictionary],
    dictionaries: list[AffineDictionary],
) -> Sweep:
    """What the dictionaries of a site are worth on what training has not seen."""
    numbers = score(trainer, dictionaries, material.unseen(config.batch_size, config.steps))
    for each, dictionary in zip(numbers, dictionaries, strict=True):
        each |= material.quality(dictionary)
    return Sweep(tuple(Row(config.architecture, m, n) for m, n in zip(config.members(), numbers, strict=True)))
