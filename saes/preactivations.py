"""The pre-activations of one training batch, and the ways in which architectures choose features from them.

`DensePreActivations` is plain torch, and the reference for saes.sparse_step, which computes the same through the
active features only.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saes.entries import Dense, Entries, beside

if TYPE_CHECKING:
    from saes.architectures.affine import AffineDictionary


@runtime_checkable
class PreActivations(Protocol):
    """W_enc (x - b_dec) + b_enc of N stacked dictionaries on B rows; every choice gives entries with gradients."""

    values: Float[Tensor, "member batch feature"]

    def above(self, cut: float | Float[Tensor, "member feature"]) -> Entries:
        """At least the features whose pre-activation exceeds `cut`, as they are."""
        ...

    def top(self, k: Sequence[int]) -> Entries:
        """The k[n] largest positive features of each row of member n."""
        ...

    def batch_top(self, k: Sequence[int]) -> Entries:
        """The k[n] * B largest positive features of the whole batch of member n."""
        ...

    def top_among(self, k: int, allowed: Bool[Tensor, "member feature"]) -> Entries:
        """The k largest positive features of each row among those allowed."""
        ...


class DensePreActivations:
    """All features of all rows, in torch."""

    def __init__(self, dictionary: "AffineDictionary", x: Float[Tensor, "batch d"]) -> None:
        # dictionary.pre_activation(x), with the bias inside the product
        self.values = torch.baddbmm(
            dictionary.encoder_bias()[:, None], x.expand(len(dictionary.W_enc), -1, -1), dictionary.W_enc.mT
        )
        self._layout = Dense(*self.values.shape)
        self._cut: float | Tensor | None = None

    def above(self, cut: float | Tensor) -> Entries:
        self._cut = cut
        return Entries(self.values, self._layout)

    def top(self, k: Sequence[int]) -> Entries:
        return self._largest(self.values.relu(), k)

    def batch_top(self, k: Sequence[int]) -> Entries:
        flat = self.values.relu().flatten(1)[:, None]
        kept = self._largest(flat, [each * self._layout.batch for each in k])
        return Entries(kept.values.view(self.values.shape), self._layout)

    def top_among(self, k: int, allowed: Bool[Tensor, "member feature"]) -> Entries:
        return self._largest(self.values.relu() * allowed[:, None], [min(k, allowed.shape[1])] * len(allowed))

    def row_counts(self, features: Entries) -> Int[Tensor, "member batch"]:
        """How many entries of each row a step through the active features would have kept."""
        cut = self._cut[:, None] if isinstance(self._cut, Tensor) else self._cut
        return (features.values != 0 if cut is None else self.values > cut).sum(-1)

    def _largest(self, values: Float[Tensor, "member rows n"], k: Sequence[int]) -> Entries:
        most = max(k)
        kept, index = values.topk(most, dim=-1)
        if min(k) != most:
            rank = torch.arange(most, device=values.device)
            kept = kept * (rank < beside(k, values)[:, None])[:, None]
        return Entries(torch.zeros_like(values).scatter(-1, index, kept), self._layout)
