"""The document's section on the depth of cues: does SHIFT beat token deletion where a cue is not in single words?"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from circuits.intervals import Interval
from kibitz.scored import markdown
from shift_truth.figures import draw_depth
from shift_truth.numbers import cluster_draws, clustered_correlation, mean, square_of
from shift_truth.words import kept, measurements, said
from shift_truth.writing_methods import finished

RIVALS = {
    "": {"token_sites_full": "the first block alone", "tokens_erased": "erasing what words tell"},
    "_retrained": {
        "token_sites_full_retrained": "the first block alone, retrained",
        "tokens_erased_retrained": "erasing what words tell, retrained",
    },
}
"""what SHIFT is compared with, the head kept and the head fitted again"""
SHORT = {"token_sites_full": "first block", "tokens_erased": "words erased"}


def depth_section(run: Path, images: Path, link: str) -> tuple[list[str], Any] | None:
    """Deep cues against shallow ones."""
    points = _points(run)
    if len(points) < 3:
        return None
    draw_depth(points, images / "shift_depth.png")
    clusters = len({square_of(p["task"]) for p in points})
    lines: list[str] = []
    values: dict[str, dict[str, Interval]] = {}
    for kind, rivals in RIVALS.items():
        for rival, title in rivals.items():
            found = lead_of(points, f"shift{kind}", rival)
            values[rival] = found
            lines.append(
                f"* SHIFT{', retrained,' if kind else ''} against {title}: {said(found['shallow'])} on the shallower "
                f"half of the cues and {said(found['deep'])} on the deeper half; rank correlation of its lead with "
                f"depth {said(found['rho'])}."
            )
    lines = [
        "## Deep cues and shallow ones",
        "",
        "How deep a cue lies is measured: the accuracy of the best of three linear readouts of pooled words (squares "
        "played, by whom, how long ago). Worst groups on the depth dial, owner of d4 against:",
        "",
        _dial(points),
        "",
        f"How far SHIFT's worst group lies above a rival's, over all {len(points)} tasks that intend an owner "
        f"({clusters} squares intended, drawn whole by the bootstrap):",
        "",
        *lines,
        "",
        f"![Worst groups against the depth of the cue]({link}/shift_depth.png)",
    ]
    plain = {rival: {name: kept(value) for name, value in found.items()} for rival, found in values.items()}
    return lines, {"tasks": len(points), "clusters": clusters, "lead": plain}


def _points(run: Path) -> list[dict[str, Any]]:
    """One for each task that intends an owner and on which every method was run."""
    found = {r["file"].removesuffix(".case"): r for r in measurements(run / "battery" / "shipped", ".case")}
    needed = [rival for rivals in RIVALS.values() for rival in rivals]
    return [
        {
            "cue": r["task"]["spurious"].removeprefix("mine "),
            "readability": found[r["file"].removesuffix(".causal")]["readability"],
            "rows": {name: row["worst_group"] for name, row in r["rows"].items()},
            "task": r["task"],
        }
        for r in finished(run, "causal")
        if r["task"]["intended"].startswith("mine") and all(name in r["rows"] for name in needed)
    ]


def lead_of(points: Sequence[Mapping[str, Any]], shift: str, rival: str) -> dict[str, Interval]:
    """How far one is ahead of the other on either half of the cues, and how that goes with depth; clusters are drawn.

    Each point has a task, a readability, and worst groups by method (rows).
    """
    depth = [-p["readability"] for p in points]
    ahead = np.array([p["rows"][shift] - p["rows"][rival] for p in points])
    clusters = [square_of(p["task"]) for p in points]
    order, half = np.argsort(depth, kind="stable"), len(points) // 2
    parts = {
        name: mean(ahead[some].tolist(), cluster_draws([clusters[i] for i in some]))
        for name, some in (("shallow", order[:half]), ("deep", order[-half:]))
    }
    return {**parts, "rho": clustered_correlation(depth, ahead.tolist(), clusters)}


def _dial(points: list[dict[str, Any]]) -> str:
    """The depth dial, shallow cues first; each method with the head kept and with it fitted again."""
    dial = sorted((p for p in points if p["task"]["intended"] == "mine d4"), key=lambda p: -p["readability"])
    names = ("shift", *SHORT)
    rows = []
    for p in dial:
        pairs = (f"{p['rows'][n]:.2f}, {p['rows'][f'{n}_retrained']:.2f}" for n in names)
        rows.append(
            [p["cue"], f"{p['readability']:.2f}", f"{p['rows']['original']:.2f}", *pairs, f"{p['rows']['oracle']:.2f}"]
        )
    titles = (f"{title}, retrained" for title in ("SHIFT", *SHORT.values()))
    return markdown(["cue", "readable", "original", *titles, "oracle"], rows)
