"""Circuits for other tools: GraphML, Graphviz, and the JSON of attribution-graph viewers. All return the text."""

from typing import Any

import networkx as nx

from circuits.circuit import Circuit, Node
from circuits.labels import Label, Labels, ids
from circuits.markup import effect_colour, printable, quoted_dot, significant
from circuits.viewer_json import ViewerLink, ViewerNode, ViewerPage, to_viewer


def to_graphml(circuit: Circuit, labels: Labels | None = None) -> str:
    """GraphML; nodes have site, kind (feature, error), feature, place, effect, label and f1, edges have effect."""
    graph, names = nx.DiGraph(), ids(circuit)
    for node, effect in circuit.nodes.items():
        said: dict[str, Any] = {"site": node.site, "place": printable(node.place), "effect": float(effect)}
        said["kind"] = "error" if node.feature is None else "feature"
        if node.feature is not None:
            said["feature"] = node.feature
        label = (labels or {}).get(node)
        if label is not None:
            said["label"] = printable(label.text)
        if label is not None and label.f1 is not None:
            said["f1"] = float(label.f1)
        graph.add_node(names[node], **said)
    for (up, down), effect in circuit.edges.items():
        graph.add_edge(names[up], names[down], effect=float(effect))
    return "\n".join(nx.generate_graphml(graph))


def to_dot(circuit: Circuit, labels: Labels | None = None, *, title: str = "circuit") -> str:
    """Graphviz' language: a row for each site from the bottom up, errors as hexagons, edge width by effect."""
    names = ids(circuit)
    largest = max(map(abs, circuit.edges.values()), default=0.0) or 1.0
    lines = [
        f"digraph {quoted_dot(title)} {{",
        "  rankdir=BT; node [shape=box, style=rounded, fontname=Helvetica]; edge [arrowsize=0.6];",
    ]
    for site in circuit.sites:
        nodes = [node for node in circuit.nodes if node.site == site.name]
        if nodes:
            written = " ".join(_dot_node(node, circuit.nodes[node], names, labels or {}) for node in nodes)
            lines.append(f"  {{ rank=same; {written} }}")
    for (up, down), effect in circuit.edges.items():
        lines.append(
            f'  {quoted_dot(names[up])} -> {quoted_dot(names[down])} [color="{effect_colour(effect)}", '
            f"penwidth={0.5 + 5 * abs(effect) / largest:.3f}, tooltip={quoted_dot(significant(effect))}];"
        )
    return "\n".join([*lines, "}", ""])


def to_viewer_json(
    circuit: Circuit, slug: str, labels: Labels | None = None, *, model: str = "", prompt: str = "", metric: str = ""
) -> dict[str, Any]:
    """The document for circuit-tracer's and Neuronpedia's viewers (circuits/viewer_json.py validates and writes it).

    Sites are rows, places columns, the metric is the output, linked to the nodes of the last site with their effects.
    `model` and `metric` are by default what the provenance says. ViewerError for a slug that is no file name.
    """
    said = circuit.provenance
    row = {site.name: i for i, site in enumerate(circuit.sites)}
    column = {place: i for i, place in enumerate(circuit.places)}
    shares = _influences(circuit)
    made = {
        node: ViewerNode(
            "error" if node.feature is None else "feature",
            row[node.site],
            column[node.place],
            node.feature,
            printable((labels or {}).get(node, Label(""))),
            shares[node],
        )
        for node in circuit.nodes
    }
    name = metric or _named(said.get("metric"), "name") or "metric"
    output = ViewerNode("output", 0, len(circuit.places) - 1, 0, name)
    links = [ViewerLink(made[up], made[down], effect) for (up, down), effect in circuit.edges.items()]
    links += [ViewerLink(made[node], output, circuit.nodes[node]) for node in circuit.outputs()]
    page = ViewerPage(
        slug,
        model or _named(said.get("model"), "type") or "model",
        list(row),
        list(column),
        prompt or " ".join(circuit.places),
    )
    return to_viewer(page, [*made.values(), output], links)


def _influences(circuit: Circuit) -> dict[Node, float]:
    """The share of all absolute effects that is in nodes at least as strong."""
    ordered = sorted(circuit.nodes, key=lambda node: -abs(circuit.nodes[node]))
    whole, so_far, shares = sum(map(abs, circuit.nodes.values())) or 1.0, 0.0, {}
    for node in ordered:
        so_far += abs(circuit.nodes[node])
        shares[node] = min(1.0, so_far / whole)
    return shares


def _named(said: Any, key: str) -> str:
    return str(said[key]) if isinstance(said, dict) and key in said else ""


def _dot_node(node: Node, effect: float, names: dict[Node, str], labels: Labels) -> str:
    lines = [names[node], significant(effect)]
    if node in labels:
        lines.insert(0, str(labels[node]))
    shape = ', shape=hexagon, style="dashed"' if node.feature is None else ""
    return (
        f'{quoted_dot(names[node])} [label={quoted_dot(chr(10).join(lines))}, color="{effect_colour(effect)}"{shape}];'
    )
