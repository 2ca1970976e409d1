"""SHIFT: find what a classifier leans on, judge it, ablate it, and measure that it now generalises."""

from shift.candidates import chosen_features
from shift.causal_oracle import CausalOracle
from shift.concept_oracle import ConceptOracle
from shift.judge import Judge, Opinion, run_judge
from shift.judgements import Frozen, JudgementLog
from shift.labelled import labelled_board
from shift.preparing import prepare
from shift.scoring import judge_all, outcome
from shift.specs import BoardTaskSpec
from shift.task import ShiftTask
from shift.tasks.board import board_task
from shift.tasks.tables import text_task
from shift.tasks.text_specs import TextTaskSpec
from shift.verdicts import Judgement, Policy

__all__ = [
    "BoardTaskSpec",
    "CausalOracle",
    "ConceptOracle",
    "Frozen",
    "Judge",
    "Judgement",
    "JudgementLog",
    "Opinion",
    "Policy",
    "ShiftTask",
    "TextTaskSpec",
    "board_task",
    "chosen_features",
    "judge_all",
    "labelled_board",
    "outcome",
    "prepare",
    "run_judge",
    "text_task",
]
