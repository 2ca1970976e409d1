"""A circuit as an SVG graph: one row per site from input to output, boxes for features, triangles for error nodes.

Edge width grows with |weight| and its colour is the sign; a box is tinted by its effect. Hovering or tapping a node
isolates its edges (the script is in style.py); without a script the picture is whole.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from circuits.markup import number, signed, text
from kibitz.report.data import Circuit, Edge, Node

WIDTH = 1080
GUTTER = 84  # names of the sites
ERRORS = 62  # the column of error nodes, at the right
BOX_W, BOX_H = 106, 36
GAP, WIDEST_GAP = 8, 44
LINE_GAP, SITE_GAP = 10, 46
MARGIN = 16
_PER_LINE = (WIDTH - GUTTER - ERRORS - BOX_W) // (BOX_W + GAP)
_SWEEPS = 8
_LETTERS = 16  # of a label that fit into a box


@dataclass(frozen=True)
class Place:
    """Centre of a node, and how far it reaches above and below."""

    x: float
    y: float
    up: float
    down: float


@dataclass(frozen=True)
class Band:
    """The rows of one site."""

    site: str
    top: float
    bottom: float


def circuit_picture(circuit: Circuit) -> str:
    """The whole graph, every node and every edge drawn once."""
    places, bands = layout(circuit["sites"], circuit["nodes"], circuit["edges"])
    if not bands:
        return ""
    height = bands[-1].bottom + 44
    names = {node["id"]: _full_name(node) for node in circuit["nodes"]}
    strongest_edge = max((abs(e["weight"]) for e in circuit["edges"] if math.isfinite(e["weight"])), default=0) or 1
    strongest_node = max((abs(n["effect"]) for n in circuit["nodes"] if math.isfinite(n["effect"])), default=0) or 1
    parts = [_band(band) for band in bands]
    # strong edges last, so that they lie on top
    for edge in sorted(circuit["edges"], key=lambda e: (abs(e["weight"]), e["source"], e["target"])):
        parts.append(_edge(edge, places, names, strongest_edge))
    parts += [_node(node, places[node["id"]], strongest_node) for node in circuit["nodes"]]
    parts.append(
        f'<text class="outcome" x="{(GUTTER + WIDTH - ERRORS) / 2:g}" y="{height - 14:g}">\u2193 the behaviour</text>'
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="circuit" viewBox="0 0 {WIDTH} {height:g}" role="group"'
        f' aria-label="Circuit of {len(circuit["nodes"])} nodes and {len(circuit["edges"])}'
        f' edges">{"".join(parts)}</svg>'
    )


def layout(sites: Sequence[str], nodes: Sequence[Node], edges: Sequence[Edge]) -> tuple[dict[str, Place], list[Band]]:
    """Where every node goes, and the bands of the sites that have any. Neighbours are drawn towards each other."""
    features = {site: [n["id"] for n in nodes if n["site"] == site and n["feature"] is not None] for site in sites}
    errors = {site: [n["id"] for n in nodes if n["site"] == site and n["feature"] is None] for site in sites}
    x = {id_: _spread(len(ids), i) for ids in features.values() for i, id_ in enumerate(ids)}
    x |= {id_: WIDTH - ERRORS / 2 for ids in errors.values() for id_ in ids}
    near: dict[str, list[tuple[str, float]]] = {id_: [] for id_ in x}
    for edge in edges:
        near[edge["source"]].append((edge["target"], abs(edge["weight"])))
        near[edge["target"]].append((edge["source"], abs(edge["weight"])))
    for sweep in range(_SWEEPS):
        for site in sites if sweep % 2 == 0 else reversed(sites):
            features[site].sort(key=lambda id_: (_pull(id_, near, x), id_))
            for i, id_ in enumerate(features[site]):
                x[id_] = _spread(len(features[site]), i)

    places, bands, top = {}, [], MARGIN
    for site in sites:
        if not features[site] and not errors[site]:
            continue
        lines = _lines(len(features[site]))
        for i, id_ in enumerate(features[site]):
            # by turns on each line: staggered, so that an edge reaches the lower line between the boxes above
            y = top + BOX_H / 2 + (i % lines) * (BOX_H + LINE_GAP)
            places[id_] = Place(x[id_], y, BOX_H / 2, BOX_H / 2)
        bottom = top + lines * BOX_H + (lines - 1) * LINE_GAP
        for i, id_ in enumerate(errors[site]):
            places[id_] = Place(x[id_], top + BOX_H / 2 + i * BOX_H, 14, 12)
        bands.append(Band(site, top, bottom))
        top = bottom + SITE_GAP
    return places, bands


def _lines(count: int) -> int:
    """How many lines the features of a site need."""
    return max(1, math.ceil(count / _PER_LINE))


def _spread(count: int, i: int) -> float:
    """Centre of box i of `count` at a site: as far apart as the widest gap and the width allow."""
    room = WIDTH - GUTTER - ERRORS
    pitch = min((BOX_W + WIDEST_GAP) / _lines(count), (room - BOX_W) / max(count - 1, 1))
    return GUTTER + room / 2 + (i - (count - 1) / 2) * pitch


def _pull(id_: str, near: Mapping[str, Sequence[tuple[str, float]]], x: Mapping[str, float]) -> float:
    """Weighted mean of the neighbours' places; a node without neighbours stays where it is."""
    weight = sum(w for _, w in near[id_])
    return sum(x[other] * w for other, w in near[id_]) / weight if weight > 0 else x[id_]


