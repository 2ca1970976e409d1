"""`kibitz circuit components`: heads, MLPs, neurons or the residual stream behind a behaviour, as a run folder.

The folder holds results.json (faithfulness of the best n nodes or edges on examples that did not find them), and the
strongest ones as components.csv and components.dot (Graphviz).
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from torch import Tensor
from transformers import PreTrainedModel

from boardgames.lm import OTHELLO_GPT
from circuits.component_gradients import Method
from circuits.component_nodes import component_scores, exact_component_scores, exact_dimension_scores
from circuits.component_rows import Row, to_csv, to_dot
from circuits.component_search import EdgeSearch, NodeSearch, Search, SpanSearch, held_end, measure_search
from circuits.component_states import End, Nodes
from circuits.components import Components
from circuits.eap import edge_scores
from circuits.edge_patching import exact_edge_scores
from circuits.examples import Examples
from circuits.faithfulness import Measured
from circuits.metrics import measure
from circuits.node_circuits import top
from circuits.peap import span_scores
from circuits.site_nodes import SiteNodes
from kibitz.circuit_problem import Explained, ProblemError, ProblemOptions
from kibitz.runs import check_replaceable, run_folder
from saes.files import write_json, write_text
from saes.models import load_model


@dataclass(frozen=True)
class ComponentsConfig(ProblemOptions):
    """Score coarser nodes behind a behaviour, or the edges between them, and measure the best."""

    dictionaries: tyro.conf.Suppress[tuple[str, ...]] = ()
    budget: tyro.conf.Suppress[float | None] = None
    nodes: Literal["heads", "layers", "residual", "neurons"] = "heads"
    """heads and MLPs, whole attention layers and MLPs, the residual stream (with places), or single neurons of MLPs"""
    method: Literal["eap", "ig-inputs", "ig-activations", "exact"] | None = None
    """attribution, integrated gradients over the input or over each layer's output, or patching one at a time; of
    neurons exact measures the strongest by ig-inputs. By default ig-inputs, with --peap eap"""
    edges: bool = False
    """score edges between heads and MLPs, not nodes"""
    peap: bool = False
    """with --edges: those inside heads from place to place too, and circuits best first from the end"""
    steps: int = 5
    """of integrated gradients"""
    best: tuple[int, ...] = (10, 30, 100)
    """sizes of the circuits that are measured"""
    random: int = 3
    """random circuits of each size to compare with"""
    shown: int = 20
    """rows of the table that is printed"""
    out: Path = Path("runs/components")
    """folder for results.json, components.csv and components.dot; an earlier run there is replaced"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.edges and self.nodes not in ("heads", "layers"):
            raise ProblemError(f"nodes is {self.nodes}: edges are between heads or layers; choose --nodes heads")
        if self.peap and (not self.edges or self.nodes != "heads" or self.method not in (None, "eap")):
            raise ProblemError("peap scores edges of heads by attribution: give --edges --peap without other methods")
        if self.to == "resample":
            raise ProblemError("to is resample: components move to patch, mean or zero")
        if not self.best or min(self.best) < 1:
            raise ProblemError(f"best is {list(self.best)}: choose sizes of 1 or more")
        for name, least in (("steps", 1), ("random", 0), ("shown", 0)):
            if getattr(self, name) < least:
                raise ProblemError(f"{name} is {getattr(self, name)}: choose {least} or more")


def run_components(config: ComponentsConfig) -> str:
    """The sentences to print; the folder appears, or is replaced, only when all is done."""
    check_replaceable(config.out)
    model = load_model(config.model or str(OTHELLO_GPT), dtype=config.model_dtype, device=config.device)
    explained = config.explained(model.requires_grad_(False))
    if explained.finding.grouped.names != explained.testing.grouped.names:
        raise ProblemError(
            "the pairs that find and those that measure have other numbers of positions: choose another --places"
        )
    search = searched(config, model, explained)
    sizes = sorted({min(size, search.total) for size in config.best})
    measured = measure_search(
        search, explained.finding, explained.testing, sizes, random=config.random, seed=config.seed,
        model=lambda examples: _plain(model, explained, examples),
    )  # fmt: skip
    rows = search.rows(search.best(sizes[-1]))
    inputs = {} if config.pairs is None else {"pairs": config.pairs}
    with run_folder(config.out, config, config.seed, inputs) as run:
        write_json(run / "results.json", _results(config, explained, search, measured, sizes))
        write_text(run / "components.csv", to_csv(rows))
        write_text(run / "components.dot", to_dot(rows, explained.said))
    what = "edges" if config.edges else "nodes"
    table = _table(rows[: config.shown])
    said = [f"Of {search.total:,} {what} the strongest, by effect on {explained.metric_name} (to {explained.to_name}):"]
    said += table
    said += [_sentence(config, measured, size, what) for size in sizes]
    return "\n".join([*said, f"Rows: {config.out / 'components.csv'}; Graphviz: {config.out / 'components.dot'}"])


