"""How much of a behaviour a circuit carries (Marks et al. 2024, section 3.3).

faithfulness = (m(C) - m(empty)) / (m(M) - m(empty)); completeness is the same ratio for everything but the circuit,
so a complete circuit has a low one. Error nodes count as nodes; kept errors make any circuit look faithful, so the
faithfulness without them, and that of random circuits with as many features and the same errors, belong beside it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor
from transformers import PreTrainedModel

from circuits.ablation import Kept, Mask, ablated_metric, complement, keep_none, without_errors
from circuits.examples import Examples
from circuits.feature_acts import Dictionaries, States
from circuits.metrics import Metric, measure
from saes.sites import Site


@dataclass(frozen=True)
class Faithfulness:
    """Means of the metric over examples, and the ratios made of them."""

    model: float
    empty: float
    circuit: float
    complement: float
    circuit_without_errors: float
    random: tuple[float, ...]

    def ratio(self, value: float) -> float:
        return (value - self.empty) / (self.model - self.empty)

    @property
    def faithfulness(self) -> float:
        return self.ratio(self.circuit)

    @property
    def completeness(self) -> float:
        return self.ratio(self.complement)

    @property
    def faithfulness_without_errors(self) -> float:
        return self.ratio(self.circuit_without_errors)

    @property
    def random_faithfulness(self) -> float:
        """Mean over the random circuits."""
        return float(np.mean([self.ratio(value) for value in self.random]))


def random_like(kept: Mask, active: Mapping[Site, Bool[Tensor, " f"]], rng: np.random.Generator) -> dict[Site, Kept]:
    """As many features at each site, drawn from those that are active on the examples, and the same error nodes."""
    masks = {}
    for site, keep in kept.items():
        pool = (active[site] | keep.features).nonzero().flatten().numpy()
        features = torch.zeros_like(keep.features)
        features[rng.choice(pool, int(keep.features.sum()), replace=False)] = True
        masks[site] = Kept(features, keep.error)
    return masks


def active_features(
    dictionaries: Dictionaries, examples: Examples, states: Callable[[Examples], States]
) -> dict[Site, Bool[Tensor, " f"]]:
    """Features that are not zero somewhere in the given states of the examples."""
    active = {site: torch.zeros(d.features, dtype=torch.bool) for site, d in dictionaries.items()}
    for batch in examples.batches(64):
        for site, state in states(batch).items():
            active[site] |= (state.acts != 0).flatten(0, -2).any(0).cpu()
    return active


def faithfulness(
    model: PreTrainedModel,
    dictionaries: Dictionaries,
    examples: Examples,
    metric: Metric,
    kept: Mask,
    replacement: Callable[[Examples], States],
    *,
    random_circuits: int = 10,
    seed: int = 0,
    batch_size: int = 64,
) -> Faithfulness:
    """Measure a circuit on examples; `replacement` gives the states that stand in for everything outside it."""
    rng = np.random.default_rng(seed)
    active = active_features(dictionaries, examples, replacement)
    candidates: dict[str, Mask] = {
        "empty": keep_none({site: dictionaries[site] for site in kept}),
        "circuit": kept,
        "complement": complement(kept),
        "circuit_without_errors": without_errors(kept),
        **{f"random {i}": random_like(kept, active, rng) for i in range(random_circuits)},
    }
    sums = dict.fromkeys(["model", *candidates], 0.0)
    for batch in examples.batches(batch_size):
        states = replacement(batch)
        with torch.no_grad():
            sums["model"] += float(measure(model, metric, batch.clean, batch).sum())
        for name, mask in candidates.items():
            sums[name] += float(ablated_metric(model, dictionaries, batch, metric, mask, states).sum())
    means = {name: value / len(examples) for name, value in sums.items()}
    return Faithfulness(
        means["model"],
        means["empty"],
        means["circuit"],
        means["complement"],
        means["circuit_without_errors"],
        tuple(value for name, value in means.items() if name.startswith("random ")),
    )
