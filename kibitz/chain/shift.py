"""Step 6: repair a confounded classifier: candidates, oracle, freeze, trim, and only then the balanced set."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from transformers import PreTrainedModel

from boardgames.matching import Match, match_features
from boardgames.report import Positions
from circuits.feature_acts import Dictionaries
from saes.families import find_site
from shift.candidates import chosen_features
from shift.judge import ConceptOracle
from shift.judgements import Frozen
from shift.report import Outcome, Prepared, judge_all, outcome, prepare
from shift.tasks.othello import OwnerTaskConfig, owner_task
from shift.trim import Cells


@dataclass(frozen=True)
class ShiftSettings:
    task: OwnerTaskConfig
    site: str
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
            "worst_group_before": o.before.worst_group,
            "worst_group_after": o.after.worst_group,
            "worst_group_retrained": o.retrained.worst_group,
            "random": float(np.mean([cells.worst_group for cells in o.random])),
            "skyline": o.skyline.worst_group,
            "candidates": len(self.prepared.candidates),
            "trimmed": o.trimmed,
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
            "intended": f"owner of {task.intended}",
            "spurious": f"owner of {task.spurious}",
            "rows": [
                row("Original classifier", o.before),
                row("SHIFT: judged features trimmed", o.after),
                row("SHIFT, head retrained", o.retrained),
                *(row(f"Random features trimmed, draw {i + 1}", cells) for i, cells in enumerate(o.random)),
                row("Feature skyline (knows the spurious labels)", o.skyline),
                row("Oracle head (trained on balanced data)", o.oracle),
            ],
            "candidates": len(self.prepared.candidates),
            "trimmed": o.trimmed,
            "judgements": judged,
            "site": self.settings.site,
            "ambiguous_games": task.train,
            "balanced_games": 4 * task.cell,
        }


def repair(
    model: PreTrainedModel, dictionaries: Dictionaries, names: Positions, settings: ShiftSettings, run: Path
) -> Repaired:
    """Features are named on the positions `names`, which are not the task's."""
    task = owner_task(settings.task, find_site(model, settings.site))
    prepared = prepare(
        model, dictionaries, task, candidates=settings.candidates, examples=settings.examples, steps=settings.steps
    )
    matches = match_features(model, dictionaries, chosen_features(prepared.candidates), names)
    judge = ConceptOracle(matches, {settings.task.intended}, {settings.task.spurious})
    frozen = judge_all(prepared, judge, run / "judgements.jsonl", task)
    result = outcome(model, dictionaries, task, prepared, frozen, examples=settings.examples, steps=settings.steps)
    return Repaired(settings, prepared, frozen, matches, result)
