"""Line and bar charts as SVG, drawn small enough (420 units) that their letters stay readable on a phone."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from circuits.markup import NONE, number, text

WIDTH, HEIGHT = 420, 216
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 12, 42
_MOST_POINTS = 400  # more than the picture has pixels for


@dataclass(frozen=True)
class Rule:
    """A line of reference across a chart."""

    at: float
    name: str


def ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Round numbers (1, 2, 2.5 or 5 times a power of ten) from at most `low` to at least `high`."""
    if not high > low:
        high = low + (abs(low) or 1.0)
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def tick_label(value: float) -> str:
    """'12k', '0.25', '3e-05': the shortest plain form."""
    if abs(value) >= 1e6:
        return f"{value / 1e6:g}M"
    if abs(value) >= 1e4:
        return f"{value / 1e3:g}k"
    return f"{value:g}".replace("-", "\u2212") if abs(value) >= 1e-4 or value == 0 else f"{value:.0e}"


def _svg(kind: str, height: float, label: str, inner: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="chart {kind}" viewBox="0 0 {WIDTH} {height:g}" role="img" '
        f'aria-label="{text(label)}">{inner}</svg>'
    )


def line_chart(
    points: Sequence[tuple[float, float]],
    *,
    label: str,
    x_name: str,
    y_range: tuple[float, float] | None = None,
    rule: Rule | None = None,
) -> str:
    """One line over x with axes; points that are not finite leave no trace. The last value is written at its end."""
    points = [p for p in points if math.isfinite(p[0]) and math.isfinite(p[1])]
    if not points:
        return _svg("lines", 60, label, f'<text class="axis" x="{WIDTH / 2}" y="34">nothing recorded</text>')
    every = max(1, math.ceil(len(points) / _MOST_POINTS))
    kept = [*points[:-1:every], points[-1]]
    xs, ys = [p[0] for p in kept], [p[1] for p in kept]
    low, high = y_range or (min(ys), max(ys))
    y_ticks = ticks(low, high)
    # the axis of x ends with the data: an empty stretch on the right would look like missing training
    x_ticks = [t for t in ticks(min(xs), max(xs)) if min(xs) <= t <= max(xs)]
    span_x, span_y = max(xs) - min(xs) or 1.0, y_ticks[-1] - y_ticks[0]

    def at_x(x: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (x - min(xs)) / span_x

    def at_y(y: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (y - y_ticks[0]) / span_y

    parts = []
    for t in y_ticks:
        parts.append(f'<path class="rule" d="M{LEFT} {at_y(t):.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text class="axis y" x="{LEFT - 7}" y="{at_y(t):.1f}">{tick_label(t)}</text>')
    for t in x_ticks:
        parts.append(f'<text class="axis" x="{at_x(t):.1f}" y="{HEIGHT - BOTTOM + 15}">{tick_label(t)}</text>')
    parts.append(f'<text class="axis name" x="{(LEFT + WIDTH - RIGHT) / 2:g}" y="{HEIGHT - 9}">{text(x_name)}</text>')
    if rule is not None and y_ticks[0] <= rule.at <= y_ticks[-1]:
        parts.append(f'<path class="reference" d="M{LEFT} {at_y(rule.at):.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text class="note" x="{LEFT + 6}" y="{at_y(rule.at) + 12:.1f}">{text(rule.name)}</text>')
    path = "L".join(f"{at_x(x):.1f} {at_y(y):.1f}" for x, y in kept)
    parts.append(f'<path class="line" d="M{path}"/>')
    parts.append(f'<circle class="end" cx="{at_x(xs[-1]):.1f}" cy="{at_y(ys[-1]):.1f}" r="3.2"/>')
    return _svg("lines", HEIGHT, label, "".join(parts))


def bar_chart(
    bars: Sequence[tuple[str, float | None]], *, label: str, rules: Sequence[Rule] = (), first_is_ours: bool = True
) -> str:
    """Horizontal bars on 0..1, each under its name with its value at the end; vertical lines of reference."""
    left, right, top, pitch = 4, 46, 24 if rules else 6, 46
    height = top + pitch * max(len(bars), 1) + 26
    floor_y = height - 24

    def at(value: float) -> float:
        return left + (WIDTH - left - right) * min(max(value, 0.0), 1.0)

    parts = [f'<path class="rule" d="M{at(t):.1f} {top}V{floor_y}"/>' for t in (0, 0.25, 0.5, 0.75, 1)]
    for t in (0, 0.25, 0.5, 0.75, 1):
        place = "" if t else ' style="text-anchor:start"'
        parts.append(f'<text class="axis" x="{at(t):.1f}" y="{floor_y + 13}"{place}>{tick_label(t)}</text>')
    written = []  # over the lines of reference
    for i, (name, value) in enumerate(bars):
        y, end, shown = top + pitch * i, left, NONE
        if value is not None and math.isfinite(value):
            end, shown = at(value), number(value)
            kind = "bar ours" if first_is_ours and i == 0 else "bar"
            width = max(end - left, 0.5)
            parts.append(f'<rect class="{kind}" x="{left}" y="{y + 22}" width="{width:.1f}" height="14" rx="2"/>')
        written.append(f'<text class="barname" x="{left + 2}" y="{y + 12}">{text(name)}</text>')
        written.append(f'<text class="barvalue" x="{end + 6:.1f}" y="{y + 29}">{shown}</text>')
    for rule in rules:
        side = "end" if rule.at > 0.6 else "start"
        parts.append(f'<path class="reference" d="M{at(rule.at):.1f} {top - 4}V{floor_y}"/>')
        parts.append(
            f'<text class="note" x="{at(rule.at):.1f}" y="{top - 11}" style="text-anchor:{side}">'
            f"{text(rule.name)} {number(rule.at)}</text>"
        )
    parts += written
    return _svg("bars", height, label, "".join(parts))
