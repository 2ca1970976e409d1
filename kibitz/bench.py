"""`kibitz bench recovery`: how much of planted dictionaries each architecture finds, at equal L0, over seeds.

Every recipe is steered to the true L0: k for those that have one, a controller of the coefficient for penalties on
magnitudes, its own penalty for JumpReLU. It reports; it says of nobody that he wins.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Annotated, Any, Literal, get_args

import tyro
from tqdm import tqdm

from kibitz.runs import check_replaceable, run_folder
from saes.dead_features import AuxK
from saes.files import write_json, write_text
from saes.recipes import RECIPES, Member, find_recipe, trainer_for
from saes.streams import Activations, ActivationStream
from saes.sweep import MARKERS, save_figure
from saes.synthetic import Planted, PlantedConfig, Recovery, Setting, recovery
from saes.trainer import TrainConfig
from saes.training import train_stacks

SETTINGS: tuple[Setting, ...] = get_args(Setting)
COMPARED = tuple(name for name in RECIPES if name != "crosscoder")  # which has one site to read here
COLUMNS = {
    "recovered": "recovered",
    "cosine": "cosine",
    "f1": "F1",
    "variance_explained": "variance explained",
    "l0": "L0",
    "absorption": "absorption",
    "missed_alone": "missed alone",
}


@dataclass(frozen=True)
class BenchConfig:
    """Train every architecture on planted dictionaries, easy and hard, and hold what it finds against the truth."""

    what: tyro.conf.Positional[Literal["recovery"]]
    """the benchmark"""
    seeds: int = 3
    """first weights per architecture, trained side by side as one stack"""
    steps: int | None = None
    """by default 800, with --quick 80"""
    out: Path = Path("runs/recovery")
    """folder for recovery.md, recovery.json and recovery.png; an earlier run there is replaced"""
    recipes: tuple[Annotated[str, tyro.conf.arg(metavar="NAME")], ...] = COMPARED
    """what is compared"""
    atoms: int = 64
    width: int = 40
    features: int = 96
    l0: int = 3
    """true number of atoms in a row, and the target of every architecture"""
    seed: int = 0
    """of the planted dictionaries"""
    quick: bool = False
    """a rough version in under 30 seconds"""

    def __post_init__(self) -> None:
        for name in ("seeds", "atoms", "width", "features", "l0"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: choose 1 or more")
        if self.total_steps < 20:
            raise ValueError(f"steps is {self.steps}: choose 20 or more")
        if not self.recipes:
            raise ValueError(f"recipes is empty: choose from {', '.join(COMPARED)}")
        for name in self.recipes:
            find_recipe(name)
            if name not in COMPARED:
                raise ValueError(f"{name} cannot be compared: it reads several sites")
        if self.l0 > self.features:
            raise ValueError(f"l0 is {self.l0} of {self.features} features: choose fewer")
        for setting in SETTINGS:
            self.planted(setting)

    @property
    def total_steps(self) -> int:
        return self.steps if self.steps is not None else 80 if self.quick else 800

    def planted(self, setting: Setting) -> PlantedConfig:
        return PlantedConfig(setting, self.atoms, (self.width,), float(self.l0), seed=self.seed)


BATCH = 512
# an atom of these settings is silent for a few hundred rows at most
AUXK = AuxK(alpha=0.25, dead_after=20 * BATCH)


class _Counted:
    """A stream that moves a progress bar by one for every batch that it gives."""

    def __init__(self, stream: ActivationStream, bar: Any) -> None:
        self._stream, self._bar = stream, bar

    def batches(self, start: int = 0) -> Iterator[Activations]:
        for batch in self._stream.batches(start):
            self._bar.update()
            yield batch

    def sample(self) -> Activations:
        return self._stream.sample()


Results = dict[str, dict[str, list[Recovery]]]  # by setting and recipe, one for each seed


def run_bench(config: BenchConfig) -> str:
    """The tables to print; the files appear, or are replaced, only when all is done."""
    check_replaceable(config.out)
    results: Results = {}
    with run_folder(config.out, config, config.seed, {}) as run:
        with tqdm(total=len(SETTINGS) * config.total_steps, desc="recovery", unit="step") as bar:
            for setting in SETTINGS:
                bar.set_postfix_str(setting)
                results[setting] = _compare(config, setting, bar)
        text = report(config, results)
        write_text(run / "recovery.md", text)
        rows = {s: {name: [asdict(r) for r in each] for name, each in of.items()} for s, of in results.items()}
        write_json(run / "recovery.json", {"config": asdict(config) | {"out": str(config.out)}, "results": rows})
        plot(results, run / "recovery.png")
    return f"{text}\nWritten to {config.out}"


def _compare(config: BenchConfig, setting: Setting, bar: Any) -> dict[str, list[Recovery]]:
    """Every recipe's stack of seeds, all on the same batches."""
    planted = Planted(config.planted(setting), BATCH)
    train = TrainConfig(config.total_steps, learning_rate=5e-3)
    members = [Member(seed, target_l0=float(config.l0)) for seed in range(config.seeds)]
    options = _options(config.l0)
    trainers = {
        name: trainer_for(
            name,
            members,
            train,
            planted.sites,
            width=config.width,
            features=config.features,
            auxk=AUXK,
            **options.get(name, {}),
        )
        for name in config.recipes
    }
    stacks = train_stacks(trainers, _Counted(planted, bar), log_every=config.total_steps, progress=False)
    return {name: [recovery(dictionary, planted) for dictionary in members] for name, members in stacks.items()}


