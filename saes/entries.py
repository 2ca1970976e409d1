"""Features of a training batch, whole or only the active ones; what is written over them need not know which.

Everything in training carries a leading member axis: N dictionaries of one shape (a sweep; N = 1 for a single one)
see the same batch. Suffixes: N member, B batch, F feature, E entry.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saes.ranks import ALONE, Ranks

if TYPE_CHECKING:
    from saes.kernels import cpu, gpu

PADDING = -1e30  # finite, so that it times a gradient of zero is zero


def beside(numbers: Sequence[float] | Tensor, like: Tensor) -> Tensor:
    """Numbers of the host where `like` is, in its type; on a GPU from pinned memory, which nobody has to wait for."""
    t = torch.as_tensor(numbers, dtype=like.dtype) if not isinstance(numbers, Tensor) else numbers
    if t.device == like.device:
        return t.to(like.dtype)
    return (t.pin_memory() if like.is_cuda else t).to(like, non_blocking=True)


@dataclass(frozen=True)
class Dense:
    """Every feature of every row: values are [N, B, F]. `batch` and `features`, here and below, are this rank's."""

    members: int
    batch: int
    features: int
    ranks: Ranks = ALONE


@dataclass(frozen=True)
class Active:
    """Chosen features in CSR order over the N * B rows; values are [E]. Column n * F + f is feature f of member n."""

    members: int
    batch: int
    features: int
    starts: Int[Tensor, " rows_and_one"]
    columns: Int[Tensor, " entry"]
    ranks: Ranks = ALONE

    @property
    def index(self) -> tuple[Tensor, Tensor]:
        """Where the entries stand, as saes.kernels.cpu takes it."""
        return self.starts, self.columns

    @cached_property
    def member_starts(self) -> Int[Tensor, " members_and_one"]:
        return self.starts[:: self.batch].contiguous()

    @cached_property
    def transposed(self) -> "cpu.Transposed":
        """The same entries by column; both weight gradients walk it."""
        from saes.kernels.cpu import transpose

        return transpose(self.starts, self.columns, self.members * self.features)

    @cached_property
    def rows(self) -> Int[Tensor, " entry"]:
        """Row n * B + b of every entry."""
        rows = torch.arange(self.members * self.batch, device=self.starts.device)
        return torch.repeat_interleave(rows, self.starts.diff(), output_size=len(self.columns))


@dataclass(frozen=True)
class Padded:
    """Chosen features on a GPU: as many places for every row, so that the host need not know how many are taken.

    Values are [N * B, capacity]. Padding stands behind a row's entries, in a column of its member, and counts for
    nothing: its values are zero, of pre-activations PADDING (no activation lets anything through there).
    """

    members: int
    batch: int
    features: int
    columns: Int[Tensor, "rows capacity"]
    counts: Int[Tensor, " rows"]
    """of the entries that were to be stored; a row with more of them than places has lost the last ones"""
    ranks: Ranks = ALONE

    @property
    def index(self) -> tuple[Tensor, Tensor]:
        """Where the entries stand, as saes.kernels.gpu takes it."""
        return self.columns, self.counts

    @cached_property
    def transposed(self) -> "gpu.Transposed":
        """The same entries by column; both weight gradients walk it."""
        from saes.kernels.gpu import transpose

        return transpose(*self.index, self.members * self.features)

    @cached_property
    def overflow(self) -> Bool[Tensor, ""]:
        """Whether a row has lost entries."""
        return (self.counts > self.columns.shape[1]).any()


