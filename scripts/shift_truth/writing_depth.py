"""The document's section on the depth of cues: does SHIFT beat token deletion where a cue is not in single words?"""

from pathlib import Path
from typing import Any

import numpy as np

from kibitz.scored import markdown
from shift_truth.figures import draw_depth
from shift_truth.numbers import cluster_draws, mean, rank_correlation, square_of
from shift_truth.words import measurements, said
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
    lines, values = [], {}
    for kind, rivals in RIVALS.items():
        for rival, title in rivals.items():
            found = _lead(points, f"shift{kind}", rival)
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
        f"How far SHIFT's worst group lies above a rival's, over all {len(points)} tasks that intend an owner:",
        "",
        *lines,
        "",
        f"![Worst groups against the depth of the cue]({link}/shift_depth.png)",
    ]
    plain = {rival: {name: vars(value) for name, value in found.items()} for rival, found in values.items()}
    return lines, {"tasks": len(points), "lead": plain}


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


def _lead(points: list[dict[str, Any]], shift: str, rival: str) -> dict[str, Any]:
    """How far one is ahead of the other on either half of the cues, and how that goes with depth."""
    depth = np.array([-p["readability"] for p in points])
    ahead = np.array([p["rows"][shift] - p["rows"][rival] for p in points])
    order, half = np.argsort(depth, kind="stable"), len(points) // 2
    draws = cluster_draws([square_of(p["task"]) for p in points])
    parts = {}
    for name, some in (("shallow", order[:half]), ("deep", order[-half:])):
        parts[name] = mean(ahead[some], cluster_draws([square_of(points[i]["task"]) for i in some]))
    return {**parts, "rho": rank_correlation(depth.tolist(), np.tile(ahead[:, None], len(draws)))}


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
