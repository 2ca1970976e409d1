"""Step 6: repair a confounded classifier: candidates, oracle, freeze, trim, and only then the balanced set."""

from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel

from boardgames.matching import Match, match_features
from boardgames.report import Positions
from circuits.feature_acts import Dictionaries
from saes.families import find_site
from shift.candidates import chosen_features
from shift.concept_oracle import ConceptOracle, rule_dependence
from shift.judgements import Frozen
from shift.preparing import Prepared, prepare
from shift.scoring import Outcome, judge_all, outcome
from shift.specs import BoardTaskSpec
from shift.tasks.board import board_task
from shift.tasks.questions import spoken
from shift.trim import Cells


@dataclass(frozen=True)
class ShiftSettings:
    task: BoardTaskSpec
    candidates: int = 60
    examples: int = 100
    steps: int = 10


@dataclass(frozen=True)
class Repaired:
    settings: ShiftSettings
    prepared: Prepared
    frozen: Frozen
    matches: dict[tuple[str, int], Match]
    outcome: Outcome

    def summary(self) -> dict[str, float]:
        o = self.outcome
        return {
            "worst_group_before": o["original"].worst_group,
            "worst_group_after": o["shift"].worst_group,
            "worst_group_mean": o["shift_mean"].worst_group,
            "worst_group_retrained": o["shift_retrained"].worst_group,
            "random": o["random"].worst_group,
            "skyline": o["feature_skyline"].worst_group,
            "oracle": o["oracle"].worst_group,
            "candidates": len(self.prepared.candidates),
            "trimmed": o.count,
        }

    def report(self) -> dict[str, object]:
        def row(name: str, cells: Cells) -> dict[str, object]:
            return {
                "name": name,
                "cells": cells.accuracy.tolist(),
                "worst_group": cells.worst_group,
                "intended_accuracy": cells.intended_accuracy,
                "spurious_accuracy": cells.spurious_accuracy,
            }

        o, task = self.outcome, self.settings.task
        judged = []
        for j in self.frozen.judgements:
            match = self.matches.get((j.site, j.feature))
            judged.append(
                {
                    "site": j.site,
                    "feature": j.feature,
                    "effect": j.effect,
                    "verdict": j.verdict,
                    "label": match.column if match else "never fires",
                    "f1": match.f1 if match else 0.0,
                }
            )
        return {
            "intended": spoken(task.intended),
            "spurious": spoken(task.spurious),
            "rows": [
                row(r.title if len(r.runs) == 1 else f"{r.title}, draw {i}", cells)
                for r in o.rows
                for i, cells in enumerate(r.runs, 1)
            ],
            "candidates": len(self.prepared.candidates),
            "trimmed": o.count,
            "judgements": judged,
            "site": task.site,
            "ambiguous_games": task.train,
            "balanced_games": 4 * task.cell,
        }


def repair(
    model: PreTrainedModel, dictionaries: Dictionaries, names: Positions, settings: ShiftSettings, run: Path
) -> Repaired:
    """Features are named on the positions `names`, which are not the task's."""
    spec = settings.task
    task = board_task(spec, find_site(model, spec.site))
    prepared = prepare(
        model, dictionaries, task, candidates=settings.candidates, examples=settings.examples, steps=settings.steps
    )
    matches = match_features(model, dictionaries, chosen_features(prepared.candidates), names)
    depends = rule_dependence(names.replay.at(names.mask))
    judge = ConceptOracle(matches, depends, depends[spec.intended], depends[spec.spurious])
    frozen = judge_all(prepared, judge, run / "judgements.jsonl", task)
    result = outcome(model, dictionaries, task, prepared, frozen, examples=settings.examples, steps=settings.steps)
    return Repaired(settings, prepared, frozen, matches, result)
