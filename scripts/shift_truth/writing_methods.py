"""The document's sections on methods and judges."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kibitz.scored import markdown
from shift_truth.figures import draw_methods
from shift_truth.numbers import Draws, cluster_draws, gap_closed, gap_difference, mean, square_of, worst
from shift_truth.words import kept, mean_of, measurements, percent, said

Results = Sequence[Mapping[str, Any]]


def finished(run: Path, judge: str) -> list[dict[str, Any]]:
    """A judge's measurements of the tasks of which all judges are measured."""
    folder = run / "battery" / "shipped"
    done = {r["file"].removesuffix(".case") for r in measurements(folder, ".case")}
    return [r for r in measurements(folder, f".{judge}") if r["file"].removesuffix(f".{judge}") in done]


def battery_section(run: Path, pool: Any, images: Path, link: str) -> tuple[list[str], Any] | None:
    """All methods, the judges, and the controls."""
    results = finished(run, "causal")
    if not results:
        return None
    draws = cluster_draws([square_of(r["task"]) for r in results])
    original, oracle = worst(results, "original"), worst(results, "oracle")
    table, bars, values = [], [], {}
    for name in dict.fromkeys(name for r in results for name in r["rows"]):
        having = [r for r in results if name in r["rows"]]
        some = cluster_draws([square_of(r["task"]) for r in having])
        rows = [r["rows"][name] for r in having]
        closed = gap_closed(worst(having, name), worst(having, "original"), worst(having, "oracle"), some)
        group = mean([row["worst_group"] for row in rows], some)
        means = [np.mean([row[key] for row in rows]) for key in ("intended", "spurious")]
        cells = np.mean([row["cells"] for row in rows], axis=0).flatten()
        title, labels = rows[0]["title"], rows[0]["labels"]
        bars.append((title, labels, closed))
        table.append(
            [
                title,
                labels,
                str(len(having)),
                said(group),
                said(closed),
                *(f"{m:.2f}" for m in means),
                " ".join(f"{c:.2f}" for c in cells),
            ]
        )
        values[name] = {
            "title": title,
            "worst_group": kept(group),
            "gap_closed": kept(closed),
            "tasks": len(having),
            **_leads(having, name, some),
        }
    draw_methods(bars, images / "shift_methods.png")
    judges, judge_values = _judges(run, results, draws)
    closed = gap_closed(worst(results, "shift"), original, oracle, draws)
    trimmed = [r["trimmed"] for r in results]
    cases = finished(run, "case")
    outside = np.mean([c["outside"] for c in cases]) if cases else float("nan")
    verdicts = {
        v: np.mean([r["effect_of_verdicts"].get(v, 0.0) for r in results]) for v in ("keep", "trim", "mixed", "unsure")
    }
    lines = [
        "## All methods",
        "",
        f"{len(results)} of the {sum('probe_intended' in task for task in pool)} tasks that could be drawn (a "
        "method's own number is in the table); the shipped p-annealed dictionaries at all sites up to "
        f"{results[0]['task']['site']}; the "
        f"causal oracle judges {results[0]['candidates']} candidates of each task and trims {np.median(trimmed):g} "
        f"in the median ({min(trimmed)} to {max(trimmed)}). Of the candidates' absolute effect it keeps "
        f"{verdicts['keep']:.0%}, trims {verdicts['trim']:.0%}, finds {verdicts['mixed']:.0%} mixed and is unsure "
        f"about {verdicts['unsure']:.0%}; {outside:.0%} sits in features that match nothing that A or B depend on, "
        f"and {np.mean([r['error_share'] for r in results]):.0%} of all effect is in error nodes, which nobody can "
        "trim.",
        "",
        f"**Un-retrained SHIFT closes {percent(closed)} of the gap** from the original to the oracle.",
        "",
        markdown(
            ["method", "labels", "tasks", "worst group", "share of the gap", "A", "B", "cells 00 01 10 11"], table
        ),
        "",
        f"![Share of the gap closed by each method]({link}/shift_methods.png)",
        "",
        "### Judges",
        "",
        *judges,
    ]
    return lines, {"methods": values, "judges": judge_values, "outside": outside, "verdicts": verdicts}


def _leads(having: Results, name: str, draws: Draws) -> dict[str, Any]:
    """How much more of the gap a method closes than SHIFT does, un-retrained and retrained."""
    ends = worst(having, "original"), worst(having, "oracle")
    return {
        f"more_than_{rival}": kept(gap_difference(worst(having, name), worst(having, rival), *ends, draws))
        for rival in ("shift", "shift_retrained")
    }


def _judges(run: Path, results: Results, draws: Draws) -> tuple[list[str], Any]:
    table, values = [], {}
    for judge in ("concept", "causal", "one-square", "strongest-half", "turned"):
        found = finished(run, judge)
        if not found:
            continue
        some = cluster_draws([square_of(r["task"]) for r in found])
        base, best = worst(found, "original"), worst(found, "oracle")
        closed = [gap_closed(worst(found, m), base, best, some) for m in ("shift", "shift_retrained")]
        quality = [mean_of([r["quality"].get(n) for r in found]) for n in ("precision", "recall")]
        spurious = [np.mean([r["rows"][m]["spurious"] for r in found]) for m in ("shift", "shift_retrained")]
        trimmed = np.median([r["trimmed"] for r in found])
        at_b = [f"{s:.2f}" for s in spurious]
        table.append([found[0]["judge"], str(len(found)), f"{trimmed:g}", *quality, *map(said, closed), *at_b])
        values[judge] = {
            "judge": found[0]["judge"],
            "gap_closed": kept(closed[0]),
            "retrained": kept(closed[1]),
            "spurious_retrained": float(spurious[1]),
            "precision": quality[0],
            "recall": quality[1],
        }
    lines = [
        markdown(
            [
                "judge",
                "tasks",
                "trimmed",
                "precision",
                "recall",
                "SHIFT",
                "SHIFT, retrained",
                "accuracy at B after SHIFT",
                "accuracy at B, retrained",
            ],
            table,
        ),
        "",
        "Precision and recall are against the concept oracle, means over the tasks where they are defined. With "
        "the roles exchanged the same candidates are judged for the opposite task: what A depends on is trimmed. "
        "A classifier that follows B is right about B more often than half of the time.",
    ]
    return lines, values
