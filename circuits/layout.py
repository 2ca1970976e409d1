"""Where the nodes of a circuit go in a picture: sites from the bottom up, places from left to right, no overlaps.

A site and a place share a cell, in which nodes stand in lines. The number of lines is chosen so that the picture is
low without being wider than WIDTH, unless there are more places than fit.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from circuits.circuit import Circuit, Node
from circuits.selection import node_key

BOX_WIDTH = 124
GAP, LINE_GAP, SITE_GAP = 12, 12, 44
GUTTER = 84
"""names of the sites"""
WIDTH = 1180
"""of the columns together, at most"""
TOP = 126
"""title, legend and names of the places"""
BOTTOM = 40
"""names of the places again"""
COLUMN_GAP = 16
STAGGER = 20
"""how far a line stands beside the next, so that an edge into it is not taken for one into the box that hides it"""
MARGIN = 16
_SWEEPS = 8
_LEAST = 640  # units of width, so that title and legend fit


@dataclass(frozen=True)
class Box:
    """Centre of a node, and its height; all boxes are BOX_WIDTH wide."""

    x: float
    y: float
    height: float

    @property
    def left(self) -> float:
        return self.x - BOX_WIDTH / 2

    @property
    def top(self) -> float:
        return self.y - self.height / 2

    @property
    def bottom(self) -> float:
        return self.y + self.height / 2


@dataclass(frozen=True)
class Band:
    """From where to where a site reaches down, or a place to the right."""

    name: str
    start: float
    end: float

    @property
    def middle(self) -> float:
        return (self.start + self.end) / 2


@dataclass(frozen=True)
class Layout:
    width: float
    height: float
    boxes: Mapping[Node, Box]
    metric: Box
    sites: tuple[Band, ...]
    """those with nodes, from the top down"""
    places: tuple[Band, ...]
    """those with nodes"""


def layout(circuit: Circuit, box_height: float = 38) -> Layout:
    """Every node in a box of its own; the metric above all."""
    sites = [site.name for site in reversed(circuit.sites) if any(n.site == site.name for n in circuit.nodes)]
    places = [place for place in circuit.places if any(n.place == place for n in circuit.nodes)]
    cells: dict[tuple[str, str], list[Node]] = {(site, place): [] for site in sites for place in places}
    for node in sorted(circuit.nodes, key=node_key):  # so that the picture does not depend on their order
        cells[node.site, node.place].append(node)
    counts = {cell: len(nodes) for cell, nodes in cells.items()}
    across = _across(sites, places, counts)
    columns, left = [], float(MARGIN + GUTTER)
    spare = max(0.0, _LEAST - sum(map(_room, across)) - COLUMN_GAP * len(across))
    for place, count in zip(places, across, strict=True):
        right = left + _room(count) + spare / len(places)
        columns.append(Band(place, left, right))
        left = right + COLUMN_GAP
    width = max(left - COLUMN_GAP, MARGIN + GUTTER + _LEAST) + MARGIN
    x = _order(circuit, sites, columns, dict(zip(places, across, strict=True)), cells)

    metric = Box((MARGIN + GUTTER + width - MARGIN) / 2, TOP + box_height / 2, box_height)
    boxes, bands, top = {}, [], metric.bottom + SITE_GAP
    for site in sites:
        lines = max(_lines(counts[site, place], n) for place, n in zip(places, across, strict=True))
        for place, n in zip(places, across, strict=True):
            used = _lines(counts[site, place], n)
            start = top + (lines - used) * (box_height + LINE_GAP) / 2
            for i, node in enumerate(cells[site, place]):
                y = start + (i % used) * (box_height + LINE_GAP) + box_height / 2
                boxes[node] = Box(x[node], y, box_height)
        bottom = top + lines * box_height + (lines - 1) * LINE_GAP
        bands.append(Band(site, top, bottom))
        top = bottom + SITE_GAP
    return Layout(width, top - SITE_GAP + BOTTOM, boxes, metric, tuple(bands), tuple(columns))


def _across(sites: list[str], places: list[str], counts: Mapping[tuple[str, str], int]) -> list[int]:
    """How many boxes stand side by side in each column: more where that saves most lines, while there is room."""
    across = [1] * len(places)

    def lines() -> int:
        return sum(max(_lines(counts[s, p], n) for p, n in zip(places, across, strict=True)) for s in sites)

    while places:
        now, best = lines(), (0.0, -1, 0)
        for i, place in enumerate(places):
            most = max(counts[site, place] for site in sites)
            kept = across[i]
            for more in range(1, most - kept + 1):  # the next one alone may save nothing
                across[i] = kept + more
                if sum(map(_room, across)) + COLUMN_GAP * (len(places) - 1) > WIDTH:
                    break
                best = max(best, ((now - lines()) / more, -i, more))
            across[i] = kept
        if best[0] <= 0:
            # a row that is highest in several columns at once shrinks only with all of them
            wider = _together(sites, places, counts, across)
            if wider is None:
                break
            across = wider
            continue
        across[-best[1]] += best[2]
    return across


def _together(
    sites: list[str], places: list[str], counts: Mapping[tuple[str, str], int], across: list[int]
) -> list[int] | None:
    """The columns widened together that make one site's row lower, the highest row first; None if none fits."""

    def height(site: str) -> int:
        return max(_lines(counts[site, p], n) for p, n in zip(places, across, strict=True))

    for site in sorted(sites, key=height, reverse=True):
        goal = height(site) - 1
        if goal < 1:
            continue
        wider = [max(n, math.ceil(counts[site, p] / goal)) for p, n in zip(places, across, strict=True)]
        if sum(map(_room, wider)) + COLUMN_GAP * (len(places) - 1) <= WIDTH:
            return wider
    return None


def _room(count: int) -> float:
    return count * BOX_WIDTH + (count - 1) * GAP + 2 * STAGGER


def _lines(count: int, across: int) -> int:
    return max(1, math.ceil(count / across))


def _order(
    circuit: Circuit,
    sites: list[str],
    columns: list[Band],
    across: Mapping[str, int],
    cells: dict[tuple[str, str], list[Node]],
) -> dict[Node, float]:
    """Sort every cell so that neighbours stand near each other, errors at its end; the centres' x."""
    x: dict[Node, float] = {}

    def spread(site: str, column: Band) -> None:
        nodes = cells[site, column.name]
        used = _lines(len(nodes), across[column.name])
        longest = math.ceil(len(nodes) / used)
        for i, node in enumerate(nodes):
            aside = STAGGER * {1: (0,), 2: (-1, 1)}.get(used, (-1, 0, 1))[i % used % 3]
            x[node] = column.middle + (i // used - (longest - 1) / 2) * (BOX_WIDTH + GAP) + aside

    for site in sites:
        for column in columns:
            spread(site, column)
    near: dict[Node, list[tuple[Node, float]]] = {node: [] for node in circuit.nodes}
    for (up, down), effect in circuit.edges.items():
        near[up].append((down, abs(effect)))
        near[down].append((up, abs(effect)))

    def pull(node: Node) -> float:
        weight = sum(w for _, w in near[node])
        return sum(x[other] * w for other, w in near[node]) / weight if weight else x[node]

    for sweep in range(_SWEEPS):
        for site in sites if sweep % 2 else reversed(sites):
            for column in columns:
                cells[site, column.name].sort(key=lambda node: (node.feature is None, pull(node), str(node)))
                spread(site, column)
    return x