def _options(l0: int) -> dict[str, dict[str, Any]]:
    """Where an architecture's defaults are meant for wider dictionaries and denser rows."""
    typical = l0**-0.5  # size of an active feature in rows of norm 1
    return {
        "jumprelu": {"bandwidth": typical / 3, "first_threshold": typical / 6},
        "matryoshka": {"group_fractions": (0.25, 0.25, 0.5)},  # of five groups the first would hold 3 features
    }


def summary(rows: Sequence[Recovery], column: str) -> tuple[float, float] | None:
    """Mean and standard deviation over seeds; None where the column does not apply."""
    values = [getattr(row, column) for row in rows]
    if any(value is None for value in values):
        return None
    return fmean(values), stdev(values) if len(values) > 1 else 0.0


def report(config: BenchConfig, results: Results) -> str:
    """One markdown table for each setting."""
    lines = [
        "# Recovery of planted dictionaries",
        "",
        f"`kibitz bench recovery`: {config.atoms} atoms in {config.width} dimensions, {config.l0} in a row on average; "
        f"dictionaries of {config.features} features, {config.total_steps} steps of {BATCH} rows; mean ± standard "
        f"deviation over {config.seeds} seeds of the first weights.",
    ]
    for setting, by_recipe in results.items():
        shown = [column for column in COLUMNS if summary(next(iter(by_recipe.values())), column) is not None]
        true = fmean(row.l0_true for rows in by_recipe.values() for row in rows)
        cells = [[name, *(_cell(rows, column) for column in shown)] for name, rows in by_recipe.items()]
        lines += [
            "",
            f"## {setting} (true L0 {true:.2f})",
            "",
            _markdown(cells, ["recipe", *(COLUMNS[c] for c in shown)]),
        ]
    return "\n".join(lines) + "\n"


def _cell(rows: Sequence[Recovery], column: str) -> str:
    mean, deviation = summary(rows, column) or (0.0, 0.0)
    return f"{mean:.2f} ± {deviation:.2f}" if column == "l0" else f"{mean:.3f} ± {deviation:.3f}"


def _markdown(rows: Sequence[Sequence[str]], header: Sequence[str]) -> str:
    """A table that reads as well unrendered."""
    widths = [max(len(cells[i]) for cells in (header, *rows)) for i in range(len(header))]
    rule = ["-" * widths[0], *("-" * (w - 1) + ":" for w in widths[1:])]
    padded = [
        [cell.rjust(w) if i else cell.ljust(w) for i, (cell, w) in enumerate(zip(cells, widths, strict=True))]
        for cells in (header, rule, *rows)
    ]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in padded)


PLOTTED = ("recovered", "f1", "variance_explained")


def plot(results: Results, path: Path | str) -> None:
    """A panel for each setting: recovery, F1 and variance explained of each recipe, with their spread over seeds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6.5), layout="constrained")
    panels = figure.subplots(2, 2, sharex=True, sharey=True).flat
    for panel, (setting, by_recipe) in zip(panels, results.items(), strict=True):
        for i, column in enumerate(PLOTTED):
            mean, deviation = zip(*(summary(rows, column) or (0.0, 0.0) for rows in by_recipe.values()), strict=True)
            heights = [row + 0.2 * (i - 1) for row in range(len(by_recipe))]
            panel.errorbar(
                mean, heights, xerr=deviation, fmt=MARKERS[i], markersize=5, capsize=2, label=COLUMNS[column]
            )
        panel.set_yticks(range(len(by_recipe)), list(by_recipe))
        panel.set_title(setting)
        panel.grid(axis="x", alpha=0.3)
        panel.set_xlim(0, 1.02)
    first = figure.axes[0]
    first.invert_yaxis()  # the first recipe on top
    first.legend(fontsize=8, loc="lower left")
    save_figure(figure, path)
