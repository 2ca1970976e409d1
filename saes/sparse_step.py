"""Exact gradients through the active features only.

A dense training step is five products of 2 B D F operations. With few features active one of them is needed (the
encoder); decoding, and the gradients of features and weights, cost 2 E D each, with E active entries. The arithmetic
stands in saes.kernels; here it is given to autograd, so that an objective is written once for both ways.
"""

import importlib
import importlib.util
import math
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saes.entries import PADDING, Active, Dense, Entries, Padded
from saes.preactivations import PreActivations, chosen_by_all

if TYPE_CHECKING:
    from saes.architectures.affine import AffineDictionary
    from saes.kernels import gpu


BACK_ENDS = {"cpu": "cpu", "cuda": "gpu"}  # by type of device


def kernels(device: torch.device) -> ModuleType:
    """The compiled kernels for a device; imported on first use, because compiling starts with them."""
    return importlib.import_module(f"saes.kernels.{BACK_ENDS[device.type]}")


def available(device: torch.device) -> bool:
    """Whether there are kernels for the device: Triton comes with torch's CUDA builds, but not with all."""
    back_end = BACK_ENDS.get(device.type)
    return back_end == "cpu" or (back_end == "gpu" and importlib.util.find_spec("triton") is not None)


def on_gpu(device: torch.device) -> bool:
    """Whether the device takes the GPU's kernels, which know no number of entries and keep a fixed room for them."""
    return BACK_ENDS.get(device.type) == "gpu"


def active_way(dictionary: "AffineDictionary", x: Float[Tensor, "batch d"], capacity: int | None) -> PreActivations:
    """Pre-activations for a step through the active features; `capacity`: on a GPU the room of a row, None for all."""
    way = PaddedPreActivations(dictionary, x, capacity) if on_gpu(x.device) else ActivePreActivations(dictionary, x)
    return chosen_by_all(way, dictionary.ranks)


class ActivePreActivations:
    """Chosen features only; PreActivations.values carries no gradient, the entries do."""

    def __init__(self, dictionary: "AffineDictionary", x: Float[Tensor, "batch d"]) -> None:
        self._dictionary, self._x = dictionary, x
        with torch.no_grad():
            W_enc = dictionary.W_enc
            n, f, _ = W_enc.shape
            bias = dictionary.encoder_bias().to(x)
            values = x.new_empty(n, len(x), f)
            for member in range(n):  # one product each: its rows then lie together for the kernels
                torch.addmm(bias[member], x, W_enc[member].T.to(x), out=values[member])
        self.values = values

    def above(self, cut: float | Tensor) -> Entries:
        k = kernels(self.values.device)
        return self._entries(
            k.compact(self.values, cut) if isinstance(cut, float) else k.compact_by_feature(self.values, cut)
        )

    def top(self, k: Sequence[int]) -> Entries:
        return self._entries(kernels(self.values.device).compact_top_k(self.values, torch.tensor(k)))

    def batch_top(self, k: Sequence[int]) -> Entries:
        return self._entries(kernels(self.values.device).compact_batch_top_k(self.values, torch.tensor(k)))

    def top_among(self, k: int, allowed: Bool[Tensor, "member feature"]) -> Entries:
        k = min(k, allowed.shape[1])
        if len(allowed) > 1:
            among = self.values.masked_fill(~allowed[:, None], 0.0)
            return self._entries(kernels(self.values.device).compact_top_k(among, torch.full((len(allowed),), k)))
        index = allowed[0].nonzero()[:, 0]
        starts, columns, values = kernels(self.values.device).compact_top_k(
            self.values[:, :, index].contiguous(), torch.tensor([min(k, len(index))])
        )
        return self._entries((starts, index.to(columns)[columns.long()], values))

    def row_counts(self, features: Entries) -> Int[Tensor, "member batch"]:
        assert isinstance(features.layout, Active)
        return features.layout.starts.diff().view(self.values.shape[:2])

    def _entries(self, compacted: tuple[Tensor, Tensor, Tensor]) -> Entries:
        starts, columns, values = compacted
        d = self._dictionary
        layout = Active(*self.values.shape, starts=starts, columns=columns, ranks=d.ranks)
        center = d.encoder_center() if d.config.center else None
        return Entries(_Encode.apply(d.W_enc, d.b_enc, center, self._x, values, layout), layout)  # type: ignore[arg-type]


