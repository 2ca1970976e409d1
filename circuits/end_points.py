"""Where nodes are moved to: the counterfactual prompt, zero, a mean, or another prompt (Marks et al. 2024, section 3).

The same end points serve features, neurons and heads. Zero is no neutral place: features at zero leave a dictionary's
b_dec, neurons at zero leave nothing. So single prompts move to a mean by default.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedModel

from circuits.attribution import counterfactual, site_values
from circuits.examples import Examples
from circuits.feature_acts import Dictionaries, FeatureActs, States
from circuits.moves import EndPoint
from saes.sites import Site

EndPoints = Callable[[PreTrainedModel, Dictionaries, Examples], Mapping[Site, EndPoint]]
"""given a batch of examples, where each site goes: its tensor, or features and error that broadcast over it"""

Name = Literal["patch", "mean", "zero", "resample"]


@dataclass(frozen=True)
class ToZero:
    """Every feature and every error 0: a dictionary then writes b_dec."""

    def __call__(self, model: PreTrainedModel, dictionaries: Dictionaries, examples: Examples) -> States:
        return {
            site: FeatureActs(d.W_dec.new_zeros(1, 1, d.features), d.W_dec.new_zeros(1, 1, d.width))
            for site, d in dictionaries.items()
        }


@dataclass(frozen=True)
class ToMean:
    """Mean features and errors: [1, 1, ...] over all positions, or [1, length, ...] for every position by itself."""

    states: Mapping[Site, FeatureActs]

    def __call__(self, model: PreTrainedModel, dictionaries: Dictionaries, examples: Examples) -> States:
        found = {}
        for site in dictionaries:
            state = self.states[site]
            known, length = state.acts.shape[1], examples.clean.shape[1]
            if known not in (1, length) and known < length:
                raise ValueError(f"the mean is of {known} positions, these examples have {length}")
            found[site] = state if known == 1 else FeatureActs(state.acts[:, :length], state.error[:, :length])
        return found


@dataclass(frozen=True)
class ToOther:
    """Each example goes to another of `tokens` [prompts, length], drawn by `seed` from the example's own tokens."""

    tokens: Int[Tensor, "prompts length"]
    seed: int = 0

    def __call__(
        self, model: PreTrainedModel, dictionaries: Dictionaries, examples: Examples
    ) -> Mapping[Site, EndPoint]:
        length = examples.clean.shape[1]
        if self.tokens.shape[1] < length:
            raise ValueError(f"prompts to resample from have {self.tokens.shape[1]} tokens, the examples {length}")
        drawn = torch.tensor([self._draw(row) for row in examples.clean])
        return counterfactual(model, dictionaries, replace(examples, patch=self.tokens[drawn, :length]))

    def _draw(self, row: Tensor) -> int:
        """An index that does not depend on which batch the example stands in, and not the example itself."""
        own = (self.tokens[:, : len(row)] == row).all(1)
        others = (~own).nonzero().flatten()
        if not len(others):
            raise ValueError("resampling needs prompts that differ from the example")
        digest = sha256(repr((self.seed, row.tolist())).encode()).digest()
        random = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
        return int(others[torch.randint(len(others), (1,), generator=random)])


@torch.no_grad()
def mean_states(
    model: PreTrainedModel, dictionaries: Dictionaries, batches: Sequence[Examples], *, by_position: bool = False
) -> States:
    """Mean features and errors over the clean prompts of `batches`, padding left out.

    Shapes [1, 1, ...], or with `by_position` [1, length, ...], where a position counts the prompts that reach it.
    """
    length = max(batch.clean.shape[1] for batch in batches)
    totals: States = {}
    counts = torch.zeros(length if by_position else 1)
    for batch in batches:
        mask = batch.mask()
        values = site_values(model, list(dictionaries), batch.clean, dictionaries)
        seen = torch.zeros(length)
        seen[: mask.shape[1]] = mask.sum(0).float()
        counts += seen if by_position else seen.sum()
        for site in dictionaries:
            state = FeatureActs.of(dictionaries[site], values[site])
            kept = mask.to(values[site].device)[..., None]
            sums = [torch.where(kept, part, 0.0).sum(0) for part in (state.acts, state.error)]
            if not by_position:
                sums = [part.sum(0, keepdim=True) for part in sums]
            if site not in totals:
                totals[site] = FeatureActs(*(part.new_zeros(len(counts), part.shape[1]) for part in sums))
            for total, part in zip((totals[site].acts, totals[site].error), sums, strict=True):
                total[: len(part)] += part
    divisor = counts.clamp_min(1)[:, None]
    return {
        site: FeatureActs(*((part / divisor.to(part))[None] for part in (t.acts, t.error)))
        for site, t in totals.items()
    }


def end_points(
    name: Name, model: PreTrainedModel, dictionaries: Dictionaries, reference: Sequence[Examples], seed: int = 0
) -> EndPoints:
    """An end point by its name; `reference` are the examples that a mean is taken over, or prompts are drawn from."""
    if name == "patch":
        return counterfactual
    if name == "zero":
        return ToZero()
    if name == "mean":
        return ToMean(mean_states(model, dictionaries, reference))
    length = max(batch.clean.shape[1] for batch in reference)
    if any(batch.clean.shape[1] != length for batch in reference):
        raise ValueError("resampling needs reference prompts of one length")
    return ToOther(torch.cat([batch.clean for batch in reference]), seed)
