"""Figures of circuits/curves.py: faithfulness over circuit size, with random circuits as bands and neurons beside."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from saes.sweep import save_figure

if TYPE_CHECKING:
    from circuits.curves import Curve, Curves
    from circuits.edge_curves import EdgeCurve

COLOURS = {"features": "tab:blue", "neurons": "tab:orange", "uniform": "0.6", "matched": "tab:green"}


def draw_curves(curves: "Curves", path: Path, title: str = "") -> None:
    """All curves over the number of kept nodes, on an axis that has room for 0."""
    axes, figure = _axes(title)
    _line(axes, curves.features)
    for name, style in (("errors_kept", "--"), ("errors_removed", ":")):
        sizes, values = curves.features.line(name)
        axes.plot(sizes, values, style, color=COLOURS["features"], linewidth=1, label=f"features, {_said(name)}")
    for band in curves.features.bands:
        lines, colour = band.at_sizes(), COLOURS[band.kind]
        axes.fill_between(band.sizes, lines.min(0), lines.max(0), color=colour, alpha=0.25, linewidth=0)
        label = f"random, {band.kind} ({len(lines)} draws)"
        style = "--" if band.kind == "matched" else "-"  # they often lie on each other
        axes.plot(band.sizes, lines.mean(0), style, color=colour, linewidth=1, label=label)
    if curves.neurons is not None:
        _line(axes, curves.neurons)
    axes.axhline(1, color="0.3", linewidth=0.6)
    axes.set_xlabel(f"kept nodes, of {curves.features.active} active in clean or patch")
    axes.set_ylabel("faithfulness")
    axes.legend(fontsize=7)
    save_figure(figure, path)


def draw_edge_curve(curve: "EdgeCurve", path: Path, title: str = "") -> None:
    """Faithfulness over the number of kept edges, under what its nodes reach with all edges."""
    axes, figure = _axes(title)
    sizes = [point.edges for point in curve.points]
    axes.plot(sizes, [p.faithfulness.value for p in curve.points], "o-", color=COLOURS["features"], label="edges")
    _band(axes, sizes, [p.faithfulness for p in curve.points], COLOURS["features"])
    if curve.points[0].random:
        draws = list(zip(*(point.random for point in curve.points), strict=True))
        low, high = [min(v) for v in zip(*draws, strict=True)], [max(v) for v in zip(*draws, strict=True)]
        axes.fill_between(sizes, low, high, color=COLOURS["uniform"], alpha=0.4, linewidth=0, label="random edges")
    axes.axhline(curve.nodes.value, color="0.3", linewidth=0.8, linestyle="--", label="its nodes, with all edges")
    axes.set_xlabel(f"kept edges, of {curve.possible} between its nodes")
    axes.set_ylabel("faithfulness")
    axes.legend(fontsize=7)
    save_figure(figure, path)


def _axes(title: str) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    axes = figure.add_subplot()
    axes.set_xscale("symlog", linthresh=1)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.grid(alpha=0.3)
    if title:
        axes.set_title(title, fontsize=9)
    return axes, figure


def _line(axes: Any, curve: "Curve") -> None:
    sizes, values = curve.line()
    colour = COLOURS[curve.nodes]
    axes.plot(sizes, values, "o-", color=colour, markersize=3, label=curve.nodes)
    _band(axes, sizes, [point.score.faithfulness for point in curve.points], colour)


def _band(axes: Any, sizes: list[int], intervals: list[Any], colour: str) -> None:
    bounded = [(s, i.low, i.high) for s, i in zip(sizes, intervals, strict=True) if i.low is not None]
    if bounded:
        axes.fill_between(*zip(*bounded, strict=True), color=colour, alpha=0.2, linewidth=0)


def _said(name: str) -> str:
    return name.replace("_", " ")
