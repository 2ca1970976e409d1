"""Sparse feature circuits: effects of features and error nodes, edges between them, and how faithful the result is."""

from circuits.attribution import counterfactual, node_effects
from circuits.circuit import Circuit, Node
from circuits.circuit_files import load_circuit, save_circuit
from circuits.discover import CircuitConfig, find_circuit
from circuits.edges import edge_effects
from circuits.exact import exact_effects
from circuits.examples import Examples
from circuits.faithfulness import faithfulness
from circuits.held_out import unseen
from circuits.metrics import LogitDifference, LogOdds
from circuits.places import Places

__all__ = [
    "Circuit",
    "CircuitConfig",
    "Examples",
    "LogOdds",
    "LogitDifference",
    "Node",
    "Places",
    "counterfactual",
    "edge_effects",
    "exact_effects",
    "faithfulness",
    "find_circuit",
    "load_circuit",
    "node_effects",
    "save_circuit",
    "unseen",
]
