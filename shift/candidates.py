"""What the classifier leans on: features ranked by their effect on its signed margin (Marks et al. 2024, section 4).

Integrated gradients to a zero baseline, one site at a time, summed over positions and averaged over examples. Both
signs count, and the budget is a number of features, never a threshold.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from tqdm import tqdm
from transformers import PreTrainedModel

from circuits.attribution import node_effects
from circuits.end_points import ToZero
from circuits.examples import Examples
from circuits.feature_acts import Dictionaries
from circuits.metrics import Metric
from saes.dictionary import Dictionary
from saes.families import circuit_sites
from saes.sites import Site, SiteError
from shift.reading import Reading


@dataclass(frozen=True)
class Candidate:
    """A feature and what its removal does to the margin; negative means the classifier leans on it."""

    site: Site
    feature: int
    effect: float


def chosen_features(candidates: Sequence[Candidate]) -> dict[Site, Int[Tensor, " chosen"]]:
    """The features of each site, in ascending order."""
    sites = dict.fromkeys(c.site for c in candidates)
    return {site: torch.tensor(sorted(c.feature for c in candidates if c.site == site)) for site in sites}


@dataclass(frozen=True)
class Effects:
    """Mean effect of zeroing each feature, and each site's error, on a head's signed margin or another metric."""

    features: Mapping[Site, Float[Tensor, " f"]]
    errors: Mapping[Site, float]

    def strongest(self, count: int) -> list[Candidate]:
        """The `count` features of largest absolute effect."""
        return self._ranked(count, sign=0)

    def most_relied_on(self, count: int) -> list[Candidate]:
        """The `count` features whose removal lowers the margin most."""
        return self._ranked(count, sign=-1)

    def most_in_the_way(self, count: int) -> list[Candidate]:
        """The `count` features whose removal raises the metric most."""
        return self._ranked(count, sign=1)

    def error_share(self) -> float:
        """Share of the absolute effect that sits in error nodes, which nobody can trim."""
        features = sum(float(e.abs().sum()) for e in self.features.values())
        errors = sum(abs(e) for e in self.errors.values())
        return errors / max(features + errors, 1e-12)

    def _ranked(self, count: int, sign: int) -> list[Candidate]:
        every = [
            Candidate(site, f, effect)
            for site, effects in self.features.items()
            for f, effect in enumerate(effects.tolist())
            if effect != 0 and effect * sign >= 0
        ]
        return sorted(every, key=lambda c: (-abs(c.effect), c.site.name, c.feature))[:count]


def sites_before(model: PreTrainedModel, dictionaries: Dictionaries, readout: Site) -> dict[Site, Dictionary]:
    """The dictionaries of all sites up to and including the readout site, in forward order."""
    order = circuit_sites(model)
    if readout not in order:
        raise SiteError(f"readout site {readout}: choose one of {', '.join(s.name for s in order)}")
    return {site: dictionaries[site] for site in order[: order.index(readout) + 1] if site in dictionaries}


@dataclass(frozen=True)
class Margin:
    """The signed margin of a head on what it reads: the metric sign (field, +1 or -1) times its logit."""

    head: nn.Module
    reading: Reading

    @property
    def reads(self) -> Site:
        return self.reading.site

    def __call__(self, output: Float[Tensor, "batch length d"], examples: Examples) -> Float[Tensor, " batch"]:
        x = self.reading.of(output, examples.position)
        logit = self.head(x.to(next(self.head.parameters())))[:, 0]  # heads live on the CPU
        return logit.to(output) * examples.fields["sign"].to(output)


def margin_effects(
    model: PreTrainedModel,
    dictionaries: Dictionaries,
    head: nn.Module,
    reading: Reading,
    tokens: Int[Tensor, "examples length"],
    position: Int[Tensor, " examples"],
    label: Bool[Tensor, " examples"],
    *,
    steps: int = 10,
    batch_size: int = 20,
    progress: bool = True,
) -> Effects:
    """Effects on the margin sign(label) * logit of the head, over the given prompts."""
    examples = Examples(tokens, None, position, {"sign": torch.where(label, 1.0, -1.0)}, position + 1)
    metric = Margin(head, reading)
    return metric_effects(
        model,
        dictionaries,
        metric,
        examples,
        start=reading.start,
        steps=steps,
        batch_size=batch_size,
        progress=progress,
    )


def metric_effects(
    model: PreTrainedModel,
    dictionaries: Dictionaries,
    metric: Metric,
    examples: Examples,
    *,
    start: int = 0,
    steps: int = 10,
    batch_size: int = 20,
    progress: bool = True,
) -> Effects:
    """Effects on any metric, averaged over the examples and summed over their positions from `start` on.

    What stands before `start` stays as it is on the whole path: its attention is the model's own.
    """
    features: dict[Site, Tensor] = {s: torch.zeros(d.features) for s, d in dictionaries.items()}
    errors = dict.fromkeys(dictionaries, 0.0)
    for batch in tqdm(examples.batches(batch_size), desc="candidates", disable=not progress):
        zero = ToZero()(model, dictionaries, batch)
        nodes = node_effects(model, dictionaries, batch, metric, zero, method="ig", steps=steps, start=start)
        for s, found in nodes.items():
            features[s].index_add_(0, found.moves.feature.cpu(), found.acts.float().cpu() / len(examples))
            errors[s] += float(found.error.sum()) / len(examples)
    return Effects(features, errors)
