"""The picture shows every node and edge once, where it belongs, legibly: no boxes overlap, no words leave theirs."""

import re
import xml.etree.ElementTree as ET
from collections import Counter
from itertools import combinations

import pytest

from circuits.circuit import Circuit, Node
from circuits.labels import Label, ids
from circuits.layout import BOX_WIDTH, WIDTH, layout
from circuits.markup import printable, significant
from circuits.picture import METRIC, draw_svg, fitted
from tests.circuits.circuits_for_tests import HOSTILE, circuit_of, sites_of

SVG = "{http://www.w3.org/2000/svg}"
SPANS = ("subject", "relative clause", "verb", "object", "end")
PLIES = tuple(map(str, range(12)))
CASES = [
    (0, 0, 1, ("all",)),
    (1, 0, 1, ("all",)),
    (10, 14, 2, ("all",)),
    (100, 260, 4, ("all",)),
    (100, 260, 1, ("all",)),
    (10, 14, 2, SPANS),
    (100, 260, 4, SPANS),
    (100, 200, 1, PLIES),
]


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0]} nodes, {len(case[3])} places")
def circuit(request) -> Circuit:
    nodes, edges, layers, places = request.param
    return circuit_of(nodes, edges, layers=layers, places=places, metric={"name": "log-odds"})


def drawn(circuit, **options) -> ET.Element:
    return ET.fromstring(draw_svg(circuit, **options))


def of_class(root: ET.Element, name: str) -> list[ET.Element]:
    return [e for e in root.iter() if name in (e.get("class") or "").split()]


def extent(shape: ET.Element) -> tuple[float, float, float, float]:
    """Left, top, right, bottom as drawn."""
    if shape.tag == f"{SVG}rect":
        x, y, w, h = (float(shape.get(k) or 0) for k in ("x", "y", "width", "height"))
        return x, y, x + w, y + h
    numbers = [float(n) for n in re.findall(r"-?\d+\.?\d*", shape.get("points") or "")]
    return min(numbers[::2]), min(numbers[1::2]), max(numbers[::2]), max(numbers[1::2])


def overlap(a, b) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


@pytest.mark.parametrize("scores", [None, 0.5])
def test_no_two_nodes_overlap_and_all_are_inside(circuit, scores):
    labels = {node: Label("mine c3 and yours c4", scores) for node in circuit.nodes}
    root = drawn(circuit, labels=labels)
    width, height = (float(root.get(k) or 0) for k in ("width", "height"))
    boxes = {g.get("data-id"): extent(of_class(g, "base")[0]) for g in of_class(root, "node")}
    assert len(boxes) == len(circuit.nodes) + 1
    for (one, a), (two, b) in combinations(boxes.items(), 2):
        assert not overlap(a, b), (one, two)
    assert all(min(b) >= 0 and b[2] <= width and b[3] <= height for b in boxes.values())
    words = [(float(t.get("x") or 0), float(t.get("y") or 0), t) for t in root.iter(f"{SVG}text")]
    headings = [(x, y) for x, y, t in words if (t.get("class") or "") in ("site", "place", "title")]
    for x, y in headings:  # a name starts, or is centred, here
        assert not any(b[0] < x < b[2] and b[1] < y < b[3] for b in boxes.values())
    if len(circuit.places) <= len(SPANS):
        assert width <= WIDTH + 120


def test_rows_are_sites_from_the_bottom_and_columns_places_from_the_left(circuit):
    placed = layout(circuit)
    order = [site.name for site in circuit.sites]
    for (a, box_a), (b, box_b) in combinations(placed.boxes.items(), 2):
        if order.index(a.site) < order.index(b.site):
            assert box_a.top > box_b.bottom
        if circuit.places.index(a.place) < circuit.places.index(b.place):
            assert box_a.left + BOX_WIDTH < box_b.left
        assert (box_a.x, box_a.y) != (box_b.x, box_b.y)
    for node, box in placed.boxes.items():
        assert placed.metric.bottom < box.top
        band, column = (next(b for b in bands if b.name == name) for bands, name in
                        ((placed.sites, node.site), (placed.places, node.place)))  # fmt: skip
        assert band.start <= box.top and box.bottom <= band.end
        assert column.start <= box.left and box.left + BOX_WIDTH <= column.end


