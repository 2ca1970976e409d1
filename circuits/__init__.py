"""Sparse feature circuits: effects of features and error nodes, edges between them, and how faithful the result is."""

from circuits.algebra import average, diff, merge
from circuits.attribution import counterfactual, node_effects
from circuits.circuit import Circuit, Node
from circuits.circuit_files import load_circuit, save_circuit
from circuits.discover import CircuitConfig, find_circuit
from circuits.edges import edge_effects
from circuits.exact import exact_effects
from circuits.examples import Examples
from circuits.export import to_dot, to_graphml, to_viewer_json
from circuits.faithfulness import faithfulness
from circuits.labels import Label
from circuits.metrics import LogitDifference, LogOdds
from circuits.page import Context, write_page
from circuits.picture import draw_svg
from circuits.places import Places
from circuits.provenance import check_dictionaries, provenance

__all__ = [
    "Circuit",
    "CircuitConfig",
    "Context",
    "Examples",
    "Label",
    "LogOdds",
    "LogitDifference",
    "Node",
    "Places",
    "average",
    "check_dictionaries",
    "counterfactual",
    "diff",
    "draw_svg",
    "edge_effects",
    "exact_effects",
    "faithfulness",
    "find_circuit",
    "load_circuit",
    "merge",
    "node_effects",
    "provenance",
    "save_circuit",
    "to_dot",
    "to_graphml",
    "to_viewer_json",
    "write_page",
]
