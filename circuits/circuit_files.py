"""A circuit as a folder: manifest.json and circuit.safetensors, with no class to unpickle."""

import json
from pathlib import Path

import torch

from circuits.circuit import Circuit, Node
from saes.files import FileError, read_json, read_tensors, write_json, write_tensors
from saes.sites import Site

FORMAT = "kibitz-circuit-2"


def save_circuit(circuit: Circuit, folder: Path | str) -> None:
    """Write a circuit; each file appears whole or not at all."""
    folder, index = Path(folder), {node: i for i, node in enumerate(circuit.nodes)}
    pairs = torch.tensor([[index[u], index[d]] for u, d in circuit.edges], dtype=torch.long).reshape(-1, 2)
    write_tensors(
        folder / "circuit.safetensors",
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
            "sites": [{"name": s.name, "module": s.module, "end": s.end} for s in circuit.sites],
            "places": list(circuit.places),
            "nodes": [[n.site, n.feature, n.place] for n in circuit.nodes],
            "provenance": json.loads(json.dumps(dict(circuit.provenance))),
        },
    )


def load_circuit(folder: Path | str) -> Circuit:
    """Read what save_circuit wrote; FileError for anything else."""
    folder = Path(folder)
    manifest, tensors = read_json(folder / "manifest.json"), read_tensors(folder / "circuit.safetensors")
    try:
        if manifest["format"] != FORMAT:
            raise FileError(f"{folder}: format {manifest['format']!r}; expected {FORMAT!r}")
        nodes = [Node(site, feature, place) for site, feature, place in manifest["nodes"]]
        edges = zip(tensors["edges"].tolist(), tensors["edge_effects"].tolist(), strict=True)
        return Circuit(
            tuple(Site(**s) for s in manifest["sites"]),
            dict(zip(nodes, tensors["node_effects"].tolist(), strict=True)),
            {(nodes[u], nodes[d]): effect for (u, d), effect in edges},
            manifest["provenance"],
            tuple(manifest["places"]),
        )
    except FileError:
        raise
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise FileError(f"{folder}: not a whole circuit ({error})") from None
