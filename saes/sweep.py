"""Sweeps: dictionaries of one shape trained on the same batches as one stack, as one table and one Pareto plot.

The frontier is that of sparsity against faithfulness: L0 and variance explained on batches that training never saw.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from saes.architectures import AffineDictionary
from saes.dead_features import AuxK
from saes.files import atomic
from saes.recipes import Member, check_members, trainer_for
from saes.recorder import Recorder
from saes.run_checkpoints import Checkpoints
from saes.sites import Site
from saes.streams import Activations, ActivationStream
from saes.trainer import TrainConfig, Trainer
from saes.training import batch_for, train_stacks

_CHUNK = 1 << 25  # features that are worked on at once


@dataclass(frozen=True)
class StackConfig:
    """One stack: a recipe of saes.recipes, a shape, and what each member has of its own."""

    recipe: str
    width: int
    """D of the site"""
    features: int
    """F"""
    members: tuple[Member, ...]
    train: TrainConfig
    auxk: AuxK | None = None
    """see trainer_for"""
    held_out_batches: int = 16

    def __post_init__(self) -> None:
        check_members(self.recipe, self.members)
        if self.held_out_batches < 1:
            raise ValueError(f"held_out_batches is {self.held_out_batches}: choose 1 or more")


@dataclass(frozen=True)
class Row:
    """One member and how it turned out."""

    recipe: str
    member: Member
    numbers: Mapping[str, float]
    """l0, variance_explained, alive (share of features that fire), loss (the objective), and what a caller adds"""

    @property
    def group(self) -> str:
        """The recipe, and p_end if it was chosen: a series of the plot."""
        return self.recipe if self.member.p_end is None else f"{self.recipe}, p to {self.member.p_end:g}"


@dataclass(frozen=True)
class Sweep:
    rows: tuple[Row, ...]

    def table(self) -> str:
        """Aligned text: the settings that some member has, then the numbers; `*` marks the Pareto frontier."""
        return aligned([[*cells, "*" if row in self.pareto() else ""] for row, cells in self._cells()], self._header())

    def _header(self) -> list[str]:
        return ["recipe", *self._settings(), *self.rows[0].numbers, "pareto"]

    def _settings(self) -> list[str]:
        return [name for name in asdict(Member()) if any(name in row.member.settings() for row in self.rows)]

    def _cells(self) -> Iterator[tuple[Row, list[str]]]:
        for row in self.rows:
            settings = row.member.settings()
            shown = [f"{settings[name]:g}" if name in settings else "" for name in self._settings()]
            yield row, [row.recipe, *shown, *(f"{value:.4g}" for value in row.numbers.values())]

    def pareto(self) -> list[Row]:
        """Rows that no other beats in L0 or variance explained without losing in the other, sparsest first."""
        best, frontier = -float("inf"), []
        for row in sorted(self.rows, key=lambda row: (row.numbers["l0"], -row.numbers["variance_explained"])):
            if row.numbers["variance_explained"] > best:
                best = row.numbers["variance_explained"]
                frontier.append(row)
        return frontier

    def groups(self) -> dict[str, list[Row]]:
        """Rows by group, in order; see plot_pareto."""
        groups: dict[str, list[Row]] = {}
        for row in self.rows:
            groups.setdefault(row.group, []).append(row)
        return groups

    def with_numbers(self, added: Sequence[Mapping[str, float]]) -> "Sweep":
        """More numbers for every row, in the order of the rows."""
        pairs = zip(self.rows, added, strict=True)
        return Sweep(tuple(replace(row, numbers={**row.numbers, **more}) for row, more in pairs))

    def to_json(self) -> list[dict[str, Any]]:
        """What saes.files.write_json can hold."""
        frontier = self.pareto()
        return [
            {"recipe": row.recipe, **row.member.settings(), **row.numbers, "pareto": row in frontier}
            for row in self.rows
        ]


def aligned(rows: Sequence[Sequence[str]], header: Sequence[str]) -> str:
    """Columns of equal width: the first to the left, the others to the right."""
    widths = [max(len(cells[i]) for cells in (header, *rows)) for i in range(len(header))]
    return "\n".join(
        "  ".join(cell.rjust(w) if i else cell.ljust(w) for i, (cell, w) in enumerate(zip(cells, widths, strict=True)))
        .rstrip()
        for cells in (header, *rows)
    )  # fmt: skip


def train_and_score(
    config: StackConfig,
    stream: ActivationStream,
    held_out: ActivationStream,
    sites: Sequence[Site],
    *,
    recorder: Recorder | None = None,
    checkpoints: Checkpoints | None = None,
    progress: bool = True,
) -> tuple[Sweep, list[AffineDictionary]]:
    """Train all members on the batches of `stream`; the rows, from `held_out`, and the dictionaries, in their order."""
    trainer = trainer_for(
        config.recipe,
        config.members,
        config.train,
        sites,
        width=config.width,
        features=config.features,
        auxk=config.auxk,
    )
    stacks = {config.recipe: trainer}
    dictionaries = train_stacks(stacks, stream, recorder=recorder, checkpoints=checkpoints, progress=progress)
    finished = dictionaries[config.recipe]
    numbers = score(trainer, finished, list(islice(held_out.batches(), config.held_out_batches)))
    rows = (Row(config.recipe, member, n) for member, n in zip(config.members, numbers, strict=True))
    return Sweep(tuple(rows)), finished


@torch.no_grad()
def score(
    trainer: Trainer[AffineDictionary], finished: Sequence[AffineDictionary], batches: Sequence[Activations]
) -> list[dict[str, float]]:
    """L0, variance explained, share of features that fire, and objective of each member of a finished stack.

    All but the objective are those of the dictionary as it is used, without competition across a batch. The objective
    is left out where several ranks would have to compute it.
    """
    alone = trainer.ranks.size == 1
    losses = [trainer.measure(batch_for(finished[0], each)) for each in batches] if alone else []
    scored = []
    for n, dictionary in enumerate(finished):
        on, left, rows = torch.zeros(dictionary.features, dtype=torch.float64), 0.0, 0
        total, squares = torch.zeros(dictionary.width, dtype=torch.float64), 0.0
        for each in batches:
            batch = batch_for(dictionary, {site: x.to(dictionary.W_dec.device) for site, x in each.items()})
            targets = batch.targets.double()
            some = max(1, _CHUNK // dictionary.features)
            for inputs, wanted in zip(batch.inputs.split(some), targets.split(some), strict=True):
                on += (dictionary.encode(inputs) != 0).sum(0).cpu()
                left += float((dictionary.reconstruct(inputs) - wanted).square().sum())
            total, squares, rows = (
                total + targets.sum(0).cpu(),
                squares + float(targets.square().sum()),
                rows + len(targets),
            )
        scored.append(
            {
                "l0": float(on.sum()) / rows,
                "variance_explained": 1 - left / (squares - float(total.square().sum()) / rows),
                "alive": float((on > 0).double().mean()),
                **({"loss": sum(loss[n]["loss"] for loss in losses) / len(batches)} if alone else {}),
            }
        )
    return scored


MARKERS = "os^Dv<>ph*X"  # of a plot's series


def plot_pareto(groups: Mapping[str, Sequence[Row]], path: Path | str, title: str = "") -> None:
    """L0 (log axis) against variance explained, one series a group; the file type is the path's suffix."""
    from matplotlib.figure import Figure  # a figure of its own: no window, no global state

    if not any(groups.values()):
        raise ValueError("nothing to plot: the sweep has no rows")
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for i, (name, rows) in enumerate(groups.items()):
        points = sorted((row.numbers["l0"], row.numbers["variance_explained"]) for row in rows)
        axes.plot(*zip(*points, strict=True), label=name, marker=MARKERS[i % len(MARKERS)], markersize=5, linewidth=1)
    axes.set_xscale("log")
    axes.set_xlabel("L0: mean number of active features")
    axes.set_ylabel("variance explained, held out")
    axes.set_title(title)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    save_figure(figure, path)


def save_figure(figure: Any, path: Path | str) -> None:
    """Write a matplotlib figure atomically; the same figure gives the same bytes."""
    kind = Path(path).suffix.lstrip(".") or "png"
    with atomic(path) as part:
        figure.savefig(part, format=kind, dpi=150, metadata={"Software": None} if kind == "png" else None)
