"""`kibitz shift prepare | judge | freeze | score | report`: SHIFT on a run folder, step by step (docs/shift.md)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from kibitz.shift_judge import JudgeConfig, run_judge_command
from kibitz.shift_prepare import PrepareConfig, run_prepare
from kibitz.shift_report import ReportConfig, run_report
from kibitz.shift_score import FreezeConfig, ScoreConfig, run_freeze, run_score

RUN: dict[type, Callable[[Any], str]] = {
    PrepareConfig: run_prepare,
    JudgeConfig: run_judge_command,
    FreezeConfig: run_freeze,
    ScoreConfig: run_score,
    ReportConfig: run_report,
}


@dataclass(frozen=True)
class ShiftCommand:
    """Find what a classifier leans on, judge it, and repair the classifier."""

    what: Annotated[
        Annotated[PrepareConfig, tyro.conf.subcommand("prepare")]
        | Annotated[JudgeConfig, tyro.conf.subcommand("judge")]
        | Annotated[FreezeConfig, tyro.conf.subcommand("freeze")]
        | Annotated[ScoreConfig, tyro.conf.subcommand("score")]
        | Annotated[ReportConfig, tyro.conf.subcommand("report")],
        tyro.conf.arg(name=""),
    ]


def run_shift(command: ShiftCommand) -> str:
    """The sentences or table to print."""
    return RUN[type(command.what)](command.what)
