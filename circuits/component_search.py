"""Circuits of coarser nodes, of edges between them, and between spans: the best, random ones, and their metric.

The end points of held-out examples are those that scored: their own counterfactuals, zero, or the mean of the examples
that found the circuit.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Generator, Tensor

from circuits.component_nodes import ComponentScores
from circuits.component_rows import Row, edge_rows, node_rows, span_rows
from circuits.component_states import ComponentStates, End, Nodes, mean_states
from circuits.components import Components
from circuits.eap import EdgeScores
from circuits.edge_circuits import circuit_metrics
from circuits.examples import Examples
from circuits.faithfulness import Measured
from circuits.held_out import check_apart
from circuits.metrics import Metric
from circuits.node_circuits import node_circuit_metrics, top
from circuits.peap import SpanScores
from circuits.span_circuits import SpanCircuit, search_spans, span_circuit_metric


@runtime_checkable
class Search(Protocol):
    """Scores of all nodes or edges, and what circuits of them do."""

    @property
    def total(self) -> int: ...  # how many nodes or edges there are
    def best(self, count: int) -> Any: ...  # a circuit
    def random(self, count: int, generator: Generator) -> Any: ...
    def rows(self, circuit: Any) -> list[Row]: ...
    def metrics(self, examples: Examples, circuits: Sequence[Any]) -> Float[Tensor, "circuits examples"]: ...


@dataclass(frozen=True)
class NodeSearch:
    """Nodes at places: whole sources, or their single dimensions if `values` has an axis for them."""

    nodes: Nodes
    metric: Metric
    end: End | ComponentStates
    scores: ComponentScores
    values: Float[Tensor, "places sources"] | Float[Tensor, "places sources d"]

    @property
    def total(self) -> int:
        return self.values.numel()

    def best(self, count: int) -> Tensor:
        return top(self.values, count)

    def random(self, count: int, generator: Generator) -> Tensor:
        return top(torch.rand(self.values.shape, generator=generator), count)

    def rows(self, circuit: Tensor) -> list[Row]:
        return node_rows(self.scores, self.values, circuit)

    def metrics(self, examples: Examples, circuits: Sequence[Tensor]) -> Float[Tensor, "circuits examples"]:
        return node_circuit_metrics(self.nodes, examples, self.metric, circuits, end=self.end)


@dataclass(frozen=True)
class EdgeSearch:
    """Edges at places."""

    graph: Components
    metric: Metric
    end: End | ComponentStates
    scores: EdgeScores

    @property
    def total(self) -> int:
        return len(self.scores.places) * int(self.graph.real.sum())

    def best(self, count: int) -> Tensor:
        return self._top(self.scores.values, count)

    def random(self, count: int, generator: Generator) -> Tensor:
        return self._top(torch.rand(self.scores.values.shape, generator=generator) + 1, count)

    def rows(self, circuit: Tensor) -> list[Row]:
        return edge_rows(self.scores, circuit)

    def metrics(self, examples: Examples, circuits: Sequence[Tensor]) -> Float[Tensor, "circuits examples"]:
        return circuit_metrics(self.graph, examples, self.metric, circuits, end=self.end)

    def _top(self, values: Tensor, count: int) -> Tensor:
        """Only of edges that there are, those of score 0 too."""
        real = self.graph.real.expand_as(values)
        kept = torch.zeros_like(real)
        kept[real] = top(values[real], count)
        return kept


@dataclass(frozen=True)
class SpanSearch:
    """Edges between spans, best first from the end; a mean is that of the examples `reference`."""

    graph: Components
    metric: Metric
    end: End
    reference: Examples
    scores: SpanScores

    @property
    def total(self) -> int:
        return SpanCircuit.all(self.graph, len(self.scores.spans)).edges(self.graph)

    def best(self, count: int) -> SpanCircuit:
        return search_spans(self.graph, self.scores, count)

    def random(self, count: int, generator: Generator) -> SpanCircuit:
        drawn = (torch.rand(x.shape, generator=generator) for x in (self.scores.within, self.scores.crossing))
        within, crossing = drawn
        return search_spans(self.graph, replace(self.scores, within=within, crossing=crossing), count)

    def rows(self, circuit: SpanCircuit) -> list[Row]:
        return span_rows(self.graph, self.scores, circuit)

    def metrics(self, examples: Examples, circuits: Sequence[SpanCircuit]) -> Float[Tensor, "circuits examples"]:
        values = [
            span_circuit_metric(self.graph, examples, self.metric, c, end=self.end, reference=self.reference)
            for c in circuits
        ]
        return torch.stack(values)


def held_end(nodes: Nodes, finding: Examples, end: End) -> End | ComponentStates:
    """The end point for finding and testing examples alike: means are those of `finding`."""
    return mean_states(nodes, finding) if end == "mean" else end


def measure_search(
    search: Search,
    finding: Examples,
    testing: Examples,
    sizes: Sequence[int],
    *,
    model: Callable[[Examples], Float[Tensor, " examples"]],
    random: int = 0,
    seed: int = 0,
) -> Measured:
    """The metric of held-out examples under circuits of the best n, named "n", and random ones, "random n i".

    `model` gives the metric without any circuit. MeasureError for examples that are among `finding`, or without
    anything to measure.
    """
    check_apart(testing, finding)
    generator = torch.Generator().manual_seed(seed)
    circuits = {str(n): search.best(n) for n in sizes}
    circuits |= {f"random {n} {i}": search.random(n, generator) for n in sizes for i in range(random)}
    values = search.metrics(testing, [search.best(0), *circuits.values()]).double().cpu().numpy()
    whole = np.asarray(model(testing).double().cpu())
    return Measured(whole, values[0], dict(zip(circuits, values[1:], strict=True)))