def searched(config: ComponentsConfig, model: PreTrainedModel, explained: Explained) -> Search:
    """The scores that the options ask for, of the examples that find."""
    finding, metric = explained.finding, explained.metric
    assert explained.to_name != "resample"
    to: End = explained.to_name
    if config.peap:
        graph = Components.of(model, open_attention=True)
        scores = span_scores(graph, finding, metric, end=to, reference=finding)["sum"]
        return SpanSearch(graph, metric, to, finding, scores)
    method = config.method or "ig-inputs"
    if config.nodes in ("heads", "layers"):
        graph = Components.of(model, heads=config.nodes == "heads")
        end = held_end(graph, finding, to)
        if not config.edges:
            return _nodes(config, graph, explained, method, to)
        if method == "exact":
            return EdgeSearch(graph, metric, end, exact_edge_scores(graph, finding, metric, end=end))
        found = edge_scores(graph, finding, metric, method=method, end=end, steps=config.steps)
        return EdgeSearch(graph, metric, end, found)
    nodes = SiteNodes.residual(model) if config.nodes == "residual" else SiteNodes.neurons(model)
    return _nodes(config, nodes, explained, method, to)


def _nodes(
    config: ComponentsConfig, nodes: Nodes, explained: Explained, method: Method | Literal["exact"], to: End
) -> NodeSearch:
    finding, metric, end = explained.finding, explained.metric, held_end(nodes, explained.finding, to)
    gradients: Method = "ig-inputs" if method == "exact" else method
    scores = component_scores(nodes, finding, metric, method=gradients, end=end, steps=config.steps)
    values = scores.dimensions if config.nodes == "neurons" else scores.values
    if method == "exact" and config.nodes == "neurons":
        chosen = top(values.abs().sum(0), max(config.best))
        values = exact_dimension_scores(nodes, finding, metric, chosen, end=end)
    elif method == "exact":
        values = exact_component_scores(nodes, finding, metric, end=end)
    return NodeSearch(nodes, metric, end, scores, values)


def _results(
    config: ComponentsConfig, explained: Explained, search: Search, measured: Measured, sizes: list[int]
) -> dict[str, Any]:
    return {
        "explained": explained.said,
        "metric": explained.metric_name,
        "to": explained.to_name,
        "what": "edges" if config.edges else config.nodes,
        "total": search.total,
        "finding": len(explained.finding),
        "testing": len(explained.testing),
        "model": float(measured.model.mean()),
        "nothing": float(measured.empty.mean()),
        "circuits": [
            {
                "size": size,
                "faithfulness": asdict(measured.estimate(str(size), config.seed)),
                "random": [measured.ratio(f"random {size} {i}") for i in range(config.random)],
            }
            for size in sizes
        ],
    }


def _table(rows: list[Row]) -> list[str]:
    width = max((len(str(row)) for row in rows), default=0)
    return [f"  {row!s:<{width}}  {row.effect:+.4f}" for row in rows]


def _sentence(config: ComponentsConfig, measured: Measured, size: int, what: str) -> str:
    others = [measured.ratio(f"random {size} {i}") for i in range(config.random)]
    beside = f"; {len(others)} random ones {sum(others) / len(others):.3g} on average" if others else ""
    return f"Faithfulness of the best {size} {what} on {len(measured.model)} held-out examples: " + (
        f"{measured.estimate(str(size), config.seed)}{beside}"
    )


@torch.no_grad()
def _plain(model: PreTrainedModel, explained: Explained, examples: Examples) -> Tensor:
    parts = [measure(model, explained.metric, batch.clean, batch) for batch in examples.batches(16)]
    return torch.cat(parts)
