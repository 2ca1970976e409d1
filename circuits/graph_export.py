"""An attribution graph, pruned, for viewers: blocks as rows, tokens as columns."""

from collections.abc import Callable
from typing import Any

from circuits.graph import AttributionGraph
from circuits.pruning import Pruned, prune
from circuits.viewer_json import ViewerLink, ViewerNode, ViewerPage, to_viewer


def graph_to_viewer(
    graph: AttributionGraph,
    slug: str,
    decode: Callable[[int], str],
    *,
    model: str | None = None,
    pruned: Pruned | None = None,
    node_threshold: float = 0.8,
) -> dict[str, Any]:
    """The document of what is kept of a graph; `decode` turns a token's id into text.

    `model` is what viewers call it (gemma-2-2b), by default the model's type. `pruned` is by default what prune keeps
    with `node_threshold`, where viewers cut at first too.
    """
    kept = prune(graph, node_threshold) if pruned is None else pruned
    columns = [decode(token) for token in graph.tokens.tolist()]
    nodes = {i: _node(graph, i, float(kept.cumulative[i]), decode) for i in kept.nodes.nonzero().flatten().tolist()}
    among = graph.edges.take(kept.edges)
    links = [
        ViewerLink(nodes[source], nodes[target], weight)
        for source, target, weight in zip(
            among.sources.tolist(), among.targets.tolist(), among.weights.tolist(), strict=True
        )
    ]
    page = ViewerPage(
        slug,
        model or str(graph.provenance["model"]["type"]),
        graph.mlps,
        columns,
        "".join(columns),
        node_threshold,
    )
    return to_viewer(page, nodes.values(), links)


def _node(graph: AttributionGraph, index: int, influence: float, decode: Callable[[int], str]) -> ViewerNode:
    last = len(graph.tokens) - 1
    if index < graph.first_error:
        block, position, number = graph.features[index].tolist()
        return ViewerNode(
            "feature", block, position, number, influence=influence, activation=float(graph.activations[index])
        )
    if index < graph.first_token:
        return ViewerNode("error", *graph.block_and_position(index), None, influence=influence)
    if index < graph.first_logit:
        position = index - graph.first_token
        token = int(graph.tokens[position])
        return ViewerNode("token", 0, position, token, decode(token), influence)
    place = index - graph.first_logit
    token = int(graph.logit_tokens[place])
    probability = float(graph.logit_probabilities[place])
    return ViewerNode("output", 0, last, token, decode(token), probability=probability)
