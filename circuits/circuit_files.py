"""A circuit as a folder: manifest.json and circuit.safetensors, with no class to unpickle.

The manifest is written last and holds the hash of the tensors, so that a folder whose writing was cut short, or whose
parts come from two circuits, is told from a whole one.
"""

import json
import math
from pathlib import Path
from typing import Any

import torch

from circuits.circuit import Circuit, Node
from circuits.feature_acts import Dictionaries
from circuits.provenance import check_dictionaries
from saes.files import FileError, read_json, read_tensors, sha256, write_json, write_tensors
from saes.sites import Site

FORMAT = "kibitz-circuit-2"


def save_circuit(circuit: Circuit, folder: Path | str) -> None:
    """Write a circuit; each file appears whole or not at all. FileError if its provenance is not plain JSON."""
    folder, index = Path(folder), {node: i for i, node in enumerate(circuit.nodes)}
    try:
        provenance = json.loads(json.dumps(dict(circuit.provenance), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise FileError(f"{folder}: the circuit's provenance cannot be written as JSON ({error})") from None
    pairs = torch.tensor([[index[u], index[d]] for u, d in circuit.edges], dtype=torch.long).reshape(-1, 2)
    tensors = folder / "circuit.safetensors"
    write_tensors(
        tensors,
        {
            "node_effects": torch.tensor(list(circuit.nodes.values()), dtype=torch.float64),
            "edge_effects": torch.tensor(list(circuit.edges.values()), dtype=torch.float64),
            "edges": pairs,
        },
    )
    write_json(
        folder / "manifest.json",
        {
            "format": FORMAT,
            "tensors": sha256(tensors),
            "sites": [{"name": s.name, "module": s.module, "end": s.end} for s in circuit.sites],
            "places": list(circuit.places),
            "nodes": [[n.site, n.feature, n.place] for n in circuit.nodes],
            "provenance": provenance,
        },
    )


def load_circuit(folder: Path | str, dictionaries: Dictionaries | None = None) -> Circuit:
    """Read what save_circuit wrote; FileError for anything else.

    With `dictionaries`, CircuitError unless the circuit was found with these.
    """
    folder = Path(folder)
    manifest = read_json(folder / "manifest.json")
    found = manifest.get("format") if isinstance(manifest, dict) else None
    if found != FORMAT:
        raise FileError(f"{folder}: format {found!r}; expected {FORMAT!r}")
    tensors = read_tensors(folder / "circuit.safetensors")
    if manifest.get("tensors") != sha256(folder / "circuit.safetensors"):
        raise FileError(f"{folder}: circuit.safetensors is not the one of this manifest; save the circuit again")
    try:
        nodes = [Node(site, feature, place) for site, feature, place in manifest["nodes"]]
        edges = zip(tensors["edges"].tolist(), tensors["edge_effects"].tolist(), strict=True)
        circuit = Circuit(
            tuple(Site(**s) for s in manifest["sites"]),
            dict(zip(nodes, tensors["node_effects"].tolist(), strict=True)),
            {(nodes[_index(u)], nodes[_index(d)]): effect for (u, d), effect in edges},
            manifest["provenance"],
            tuple(manifest["places"]),
        )
        _check(circuit, len(nodes), len(tensors["edges"]))
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise FileError(f"{folder}: not a whole circuit ({error})") from None
    if dictionaries is not None:
        check_dictionaries(circuit, dictionaries)
    return circuit


def _index(value: Any) -> int:
    if value < 0:
        raise ValueError(f"an edge ends at node {value}")
    return value


def _check(circuit: Circuit, nodes: int, edges: int) -> None:
    """ValueError for what the types do not rule out."""
    sites = {site.name for site in circuit.sites}
    if len(circuit.nodes) != nodes or len(circuit.edges) != edges:
        raise ValueError("a node or an edge is there twice")
    for node in circuit.nodes:
        if node.site not in sites or node.place not in circuit.places:
            raise ValueError(f"node {node} is at a site or a place that the manifest does not list")
        if node.feature is not None and (type(node.feature) is not int or node.feature < 0):
            raise ValueError(f"feature {node.feature!r} of {node.site} is no feature's number")
    for value in (*circuit.nodes.values(), *circuit.edges.values()):
        if not math.isfinite(value):
            raise ValueError(f"an effect is {value}")
