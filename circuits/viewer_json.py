"""Attribution-graph JSON, which the viewers of circuit-tracer and Neuronpedia read: any graph of features and errors.

A picture has rows (blocks, or sites in forward order) and columns (tokens, or spans of them). Ids are
row_number_column: features by their number in the row's dictionary, errors by -1, tokens in a row E, outputs two rows
above the last, as circuit-tracer has them. No two nodes can share one; circuit-tracer's error ids 0_block_column are
also those of features of block 0. A feature's `feature` is the Cantor pair of row and number, from which viewers find
its examples.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from saes.files import FileError, read_json, write_json

Kind = Literal["feature", "error", "token", "output"]
_TYPES = {
    "feature": "cross layer transcoder",
    "error": "mlp reconstruction error",
    "token": "embedding",
    "output": "logit",
}


class ViewerError(ValueError):
    """A graph that viewers cannot show."""


@dataclass(frozen=True)
class ViewerNode:
    """A node where it stands in the picture."""

    kind: Kind
    row: int
    """from 0; of no meaning for tokens and outputs, which have rows of their own"""
    column: int
    number: int | None
    """of the feature in its dictionary, or the id of the token; None for an error"""
    label: str = ""
    influence: float | None = None
    """share of all influence that is in nodes at least as influential; viewers hide nodes above a threshold"""
    activation: float | None = None
    probability: float | None = None
    """of an output"""

    def __post_init__(self) -> None:
        if self.kind not in _TYPES:
            raise ViewerError(f"kind is {self.kind!r}: choose one of {', '.join(_TYPES)}")
        if (self.number is None) != (self.kind == "error"):
            raise ViewerError(
                f"a node of kind {self.kind!r} has number {self.number}: errors have none, all others one"
            )
        if min(self.row, self.column, self.number or 0) < 0:
            raise ViewerError(f"row {self.row}, column {self.column} and number {self.number} have to be 0 or more")


@dataclass(frozen=True)
class ViewerLink:
    source: ViewerNode
    target: ViewerNode
    weight: float


@dataclass(frozen=True)
class ViewerPage:
    """What belongs to the whole picture."""

    slug: str
    """name of the graph, and of its file"""
    model: str
    """viewers' `scan`"""
    rows: Sequence[str]
    """what each row's dictionary is called"""
    columns: Sequence[str]
    """tokens or spans"""
    prompt: str
    node_threshold: float | None = None
    """where viewers cut at first"""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", self.slug, re.ASCII):
            raise ViewerError(f"slug is {self.slug!r}: it names a file, so give letters, digits, '.', '_' and '-'")


def to_viewer(page: ViewerPage, nodes: Iterable[ViewerNode], links: Iterable[ViewerLink]) -> dict[str, Any]:
    """The document; ViewerError if two nodes share an id, or a link ends at a node that is not in it."""
    nodes = list(nodes)
    for node in nodes:
        if node.column >= len(page.columns) or (node.kind in ("feature", "error") and node.row >= len(page.rows)):
            raise ViewerError(
                f"node in row {node.row} and column {node.column}: the page has {len(page.rows)} rows and "
                f"{len(page.columns)} columns"
            )
    likeliest = max((node.probability or 0.0 for node in nodes if node.kind == "output"), default=0.0)
    document = {
        "metadata": {
            "slug": page.slug,
            "scan": page.model,
            "transcoder_list": list(page.rows),
            "prompt_tokens": list(page.columns),
            "prompt": page.prompt,
            "node_threshold": page.node_threshold,
            "schema_version": 1,
        },
        "qParams": {"pinnedIds": [], "supernodes": [], "linkType": "both", "clickedId": "", "sg_pos": ""},
        "nodes": [_node(node, len(page.rows), likeliest) for node in nodes],
        "links": [
            {"source": _id(x.source, len(page.rows)), "target": _id(x.target, len(page.rows)), "weight": x.weight}
            for x in links
        ],
    }
    check_links(document)
    return document