def _full_name(node: Node) -> str:
    kind = "error" if node["feature"] is None else node["label"]
    return f"{node['id']} {kind}" if kind and kind not in node["id"] else node["id"]


def _band(band: Band) -> str:
    return (
        f'<rect class="band" x="0" y="{band.top - 9:g}" width="{WIDTH}" height="{band.bottom - band.top + 18:g}"'
        f' rx="8"/><text class="site" x="12" y="{(band.top + band.bottom) / 2:g}">{text(band.site)}</text>'
    )


def _share(value: float, largest: float) -> float:
    return min(abs(value) / largest, 1.0) if math.isfinite(value) else 0.0


def _sign(value: float) -> str:
    return "plus" if value >= 0 else "minus"


def _edge(edge: Edge, places: Mapping[str, Place], names: Mapping[str, str], largest: float) -> str:
    a, b = places[edge["source"]], places[edge["target"]]
    start, end = a.y + a.down, b.y - b.up
    bend = max((end - start) * 0.5, 18)
    share = _share(edge["weight"], largest)
    path = f"M{a.x:.1f} {start:.1f}C{a.x:.1f} {start + bend:.1f} {b.x:.1f} {end - bend:.1f} {b.x:.1f} {end:.1f}"
    return (
        f'<path class="edge {_sign(edge["weight"])}" d="{path}" stroke-width="{0.7 + 6 * share:.2f}" '
        f'stroke-opacity="{0.22 + 0.6 * math.sqrt(share):.2f}" data-source="{text(edge["source"])}" '
        f'data-target="{text(edge["target"])}" data-weight="{signed(edge["weight"], 3)}">'
        f"<title>{text(names[edge['source']])} \u2192 {text(names[edge['target']])}:"
        f" {signed(edge['weight'], 3)}</title>"
        "</path>"
    )


def _node(node: Node, place: Place, largest: float) -> str:
    said = f"{_full_name(node)}: effect {signed(node['effect'], 3)}"
    if node["f1"] is not None:
        said += f", F1 {number(node['f1'])}"
    tint = f'fill-opacity="{0.06 + 0.5 * _share(node["effect"], largest):.2f}"'
    x, y = place.x, place.y
    if node["feature"] is None:
        points = f"{x:.1f},{y - 14:g} {x + 19:.1f},{y + 12:g} {x - 19:.1f},{y + 12:g}"
        shape = (
            f'<polygon class="base" points="{points}"/><polygon class="{_sign(node["effect"])}" {tint}'
            f' points="{points}"/><text class="small" x="{x:.1f}" y="{y + 5:g}">err</text>'
        )
    else:
        box = f'x="{x - BOX_W / 2:.1f}" y="{y - BOX_H / 2:g}" width="{BOX_W}" height="{BOX_H}" rx="7"'
        f1 = "" if node["f1"] is None else f" \u00b7 F1 {number(node['f1'])}"
        label = node["label"] if len(node["label"]) <= _LETTERS else node["label"][: _LETTERS - 1] + "\u2026"
        shape = (
            f'<rect class="base" {box}/><rect class="{_sign(node["effect"])}" {tint} {box}/>'
            f'<text class="label" x="{x:.1f}" y="{y - 6:g}">{text(label)}</text>'
            f'<text class="small" x="{x:.1f}" y="{y + 9:g}">#{node["feature"]}{f1}</text>'
        )
    return (
        f'<g class="node" tabindex="0" role="button" data-id="{text(node["id"])}" data-said="{text(said)}">'
        f"<title>{text(said)}</title>{shape}</g>"
    )