@dataclass(frozen=True)
class Entries:
    """Feature values in one of the three layouts; entries that are left out are zero."""

    values: Float[Tensor, " *layout"]
    layout: Dense | Active | Padded

    def with_values(self, values: Tensor) -> "Entries":
        return Entries(values, self.layout)

    def detach(self) -> "Entries":
        return Entries(self.values.detach(), self.layout)

    def per_feature(self, v_NF: Float[Tensor, "member feature"]) -> Tensor:
        """One number per feature, aligned with the values."""
        if isinstance(self.layout, Dense):
            return v_NF[:, None, :]
        if isinstance(self.layout, Padded):
            return _PerFeature.apply(v_NF, self.layout)  # type: ignore[return-value]
        return v_NF.flatten().index_select(0, self.layout.columns)

    def per_member(self, v_N: Float[Tensor, " member"]) -> Tensor:
        """One number per member, aligned with the values."""
        if isinstance(self.layout, Dense):
            return v_N[:, None, None]
        if self.layout.members == 1:
            return v_N
        if isinstance(self.layout, Padded):
            return v_N[:, None].expand(-1, self.layout.batch).reshape(-1, 1)
        return torch.repeat_interleave(v_N, self.layout.member_starts.diff(), output_size=len(self.values))

    def per_row(self, v_NB: Float[Tensor, "member batch"]) -> Tensor:
        """One number per row, aligned with the values."""
        if isinstance(self.layout, Dense):
            return v_NB[..., None]
        return v_NB.flatten()[:, None] if isinstance(self.layout, Padded) else v_NB.flatten()[self.layout.rows]

    def row_sums(self) -> Float[Tensor, "member batch"]:
        """Of each row, over the features of all ranks."""
        return self.layout.ranks.sum_features(self._row_sums())

    def mean_sums(self) -> Float[Tensor, " member"]:
        """The mean over the rows of all ranks of the sum over their features."""
        return self.layout.ranks.mean_rows(self.layout.ranks.sum_features(self._member_sums() / self.layout.batch))

    def _row_sums(self) -> Float[Tensor, "member batch"]:
        if isinstance(self.layout, Dense):
            return self.values.sum(-1)
        if isinstance(self.layout, Padded):
            return self.values.sum(-1).view(self.layout.members, self.layout.batch)
        sums = self.values.new_zeros(self.layout.members * self.layout.batch)
        return sums.index_add(0, self.layout.rows, self.values).view(self.layout.members, self.layout.batch)

    def _member_sums(self) -> Float[Tensor, " member"]:
        if isinstance(self.layout, Dense):
            return self.values.sum((1, 2))
        if self.layout.members == 1:
            return self.values.sum()[None]
        if isinstance(self.layout, Padded):
            return self.values.view(self.layout.members, -1).sum(1)
        return torch.segment_reduce(self.values, "sum", offsets=self.layout.member_starts)

    def l0(self) -> Float[Tensor, " member"]:
        """Mean number of non-zero features of a row."""
        return self.with_values((self.values != 0).to(self.values.dtype)).mean_sums()

    def fired(self) -> Bool[Tensor, "member feature"]:
        """Which of this rank's features are non-zero in some row of any rank."""
        return self.layout.ranks.any_row(self._fired())

    def _fired(self) -> Bool[Tensor, "member feature"]:
        if isinstance(self.layout, Dense):
            return (self.values != 0).any(1)
        hit = torch.zeros(self.layout.members * self.layout.features, dtype=torch.bool, device=self.values.device)
        # reading columns of non-zero values alone would need their number, and so a synchronisation
        hit.index_put_((self.layout.columns.long(),), self.values != 0, accumulate=True)
        return hit.view(self.layout.members, self.layout.features)

    def between(self, begin: int, end: int) -> "Entries":
        """Features begin to end alone; dense values become that slice, active ones keep their columns."""
        layout = self.layout
        if isinstance(layout, Dense):
            return Entries(self.values[..., begin:end], Dense(layout.members, layout.batch, end - begin, layout.ranks))
        feature = layout.columns % layout.features
        chosen = (feature >= begin) & (feature < end)
        if isinstance(layout, Padded):
            return self.with_values(self.values.masked_fill(~chosen, 0.0))
        before = torch.cat([chosen.new_zeros(1, dtype=torch.int64), chosen.cumsum(0)])
        kept = Active(
            layout.members, layout.batch, layout.features, before[layout.starts], layout.columns[chosen], layout.ranks
        )
        return Entries(self.values[chosen], kept)

    def dense(self) -> Float[Tensor, "member batch feature"]:
        if isinstance(self.layout, Dense):
            return self.values
        n, b, f = self.layout.members, self.layout.batch, self.layout.features
        whole = self.values.new_zeros(n * b, f)
        if isinstance(self.layout, Padded):
            places = torch.arange(self.values.shape[1], device=self.values.device)
            held = self.values.masked_fill(places >= self.layout.counts[:, None], 0.0)
            return whole.scatter_add(1, self.layout.columns.long() % f, held).view(n, b, f)
        return whole.index_put((self.layout.rows, self.layout.columns.long() % f), self.values).view(n, b, f)


class _PerFeature(torch.autograd.Function):
    """Numbers of features at padded entries; backward sums by column without atomics, and leaves the padding out."""

    @staticmethod
    def forward(ctx: Any, v_NF: Tensor, layout: Padded) -> Tensor:
        ctx.layout, ctx.shape = layout, v_NF.shape
        return v_NF.flatten()[layout.columns]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        from saes.kernels.gpu import column_sums

        return column_sums(gradients[0].contiguous(), *ctx.layout.transposed).view(ctx.shape), None
