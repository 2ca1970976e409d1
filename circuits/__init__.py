"""Sparse feature circuits: effects of features and error nodes, edges between them, and how faithful the result is."""

from circuits.attribution import exact_effects, node_effects, patch_states
from circuits.circuit import Circuit
from circuits.discover import CircuitConfig, find_circuit
from circuits.edges import edge_effects
from circuits.examples import Examples
from circuits.faithfulness import faithfulness
from circuits.metrics import LogitDifference, LogOdds

__all__ = [
    "Circuit",
    "CircuitConfig",
    "Examples",
    "LogOdds",
    "LogitDifference",
    "edge_effects",
    "exact_effects",
    "faithfulness",
    "find_circuit",
    "node_effects",
    "patch_states",
]
