"""SHIFT: find what a classifier leans on, judge it, ablate it, and measure that it now generalises."""

from shift.candidates import chosen_features
from shift.judge import ConceptOracle
from shift.judgements import Frozen, Judgement, JudgementLog
from shift.report import judge_all, outcome, prepare
from shift.task import ShiftTask
from shift.tasks.othello import OwnerTaskConfig, owner_task

__all__ = [
    "ConceptOracle",
    "Frozen",
    "Judgement",
    "JudgementLog",
    "OwnerTaskConfig",
    "ShiftTask",
    "chosen_features",
    "judge_all",
    "outcome",
    "owner_task",
    "prepare",
]
