"""The figures of docs/results/shift.md."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from circuits.intervals import Interval
from saes.files import atomic

TYPES = {
    "p_anneal": ("p-annealed", "#1f6b4c", "o"),
    "topk": ("TopK", "#2166ac", "s"),
    "standard": ("L1", "#c25a12", "^"),
}


def draw_methods(rows: Sequence[tuple[str, str, Interval]], path: Path) -> None:
    """Share of the gap that each method closes; `rows`: title, labels used, interval."""
    colours = {"ambiguous": "#1f6b4c", "labelled": "#2166ac", "balanced": "#8a8f8c"}
    figure, axes = plt.subplots(figsize=(8, 0.32 * len(rows) + 1.2), layout="constrained")
    for place, (_, labels, value) in enumerate(rows):
        axes.barh(place, value.value, color=colours[labels], height=0.68)
        if value.low is not None and value.high is not None:
            axes.plot([value.low, value.high], [place, place], color="#1c2321", lw=1.2)
    axes.set_yticks(range(len(rows)), [title for title, *_ in rows], fontsize=8)
    axes.invert_yaxis()
    axes.axvline(0, color="#1c2321", lw=0.8)
    axes.axvline(1, color="#1c2321", lw=0.8, ls=":")
    axes.set_xlabel("share of the gap closed: 0 original, 1 oracle", fontsize=8)
    handles = [plt.Rectangle((0, 0), 1, 1, color=c) for c in colours.values()]
    names = ("ambiguous prompts only", "labelled prompts, not the task's", "balanced training prompts")
    axes.legend(handles, names, fontsize=7, loc="upper left", frameon=False)
    _finish(axes, figure, path)


def draw_depth(points: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Worst groups against how far the cue can be read off the words; each point has cue, readability and rows."""
    figure, every = plt.subplots(1, 2, figsize=(9.6, 3.8), sharey=True, layout="constrained")
    looks = {
        "original": ("original", "#8a8f8c", "x"),
        "shift": ("SHIFT", "#1f6b4c", "o"),
        "token_sites_full": ("embedding and first block, full budget", "#c25a12", "s"),
        "tokens_erased": ("what words tell, erased", "#2166ac", "^"),
    }
    for axes, kind in zip(every, ("", "_retrained"), strict=True):
        for name, (label, colour, marker) in looks.items():
            row = name if name == "original" else name + kind
            x, y = zip(*((p["readability"], p["rows"][row]) for p in points), strict=True)
            axes.scatter(x, y, color=colour, marker=marker, s=28, label=label)
        axes.set_title("head fitted again" if kind else "head kept", fontsize=9)
        axes.set_xlabel("accuracy of the best readout of the cue from words alone", fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    for p in points:
        every[0].annotate(p["cue"], (p["readability"], p["rows"]["original"]), fontsize=6, xytext=(2, -7),
                          textcoords="offset points", color="#59635e")  # fmt: skip
    every[0].set_ylabel("worst group")
    every[0].legend(fontsize=7, frameon=False)
    _finish(every[-1], figure, path)


def draw_dictionaries(sets: Sequence[Mapping[str, Any]], measures: Mapping[str, str], path: Path) -> None:
    """Share of the gap that un-retrained SHIFT closes with each set, against how good the set is."""
    figure, every = plt.subplots(
        1, len(measures), figsize=(3.1 * len(measures), 3.2), sharey=True, layout="constrained"
    )
    for axes, (measure, title) in zip(every, measures.items(), strict=True):
        for kind, (label, colour, marker) in TYPES.items():
            chosen = [s for s in sets if s["type"] == kind]
            axes.scatter([s[measure] for s in chosen], [s["gap"] for s in chosen], color=colour, marker=marker, s=24,
                         label=label)  # fmt: skip
        axes.set_xlabel(title, fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=7)
    every[0].set_ylabel("share of the gap closed", fontsize=8)
    every[0].legend(fontsize=7, frameon=False)
    _finish(every[-1], figure, path)


def draw_judges(grid: Mapping[str, Mapping[tuple[float, float], tuple[float, float]]], path: Path) -> None:
    """Share of the gap closed by judges, by recall, a line for each precision that was asked for.

    `grid`: by what is done, by (recall, precision asked): the share, and the precision that the judges had.
    """
    figure, every = plt.subplots(1, len(grid), figsize=(4 * len(grid), 3.2), sharey=True, layout="constrained")
    shades = ("#1f6b4c", "#2166ac", "#c25a12", "#8a8f8c")
    for axes, (title, values) in zip(every, grid.items(), strict=True):
        precisions = sorted({p for _, p in values}, reverse=True)
        for precision, colour in zip(precisions, shades, strict=False):
            line = sorted((r, *found) for (r, p), found in values.items() if p == precision)
            axes.plot([r for r, *_ in line], [share for _, share, _ in line], marker="o", ms=3.5, color=colour,
                      label=precision_label([had for *_, had in line]))  # fmt: skip
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("recall of the judge")
        axes.axhline(0, color="#1c2321", lw=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    every[0].set_ylabel("share of the gap closed")
    every[0].legend(fontsize=7, frameon=False)
    _finish(every[-1], figure, path)


def precision_label(had: Sequence[float]) -> str:
    """The precisions that the judges of one line had."""
    low, high = (f"{bound:.2f}" for bound in (min(had), max(had)))
    return f"precision {low}" if low == high else f"precision {low} to {high}"


def _finish(axes: Axes, figure: Any, path: Path) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as part:
        figure.savefig(part, dpi=130, format="png")
    plt.close(figure)
