"""A sparse feature circuit: chosen features and error nodes, their effects, and the edges between them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import networkx as nx
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.ablation import Kept
from circuits.edges import Chosen
from circuits.feature_acts import Dictionaries, NodeScores
from saes.files import FileError, read_json, read_tensors, write_json, write_tensors
from saes.sites import Site

FORMAT = "kibitz-circuit-1"


@dataclass(frozen=True)
class Node:
    """A feature of a site, or its error node (feature None)."""

    site: str
    feature: int | None

    def __str__(self) -> str:
        return f"{self.site}/{'error' if self.feature is None else self.feature}"


@dataclass(frozen=True)
class Circuit:
    """Nodes with their mean signed effects, and signed edges upstream -> downstream.

    Effects are patch minus clean: what the metric gains when the node alone takes its patch value. `sites` are in
    forward order. `provenance` says how it was found.
    """

    sites: tuple[Site, ...]
    nodes: Mapping[Node, float]
    edges: Mapping[tuple[Node, Node], float]
    provenance: Mapping[str, Any]

    def chosen(self) -> dict[Site, Chosen]:
        """The nodes by site, features in ascending order."""
        return {
            site: Chosen(
                torch.tensor(
                    sorted(n.feature for n in self.nodes if n.site == site.name and n.feature is not None),
                    dtype=torch.long,
                ),
                Node(site.name, None) in self.nodes,
            )
            for site in self.sites
        }

    def kept(self, dictionaries: Dictionaries) -> dict[Site, Kept]:
        """The nodes as masks over whole dictionaries, for ablation."""
        masks = {}
        for site, nodes in self.chosen().items():
            features = torch.zeros(dictionaries[site].features, dtype=torch.bool)
            features[nodes.features] = True
            masks[site] = Kept(features, nodes.error)
        return masks

    def pruned(self, edges: int) -> "Circuit":
        """The strongest `edges` edges, and of the nodes those that still reach the last site through them."""
        strongest = sorted(self.edges, key=lambda e: abs(self.edges[e]), reverse=True)[:edges]
        graph = nx.DiGraph(strongest)
        last = self.sites[-1].name
        outputs = [n for n in self.nodes if n.site == last]
        reaching = set(outputs)
        for node in outputs:
            if node in graph:
                reaching |= nx.ancestors(graph, node)
        return replace(
            self,
            nodes={n: e for n, e in self.nodes.items() if n in reaching},
            edges={e: self.edges[e] for e in strongest if e[0] in reaching and e[1] in reaching},
            provenance={**self.provenance, "edges_kept": edges},
        )

    def save(self, folder: Path | str) -> None:
        """Write manifest.json and circuit.safetensors."""
        folder, index = Path(folder), {node: i for i, node in enumerate(self.nodes)}
        pairs = torch.tensor([[index[u], index[d]] for u, d in self.edges], dtype=torch.long).reshape(-1, 2)
        write_tensors(
            folder / "circuit.safetensors",
            {
                "node_effects": torch.tensor(list(self.nodes.values()), dtype=torch.float64),
                "edge_effects": torch.tensor(list(self.edges.values()), dtype=torch.float64),
                "edges": pairs,
            },
        )
        write_json(
            folder / "manifest.json",
            {
                "format": FORMAT,
                "sites": [{"name": s.name, "module": s.module, "end": s.end} for s in self.sites],
                "nodes": [[n.site, n.feature] for n in self.nodes],
                "provenance": json.loads(json.dumps(dict(self.provenance))),
            },
        )

    @classmethod
    def load(cls, folder: Path | str) -> "Circuit":
        """Read what save wrote; FileError for anything else."""
        folder = Path(folder)
        manifest, tensors = read_json(folder / "manifest.json"), read_tensors(folder / "circuit.safetensors")
        try:
            if manifest["format"] != FORMAT:
                raise FileError(f"{folder}: format {manifest['format']!r}; expected {FORMAT!r}")
            nodes = [Node(site, feature) for site, feature in manifest["nodes"]]
            return cls(
                tuple(Site(**s) for s in manifest["sites"]),
                dict(zip(nodes, tensors["node_effects"].tolist(), strict=True)),
                {
                    (nodes[u], nodes[d]): effect
                    for (u, d), effect in zip(tensors["edges"].tolist(), tensors["edge_effects"].tolist(), strict=True)
                },
                manifest["provenance"],
            )
        except (KeyError, TypeError, IndexError, ValueError) as error:
            raise FileError(f"{folder}: not a whole circuit ({error})") from None


def strongest_nodes(scores: Mapping[Site, NodeScores], count: int) -> dict[Node, float]:
    """The `count` nodes, errors among them, of largest mean absolute effect over examples, with their mean effect.

    `scores` has acts [examples, F] and error [examples]. A node that helps in one example and hurts in the next
    matters to both, so the sign is averaged only in what is reported. Nodes without any effect are never chosen.
    """
    joined = {site: s.joined() for site, s in scores.items()}
    sizes = {site: values.abs().mean(0) for site, values in joined.items()}
    every = torch.cat(list(sizes.values()))
    cut = every.topk(min(count, len(every))).values.min()
    nodes = {}
    for site, size in sizes.items():
        means = joined[site].mean(0)
        for index in ((size >= cut) & (size > 0)).nonzero().flatten().tolist():
            nodes[Node(site.name, None if index == len(size) - 1 else index)] = float(means[index])
    return nodes


def edges_between(
    matrices: Mapping[tuple[Site, Site], Float[Tensor, "down up"]], chosen: Mapping[Site, Chosen]
) -> dict[tuple[Node, Node], float]:
    """Matrices over chosen nodes as a mapping, without the zero entries."""

    def names(site: Site) -> list[Node]:
        return [Node(site.name, f) for f in chosen[site].features.tolist()] + [Node(site.name, None)]

    edges = {}
    for (up, down), matrix in matrices.items():
        above, below = names(up), names(down)
        edges |= {(above[u], below[d]): float(matrix[d, u]) for d, u in matrix.nonzero().tolist()}
    return edges