class PaddedPreActivations:
    """The same on a GPU; the kernels work in the parameters' own type, the encoder's product in that of autocast."""

    def __init__(self, dictionary: "AffineDictionary", x: Float[Tensor, "batch d"], capacity: int | None) -> None:
        self._dictionary, self._x = dictionary, x
        with torch.no_grad():
            self.values = torch.baddbmm(
                dictionary.encoder_bias()[:, None], x.expand(len(dictionary.W_enc), -1, -1), dictionary.W_enc.mT
            )
        features = self.values.shape[-1]
        self._capacity = features if capacity is None else min(capacity, features)

    def above(self, cut: float | Tensor) -> Entries:
        k = kernels(self.values.device)
        if isinstance(cut, Tensor):
            return self._entries(k.compact_by_feature(self.values, cut.contiguous(), self._capacity, PADDING))
        room = self._capacity if cut > -math.inf else self.values.shape[-1]  # every feature is asked for
        return self._entries(k.compact(self.values, cut, room, PADDING))

    def top(self, k: Sequence[int]) -> Entries:
        return self._entries(kernels(self.values.device).compact_top_k(self.values, k))

    def batch_top(self, k: Sequence[int]) -> Entries:
        return self._entries(kernels(self.values.device).compact_batch_top_k(self.values, k, self._capacity))

    def top_among(self, k: int, allowed: Bool[Tensor, "member feature"]) -> Entries:
        among = self.values.masked_fill(~allowed[:, None], 0.0)
        return self._entries(kernels(among.device).compact_top_k(among, [min(k, allowed.shape[1])] * len(allowed)))

    def row_counts(self, features: Entries) -> Int[Tensor, "member batch"]:
        assert isinstance(features.layout, Padded)
        return features.layout.counts.view(self.values.shape[:2])

    def _entries(self, compacted: "gpu.Padded") -> Entries:
        d = self._dictionary
        layout = Padded(*self.values.shape, columns=compacted.columns, counts=compacted.counts, ranks=d.ranks)
        center = d.encoder_center() if d.config.center else None
        values = compacted.values.to(d.W_enc.dtype)
        return Entries(_Encode.apply(d.W_enc, d.b_enc, center, self._x, values, layout), layout)  # type: ignore[arg-type]


def compacted(features: Entries) -> Entries:
    """The positive entries of a dense layout in the active one, on a CPU; others as they are."""
    device = features.values.device
    if not isinstance(features.layout, Dense) or device.type != "cpu" or on_gpu(device):
        return features
    n, b, f = features.values.shape
    starts, columns, values = kernels(device).compact(features.values.detach().contiguous(), 0.0)
    layout = Active(n, b, f, starts, columns, features.layout.ranks)
    return Entries(_Compact.apply(features.values, values, layout), layout)  # type: ignore[arg-type]


def squared_error(
    features: Entries,
    W_dec: Float[Tensor, "member f d"],
    b_dec: Float[Tensor, "member d"],
    targets: Float[Tensor, "batch d"],
    base: Float[Tensor, "member batch d"] | None = None,
) -> tuple[Float[Tensor, " member"], Float[Tensor, "member batch d"]]:
    """mean_b ||features W_dec + b_dec + base - target||^2 of each member, and what is squared, without a gradient."""
    ranks = features.layout.ranks
    if not isinstance(features.layout, Dense) and ranks.feature_size == 1:
        error, residual = _SquaredError.apply(features.values, W_dec, b_dec, base, targets, features.layout)  # type: ignore[misc]
        return ranks.mean_rows(error), residual
    if isinstance(features.layout, Dense) and ranks.feature_size == 1:
        reconstruction = torch.baddbmm(b_dec[:, None], features.values, W_dec)
    else:
        reconstruction = decode_features(features, W_dec) + b_dec[:, None]
    residual = (reconstruction if base is None else reconstruction + base) - targets
    return ranks.mean_rows(residual.square().sum(-1).mean(-1)), residual.detach()


def decode_features(
    features: Entries, W_dec: Float[Tensor, "member f d"], begin: int = 0, end: int | None = None
) -> Float[Tensor, "member batch d"]:
    """Features of all ranks times decoder rows, without a bias.

    Of features begin to end of this rank alone if `Entries.between` chose them.
    """
    if isinstance(features.layout, Dense):
        decoded = features.values @ W_dec[:, begin:end]
    else:
        decoded = _Decode.apply(features.values, W_dec, features.layout)  # type: ignore[assignment]
    return features.layout.ranks.sum_features(decoded)  # type: ignore[arg-type]


