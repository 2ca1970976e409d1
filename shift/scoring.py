"""SHIFT from frozen judgements to the outcome: the seal is opened, and every method is scored on the same prompts."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel

from circuits.feature_acts import Dictionaries
from circuits.intervals import Interval, interval
from shift.candidates import sites_before
from shift.cards import Card, bare
from shift.contest import Contest
from shift.judge import Judge, JudgeError, run_judge
from shift.judgements import Frozen, JudgementLog
from shift.labelled import Labelled
from shift.methods import CORE, Labels, Method
from shift.preparing import Prepared
from shift.queue import Group, singles
from shift.task import ShiftTask
from shift.trim import Cells, Features, mean_features
from shift.verdicts import Policy

Ablation = Literal["zero", "mean"]


@dataclass(frozen=True)
class Row:
    """One method's cells, of each of its runs."""

    name: str
    title: str
    labels: Labels
    runs: tuple[Cells, ...]

    @property
    def worst_group(self) -> float:
        """Mean over the runs."""
        return sum(cells.worst_group for cells in self.runs) / len(self.runs)

    def interval(self, seed: int = 0) -> Interval:
        """Of the mean: 95 % bootstrap over the examples within each cell, the same draws for all runs."""
        return interval(self.worst_group, np.mean([cells.worst_group_draws(seed) for cells in self.runs], axis=0))


@dataclass(frozen=True)
class Outcome:
    """All methods in the order of a table."""

    rows: tuple[Row, ...]
    trimmed: Features
    error_share: float
    """share of the absolute effect on the margin that sits in error nodes, which nobody can trim"""

    def __getitem__(self, name: str) -> Row:
        return next(row for row in self.rows if row.name == name)

    @property
    def count(self) -> int:
        """Features trimmed."""
        return sum(len(index) for index in self.trimmed.values())

    def gap_closed(self, name: str) -> float:
        """Share of the way from the original's worst group to the oracle's; NaN where there is no gap."""
        original, oracle = self["original"].worst_group, self["oracle"].worst_group
        return (self[name].worst_group - original) / (oracle - original) if oracle > original else float("nan")


def judge_all(
    prepared: Prepared, judge: Judge, path: Path, task: ShiftTask, cards: Callable[[Group], Card] = bare
) -> Frozen:
    """Have every candidate judged, those aside that the file holds already, and freeze the verdicts."""
    log = JudgementLog(path, task.name)
    run_judge(judge, singles(prepared.candidates), log, cards)
    return log.freeze()


def open_contest(
    model: PreTrainedModel,
    dictionaries: Dictionaries,
    task: ShiftTask,
    prepared: Prepared,
    frozen: Frozen,
    *,
    policy: Policy | None = None,
    raters: Iterable[str] | None = None,
    labelled: Labelled | None = None,
    concepts: Float[Tensor, "concepts d"] | None = None,
    ablation: Ablation = "zero",
    examples: int = 100,
    steps: int = 10,
    seed: int = 0,
    progress: bool = True,
    reason: str = "scoring",
) -> Contest:
    """Open the balanced set, which is logged with the `reason`, and lay out what the methods are given.

    Trimmed features are set to zero, as in the paper, or to their mean over the ambiguous prompts.
    """
    trimmed, known = frozen.trimmed(policy, raters), {(c.site.name, c.feature) for c in prepared.candidates}
    if others := sorted({(site, f) for site, index in trimmed.items() for f in index} - known):
        named = ", ".join(f"{site}/{f}" for site, f in others[:3])
        raise JudgeError(
            f"{frozen.path}: {len(others)} trimmed features are no candidates of this run, such as {named}: the "
            "judgements are of other dictionaries or effects"
        )
    upstream = sites_before(model, dictionaries, task.site)
    values = mean_features(model, upstream, task.reading, task.train) if ablation == "mean" else None
    return Contest(
        model,
        upstream,
        task,
        prepared,
        trimmed,
        task.balanced.open(frozen, reason),
        labelled,
        values,
        concepts,
        seed,
        examples,
        steps,
        progress,
    )


def run_methods(contest: Contest, methods: Iterable[Method] = CORE) -> Outcome:
    """Every method's cells; a method that needs what the contest does not have is left out."""
    chosen = tqdm(
        [m for m in methods if m.applies(contest)], desc="methods", unit="method", disable=not contest.progress
    )
    rows = tuple(Row(m.name, m.title, m.labels, tuple(m.run(contest))) for m in chosen)
    return Outcome(rows, contest.trimmed, contest.prepared.effects.error_share())


def outcome(
    model: PreTrainedModel,
    dictionaries: Dictionaries,
    task: ShiftTask,
    prepared: Prepared,
    frozen: Frozen,
    methods: Sequence[Method] = CORE,
    **settings: Any,
) -> Outcome:
    """Open the balanced set and score the classifier before and after trimming, retrained, and beside baselines.

    `settings` are those of open_contest.
    """
    return run_methods(open_contest(model, dictionaries, task, prepared, frozen, **settings), methods)
