"""`kibitz circuit graph`: the attribution graph of one prompt through transcoders (docs/attribution_graphs.md)."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
import tyro

from circuits.attribution_graph import GraphConfig, attribution_graph
from circuits.graph_export import graph_to_viewer
from circuits.pruning import prune, scores
from circuits.viewer_json import write_viewer
from kibitz.runs import check_replaceable, run_folder
from saes.dictionary_set import DictionarySet
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
    out: Path = Path("runs/graph")
    """folder for graph/ (whole) and viewer/ (pruned); an earlier run there is replaced"""


def run_graph(config: GraphCommand) -> str:
    """The sentences to print."""
    check_replaceable(config.out)
    model, tokenizer = (
        load_model(config.model, dtype=config.model_dtype, device=config.device),
        load_tokenizer(config.model),
    )
    ids = tokenizer(config.prompt, add_special_tokens=False)["input_ids"]
    if config.bos and tokenizer.bos_token_id is not None and ids[:1] != [tokenizer.bos_token_id]:
        ids = [tokenizer.bos_token_id, *ids]
    transcoders = DictionarySet(config.transcoders, model=model)
    with run_folder(config.out, config, 0, {}) as run:
        graph = attribution_graph(model, transcoders, torch.tensor(ids), config.graph)
        graph.save(run / "graph")
        kept = prune(graph, config.node_threshold, config.edge_threshold)
        document = graph_to_viewer(
            graph, config.slug, lambda token: str(tokenizer.decode([token])), pruned=kept,
            node_threshold=config.node_threshold,
        )  # fmt: skip
        write_viewer(document, run / "viewer")
        found = scores(graph)
    return (
        f"{len(graph.features)} features, {len(graph.edges.weights):,} edges; kept {int(kept.nodes.sum())} nodes and "
        f"{int(kept.edges.sum()):,} edges; {found}\nGraph: {config.out / 'graph'}; for viewers: {config.out / 'viewer'}"
    )
