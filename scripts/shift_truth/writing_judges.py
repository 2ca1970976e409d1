"""The document's section on how good a judge has to be."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kibitz.scored import markdown
from shift_truth.figures import draw_judges
from shift_truth.numbers import gap_draws, worst
from shift_truth.words import measurements

NOISY = {"shift": "to zero", "shift_mean": "to the mean", "shift_retrained": "to zero, head retrained"}
Grid = dict[str, dict[tuple[float, float], tuple[float, float]]]
"""by what is done with trimmed features, by (recall, precision asked for): (share of the gap, precision had)"""
PERFECT = "1-precision-1"


def judges_section(run: Path, images: Path, link: str) -> tuple[list[str], Any] | None:
    """How good must a judge be?"""
    tasks = finished_tasks(measurements(run / "noise" / "shipped", ""))
    if not tasks or len(tasks[0]) < 2:
        return None
    grid = grid_of(tasks)
    draw_judges(grid, images / "shift_judges.png")
    recalls, precisions = (sorted({k[i] for k in grid["to zero"]}, reverse=True) for i in (0, 1))
    tables = []
    for title, values in grid.items():
        rows = [
            [
                f"recall {r:g}",
                *("{:.2f} ({:.2f})".format(*values[r, p]) if (r, p) in values else "-" for p in precisions),
            ]
            for r in recalls
        ]
        header = ["", *("no wrong trims" if p == 1 else f"precision {p:g} asked" for p in precisions)]
        tables += [f"{title}:", "", markdown(header, rows), ""]
    lines = [
        "## How good must a judge be?",
        "",
        f"The causal oracle made worse by lot, on {len(tasks)} {'task' if len(tasks) == 1 else 'tasks'}: some of its "
        "trims missed, and other candidates trimmed, as many as the precision asks for or as there are. Share of the "
        "gap closed, and in parentheses the mean precision that the judges had:",
        "",
        *tables,
        f"![Share of the gap by recall and precision]({link}/shift_judges.png)",
    ]
    numbers = {
        title: [
            {"recall": r, "asked": p, "precision": had, "gap_closed": share} for (r, p), (share, had) in each.items()
        ]
        for title, each in grid.items()
    }
    return lines, {"tasks": len(tasks), "judges": numbers}


def finished_tasks(results: Sequence[Mapping[str, Any]]) -> list[dict[str, Mapping[str, Any]]]:
    """For each task with as many judges as any, its measurements by "RECALL-precision-PRECISION"."""
    tasks: dict[str, dict[str, Mapping[str, Any]]] = {}
    for result in results:
        task, _, words = result["file"].partition(".recall-")
        tasks.setdefault(task, {})[words] = result
    full = max(map(len, tasks.values()), default=0)
    return [found for found in tasks.values() if len(found) == full and PERFECT in found]


def grid_of(tasks: Sequence[Mapping[str, Mapping[str, Any]]]) -> Grid:
    """Share of the gap and mean precision of each judge; where nothing was trimmed by any task's, none."""
    grid: Grid = {title: {} for title in NOISY.values()}
    for words in tasks[0]:
        recall, asked = (float(x) for x in words.split("-precision-"))
        had = [p for p in (precision_had(each, words, recall) for each in tasks) if p is not None]
        if not had:
            continue
        found, draws = [each[words] for each in tasks], np.ones((1, len(tasks)))
        for method, title in NOISY.items():
            (closed,) = gap_draws(worst(found, method), worst(found, "original"), worst(found, "oracle"), draws)
            if np.isfinite(closed):
                grid[title][recall, asked] = float(closed), float(np.mean(had))
    return grid


def precision_had(task: Mapping[str, Mapping[str, Any]], words: str, recall: float) -> float | None:
    """Of what a judge trims, the share that the causal oracle trims, too; None if it trims nothing."""
    trimmed = task[words]["trimmed"]
    return round(recall * task[PERFECT]["trimmed"]) / trimmed if trimmed else None
