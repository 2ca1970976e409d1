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
from saes.ranks import Ranks

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

    def row_counts(self, features: Entries) -> Int[Tensor, "member batch"]:
        """How many entries of each row a step through the active features would have kept."""
        ...


def dense_way(dictionary: "AffineDictionary", x: Float[Tensor, "batch d"]) -> PreActivations:
    """Pre-activations for a step through all features."""
    return chosen_by_all(DensePreActivations(dictionary, x), dictionary.ranks)


def chosen_by_all(own: PreActivations, ranks: Ranks) -> PreActivations:
    """The same where one process has everything, or else choosing among all that the ranks have."""
    return own if ranks.size == 1 else SharedPreActivations(own, ranks)


class SharedPreActivations:
    """One rank's pre-activations; where features compete, they compete with those of the other ranks.

    Every rank chooses among its own, and then leaves out what is smaller than the smallest that all of them keep
    (features that equal it are all kept).
    """

    def __init__(self, own: PreActivations, ranks: Ranks) -> None:
        self._own, self._ranks = own, ranks
        self.values = own.values

    def above(self, cut: float | Tensor) -> Entries:
        return self._own.above(cut)

    def top(self, k: Sequence[int]) -> Entries:
        return self._kept(self._own.top(self._at_most_all(k)), self.values, k)

    def top_among(self, k: int, allowed: Bool[Tensor, "member feature"]) -> Entries:
        own = self._own.top_among(self._at_most_all([k])[0], allowed)
        return self._kept(own, self.values.masked_fill(~allowed[:, None], 0.0), [k] * len(allowed))

    def batch_top(self, k: Sequence[int]) -> Entries:
        rows = self.values.shape[1] * self._ranks.data_size
        cut = self._ranks.kth_largest(self.values.flatten(1), [each * rows for each in k]).to(self.values.dtype)
        below = torch.nextafter(cut, cut.new_tensor(-1.0))  # a cut lets through what exceeds it
        entries = self._own.above(below[:, None].expand(-1, self.values.shape[-1]).contiguous())
        return _no_smaller(entries, entries.per_member(cut))

    def row_counts(self, features: Entries) -> Int[Tensor, "member batch"]:
        return self._own.row_counts(features)

    def _at_most_all(self, k: Sequence[int]) -> list[int]:
        return [min(each, self.values.shape[-1]) for each in k]

    def _kept(self, own: Entries, values: Float[Tensor, "member batch feature"], k: Sequence[int]) -> Entries:
        """Of a rank's largest values in each row those that are among the k[n] largest of all feature ranks."""
        if self._ranks.feature_size == 1:
            return own
        most = max(self._at_most_all(k))
        everyone = self._ranks.all_features(values.relu().topk(most, dim=-1).values, axis=-1)
        ordered = everyone.topk(min(max(k), everyone.shape[-1]), dim=-1).values
        last = torch.tensor(k, device=values.device).clamp_max(ordered.shape[-1]) - 1
        cut = ordered.gather(-1, last[:, None, None].expand(-1, ordered.shape[1], 1))[..., 0]
        return _no_smaller(own, own.per_row(cut))


def _no_smaller(entries: Entries, cut: Tensor) -> Entries:
    values = entries.values
    return entries.with_values(torch.where((values >= cut) & (values > 0), values, 0.0))


class DensePreActivations:
    """All features of all rows, in torch."""

    def __init__(self, dictionary: "AffineDictionary", x: Float[Tensor, "batch d"]) -> None:
        # dictionary.pre_activation(x), with the bias inside the product
        self.values = torch.baddbmm(
            dictionary.encoder_bias()[:, None], x.expand(len(dictionary.W_enc), -1, -1), dictionary.W_enc.mT
        )
        self._layout = Dense(*self.values.shape, ranks=dictionary.ranks)
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