def test_every_edge_is_drawn_once_and_ends_at_its_nodes(circuit):
    root, names, placed = drawn(circuit), ids(circuit), layout(circuit)
    paths = [p for p in of_class(root, "edge") if p.get("data-source")]
    expected = {(names[u], names[d]): e for (u, d), e in circuit.edges.items()}
    expected |= {(names[n], METRIC): circuit.nodes[n] for n in circuit.outputs()}
    assert Counter((p.get("data-source"), p.get("data-target")) for p in paths) == Counter(dict.fromkeys(expected, 1))
    boxes = {names[n]: box for n, box in placed.boxes.items()} | {METRIC: placed.metric}
    for path in paths:
        source, target = path.get("data-source") or "", path.get("data-target") or ""
        x0, y0, *_, x1, y1 = (float(n) for n in re.findall(r"-?\d+\.?\d*", path.get("d") or ""))
        assert (x0, y0) == pytest.approx((boxes[source].x, boxes[source].top), abs=0.06)
        assert (x1, y1) == pytest.approx((boxes[target].x, boxes[target].bottom), abs=0.06)
        assert y1 < y0
        assert ("plus" if expected[source, target] >= 0 else "minus") in (path.get("class") or "")
    widths = sorted(
        (abs(expected[p.get("data-source"), p.get("data-target")]), float(p.get("stroke-width") or 0)) for p in paths
    )
    assert [w for _, w in widths] == sorted(w for _, w in widths)  # stronger is wider
    assert all(0.7 <= w <= 7 for _, w in widths)


def test_errors_look_different_and_labels_are_shown():
    circuit = Circuit(sites_of(1), {Node("embed", 7): 1.0, Node("embed", None): -0.25, Node("resid_0", 8): 0.5}, {}, {})
    root = drawn(circuit, labels={Node("embed", 7): Label("mine c3", 0.834)}, title="A title")
    groups = {g.get("data-id"): g for g in of_class(root, "node")}
    words = {name: [t.text for t in g.iter(f"{SVG}text")] for name, g in groups.items()}
    assert words["embed/7"] == ["mine c3", "#7 · F1 0.83", "+1"] and words["embed/error"] == ["error", "\u22120.25"]
    assert words["resid_0/8"] == ["#8", "+0.5"] and words[METRIC] == ["metric", "metric"]
    assert {name for name, g in groups.items() if g.find(f"{SVG}polygon") is not None} == {"embed/error"}
    assert [t.text or t[0].tail for t in of_class(root, "title")] == ["A title"]
    assert "prefers-color-scheme:dark" in (root.findtext(f"{SVG}style") or "")
    assert of_class(root, "paper")  # legible on any ground


def test_hostile_words_are_words():
    circuit = circuit_of(20, 30, places=("all", HOSTILE))
    root = drawn(circuit, labels={n: Label(HOSTILE) for n in circuit.nodes}, title=HOSTILE, metric=HOSTILE)
    assert not list(root.iter(f"{SVG}script")) and len(of_class(root, "node")) == 21
    assert {g.get("data-id") for g in of_class(root, "node")} == {*ids(circuit).values(), METRIC}
    assert root.get("aria-label") == printable(HOSTILE).replace("\n", " ")  # as XML reads an attribute


@pytest.mark.parametrize("words", ["short", "M" * 80, "盤面" * 40, "a word " * 20, "", "\n\t", HOSTILE])
def test_words_are_cut_to_their_room(words):
    line = fitted(words, 100, 12)
    assert "\n" not in line and len(line) <= 24
    whole = " ".join(printable(words).split())
    assert line == whole or (line.endswith("…") and whole.startswith(line[:-1]))
    assert fitted("short", 100, 12) == "short"


def test_the_same_circuit_gives_the_same_picture_whatever_its_order():
    circuit = circuit_of(30, 60)
    turned = Circuit(circuit.sites, dict(reversed(circuit.nodes.items())), circuit.edges, circuit.provenance)
    assert draw_svg(circuit) == draw_svg(turned)


def test_numbers_as_words():
    said = [significant(v) for v in (0.00213, -3.4e-7, 12.0, 0.0, float("nan"))]
    assert said == ["+0.0021", "\u22123.4e-07", "+12", "+0", "–"]
