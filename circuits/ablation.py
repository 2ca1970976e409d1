"""Run a model with all nodes outside a circuit replaced (Marks et al. 2024, section 3.3).

Sites are visited in forward order on the stream as the earlier replacements left it. What is written is the site's
tensor plus the change of the replaced nodes, so ablating nothing changes no bit.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from circuits.examples import Examples
from circuits.feature_acts import Dictionaries, FeatureActs, States
from circuits.metrics import Metric, measure
from saes.sites import Edit, Site


@dataclass(frozen=True)
class Kept:
    """Which nodes of a site stay as they are: features [F], and the error node."""

    features: Bool[Tensor, " f"]
    error: bool


Mask = Mapping[Site, Kept]


def ablation_edits(dictionaries: Dictionaries, kept: Mask, replacement: States) -> dict[Site, Edit]:
    """Edits that set every node outside `kept` to its value in `replacement`; sites without an entry are left alone."""

    def edit(site: Site) -> Edit:
        dictionary, keep, other = dictionaries[site], kept[site], replacement[site]

        def replace(x: Tensor) -> Tensor:
            state = FeatureActs.of(dictionary, x)
            change = torch.where(keep.features, 0.0, other.acts - state.acts)
            moved = x + change @ dictionary.W_dec
            return moved if keep.error else moved + (other.error - state.error)

        return replace

    return {site: edit(site) for site in kept if not (bool(kept[site].features.all()) and kept[site].error)}


@torch.no_grad()
def ablated_metric(
    model: PreTrainedModel,
    dictionaries: Dictionaries,
    examples: Examples,
    metric: Metric,
    kept: Mask,
    replacement: States,
) -> Float[Tensor, " batch"]:
    """The metric of the clean prompts with everything outside `kept` replaced."""
    return measure(model, metric, examples.clean, examples, ablation_edits(dictionaries, kept, replacement))


def keep_all(dictionaries: Dictionaries) -> dict[Site, Kept]:
    """The whole model."""
    return {s: Kept(torch.ones(d.features, dtype=torch.bool), True) for s, d in dictionaries.items()}


def keep_none(dictionaries: Dictionaries) -> dict[Site, Kept]:
    """The empty circuit."""
    return {s: Kept(torch.zeros(d.features, dtype=torch.bool), False) for s, d in dictionaries.items()}


def complement(kept: Mask) -> dict[Site, Kept]:
    """Everything that `kept` leaves out."""
    return {site: Kept(~k.features, not k.error) for site, k in kept.items()}


def without_errors(kept: Mask) -> dict[Site, Kept]:
    """The same features and no error node."""
    return {site: Kept(k.features, False) for site, k in kept.items()}


def ablate_features(
    dictionaries: Dictionaries, features: Mapping[Site, Int[Tensor, " chosen"]], values: States | None = None
) -> dict[Site, Edit]:
    """Edits that set single features to zero (or to `values`) at every position, errors kept; only the sites needed."""

    def edit(site: Site, index: Tensor) -> Edit:
        dictionary = dictionaries[site]

        def replace(x: Tensor) -> Tensor:
            acts = dictionary.encode_chosen(x, index)
            target = 0.0 if values is None else values[site].acts[..., index]
            return x + (target - acts) @ dictionary.W_dec[index]

        return replace

    return {site: edit(site, index) for site, index in features.items() if len(index)}
