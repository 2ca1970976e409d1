"""A circuit as one SVG: sites from the bottom up to the metric, places from left to right; readable at 100 nodes.

Boxes are features and dashed hexagons error nodes, tinted by their effect; edges are as wide as they are strong. Blue
and orange stay apart for every common kind of colour blindness. The ground is painted, and has a dark form.
"""

import math
import unicodedata
from dataclasses import dataclass

from circuits.circuit import Circuit, Node
from circuits.labels import Label, Labels, ids
from circuits.layout import BOX_WIDTH, GUTTER, MARGIN, TOP, Band, Box, Layout, layout
from circuits.markup import printable, significant, text
from circuits.places import EVERYWHERE

METRIC = "metric"
"""id of the box at the top"""

SEPARATOR = " \u00b7 "
_FONT = 12.5
_SMALL = 11.0
_TWO_LINES, _THREE_LINES = 38.0, 53.0
_INSIDE = BOX_WIDTH - 14  # of a box, for words

STYLE = """
.circuit{font-family:ui-sans-serif,system-ui,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
.circuit text{fill:#1c2321;text-anchor:middle;dominant-baseline:auto}
.circuit .paper,.circuit .base{fill:#ffffff}
.circuit .base{stroke:#59635e;stroke-width:1}
.circuit .error .base{stroke-dasharray:4 3}
.circuit .metric .base{stroke-width:1.8}
.circuit .band{fill:#f1efe8}
.circuit .column{stroke:#c9c5b8;stroke-width:1;stroke-dasharray:2 4;fill:none}
.circuit .label{font-size:12.5px;font-weight:600}
.circuit .small{font-size:11px}
.circuit .site,.circuit .place{font-size:13px;font-weight:600;fill:#59635e}
.circuit .site,.circuit .title,.circuit .key{text-anchor:start}
.circuit .title{font-size:19px;font-weight:600}
.circuit .key{font-size:12px;fill:#59635e}
.circuit .edge{fill:none;stroke-linecap:round}
.circuit .edge.plus{stroke:#2166ac}.circuit .edge.minus{stroke:#c25a12}
.circuit .tint.plus{fill:#2166ac}.circuit .tint.minus{fill:#c25a12}
@media (prefers-color-scheme:dark){
.circuit text{fill:#e7e9e4}
.circuit .paper,.circuit .base{fill:#1a1f1c}
.circuit .base{stroke:#a2aba5}
.circuit .band{fill:#252b28}
.circuit .column{stroke:#4a524d}
.circuit .site,.circuit .place,.circuit .key{fill:#a2aba5}
.circuit .edge.plus{stroke:#6aaee8}.circuit .edge.minus{stroke:#f0924a}
.circuit .tint.plus{fill:#6aaee8}.circuit .tint.minus{fill:#f0924a}
}
"""


def draw_svg(
    circuit: Circuit, labels: Labels | None = None, *, title: str = "", metric: str = "", style: str = STYLE
) -> str:
    """The picture of every node and every edge; choose what to show with Circuit.strongest.

    `metric` is what the box at the top says, by default the provenance's metric. Lines into it are the effects of the
    last site's nodes. Elements carry data-id, data-source and data-target (labels.ids) for a page's script.
    """
    three = any(label.f1 is not None for label in (labels or {}).values())
    placed, names = layout(circuit, _THREE_LINES if three else _TWO_LINES), ids(circuit)
    scale = _Scale.of(circuit)
    said = metric or metric_name(circuit)
    parts = [f'<rect class="paper" width="{placed.width:g}" height="{placed.height:g}"/>']
    parts += [_site(band, placed) for band in placed.sites]
    parts += _places(circuit, placed)
    links = [
        (names[up], names[down], effect, placed.boxes[up], placed.boxes[down])
        for (up, down), effect in circuit.edges.items()
    ]
    links += [
        (names[node], METRIC, circuit.nodes[node], placed.boxes[node], placed.metric) for node in circuit.outputs()
    ]
    for source, target, effect, start, end in sorted(links, key=lambda link: abs(link[2])):  # strong ones on top
        parts.append(_edge(source, target, effect, start, end, scale))
    parts.append(_metric(placed.metric, said))
    parts += [_node(node, circuit.nodes[node], box, names[node], (labels or {}).get(node), scale)
              for node, box in placed.boxes.items()]  # fmt: skip
    parts += _header(circuit, placed, title or f"Circuit of {said}", scale)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="circuit" viewBox="0 0 {placed.width:g} {placed.height:g}" '
        f'width="{placed.width:g}" height="{placed.height:g}" role="group" aria-label="{text(title or said)}">'
        f"<style>{style}</style>{''.join(parts)}</svg>\n"
    )


