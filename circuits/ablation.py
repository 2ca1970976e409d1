"""Run a model with all nodes outside a circuit replaced (Marks et al. 2024, section 3.3).

Sites are visited in forward order on the stream as the earlier replacements left it. What is written is the site's
tensor plus the change of the replaced nodes, so ablating nothing changes no bit.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from circuits.examples import Examples
from circuits.feature_acts import Dictionaries, FeatureActs
from circuits.metrics import Metric, measure
from circuits.moves import EndPoint
from circuits.places import Places
from saes.dictionary import Dictionary
from saes.sites import Edit, Site


@dataclass(frozen=True)
class Kept:
    """Which nodes of a site stay as they are, at every place: features [places, F], and the error node [places]."""

    features: Bool[Tensor, "places f"]
    error: Bool[Tensor, " places"]

    @classmethod
    def of_all(cls, dictionary: Dictionary, places: int, keep: bool) -> "Kept":
        """Everything, or nothing."""
        return cls(
            torch.full((places, dictionary.features), keep, dtype=torch.bool),
            torch.full((places,), keep, dtype=torch.bool),
        )

    def everything(self) -> bool:
        return bool(self.features.all()) and bool(self.error.all())

    def with_errors(self, keep: bool) -> "Kept":
        """The same features, and the error nodes of all places or of none."""
        return Kept(self.features, torch.full_like(self.error, keep))

    def __invert__(self) -> "Kept":
        return Kept(~self.features, ~self.error)


Mask = Mapping[Site, Kept]


@runtime_checkable
class Replacement(Protocol):
    """What stands in for the nodes of one site."""

    def state(self) -> FeatureActs: ...


@dataclass(frozen=True)
class Fixed:
    """Features and errors that broadcast over [batch, length], such as a mean."""

    acts: FeatureActs

    def state(self) -> FeatureActs:
        return self.acts


@dataclass(frozen=True)
class Packed:
    """Features of other prompts by their active entries: a hundredth of the dense ones."""

    at: tuple[Tensor, ...]
    values: Tensor
    shape: torch.Size
    error: Float[Tensor, "batch length d"]

    @classmethod
    def of(cls, dictionary: Dictionary, x: Float[Tensor, "batch length d"]) -> "Packed":
        state = FeatureActs.of(dictionary, x)
        at = state.acts.nonzero(as_tuple=True)
        return cls(at, state.acts[at], state.acts.shape, state.error)

    def state(self) -> FeatureActs:
        acts = self.values.new_zeros(self.shape)
        acts[self.at] = self.values
        return FeatureActs(acts, self.error)


@torch.no_grad()
def replacements(dictionaries: Dictionaries, ends: Mapping[Site, EndPoint]) -> dict[Site, Replacement]:
    """End points (circuits.end_points) in the form that ablation takes."""
    return {
        site: Fixed(end) if isinstance(end, FeatureActs) else Packed.of(dictionaries[site], end)
        for site, end in ends.items()
    }


def ablation_edits(
    dictionaries: Dictionaries, kept: Mask, replacement: Mapping[Site, Replacement], places: Places
) -> dict[Site, Edit]:
    """Edits that set every node outside `kept` to its value in `replacement`; sites without an entry are left alone.

    Positions without a place (padding) are left alone.
    """

    def edit(site: Site) -> Edit:
        dictionary, keep = dictionaries[site], kept[site]

        def replace(x: Tensor) -> Tensor:
            state, other = FeatureActs.of(dictionary, x), replacement[site].state()
            stays = places.spread(keep.features.to(x.device), otherwise=1)
            moved = x + torch.where(stays, 0.0, other.acts - state.acts) @ dictionary.W_dec
            if bool(keep.error.all()):
                return moved
            stays = places.spread(keep.error.to(x.device), otherwise=1)[..., None]
            return moved + torch.where(stays, 0.0, other.error - state.error)

        return replace

    return {site: edit(site) for site in kept if not kept[site].everything()}


@torch.no_grad()
def ablated_metric(
    model: PreTrainedModel,
    dictionaries: Dictionaries,
    examples: Examples,
    metric: Metric,
    kept: Mask,
    replacement: Mapping[Site, Replacement],
) -> Float[Tensor, " batch"]:
    """The metric of the clean prompts with everything outside `kept` replaced."""
    edits = ablation_edits(dictionaries, kept, replacement, examples.grouped)
    return measure(model, metric, examples.clean, examples, edits)


def keep_all(dictionaries: Dictionaries, places: int = 1) -> dict[Site, Kept]:
    """The whole model."""
    return {site: Kept.of_all(dictionaries[site], places, True) for site in dictionaries}


def keep_none(dictionaries: Dictionaries, places: int = 1) -> dict[Site, Kept]:
    """The empty circuit."""
    return {site: Kept.of_all(dictionaries[site], places, False) for site in dictionaries}


def complement(kept: Mask) -> dict[Site, Kept]:
    """Everything that `kept` leaves out."""
    return {site: ~k for site, k in kept.items()}


def with_errors(kept: Mask, keep: bool) -> dict[Site, Kept]:
    """The same features, with all error nodes or with none."""
    return {site: k.with_errors(keep) for site, k in kept.items()}


def ablate_features(
    dictionaries: Dictionaries,
    features: Mapping[Site, Int[Tensor, " chosen"]],
    values: Mapping[Site, FeatureActs] | None = None,
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
