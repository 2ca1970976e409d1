"""How much of a behaviour a circuit carries (Marks et al. 2024, section 3.3).

faithfulness = (m(C) - m(empty)) / (m(M) - m(empty)); completeness is the same ratio for everything but the circuit,
so a complete circuit has a low one. Error nodes count as nodes; kept errors make any circuit look faithful, so the
faithfulness without them, and that of random circuits with as many features and the same errors, belong beside it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor
from transformers import PreTrainedModel

from circuits.ablation import Kept, Mask, ablated_metric, complement, keep_none, replacements, with_errors
from circuits.attribution import counterfactual, site_values
from circuits.end_points import EndPoints
from circuits.examples import Examples
from circuits.feature_acts import Dictionaries
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


def random_like(
    kept: Mask, active: Mapping[Site, Bool[Tensor, "places f"]], rng: np.random.Generator
) -> dict[Site, Kept]:
    """As many features at each site and place, drawn from those that are active there, and the same error nodes."""
    masks = {}
    for site, keep in kept.items():
        features = torch.zeros_like(keep.features)
        for place, (chosen, pool) in enumerate(zip(keep.features, active[site] | keep.features, strict=True)):
            drawn = rng.choice(pool.nonzero().flatten().numpy(), int(chosen.sum()), replace=False)
            features[place, drawn] = True
        masks[site] = Kept(features, keep.error)
    return masks


@torch.no_grad()
def active_features(
    model: PreTrainedModel, dictionaries: Dictionaries, examples: Examples, batch_size: int = 64
) -> dict[Site, Bool[Tensor, "places f"]]:
    """Features that are not zero somewhere at a place, in the clean or the patch prompts."""
    places = len(examples.grouped)
    active = {site: torch.zeros(places, dictionaries[site].features, dtype=torch.bool) for site in dictionaries}
    for batch in examples.batches(batch_size):
        for tokens in (batch.clean, batch.patch):
            if tokens is None:
                continue
            values = site_values(model, list(dictionaries), tokens, dictionaries)
            for site in dictionaries:
                on = (dictionaries[site].encode(values[site]) != 0).float()
                active[site] |= (batch.grouped.sum(on) > 0).any(0).cpu()
    return active


def faithfulness(
    model: PreTrainedModel,
    dictionaries: Dictionaries,
    examples: Examples,
    metric: Metric,
    kept: Mask,
    to: EndPoints = counterfactual,
    *,
    random_circuits: int = 10,
    seed: int = 0,
    batch_size: int = 64,
) -> Faithfulness:
    """Measure a circuit on examples; `to` gives what stands in for everything outside it."""
    rng = np.random.default_rng(seed)
    active = active_features(model, dictionaries, examples)
    candidates: dict[str, Mask] = {
        "empty": keep_none({site: dictionaries[site] for site in kept}, len(examples.grouped)),
        "circuit": kept,
        "complement": complement(kept),
        "circuit_without_errors": with_errors(kept, False),
        **{f"random {i}": random_like(kept, active, rng) for i in range(random_circuits)},
    }
    sums = dict.fromkeys(["model", *candidates], 0.0)
    for batch in examples.batches(batch_size):
        states = replacements(dictionaries, to(model, dictionaries, batch))
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
