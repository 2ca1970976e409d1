"""A circuit as one HTML file that works offline: thresholds to drag, nodes to click, paths to isolate, a search.

    write_page(circuit.strongest(100, 300), "circuit.html", labels, {node: [Context(tokens, activations)]})

The picture is that of circuits/picture.py, whole without a script; page_files/view.mjs is the script. Labels and
contexts travel as JSON and are shown as text, pictures as images, so that nothing in them is markup or runs.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from math import isfinite
from pathlib import Path
from typing import Any

from circuits.circuit import Circuit, CircuitError, Node
from circuits.labels import Labels, ids
from circuits.markup import printable, text
from circuits.picture import METRIC, draw_svg, metric_name
from saes.files import write_text


@dataclass(frozen=True)
class Context:
    """Where a feature fires: tokens with an activation each, a picture (whole SVG text), or both."""

    tokens: Sequence[str] = ()
    activations: Sequence[float] = ()
    caption: str = ""
    picture: str = ""
    """such as a board; its styles have to be inside, or in `picture_style`, since it is shown as an image"""

    def __post_init__(self) -> None:
        if len(self.tokens) != len(self.activations):
            raise CircuitError(f"a context has {len(self.tokens)} tokens and {len(self.activations)} activations")
        if not all(isfinite(a) for a in self.activations):
            raise CircuitError(f"activations of a context are {list(self.activations)}: give finite numbers")


Contexts = Mapping[Node, Sequence[Context]]


def write_page(
    circuit: Circuit,
    path: Path | str,
    labels: Labels | None = None,
    contexts: Contexts | None = None,
    *,
    title: str = "",
    metric: str = "",
    picture_style: str = "",
) -> None:
    """Write the page atomically; choose what it can show with Circuit.strongest.

    `picture_style` is a style sheet for every picture among the contexts.
    """
    parts = {
        "TITLE": text(title or f"Circuit of {metric or metric_name(circuit)}"),
        "STYLE": view_style(),
        "VIEW": view(circuit, labels, contexts, title=title, metric=metric, picture_style=picture_style),
        "SCRIPT": view_script(),
    }
    write_text(path, _filled("page.html", parts))


def view(
    circuit: Circuit,
    labels: Labels | None = None,
    contexts: Contexts | None = None,
    *,
    title: str = "",
    metric: str = "",
    picture_style: str = "",
) -> str:
    """The interactive picture as a piece of another page, which needs view_style() and, as a module, view_script().

    The other page names the colours --card, --ink, --soft, --line, --accent, --plus, --minus and --heat.
    """
    said = metric or metric_name(circuit)
    return _filled(
        "view.html",
        {
            "PICTURE": draw_svg(circuit, labels, title=title, metric=said),
            "DATA": _in_script(
                {**_data(circuit, labels or {}, contexts or {}, said), "picture_style": text(picture_style)}
            ),
        },
    )


def view_style() -> str:
    """The style sheet of every view on a page."""
    return _file("view.css")


def view_script() -> str:
    """The ES module that starts every view on a page."""
    return _file("view.mjs")


def _data(circuit: Circuit, labels: Labels, contexts: Contexts, metric: str) -> dict[str, Any]:
    names = ids(circuit)
    edges = [(names[up], names[down], effect) for (up, down), effect in circuit.edges.items()]
    edges += [(names[node], METRIC, circuit.nodes[node]) for node in circuit.outputs()]
    return {
        "metric": printable(metric),
        "nodes": [_node(node, circuit.nodes[node], name, labels, contexts) for node, name in names.items()],
        "edges": [{"source": u, "target": d, "effect": effect} for u, d, effect in edges],
    }


def _node(node: Node, effect: float, name: str, labels: Labels, contexts: Contexts) -> dict[str, Any]:
    label = labels.get(node)
    return {
        "id": name,
        "site": node.site,
        "place": printable(node.place),
        "feature": node.feature,
        "effect": effect,
        "label": "" if label is None else printable(label.text),
        "f1": None if label is None else label.f1,
        "contexts": [
            {
                "tokens": [printable(token) for token in context.tokens],
                "activations": [float(a) for a in context.activations],
                "caption": printable(context.caption),
                "picture": printable(context.picture),
            }
            for context in contexts.get(node, ())
        ],
    }


def _in_script(data: Any) -> str:
    """JSON in which nothing ends a script element; also no letter that a page in another encoding would garble."""
    return json.dumps(data, allow_nan=False).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _filled(name: str, parts: Mapping[str, str]) -> str:
    """A template with its @@MARKS@@ replaced; marks inside the parts stay as they are."""
    return re.sub("@@([A-Z]+)@@", lambda mark: parts[mark[1]], _file(name))


def _file(name: str) -> str:
    return resources.files("circuits").joinpath("page_files", name).read_text("utf-8")
