"""The page is one file that fetches nothing, escapes everything, and does what its controls say."""

import json
import re
from html.parser import HTMLParser
from importlib import resources

import networkx as nx
import pytest

from circuits.circuit import CircuitError
from circuits.labels import Label, ids
from circuits.markup import printable
from circuits.page import Context, view_script, write_page
from tests.circuits.browser import CHROMIUM, NODE, run_in_node, run_in_page
from tests.circuits.circuits_for_tests import HOSTILE, circuit_of

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
needs_node = pytest.mark.skipif(NODE is None, reason="node is not installed")
BOARD = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 8 8"><script>alert(1)</script><circle r="3"/></svg>'


class Tags(HTMLParser):
    """All elements with their attributes, and the text of each script."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        if self.tags and self.tags[-1][0] == "script":
            self.scripts.append(data)


@pytest.fixture(scope="module")
def circuit():
    return circuit_of(40, 90, layers=2, places=("subject", HOSTILE, "verb"), metric={"name": "log-odds"})


@pytest.fixture(scope="module")
def page(circuit, tmp_path_factory):
    labels = {node: Label(HOSTILE if i % 2 else f"mine c{i}", i / 40) for i, node in enumerate(circuit.nodes)}
    contexts = {
        node: [Context([HOSTILE, " cats"], [0.5, -2.0], HOSTILE), Context(picture=BOARD, caption="a board")]
        for node in circuit.nodes
    }
    path = tmp_path_factory.mktemp("page") / "circuit.html"
    write_page(circuit, path, labels, contexts, title=f"@@DATA@@ {HOSTILE}")
    return path


def data_of(page) -> dict:
    return json.loads(next(s for s in Tags(page.read_text("utf-8")).scripts if s.startswith('{"metric"')))


def test_fetches_nothing(page):
    html = page.read_text("utf-8").replace("http://www.w3.org/2000/svg", "")
    assert not re.findall(r"https?://|@import|url\(|\bimport\b", html)
    for tag, attributes in Tags(html).tags:
        assert tag not in ("link", "img", "iframe", "object", "use", "image", "base")
        assert not {"src", "href"} & attributes.keys()


def test_nothing_hostile_becomes_markup(page, circuit):
    read = Tags(page.read_text("utf-8"))
    kinds = [attributes.get("type") for tag, attributes in read.tags if tag == "script"]
    assert kinds == ["application/json", "module"]
    assert all(not name.startswith("on") for _, attributes in read.tags for name in attributes)
    by_id = {node["id"]: node for node in data_of(page)["nodes"]}
    labels = [by_id[name]["label"] for name in ids(circuit).values()]
    assert labels[1] == printable(HOSTILE) and labels[2] == "mine c2"
    assert all(n["contexts"][0]["tokens"] == [printable(HOSTILE), " cats"] for n in by_id.values())
    assert not re.search("</script|<!--", view_script(), re.IGNORECASE)


def test_the_data_are_the_circuit(page, circuit):
    data, names = data_of(page), ids(circuit)
    assert {n["id"]: n["effect"] for n in data["nodes"]} == {names[n]: e for n, e in circuit.nodes.items()}
    edges = {(e["source"], e["target"]): e["effect"] for e in data["edges"]}
    expected = {(names[u], names[d]): e for (u, d), e in circuit.edges.items()}
    assert edges == expected | {(names[node], "metric"): circuit.nodes[node] for node in circuit.outputs()}
    drawn = [a["data-id"] for tag, a in Tags(page.read_text("utf-8")).tags if "data-id" in a]
    assert sorted(filter(None, drawn)) == sorted([*names.values(), "metric"])


def test_contexts_that_cannot_be_shown():
    with pytest.raises(CircuitError, match="2 tokens and 1 activations"):
        Context(["a", "b"], [1.0])
    with pytest.raises(CircuitError, match="finite"):
        Context(["a"], [float("nan")])


@needs_node
def test_what_is_shown_and_what_leads_where(page):
    data = data_of(page)
    chosen = data["nodes"][3]["id"]
    node_cut = sorted(abs(n["effect"]) for n in data["nodes"])[12]
    edge_cut = sorted(abs(e["effect"]) for e in data["edges"])[20]
    script = resources.files("circuits").joinpath("page_files", "view.mjs").read_text("utf-8")
    said = run_in_node(
        f"{script}\nconst data = {json.dumps(data)};\n"
        f"const left = shown(data.nodes, data.edges, {node_cut!r}, {edge_cut!r});\n"
        f"const path = pathThrough(data.edges, {json.dumps(chosen)});\n"
        "console.log(JSON.stringify({nodes: [...left.nodes], edges: left.edges, steps: steps(data.nodes),\n"
        "up: [...path.upstream], down: [...path.downstream], way: [...path.edges],\n"
        "amounts: [0.5, -0.0001234, 12345, 0, 1e-9].map(amount), none: pathThrough([], 'x').upstream.size,\n"
        "found: [...matching(data.nodes, 'MINE c2')], all: matching(data.nodes, ' ').size,\n"
        f"up1: strongest(data.edges, {json.dumps(chosen)}, true), top: strongest(data.edges, METRIC, true)}}))"
    )
    nodes = {n["id"] for n in data["nodes"] if abs(n["effect"]) >= node_cut} | {"metric"}
    assert set(said["nodes"]) == nodes and len(nodes) == 40 - 12 + 1
    expected = [
        e for e in data["edges"] if abs(e["effect"]) >= edge_cut and e["source"] in nodes and e["target"] in nodes
    ]
    assert said["edges"] == expected
    assert said["steps"] == [0, *sorted({abs(n["effect"]) for n in data["nodes"]})]
    graph = nx.DiGraph([(e["source"], e["target"]) for e in data["edges"]])
    graph.add_node(chosen)
    up, down = nx.ancestors(graph, chosen), nx.descendants(graph, chosen)
    assert (set(said["up"]), set(said["down"])) == (up, down)
    way = {(e["source"], e["target"]) for e in said["way"]}
    assert way == set(graph.subgraph(up | {chosen}).edges) | set(graph.subgraph(down | {chosen}).edges)
    assert said["amounts"] == ["+0.5", "\u22120.000123", "+12300", "0", "+1e-9"] and said["none"] == 0
    by_label = {n["id"] for n in data["nodes"] if "mine" in n["label"] and "c2" in f"{n['id']} {n['label']}"}
    assert set(said["found"]) == by_label and len(by_label) > 1 and said["all"] == 40
    outs = [e for e in data["edges"] if e["source"] == chosen]
    assert said["up1"] == (max(outs, key=lambda e: abs(e["effect"]))["target"] if outs else None)
    assert said["top"] is None


CLICKS = """
const visible = kind => [...document.querySelectorAll(kind)].filter(e => !e.classList.contains('off')).length;
const lit = kind => [...document.querySelectorAll(kind + '.lit')].map(e => e.dataset.id);
const slide = (name, at) => { const s = find(name); s.value = at; s.dispatchEvent(new Event('input')); };
const press = (element, key) => element.dispatchEvent(new KeyboardEvent('keydown', {key, bubbles: true}));
const shape = () => [visible('.node'), visible('.edge[data-source]')];
const node = id => [...document.querySelectorAll('.node')].find(n => n.dataset.id === id);
const out = {start: shape(), idle: find('.details').textContent.slice(0, 15)};
slide('.node-least', 10); out.nodes = shape(); out.said = find('.node-said').textContent;
slide('.edge-least', 30); out.edges = shape();
find('.reset').click(); out.reset = shape();
const target = node(CHOSEN);
target.dispatchEvent(new PointerEvent('pointerenter', {pointerType: 'mouse'}));
out.hovered = lit('.node'); out.lines = document.querySelectorAll('.edge.lit').length;
target.dispatchEvent(new PointerEvent('pointerleave', {pointerType: 'mouse'}));
out.left = lit('.node').length;
target.dispatchEvent(new MouseEvent('click', {bubbles: true}));
out.pressed = target.getAttribute('aria-pressed');
out.heading = find('.details h2').textContent; out.tokens = find('.details .token').textContent;
out.picture = find('.details img').src.slice(0, 24); out.injected = document.querySelectorAll('.details script').length;
out.buttons = document.querySelectorAll('.details li button').length;
press(target, 'Escape'); out.released = target.getAttribute('aria-pressed');
const search = find('.search'); search.value = 'mine C2'; search.dispatchEvent(new Event('input'));
out.found = document.querySelectorAll('.node.found').length;
press(search, 'Enter'); out.first = document.activeElement.dataset.id;
find('.reset').click();
const metric = node('metric'); metric.focus(); out.stops = document.querySelectorAll('.node[tabindex="0"]').length;
press(metric, 'ArrowDown'); out.below = document.activeElement.dataset.id;
press(document.activeElement, 'ArrowUp'); out.above = document.activeElement.dataset.id;
const walked = new Set(['metric']);
for (let i = 0; i < 60; i++) {
  press(document.activeElement, 'ArrowRight');
  walked.add(document.activeElement.dataset.id);
}
out.walked = walked.size;
const inside = [...document.querySelectorAll('.node')].map(g => {
  const box = g.querySelector('.base').getBBox();
  return Math.max(...[...g.querySelectorAll('text')].map(t => t.getComputedTextLength())) / box.width;
});
out.widest = Math.max(...inside);
out.page = document.documentElement.scrollWidth - document.documentElement.clientWidth;
return out;
"""


@needs_browser
def test_in_a_browser(page, circuit, tmp_path):
    data = data_of(page)
    chosen = next(e["target"] for e in data["edges"] if e["target"] != "metric")
    said = run_in_page(page, CLICKS.replace("CHOSEN", json.dumps(chosen)), tmp_path)
    every = [len(data["nodes"]) + 1, len(data["edges"])]
    assert said["start"] == every == said["reset"] and said["idle"] == "Point at a node"
    least = sorted(abs(n["effect"]) for n in data["nodes"])[9]
    left = {n["id"] for n in data["nodes"] if abs(n["effect"]) >= least} | {"metric"}
    between = [e for e in data["edges"] if e["source"] in left and e["target"] in left]
    assert said["nodes"] == [len(left), len(between)] and float(said["said"]) == pytest.approx(least, rel=0.01)
    cut = sorted({abs(e["effect"]) for e in data["edges"]})[29]
    assert said["edges"] == [len(left), sum(abs(e["effect"]) >= cut for e in between)]
    graph = nx.DiGraph([(e["source"], e["target"]) for e in data["edges"]])
    way = nx.ancestors(graph, chosen) | nx.descendants(graph, chosen) | {chosen}
    assert set(said["hovered"]) == way and said["left"] == 0 and said["lines"] > 0
    assert said["pressed"] == "true" and said["released"] == "false" and said["buttons"] > 0
    label = next(n for n in data["nodes"] if n["id"] == chosen)["label"]
    assert said["heading"] == label and said["tokens"] == printable(HOSTILE)
    assert said["picture"] == "data:image/svg+xml;chars" and said["injected"] == 0
    by_label = {n["id"] for n in data["nodes"] if "mine" in n["label"] and "c2" in f"{n['id']} {n['label']}"}
    assert said["found"] == len(by_label) and said["first"] in by_label
    assert said["stops"] == 1 and said["walked"] == every[0]
    into = {n: circuit.nodes[n] for n in circuit.outputs()}
    assert said["below"] == ids(circuit)[max(into, key=lambda n: abs(into[n]))]
    assert said["widest"] <= 0.97 and said["page"] == 0


@needs_browser
def test_on_a_phone_the_page_does_not_scroll_sideways(page, tmp_path):
    measure = """const box = e => find(e).getBoundingClientRect();
    return {over: document.documentElement.scrollWidth - innerWidth, wide: innerWidth, graph: box('.graph').width,
    details: box('.details').width, slider: box('.node-least').height};"""
    said = run_in_page(page, measure, tmp_path, width=500)
    assert said["over"] <= 0 and said["graph"] <= said["wide"] and said["slider"] >= 30
    assert said["details"] > said["wide"] * 0.8  # below the picture, not beside it