def check_links(document: dict[str, Any]) -> None:
    """ViewerError unless node ids are unique and every link goes from one node to another, once."""
    for key in ("node_id", "jsNodeId"):
        name, count = (
            Counter(node[key] for node in document["nodes"]).most_common(1)[0] if document["nodes"] else ("", 0)
        )
        if count > 1:
            raise ViewerError(f"{count} nodes have the {key} {name!r}: every node needs one of its own")
    known = {node["node_id"] for node in document["nodes"]}
    seen = set()
    for link in document["links"]:
        pair = link["source"], link["target"]
        for end in pair:
            if end not in known:
                raise ViewerError(f"the link {pair[0]} -> {pair[1]} ends at {end!r}, which is no node of the graph")
        if pair[0] == pair[1] or pair in seen:
            raise ViewerError(f"the link {pair[0]} -> {pair[1]} is there twice, or goes from a node to itself")
        seen.add(pair)


def validate(document: Any) -> None:
    """ViewerError unless the document fits the schema (package data, `schema()`) and passes check_links."""
    try:
        from jsonschema import Draft202012Validator
        from jsonschema.exceptions import best_match
    except ImportError:
        raise ViewerError("the schema is checked by the package jsonschema: pip install 'kibitz[schema]'") from None
    fault = best_match(Draft202012Validator(schema()).iter_errors(document))
    if fault is not None:
        raise ViewerError(f"{fault.json_path}: {fault.message}")
    check_links(document)
    columns = len(document["metadata"]["prompt_tokens"])
    for node in document["nodes"]:
        if node["ctx_idx"] >= columns:
            raise ViewerError(f"node {node['node_id']} is in column {node['ctx_idx']}; the prompt has {columns}")


@cache
def schema() -> dict[str, Any]:
    """The JSON Schema of the documents."""
    return json.loads(resources.files("circuits").joinpath("schemas/attribution_graph.schema.json").read_text("utf-8"))


def write_viewer(document: dict[str, Any], folder: Path | str) -> Path:
    """Write SLUG.json, and put the graph into the folder's graph-metadata.json, the list that viewers offer."""
    folder, metadata = Path(folder), document["metadata"]
    path, index = folder / f"{metadata['slug']}.json", folder / "graph-metadata.json"
    try:
        listed = read_json(index)["graphs"] if index.is_file() else []
        others = [graph for graph in listed if graph["slug"] != metadata["slug"]]
    except (KeyError, TypeError):
        raise FileError(f"{index}: not a list of graphs; move it away") from None
    write_json(path, document)
    write_json(index, {"graphs": [*others, metadata]})
    return path


def _id(node: ViewerNode, rows: int) -> str:
    return f"{_layer(node, rows)}_{-1 if node.number is None else node.number}_{node.column}"


def _layer(node: ViewerNode, rows: int) -> str:
    return {"token": "E", "output": str(rows + 1)}.get(node.kind, str(node.row))


def _node(node: ViewerNode, rows: int, likeliest: float) -> dict[str, Any]:
    probability = node.probability or 0.0
    label = node.label
    if node.kind == "output":  # viewers read the probability from the label
        label = f'Output "{node.label}" (p={probability:.3f})'
    return {
        "node_id": _id(node, rows),
        "feature": _feature(node),
        "layer": _layer(node, rows),
        "ctx_idx": node.column,
        "feature_type": _TYPES[node.kind],
        "token_prob": probability,
        "is_target_logit": node.kind == "output" and probability == likeliest,
        "run_idx": 0,
        "reverse_ctx_idx": 0,
        "jsNodeId": "-".join(_id(node, rows).rsplit("_", 1)),
        "clerp": label,
        "influence": node.influence,
        "activation": node.activation,
    }


def _feature(node: ViewerNode) -> int:
    if node.number is None:
        return -1
    if node.kind == "feature":
        return (node.row + node.number) * (node.row + node.number + 1) // 2 + node.number
    return node.column if node.kind == "token" else node.number
