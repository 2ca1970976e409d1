"""How good the approximation is that found a circuit: gradients against exact patching on a sample of nodes.

Nodes with an effect are sorted by its size and cut into strata at ranks on a log scale: the strongest few are a stratum
of their own, as are the thousands of the tail. From each an equal number is drawn, and moved, one node at a time, in
every example (circuits.exact). Compared are mean effects over examples, which is what a circuit reports.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.stats import rankdata
from transformers import PreTrainedModel

from circuits.attribution import Method, counterfactual
from circuits.circuit import Node
from circuits.discover import CircuitConfig, batch_effects
from circuits.end_points import EndPoints
from circuits.exact import ERROR, Moved, exact_effects
from circuits.examples import Examples
from circuits.feature_acts import Dictionaries, NodeScores
from circuits.held_out import MeasureError
from circuits.intervals import correlation
from circuits.metrics import Metric
from circuits.node_sets import Nodes, Space
from circuits.places import Places
from circuits.selection import Sizes
from saes.sites import Site

Values = Float[np.ndarray, " nodes"]


@dataclass(frozen=True)
class Agreement:
    """One approximation against exact effects; correlations are None for fewer than 3 nodes or a constant."""

    method: Method
    pearson: float | None
    spearman: float | None
    same_sign: float
    """share of nodes whose two effects have one sign, of those where neither is zero; 1 if there are none"""
    largest_miss: float
    """|approximate - exact| at its largest"""
    missed: str
    """the node where that is"""
    relative_miss: float
    """the largest miss over the largest exact effect"""

    def __str__(self) -> str:
        def number(value: float | None) -> str:
            return "undefined" if value is None else f"{value:.3f}"

        return (
            f"{self.method} r {number(self.pearson)}, rank r {number(self.spearman)}, "
            f"{self.same_sign:.0%} of signs right, largest miss {self.largest_miss:.3g} at {self.missed}"
        )


@dataclass(frozen=True)
class Audit:
    """Sampled nodes with their mean effects by every method, and how far the approximations agree."""

    nodes: tuple[str, ...]
    exact: tuple[float, ...]
    approximate: Mapping[str, tuple[float, ...]]
    agreement: tuple[Agreement, ...]
    examples: int

    def of(self, method: Method) -> Agreement:
        """The agreement of one method."""
        return next(a for a in self.agreement if a.method == method)

    def sentence(self) -> str:
        """One line for a report."""
        said = "; ".join(map(str, self.agreement))
        return f"Against exact patching of {len(self.nodes)} nodes on {self.examples} examples: {said}."

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def audit_effects(
    model: PreTrainedModel,
    dictionaries: Dictionaries,
    examples: Examples,
    metric: Metric,
    to: EndPoints = counterfactual,
    config: CircuitConfig | None = None,
    *,
    nodes: int = 40,
    strata: int = 4,
    seed: int = 0,
    batch_size: int = 64,
) -> Audit:
    """Audit the effects that `config` finds (and plain attribution beside integrated gradients) on `examples`.

    The sample is drawn by the effects of `config.method`. Costs one forward row for every sampled node and example.
    """
    config = config or CircuitConfig()
    if nodes < 2 or strata < 1:
        raise MeasureError(f"an audit of {nodes} nodes in {strata} strata: choose at least 2 nodes and 1 stratum")
    methods: list[Method] = list(dict.fromkeys([config.method, "attribution"]))
    sizes = {method: Sizes(len(examples)) for method in methods}
    for batch in examples.batches(config.batch_size):
        for method in methods:
            effects = batch_effects(model, dictionaries, batch, metric, to, replace(config, method=method))
            for site, found in effects.items():
                sizes[method].add(site, found.at_places(batch.grouped, dictionaries[site].features))
    space = Space.of(dictionaries, len(examples.grouped))
    sample = stratified(space, sizes[config.method].means(), nodes, strata, seed)
    exact = exact_means(model, dictionaries, examples, metric, to, space, sample, batch_size)
    names = [_name(space, row, examples.grouped) for row in sample]
    approximate: dict[Method, Values] = {m: _values(space, sizes[m].means(), sample) for m in methods}
    agreement = tuple(agree(method, values, exact, names) for method, values in approximate.items())
    lists: dict[str, tuple[float, ...]] = {method: tuple(values.tolist()) for method, values in approximate.items()}
    return Audit(tuple(names), tuple(exact.tolist()), lists, agreement, len(examples))


def stratified(space: Space, effects: Mapping[Site, NodeScores], nodes: int, strata: int, seed: int) -> Nodes:
    """About `nodes` nodes with an effect, as many from each of `strata` ranges of rank; all if there are no more."""
    joined = {site: scores.joined().abs().cpu() for site, scores in effects.items()}
    rows = np.concatenate(
        [np.insert(joined[site].nonzero().numpy(), 0, number, axis=1) for number, site in enumerate(space.features)]
    )
    if len(rows) < 2:
        raise MeasureError(f"{len(rows)} nodes have an effect on these examples: an audit needs at least 2")
    size = _values(space, effects, rows)
    rows = rows[np.argsort(-np.abs(size), kind="stable")]
    if len(rows) <= nodes:
        return rows
    edges = np.geomspace(1, len(rows) + 1, strata + 1).round().astype(int) - 1
    rng, drawn, due = np.random.default_rng(seed), [], 0
    for i, (low, high) in enumerate(pairwise(edges)):
        due += nodes // strata + (i < nodes % strata)
        taken = min(due, int(high - low))  # what a small stratum lacks, the next one gives
        drawn.append(low + np.sort(rng.choice(high - low, taken, replace=False)))
        due -= taken
    return rows[np.concatenate(drawn)]


def exact_means(
    model: PreTrainedModel,
    dictionaries: Dictionaries,
    examples: Examples,
    metric: Metric,
    to: EndPoints,
    space: Space,
    sample: Nodes,
    batch_size: int = 64,
) -> Values:
    """Mean exact effects of some nodes over examples."""
    errors = space.is_error(sample)
    total = np.zeros(len(sample))
    for batch in examples.batches(batch_size):
        ends = to(model, dictionaries, batch)
        wanted = {
            site: [
                Moved(example, int(place), ERROR if error else int(feature))
                for (number, place, feature), error in zip(sample, errors, strict=True)
                if number == i
                for example in range(len(batch))
            ]
            for i, site in enumerate(space.features)
        }
        some = {site: moved for site, moved in wanted.items() if moved}
        found = exact_effects(model, dictionaries, batch, metric, ends, wanted=some, batch_size=batch_size)
        sums = {site: NodeScores(scores.acts.sum(0), scores.error.sum(0)) for site, scores in found.items()}
        total += _values(space, sums, sample)
    return total / len(examples)


def agree(method: Method, approximate: Values, exact: Values, names: list[str]) -> Agreement:
    """Correlations, signs, and the largest miss."""
    both = (approximate != 0) & (exact != 0)
    miss = np.abs(approximate - exact)
    largest = float(np.abs(exact).max())
    return Agreement(
        method,
        correlation(approximate, exact),
        correlation(rankdata(approximate), rankdata(exact)),
        float((np.sign(approximate) == np.sign(exact))[both].mean()) if both.any() else 1.0,
        float(miss.max()),
        names[int(miss.argmax())],
        float(miss.max()) / largest if largest else 0.0,
    )


def _values(space: Space, effects: Mapping[Site, NodeScores], rows: Nodes) -> Values:
    """The effects of some nodes."""
    values = np.zeros(len(rows))
    for number, site in enumerate(space.features):
        here = rows[:, 0] == number
        if here.any():
            at = torch.from_numpy(rows[here])
            values[here] = effects[site].joined().cpu().double()[at[:, 1], at[:, 2]].numpy()
    return values


def _name(space: Space, row: np.ndarray, places: Places) -> str:
    number, place, feature = row.tolist()
    site = list(space.features)[number]
    return str(Node(site.name, None if feature == space.features[site] else feature, places.names[place]))
