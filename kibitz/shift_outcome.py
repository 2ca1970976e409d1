"""outcome.json of a SHIFT run: rows of methods, judges, what each part does, side effects; all of it plain values."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from tqdm import tqdm

from boardgames.othello.legality import legality
from boardgames.report import Positions
from kibitz.shift_judges import Arbiter
from kibitz.shift_shown import Sample
from shift.agreement import all_agreements, quality
from shift.cards import bare
from shift.contest import Contest
from shift.judge import verdicts_on
from shift.judgements import Frozen
from shift.leave_one_out import leave_one_judgement_out, leave_one_site_out, readout_site_only, upstream_only
from shift.queue import reliability, singles
from shift.scoring import Outcome, Row
from shift.shares import attribution_shares
from shift.side_effects import play_effects, side_effects
from shift.verdicts import Policy

_SIDE_ROWS = 200  # games or texts that side effects are measured on
_CHESS_MOVES = 200  # positions of these in which a model of chess moves
_NOTES = {
    "ambiguous": "",
    "labelled": "uses labelled prompts that are not the task's",
    "balanced": "uses the balanced training prompts",
}


def rows_json(found: Outcome, contest: Contest, frozen: Frozen) -> dict[str, Any]:
    """The rows, and where the attribution sits."""
    return {
        "rows": [row_json(row, contest.seed) for row in found.rows],
        "trimmed": found.count,
        "candidates": len(contest.prepared.candidates),
        "error_share": found.error_share,
        "gap_closed": {name: _finite(found.gap_closed(name)) for name in ("shift", "shift_retrained")},
        "shares": asdict(attribution_shares(contest.prepared.effects, frozen, contest.trimmed)),
    }


def row_json(row: Row, seed: int) -> dict[str, Any]:
    """One method: the mean of its runs, with an interval over the balanced examples, which all runs share."""
    runs, bounds = row.runs, row.interval(seed)
    return {
        "name": row.title,
        "method": row.name,
        "labels": row.labels,
        "runs": len(runs),
        "cells": np.mean([r.accuracy for r in runs], axis=0).tolist(),
        "worst_group": row.worst_group,
        "worst_group_low": bounds.low,
        "worst_group_high": bounds.high,
        "intended_accuracy": _mean([r.intended_accuracy for r in runs]),
        "spurious_accuracy": _mean([r.spurious_accuracy for r in runs]),
        "note": _NOTES[row.labels],
    }


def judged_json(frozen: Frozen, arbiter: Arbiter, policy: Policy) -> dict[str, Any]:
    """How good each rater was against the reference, how far raters agree, and how steady each is.

    The reference is asked about each feature by itself, so that what should not have been one group counts as an error
    of the judging. What it says goes into no file, since the judging is closed.
    """
    kappas = {" and ".join(pair): _finite(a.kappa.value) for pair, a in all_agreements(frozen.judgements).items()}
    judge = arbiter.reference()
    if judge is None:
        return {"judge": None, "judges": {}, "kappa": kappas}
    asked = tqdm(singles(arbiter.candidates), desc=judge.name, unit="feature")
    said = [j for item in asked for j in verdicts_on(item, judge(bare(item.group)), judge.name)]
    known = {j.key for j in said}
    judged = [*(j for j in frozen.judgements if j.rater != judge.name), *said]
    qualities: dict[str, Any] = {}
    for rater in sorted({j.rater for j in judged if j.role == "candidate" and j.key in known} - {judge.name}):
        q, steady = quality(judged, rater, judge.name, policy), reliability(frozen.judgements, rater)
        qualities[rater] = {
            "precision": _finite(q.precision.value),
            "recall": _finite(q.recall.value),
            "weighted_precision": _finite(q.weighted_precision.value),
            "weighted_recall": _finite(q.weighted_recall.value),
            "reference": judge.name,
            **asdict(steady),
        }
    return {"judge": next(iter(qualities.values()), None), "judges": qualities, "kappa": kappas}


def left_out_json(contest: Contest, frozen: Frozen, limit: int) -> list[dict[str, Any]]:
    """What remains with one site, or one of the strongest judgements, not ablated."""
    rows = [
        ("only the site that is read", readout_site_only(contest)),
        ("only sites before it", upstream_only(contest)),
    ]
    parts = [*leave_one_site_out(contest), *leave_one_judgement_out(contest, frozen, limit)]
    rows += [(f"all but {left.part.name}", left.cells) for left in parts]
    return [
        {
            "name": name,
            "worst_group": cells.worst_group,
            "intended": cells.intended_accuracy,
            "spurious": cells.spurious_accuracy,
        }
        for name, cells in rows
    ]


def side_effects_json(contest: Contest, sample: Sample) -> dict[str, tuple[float, float]]:
    """What the trimming does to the language model on games or texts that are none of the task's: before, after."""
    edits, shown, rows = contest.edits(contest.trimmed), sample.shown, slice(_SIDE_ROWS)
    text = shown.tokens[rows], _whole(shown.mask[rows])
    found = side_effects(contest.model, edits, *text, start=contest.task.reading.start, progress=contest.progress)
    numbers = {"cross-entropy, nats per token": (found.before.value, found.after.value)}
    if isinstance(sample.board, Positions):
        moves = sample.board.moves[rows]
        play = play_effects(contest.model, edits, lambda model: legality(model, moves))
    elif sample.transcripts:
        from boardgames.chess.legality import legality as chess_legality  # python-chess is an extra

        games = sample.transcripts[rows]
        play = play_effects(contest.model, edits, lambda model: chess_legality(model, games, _CHESS_MOVES))
    else:
        return numbers
    return {**numbers, "legal-move rate": (play.before.legal_move_rate, play.after.legal_move_rate)}


def _whole(mask: Any) -> Any:
    """All positions of each row up to the last one shown: of chess, only the spaces between moves are shown."""
    return mask.flip(1).cummax(1).values.flip(1)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))