def metric_name(circuit: Circuit) -> str:
    """What the provenance calls the metric."""
    said = circuit.provenance.get("metric")
    return str(said["name"]) if isinstance(said, dict) and "name" in said else "metric"


def fitted(words: str, width: float, size: float, *, bold: bool = False) -> str:
    """The words in one line, cut with an ellipsis where they are wider than `width` at `size` pixels per em."""
    line = " ".join(printable(words).split())
    if _width(line, size, bold) <= width:
        return line
    while line and _width(line + "\u2026", size, bold) > width:
        line = line[:-1]
    return line.rstrip() + "\u2026"


def _width(line: str, size: float, bold: bool) -> float:
    """An upper estimate: sans-serif letters take about half an em, capitals and round ones more, ideographs one."""
    ems = 0.0
    for letter in line:
        if unicodedata.east_asian_width(letter) in "WF":
            ems += 1.05
        elif letter in "mwMW@%\u2026\u2014":
            ems += 0.95
        elif letter in "iljtfrI.,:;'|! ()[]/-":
            ems += 0.38
        else:
            ems += 0.73 if letter.isupper() or ord(letter) > 0x2FF else 0.6
    return ems * size * (1.05 if bold else 1)


@dataclass(frozen=True)
class _Scale:
    """The largest effect of a node and of an edge, which everything is drawn relative to."""

    node: float
    edge: float

    @classmethod
    def of(cls, circuit: Circuit) -> "_Scale":
        nodes = [abs(e) for e in circuit.nodes.values()]
        edges = [abs(e) for e in circuit.edges.values()] + [abs(circuit.nodes[n]) for n in circuit.outputs()]
        return cls(max(nodes, default=0.0) or 1.0, max(edges, default=0.0) or 1.0)


def _sign(effect: float) -> str:
    return "plus" if effect >= 0 else "minus"


def _site(band: Band, placed: Layout) -> str:
    middle = band.middle + 4.5
    return (
        f'<rect class="band" x="{MARGIN / 2:g}" y="{band.start - 10:g}" width="{placed.width - MARGIN:g}" '
        f'height="{band.end - band.start + 20:g}" rx="8"/><text class="site" x="{MARGIN:g}" y="{middle:g}">'
        f"<title>{text(band.name)}</title>{text(fitted(band.name, GUTTER - 8, 13, bold=True))}</text>"
    )


def _places(circuit: Circuit, placed: Layout) -> list[str]:
    """Names above the columns and lines between them; nothing where all positions are one place."""
    if circuit.places == (EVERYWHERE,) or not placed.sites:
        return []
    top, bottom = TOP - 12, placed.sites[-1].end + 30
    parts = []
    for i, band in enumerate(placed.places):
        name = text(fitted(band.name, band.end - band.start, 13, bold=True))
        for y in (top, bottom):
            parts.append(
                f'<text class="place" x="{band.middle:g}" y="{y:g}"><title>{text(band.name)}</title>{name}</text>'
            )
        if i:
            x = (placed.places[i - 1].end + band.start) / 2
            parts.append(f'<path class="column" d="M{x:g} {top - 12:g}V{bottom + 4:g}"/>')
    return parts


def _edge(source: str, target: str, effect: float, start: Box, end: Box, scale: _Scale) -> str:
    share = min(1.0, abs(effect) / scale.edge)
    said = f"{source} \u2192 {target}: {significant(effect)}"
    y0, y1 = start.top, end.bottom
    bend = max(abs(y0 - y1) * 0.45, 16)
    return (
        f'<path class="edge {_sign(effect)}" d="M{start.x:.1f} {y0:.1f}C{start.x:.1f} {y0 - bend:.1f} '
        f'{end.x:.1f} {y1 + bend:.1f} {end.x:.1f} {y1:.1f}" stroke-width="{0.7 + 6.3 * share:.2f}" '
        f'stroke-opacity="{0.25 + 0.6 * math.sqrt(share):.2f}" data-source="{text(source)}" '
        f'data-target="{text(target)}"><title>{text(said)}</title></path>'
    )


