"""`kibitz circuit graph`: the attribution graph of one prompt through transcoders (docs/attribution_graphs.md)."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import tyro

from circuits.attribution_graph import GraphConfig, attribution_graph
from circuits.frozen import GraphError
from circuits.graph import AttributionGraph
from circuits.graph_export import graph_to_viewer
from circuits.pruning import Pruned, prune, scores
from circuits.viewer_json import write_viewer
from kibitz.runs import check_replaceable, run_folder
from saes.dictionary_set import DictionarySet
from saes.files import write_json
from saes.models import load_model, load_tokenizer


@dataclass(frozen=True)
class GraphCommand:
    """Write a prompt's attribution graph through transcoders, for the viewers of circuit-tracer and Neuronpedia."""

    transcoders: tyro.conf.Positional[tuple[str, ...]]
    """folders of transcoders, with others below them, or addresses on the hub"""
    model: str
    """a folder, a GGUF file or a name on the hub"""
    prompt: str
    """the text; its next token is explained"""
    graph: tyro.conf.OmitArgPrefixes[GraphConfig] = field(default_factory=GraphConfig)
    node_threshold: float = 0.8
    """share of the influence that the shown nodes have"""
    edge_threshold: float = 0.98
    slug: str = "graph"
    """the graph's name in viewers"""
    bos: bool = True
    """begin with the tokenizer's BOS token, if it has one"""
    model_dtype: Literal["float32", "float64", "bfloat16"] = "float32"
    device: str = "auto"
    strongest: int = 10
    """features to print, those of the most influence"""
    out: Path = Path("runs/graph")
    """folder for graph/ (whole), viewer/ (pruned) and results.json; an earlier run there is replaced"""

    def __post_init__(self) -> None:
        for name in ("node_threshold", "edge_threshold"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}: choose a share between 0 and 1")
        if self.strongest < 0:
            raise ValueError(f"strongest is {self.strongest}: choose 0 or more")
        if not self.transcoders:
            raise ValueError("no transcoder is given: name one or more folders")


def run_graph(config: GraphCommand) -> str:
    """The sentences and the table to print; the folder appears, or is replaced, only when all is done."""
    check_replaceable(config.out)
    model = load_model(config.model, dtype=config.model_dtype, device=config.device)
    tokenizer = load_tokenizer(config.model)
    ids = tokenizer(config.prompt, add_special_tokens=False)["input_ids"]
    if not ids:
        raise GraphError("the prompt has no tokens: give --prompt some text")
    if config.bos and tokenizer.bos_token_id is not None and ids[:1] != [tokenizer.bos_token_id]:
        ids = [tokenizer.bos_token_id, *ids]
    transcoders = DictionarySet(config.transcoders, model=model)

    def decode(token: int) -> str:
        return str(tokenizer.decode([token]))

    with run_folder(config.out, config, 0, {}) as run:
        graph = attribution_graph(model, transcoders, torch.tensor(ids), config.graph)
        graph.save(run / "graph")
        kept = prune(graph, config.node_threshold, config.edge_threshold)
        document = graph_to_viewer(graph, config.slug, decode, pruned=kept, node_threshold=config.node_threshold)
        write_viewer(document, run / "viewer")
        results = _results(graph, kept, decode, config.strongest)
        write_json(run / "results.json", results)
    where = f"Graph: {config.out / 'graph'}; for viewers: {config.out / 'viewer'}"
    return "\n".join([*_said(graph, results), *_table(results), where])


def _results(graph: AttributionGraph, kept: Pruned, decode: Callable[[int], str], strongest: int) -> dict[str, Any]:
    found, start = scores(graph), kept.influence[: len(graph.features)]
    total = float(kept.influence[: graph.first_logit].sum())
    rows = []
    for index in start.argsort(descending=True, stable=True)[:strongest].tolist():
        block, position, number = graph.features[index].tolist()
        rows.append(
            {
                "feature": f"{graph.mlps[block]}/{number}",
                "position": position,
                "token": decode(int(graph.tokens[position])),
                "activation": float(graph.activations[index]),
                "influence": float(start[index]) / total if total else 0.0,
                "kept": bool(kept.nodes[index]),
            }
        )
    return {
        "prompt": [decode(token) for token in graph.tokens.tolist()],
        "next": [
            [decode(token), probability]
            for token, probability in zip(graph.logit_tokens.tolist(), graph.logit_probabilities.tolist(), strict=True)
        ],
        "features": len(graph.features),
        "active_features": graph.provenance["active_features"],
        "edges": len(graph.edges),
        "kept_nodes": int(kept.nodes.sum()),
        "kept_features": int(kept.nodes[: graph.first_error].sum()),
        "kept_errors": int(kept.nodes[graph.first_error : graph.first_token].sum()),
        "kept_edges": int(kept.edges.sum()),
        "replacement": found.replacement,
        "completeness": found.completeness,
        "without_transcoder": [mlp for mlp in graph.mlps if mlp not in graph.provenance["transcoders"]],
        "strongest": rows,
    }


def _said(graph: AttributionGraph, results: dict[str, Any]) -> list[str]:
    likely = ", ".join(f"{token!r} {p:.1%}" for token, p in results["next"])
    folded = results["active_features"] - results["features"]
    rest = f" ({folded:,} weaker ones are counted as error)" if folded else ""
    lines = [
        f"{len(graph.tokens)} tokens; next: {likely}",
        f"{results['features']:,} features{rest}, {results['edges']:,} edges; shown are {results['kept_features']:,} "
        f"features, {results['kept_errors']:,} errors, all tokens and outputs, and {results['kept_edges']:,} edges",
        f"Replacement score {results['replacement']:.3f} (share of tokens in the influence of tokens and errors), "
        f"completeness score {results['completeness']:.3f} (share of the input that is not from errors)",
    ]
    if missing := results["without_transcoder"]:
        lines.append(f"All error, for want of a transcoder: {', '.join(missing)}")
    return lines


def _table(results: dict[str, Any]) -> list[str]:
    """The features of most influence."""
    if not results["strongest"]:
        return []
    lines = [f"{'influence':>9s}  {'activation':>10s}  feature (in brackets: not shown)"]
    for row in results["strongest"]:
        name = f"{row['feature']} at {row['position']} {row['token']!r}"
        lines.append(f"{row['influence']:9.1%}  {row['activation']:10.4g}  {name if row['kept'] else f'({name})'}")
    return lines
