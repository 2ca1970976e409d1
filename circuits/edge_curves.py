"""Faithfulness over the number of edges of a feature circuit, its nodes given (circuits.edge_ablation)."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from tqdm import tqdm
from transformers import PreTrainedModel

from circuits.ablation import ablated_metric, keep_none, replacements
from circuits.attribution import counterfactual
from circuits.circuit import Circuit, Node
from circuits.edge_ablation import EdgeAblation, every_edge
from circuits.end_points import EndPoints
from circuits.examples import Examples
from circuits.faithfulness import Measured
from circuits.feature_acts import Dictionaries
from circuits.held_out import MeasureError, check_apart
from circuits.intervals import Interval
from circuits.metrics import Metric, measure
from circuits.node_sets import log_sizes

Edge = tuple[Node, Node]


@dataclass(frozen=True)
class EdgePoint:
    edges: int
    faithfulness: Interval
    random: tuple[float, ...]
    """of as many edges between the same pairs of sites, drawn evenly among the circuit's nodes"""


@dataclass(frozen=True)
class EdgeCurve:
    points: tuple[EdgePoint, ...]
    nodes: Interval
    """with every edge between the circuit's nodes: what ablation of nodes measures"""
    possible: int
    """how many edges there can be between the circuit's nodes"""
    testing: int

    def sentence(self) -> str:
        last = self.points[-1]
        return (
            f"{last.edges} of {self.possible} edges keep {last.faithfulness} of the behaviour on {self.testing} "
            f"examples, all edges between the same nodes {self.nodes}."
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def edge_curve(
    model: PreTrainedModel,
    dictionaries: Dictionaries,
    circuit: Circuit,
    finding: Examples,
    testing: Examples,
    metric: Metric,
    to: EndPoints = counterfactual,
    sizes: Sequence[int] | None = None,
    *,
    draws: int = 3,
    seed: int = 0,
    batch_size: int = 16,
    overlap: bool = False,
    progress: bool = True,
) -> EdgeCurve:
    """The circuit's strongest n edges on `testing`, for all `sizes` (0, all of its edges, and sizes on a log scale).

    MeasureError if `finding` and `testing` share an example, unless `overlap`.
    """
    if not overlap:
        check_apart(testing, finding)
    dictionaries = {site: dictionaries[site] for site in circuit.sites}
    strongest = sorted(circuit.edges, key=lambda e: -abs(circuit.edges[e]))
    sizes = log_sizes(len(strongest), 2) if sizes is None else sorted(set(sizes))
    if not sizes or sizes[0] < 0 or sizes[-1] > len(strongest):
        raise MeasureError(f"sizes {list(sizes)}: the circuit has 0 to {len(strongest)} edges")
    possible = every_edge(circuit, model)
    pools: dict[tuple[str, str], list[Edge]] = {}
    for up, down in possible:
        pools.setdefault((up.site, down.site), []).append((up, down))
    sets = {str(size): strongest[:size] for size in sizes}
    for size in sizes:
        for draw in range(draws):
            sets[f"random {draw} {size}"] = _random_edges(strongest[:size], pools, [seed, draw, size])
    measured = _measured(model, dictionaries, circuit, sets, testing, metric, to, batch_size, progress)
    points = [
        EdgePoint(size, measured.estimate(str(size)), tuple(measured.ratio(f"random {i} {size}") for i in range(draws)))
        for size in sizes
    ]
    return EdgeCurve(tuple(points), measured.estimate("nodes"), len(possible), len(testing))


@torch.no_grad()
def _measured(
    model: PreTrainedModel,
    dictionaries: Dictionaries,
    circuit: Circuit,
    sets: dict[str, list[Edge]],
    testing: Examples,
    metric: Metric,
    to: EndPoints,
    batch_size: int,
    progress: bool,
) -> Measured:
    """The metric of every example for every set of edges, with no node, and with the nodes alone."""
    none, kept = keep_none(dictionaries, len(circuit.places)), circuit.kept(dictionaries)
    found: dict[str, list[np.ndarray]] = {name: [] for name in ("model", "empty", "nodes", *sets)}
    batches = testing.batches(batch_size)
    for batch in tqdm(batches, desc="edges kept", unit="batch", disable=not progress):
        states = replacements(dictionaries, to(model, dictionaries, batch))
        values = {"model": measure(model, metric, batch.clean, batch)}
        for name, mask in (("empty", none), ("nodes", kept)):
            values[name] = ablated_metric(model, dictionaries, batch, metric, mask, states)
        cut = EdgeAblation(model, dictionaries, batch, metric, to)
        for name, edges in sets.items():
            values[name] = cut.metric_of(replace(circuit, edges=dict.fromkeys(edges, 1.0)))
        for name, value in values.items():
            found[name].append(value.double().cpu().numpy())
    together = {name: np.concatenate(parts) for name, parts in found.items()}
    return Measured(together.pop("model"), together.pop("empty"), together)


def _random_edges(
    edges: Sequence[Edge], pools: Mapping[tuple[str, str], Sequence[Edge]], seed: list[int]
) -> list[Edge]:
    """As many edges between every pair of sites."""
    rng = np.random.default_rng(seed)
    drawn = []
    for pair, count in Counter((up.site, down.site) for up, down in edges).items():
        drawn += [pools[pair][i] for i in rng.choice(len(pools[pair]), count, replace=False)]
    return drawn
