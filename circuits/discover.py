"""find_circuit: sparse feature circuits (Marks et al. 2024, section 3) on one page.

Node effects of every example, summed over the positions of each place; the nodes of all sites with the largest mean
absolute effect over examples, error nodes among them; the edges between those, measured on every example; the
strongest edges; and what still reaches the output.
"""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel

from circuits.attribution import Method, NodeEffects, Rule, counterfactual, node_effects
from circuits.circuit import Circuit, edges_between
from circuits.edges import Edges, edge_effects
from circuits.end_points import EndPoints
from circuits.examples import Examples
from circuits.feature_acts import Dictionaries, NodeScores
from circuits.metrics import Metric
from circuits.moves import Slope
from circuits.selection import Sizes, best_first
from circuits.vjp import Derivative
from saes.families import circuit_sites
from saes.sites import Site, SiteError

_HELD = 1 << 30  # bytes of effects that wait for their edges; those of more examples are measured twice


@dataclass(frozen=True)
class CircuitConfig:
    nodes: int = 1000
    """features and error nodes to choose, over all sites"""
    threshold: float | None = None
    """choose every node of larger mean absolute effect instead"""
    search: int = 1
    """more than 1: choose this many times `nodes` candidates, and of those what a best-first search meets"""
    edges: int = 5000
    """edges to keep"""
    method: Method = "ig"
    """integrated gradients, or the gradient at the clean prompt"""
    steps: int = 20
    """points on the path of integrated gradients"""
    rule: Rule = "midpoint"
    """where on its piece of the path each point lies; left end points are the original's"""
    slope: Slope = "secant"
    """derivative of a downstream feature: between clean and patch, or at the clean prompt as the original"""
    derivative: Derivative = "full"
    """of attention, MLPs and norms, for edges: at the clean prompt; path: its mean on the way to where nodes move,
    slower and nearer the truth; frozen: at the clean prompt with patterns and norms held"""
    batch_size: int = 16
    """examples at once"""

    def __post_init__(self) -> None:
        for name in ("nodes", "edges", "steps", "batch_size", "search"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: choose at least 1")
        if self.threshold is not None and not self.threshold >= 0:
            raise ValueError(f"threshold is {self.threshold}: choose 0 or more")
        if self.threshold is not None and self.search > 1:
            raise ValueError("a search has a number of nodes: give nodes, not a threshold")


@dataclass(frozen=True)
class Discovery:
    """A circuit with the evidence about it."""

    circuit: Circuit
    scores: dict[Site, NodeScores]
    """mean effect of every node: [places, F] and [places]"""
    gaps: dict[Site, float]
    """what the effects at each site miss of what the whole site does: mean absolute gap over mean absolute change"""

    @property
    def largest_gap(self) -> float:
        return max(self.gaps.values())


def find_circuit(
    model: PreTrainedModel,
    dictionaries: Dictionaries,
    examples: Examples,
    metric: Metric,
    config: CircuitConfig,
    *,
    to: EndPoints = counterfactual,
    progress: bool = True,
) -> Discovery:
    """The circuit behind a metric, with dictionaries for some of embed, attn_i, mlp_i, resid_i, the last among them.

    `to` says where nodes are moved, by default to the patch prompts.
    """
    sites = tuple(site for site in circuit_sites(model) if site in dictionaries)
    if not sites or sites[-1] != circuit_sites(model)[-1]:
        raise SiteError(f"a circuit needs a dictionary at {circuit_sites(model)[-1]}, the last site before the output")
    batches, names = examples.batches(config.batch_size), examples.grouped.names
    measured: list[NodeEffects | None] = []  # None: measured again when its edges are
    sizes, gaps, held = Sizes(len(examples)), Gaps(), 0
    for batch in tqdm(batches, desc="node effects", unit="batch", disable=not progress):
        effects = batch_effects(model, dictionaries, batch, metric, to, config, totals=True)
        for site, found in effects.items():
            sizes.add(site, found.at_places(batch.grouped, dictionaries[site].features))
            gaps.add(site, found.gap(), found.total)
        held += sum(each.bytes for each in effects.values())
        measured.append(effects if held <= _HELD else None)
    if config.threshold is None:
        nodes = sizes.strongest(config.search * config.nodes, names)
    else:
        nodes = sizes.above(config.threshold, names)
    provenance = {"nodes_chosen": len(nodes), "method": config.method, "steps": config.steps}
    chosen = Circuit(sites, nodes, {}, provenance, names).chosen()
    total: Edges = {}
    pairs = zip(batches, measured, strict=True)
    for batch, effects in tqdm(pairs, total=len(batches), desc="edges", unit="batch", disable=not progress):
        share = len(batch) / len(examples)
        if effects is None:
            effects = batch_effects(model, dictionaries, batch, metric, to, config)
        found = edge_effects(model, dictionaries, batch, effects, chosen, derivative=config.derivative)
        for pair, matrix in found.items():
            total[pair] = total[pair] + share * matrix if pair in total else share * matrix
    circuit = Circuit(sites, nodes, edges_between(total, chosen, names), provenance, names)
    if config.search > 1:
        circuit = best_first(circuit, config.nodes)
    return Discovery(circuit.pruned(config.edges), sizes.means(), gaps.shares())


def batch_effects(
    model: PreTrainedModel,
    dictionaries: Dictionaries,
    batch: Examples,
    metric: Metric,
    to: EndPoints,
    config: CircuitConfig,
    *,
    totals: bool = False,
) -> NodeEffects:
    """Node effects as a configuration asks for them; `totals` for the gaps."""
    return node_effects(
        model,
        dictionaries,
        batch,
        metric,
        to(model, dictionaries, batch),
        method=config.method,
        steps=config.steps,
        rule=config.rule,
        slope=config.slope,
        totals=totals,
    )


class Gaps:
    """Sums over examples of absolute gaps and of absolute changes, by site."""

    def __init__(self) -> None:
        self._sums: dict[Site, tuple[float, float]] = {}

    def add(self, site: Site, gap: Float[Tensor, " batch"], total: Float[Tensor, " batch"] | None) -> None:
        assert total is not None
        before = self._sums.get(site, (0.0, 0.0))
        self._sums[site] = (before[0] + float(gap.abs().sum()), before[1] + float(total.abs().sum()))

    def shares(self) -> dict[Site, float]:
        """Of sites that change nothing 0."""
        return {site: gap / total if total else 0.0 for site, (gap, total) in self._sums.items()}
