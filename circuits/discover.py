"""find_circuit: sparse feature circuits (Marks et al. 2024, section 3) on one page.

Node effects of every example, summed over positions; the nodes of all sites with the largest mean absolute effect
over examples, error nodes among them (a node that helps in one example and hurts in the next matters to both); the
edges between those, measured on every example; the strongest edges; and what still reaches the output.
"""

from dataclasses import dataclass

import torch
from tqdm import tqdm
from transformers import PreTrainedModel

from circuits.attribution import NodeEffects, completeness_error, node_effects
from circuits.circuit import Circuit, edges_between, strongest_nodes
from circuits.edges import Edges, edge_effects
from circuits.examples import Examples
from circuits.feature_acts import Dictionaries, NodeScores
from circuits.metrics import Metric, measure
from saes.families import circuit_sites
from saes.sites import Site, SiteError


@dataclass(frozen=True)
class CircuitConfig:
    nodes: int = 1000
    """features and error nodes to choose, over all sites"""
    edges: int = 5000
    """edges to keep"""
    steps: int = 20
    """points on the path of integrated gradients"""
    batch_size: int = 16
    """examples at once"""

    def __post_init__(self) -> None:
        for name in ("nodes", "edges", "steps", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: choose at least 1")


@dataclass(frozen=True)
class Discovery:
    """A circuit with the evidence about it."""

    circuit: Circuit
    scores: dict[Site, NodeScores]  # mean effect of every node, positions summed
    ig_sum_error: float  # largest over embed and resid sites, where all paths pass


def find_circuit(
    model: PreTrainedModel,
    dictionaries: Dictionaries,
    examples: Examples,
    metric: Metric,
    config: CircuitConfig,
    *,
    progress: bool = True,
) -> Discovery:
    """The circuit behind a metric on clean / patch pairs, with dictionaries for embed, attn_i, mlp_i and resid_i."""
    sites = tuple(site for site in circuit_sites(model) if site in dictionaries)
    if not sites or sites[-1] != circuit_sites(model)[-1]:
        raise SiteError(f"a circuit needs a dictionary at {circuit_sites(model)[-1]}, the last site before the output")
    batches = examples.batches(config.batch_size)
    measured: list[NodeEffects] = []
    gaps: list[float] = []
    for batch in tqdm(batches, desc="node effects", disable=not progress):
        assert batch.patch is not None
        effects = node_effects(model, dictionaries, batch, metric, method="ig", steps=config.steps)
        with torch.no_grad():
            change = measure(model, metric, batch.patch, batch) - measure(model, metric, batch.clean, batch)
        bottlenecks = [s for s in sites if s.name == "embed" or s.name.startswith("resid_")]
        gaps.append(max(completeness_error(effects, change, bottlenecks).values()))
        measured.append(effects)
    per_example = {
        site: NodeScores(
            torch.cat([m.effects[site].acts.sum(1) for m in measured]),
            torch.cat([m.effects[site].error.sum(1) for m in measured]),
        )
        for site in sites
    }
    unlinked = Circuit(
        sites, strongest_nodes(per_example, config.nodes), {}, {"nodes_chosen": config.nodes, "steps": config.steps}
    )
    chosen = unlinked.chosen()
    total: Edges = {}
    pairs = zip(batches, measured, strict=True)
    for batch, effects in tqdm(pairs, total=len(batches), desc="edges", disable=not progress):
        share = len(batch) / len(examples)
        for pair, matrix in edge_effects(model, dictionaries, batch, effects, chosen).items():
            total[pair] = total[pair] + share * matrix if pair in total else share * matrix
    circuit = Circuit(sites, unlinked.nodes, edges_between(total, chosen), unlinked.provenance).pruned(config.edges)
    scores = {site: s.mean_examples() for site, s in per_example.items()}
    return Discovery(circuit, scores, max(gaps))
