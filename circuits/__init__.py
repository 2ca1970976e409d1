"""Sparse feature circuits: effects of features and error nodes, edges between them, and how faithful the result is."""

from circuits.attribution import counterfactual, node_effects
from circuits.audit import audit_effects
from circuits.circuit import Circuit, Node
from circuits.circuit_files import load_circuit, save_circuit
from circuits.curves import CurveConfig, faithfulness_curves
from circuits.discover import CircuitConfig, find_circuit
from circuits.edge_curves import edge_curve
from circuits.edges import edge_effects
from circuits.exact import exact_effects
from circuits.examples import Examples
from circuits.faithfulness import Evaluator, faithfulness
from circuits.held_out import unseen
from circuits.metrics import LogitDifference, LogOdds
from circuits.places import Places
from circuits.steering import ablate, amplify, steer, swap

__all__ = [
    "Circuit",
    "CircuitConfig",
    "CurveConfig",
    "Evaluator",
    "Examples",
    "LogOdds",
    "LogitDifference",
    "Node",
    "Places",
    "ablate",
    "amplify",
    "audit_effects",
    "counterfactual",
    "edge_curve",
    "edge_effects",
    "exact_effects",
    "faithfulness",
    "faithfulness_curves",
    "find_circuit",
    "load_circuit",
    "node_effects",
    "save_circuit",
    "steer",
    "swap",
    "unseen",
]