class _Compact(torch.autograd.Function):
    """Positive entries of a dense tensor; backward puts their gradients back in their places."""

    @staticmethod
    def forward(ctx: Any, dense: Tensor, values: Tensor, layout: Active) -> Tensor:
        ctx.layout = layout
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return Entries(gradients[0], ctx.layout).dense(), None, None


class _Encode(torch.autograd.Function):
    """Hands out compacted pre-activations; backward gives W_enc, b_enc and b_dec their exact gradients."""

    @staticmethod
    def forward(
        ctx: Any,
        W_enc: Tensor,
        b_enc: Tensor | None,
        center: Tensor | None,
        x: Tensor,
        values: Tensor,
        layout: Active | Padded,
    ) -> Tensor:
        ctx.save_for_backward(W_enc, x, *([] if center is None else [center]))
        ctx.layout, ctx.centered, ctx.with_bias = layout, center is not None, b_enc is not None
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (g,) = gradients
        layout: Active | Padded = ctx.layout
        k = kernels(g.device)
        W_enc, x, *center = ctx.saved_tensors
        transposed = layout.transposed
        at_bias = k.column_sums(g.contiguous(), transposed.feature_starts, transposed.order).view(W_enc.shape[:2])
        at_center = None
        if ctx.centered:
            # sum over rows of g (x - b): centring the rows costs B D, centring the sum would cost D F
            x = (x - center[0][:, None]).flatten(0, 1)
            at_center = -(at_bias[:, None] @ W_enc)[:, 0]
        at_weights = k.weight_gradient(g.contiguous(), *transposed, x).view_as(W_enc)
        return at_weights, at_bias if ctx.with_bias else None, at_center, None, None, None


class _SquaredError(torch.autograd.Function):
    """Decoding, error and feature gradients in one visit to the decoder rows."""

    @staticmethod
    def forward(
        ctx: Any,
        values: Tensor,
        W_dec: Tensor,
        b_dec: Tensor,
        base: Tensor | None,
        targets: Tensor,
        layout: Active | Padded,
    ) -> tuple[Tensor, Tensor]:
        k = kernels(values.device)
        rows = None if base is None else base.flatten(0, 1).contiguous()
        residual, slopes = k.decode_error(
            values.contiguous(), *layout.index, W_dec.flatten(0, 1), b_dec, targets.contiguous(), rows
        )
        residual = residual.view(layout.members, layout.batch, -1)
        ctx.save_for_backward(values, slopes, residual)
        ctx.layout, ctx.shape = layout, W_dec.shape
        ctx.mark_non_differentiable(residual)
        return residual.square().sum((1, 2)) / layout.batch, residual

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        values, slopes, residual = ctx.saved_tensors
        layout: Active | Padded = ctx.layout
        weight = gradients[0] * (2 / layout.batch)
        per_entry = Entries(values, layout).per_member(weight)
        at_rows = residual.flatten(0, 1)
        at_W_dec = at_b_dec = at_base = None
        if ctx.needs_input_grad[1]:
            at_W_dec = (
                kernels(values.device).weight_gradient(values * per_entry, *layout.transposed, at_rows).view(ctx.shape)
            )
        if ctx.needs_input_grad[2] or ctx.needs_input_grad[3]:
            at_base = residual * weight[:, None, None]
            at_b_dec = at_base.sum(1)
        return slopes * per_entry, at_W_dec, at_b_dec, at_base if ctx.needs_input_grad[3] else None, None, None


class _Decode(torch.autograd.Function):
    """Active features times decoder rows."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, W_dec: Tensor, layout: Active | Padded) -> Tensor:
        ctx.save_for_backward(values, W_dec)
        ctx.layout = layout
        k = kernels(values.device)
        nothing = W_dec.new_zeros(layout.members, W_dec.shape[-1])
        decoded = k.decode(values.contiguous(), *layout.index, W_dec.flatten(0, 1), nothing)
        return decoded.view(layout.members, layout.batch, -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        values, W_dec = ctx.saved_tensors
        layout: Active | Padded = ctx.layout
        k = kernels(values.device)
        g = gradients[0].flatten(0, 1).contiguous()
        at_values = k.slopes(g, *layout.index, W_dec.flatten(0, 1))
        at_W_dec = k.weight_gradient(values.contiguous(), *layout.transposed, g).view_as(W_dec)
        return at_values, at_W_dec, None


__all__ = [
    "ActivePreActivations",
    "PaddedPreActivations",
    "PreActivations",
    "active_way",
    "decode_features",
    "squared_error",
]
