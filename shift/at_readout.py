"""Features of the readout site itself, as the classifier sees them: any of them can be ablated without another pass.

A dictionary writes its features side by side, and pooling is a mean, so with features set to other values what is read
is x + sum of (value - activation) * decoder row, the activations pooled as x is.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from saes.dictionary import Dictionary
from saes.sites import Edit, Site, SiteError, capture, intervene
from shift.reading import Reading

_DENSE = 1 << 25  # activations that are held at once


@dataclass(frozen=True)
class ReadFeatures:
    """What is read of some prompts, and what some features of the site contribute to it."""

    x: Float[Tensor, "examples d"]
    acts: Float[Tensor, "examples chosen"]
    rows: Float[Tensor, "chosen d"]
    """of the decoder"""

    def ablated(
        self, which: Bool[Tensor, " chosen"], values: Float[Tensor, " chosen"] | None = None
    ) -> Float[Tensor, "examples d"]:
        """What is read with some of the features at zero, or at their `values`, in the whole text."""
        target = 0.0 if values is None else values[which]
        return self.x + (target - self.acts[:, which]) @ self.rows[which]


def read_features(
    model: PreTrainedModel,
    dictionary: Dictionary,
    reading: Reading,
    tokens: Int[Tensor, "examples length"],
    position: Int[Tensor, " examples"],
    index: Int[Tensor, " chosen"],
    edits: Mapping[Site, Edit] | None = None,
) -> ReadFeatures:
    """Of chosen features, on the CPU; `edits` of sites before the one that is read."""
    parts = list(read_in_batches(model, dictionary, reading, tokens, position, index, edits))
    return ReadFeatures(
        torch.cat([x for x, _ in parts]), torch.cat([acts for _, acts in parts]), dictionary.W_dec[index].cpu()
    )


@torch.no_grad()
def read_in_batches(
    model: PreTrainedModel,
    dictionary: Dictionary,
    reading: Reading,
    tokens: Int[Tensor, "examples length"],
    position: Int[Tensor, " examples"],
    index: Int[Tensor, " chosen"] | None = None,
    edits: Mapping[Site, Edit] | None = None,
) -> Iterator[tuple[Float[Tensor, "batch d"], Float[Tensor, "batch f"]]]:
    """(what is read, activations of the chosen or all features), batch by batch, both at the position or pooled."""
    if edits and reading.site in edits:
        raise SiteError(f"site {reading.site} is edited before it is read: leave its features to `ablated`")
    size = min(256, max(1, _DENSE // (dictionary.features * (tokens.shape[1] if reading.pooled else 1))))
    for t, p in zip(tokens.split(size), position.split(size), strict=True):
        with intervene(model, edits or {}), capture(model, [reading.site]) as values:
            model(input_ids=t.to(model.device), use_cache=False)
        x = values[reading.site]
        seen = reading.of(x, p)
        acts = x if reading.pooled else seen
        acts = dictionary.encode(acts) if index is None else dictionary.encode_chosen(acts, index)
        yield reading.kept(x, p), (reading.of(acts, p) if reading.pooled else acts).cpu()
