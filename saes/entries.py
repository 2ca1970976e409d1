"""Features of a training batch, whole or only the active ones; what is written over them need not know which.

Everything in training carries a leading member axis: N dictionaries of one shape (a sweep; N = 1 for a single one)
see the same batch. Suffixes: N member, B batch, F feature, E entry.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

if TYPE_CHECKING:
    from saes.kernels.cpu import Transposed


@dataclass(frozen=True)
class Dense:
    """Every feature of every row: values are [N, B, F]."""

    members: int
    batch: int
    features: int


@dataclass(frozen=True)
class Active:
    """Chosen features in CSR order over the N * B rows; values are [E]. Column n * F + f is feature f of member n."""

    members: int
    batch: int
    features: int
    starts: Int[Tensor, " rows_and_one"]
    columns: Int[Tensor, " entry"]

    @cached_property
    def member_starts(self) -> Int[Tensor, " members_and_one"]:
        return self.starts[:: self.batch].contiguous()

    @cached_property
    def transposed(self) -> "Transposed":
        """The same entries by column; both weight gradients walk it."""
        from saes.kernels.cpu import transpose

        return transpose(self.starts, self.columns, self.members * self.features)

    @cached_property
    def rows(self) -> Int[Tensor, " entry"]:
        """Row n * B + b of every entry."""
        rows = torch.arange(self.members * self.batch, device=self.starts.device)
        return torch.repeat_interleave(rows, self.starts.diff(), output_size=len(self.columns))


@dataclass(frozen=True)
class Entries:
    """Feature values in one of the two layouts; entries that are left out are zero."""

    values: Float[Tensor, " *layout"]
    layout: Dense | Active

    def with_values(self, values: Tensor) -> "Entries":
        return Entries(values, self.layout)

    def detach(self) -> "Entries":
        return Entries(self.values.detach(), self.layout)

    def per_feature(self, v_NF: Float[Tensor, "member feature"]) -> Tensor:
        """One number per feature, aligned with the values."""
        if isinstance(self.layout, Dense):
            return v_NF[:, None, :]
        return v_NF.flatten().index_select(0, self.layout.columns)

    def per_member(self, v_N: Float[Tensor, " member"]) -> Tensor:
        """One number per member, aligned with the values."""
        if isinstance(self.layout, Dense):
            return v_N[:, None, None]
        if self.layout.members == 1:
            return v_N
        return torch.repeat_interleave(v_N, self.layout.member_starts.diff(), output_size=len(self.values))

    def row_sums(self) -> Float[Tensor, "member batch"]:
        if isinstance(self.layout, Dense):
            return self.values.sum(-1)
        sums = self.values.new_zeros(self.layout.members * self.layout.batch)
        return sums.index_add(0, self.layout.rows, self.values).view(self.layout.members, self.layout.batch)

    def member_sums(self) -> Float[Tensor, " member"]:
        if isinstance(self.layout, Dense):
            return self.values.sum((1, 2))
        if self.layout.members == 1:
            return self.values.sum()[None]
        return torch.segment_reduce(self.values, "sum", offsets=self.layout.member_starts)

    def counts(self) -> Float[Tensor, " member"]:
        """Number of non-zero values of each member."""
        return self.with_values((self.values != 0).to(self.values.dtype)).member_sums()

    def l0(self) -> Float[Tensor, " member"]:
        """Mean number of non-zero features of a row."""
        return self.counts() / self.layout.batch

    def fired(self) -> Bool[Tensor, "member feature"]:
        """Which features are non-zero in some row."""
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
            return Entries(self.values[..., begin:end], Dense(layout.members, layout.batch, end - begin))
        feature = layout.columns % layout.features
        chosen = (feature >= begin) & (feature < end)
        before = torch.cat([chosen.new_zeros(1, dtype=torch.int64), chosen.cumsum(0)])
        kept = Active(layout.members, layout.batch, layout.features, before[layout.starts], layout.columns[chosen])
        return Entries(self.values[chosen], kept)

    def dense(self) -> Float[Tensor, "member batch feature"]:
        if isinstance(self.layout, Dense):
            return self.values
        n, b, f = self.layout.members, self.layout.batch, self.layout.features
        whole = self.values.new_zeros(n * b, f)
        return whole.index_put((self.layout.rows, self.layout.columns.long() % f), self.values).view(n, b, f)