def _node(node: Node, effect: float, box: Box, name: str, label: Label | None, scale: _Scale) -> str:
    error = node.feature is None
    shape = _hexagon if error else _rounded
    tint = 0.06 + 0.5 * min(1.0, abs(effect) / scale.node)
    number = "" if error else f"#{node.feature}"
    called = label.text if label is not None and label.text.strip() else ""
    score = f"F1 {label.f1:.2f}" if label is not None and label.f1 is not None else ""
    lines = [called or number or "error", significant(effect)]
    if score:
        lines.insert(1, SEPARATOR.join(part for part in (number if called else "", score) if part))
    elif called and number:
        lines[1] = SEPARATOR.join((number, lines[1]))
    said = name if label is None else f"{name} {label}"
    return (
        f'<g class="node{" error" if error else ""}" data-id="{text(name)}">'
        f"<title>{text(said)}: effect {significant(effect)}</title>"
        + shape(box, 'class="base"')
        + shape(box, f'class="tint {_sign(effect)}" fill-opacity="{tint:.2f}"')
        + _words(box, lines)
        + "</g>"
    )


def _metric(box: Box, said: str) -> str:
    return (
        f'<g class="node metric" data-id="{METRIC}"><title>{text(said)}</title>'
        + _rounded(box, 'class="base"', box.height / 2)
        + _words(box, [said, "metric"])
        + "</g>"
    )


def _rounded(box: Box, attributes: str, radius: float = 7) -> str:
    return (
        f'<rect {attributes} x="{box.left:.1f}" y="{box.top:.1f}" width="{BOX_WIDTH}" height="{box.height:g}" '
        f'rx="{radius:g}"/>'
    )


def _hexagon(box: Box, attributes: str) -> str:
    corners = ((-1, 0), (-0.86, -1), (0.86, -1), (1, 0), (0.86, 1), (-0.86, 1))
    points = " ".join(f"{box.x + BOX_WIDTH / 2 * x:.1f},{box.y + box.height / 2 * y:.1f}" for x, y in corners)
    return f'<polygon {attributes} points="{points}"/>'


def _words(box: Box, lines: list[str]) -> str:
    parts, y = [], box.y + 4 - 7.5 * (len(lines) - 1)
    for i, line in enumerate(lines):
        size, kind = (_SMALL, "small") if i else (_FONT, "label")
        words = fitted(line, _INSIDE, size, bold=not i)
        parts.append(f'<text class="{kind}" x="{box.x:.1f}" y="{y + 15 * i:.1f}">{text(words)}</text>')
    return "".join(parts)


def _header(circuit: Circuit, placed: Layout, title: str, scale: _Scale) -> list[str]:
    room = placed.width - 2 * MARGIN
    errors = sum(node.feature is None for node in circuit.nodes)
    counts = (
        f"{len(circuit.nodes)} nodes ({errors} errors), {len(circuit.edges)} edges. Effects are patch \u2212 clean. "
        f"Widest line: {significant(scale.edge).lstrip('+')}"
    )
    x, y = float(MARGIN), 84.0
    parts = [
        f'<text class="title" x="{x:g}" y="32"><title>{text(title)}</title>{text(fitted(title, room, 19, bold=True))}'
        f'</text><text class="key" x="{x:g}" y="54">{text(fitted(counts, room, 12))}</text>'
    ]
    for mark, said, width in (
        ('<path class="edge plus" stroke-width="5" d="M0 0h22"/>', "raises the metric", 142),
        ('<path class="edge minus" stroke-width="5" d="M0 0h22"/>', "lowers it", 96),
        ('<rect class="base" x="0" y="-7" width="22" height="14" rx="4"/>', "feature", 86),
        (
            '<g class="error"><polygon class="base" points="0,0 4,-7 18,-7 22,0 18,7 4,7"/></g>',
            "error: what the dictionary misses",
            220,
        ),
    ):
        parts.append(
            f'<g transform="translate({x:g} {y - 4:g})">{mark}<text class="key" x="29" y="4">{said}</text></g>'
        )
        x += width
    return parts
