"""A forward pass with attention patterns and norms held at one prompt: everything around the MLPs becomes affine.

The pass at the prompt is recorded: every inverse root (the scale of a LayerNorm or RMSNorm) and every softmax (an
attention pattern) is kept. Passes that replay the record take those values in place of their own, whatever they are
given. This is done where torch dispatches its functions, so it knows no model family, registers nothing with
transformers, changes no weight and no module, and ends with its block, also by an exception.

What torch does not dispatch (compiled modules, kernels of other libraries such as flash-attn) is not seen: whoever
freezes a model has to check that the result is affine, as circuits/linear_model.py does.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


class GraphError(ValueError):
    """A prompt, a model or transcoders that no attribution graph can be made of."""


_CONSTANT = {
    torch.rsqrt, Tensor.rsqrt, torch.sqrt, Tensor.sqrt,
    F.softmax, torch.softmax, Tensor.softmax,
}  # fmt: skip
_POWERS = {torch.pow, Tensor.pow, Tensor.__pow__}
_CASTS = {Tensor.float, Tensor.to}


class _Freezing(TorchFunctionMode):
    """Takes scales and patterns from `_constant`, and computes what is around them."""

    def _constant(self, compute: Callable[[], Tensor]) -> Tensor:
        raise NotImplementedError

    def __torch_function__(self, func: Any, types: Iterable[type], args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _CASTS and _narrows(*args, **kwargs):
            return args[0]  # norms in float32 would round a float64 model to seven digits
        if func in _CONSTANT:
            if kwargs.get("dtype") is torch.float32 and args[0].dtype is torch.float64:
                kwargs = {**kwargs, "dtype": None}
            return self._constant(lambda: func(*args, **kwargs))
        if func in _POWERS and isinstance(args[-1], int | float) and args[-1] < 0:
            return self._constant(lambda: func(*args, **kwargs))
        if func is F.layer_norm:
            return self._layer_norm(*args, **kwargs)
        if func is F.rms_norm:
            return self._rms_norm(*args, **kwargs)
        if func is F.scaled_dot_product_attention:
            return self._attention(*args, **kwargs)
        return func(*args, **kwargs)

    def _layer_norm(
        self,
        input: Tensor,
        normalized_shape: Iterable[int],
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        eps: float = 1e-5,
    ) -> Tensor:
        wide, dims = _wide(input), tuple(range(-len(tuple(normalized_shape)), 0))
        return self._scaled(wide - wide.mean(dims, keepdim=True), dims, weight, bias, eps).to(input.dtype)

    def _rms_norm(
        self, input: Tensor, normalized_shape: Iterable[int], weight: Tensor | None = None, eps: float | None = None
    ) -> Tensor:
        dims = tuple(range(-len(tuple(normalized_shape)), 0))
        eps = torch.finfo(input.dtype).eps if eps is None else eps
        return self._scaled(_wide(input), dims, weight, None, eps).to(input.dtype)

    def _scaled(
        self, x: Tensor, dims: tuple[int, ...], weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> Tensor:
        y = x * self._constant(lambda: (x.square().mean(dims, keepdim=True) + eps).rsqrt())
        y = y if weight is None else y * weight
        return y if bias is None else y + bias

    def _attention(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        def pattern() -> Tensor:
            # the pattern is what attention makes of the identity: masks, scale and grouped heads stay torch's own
            one = torch.eye(value.shape[-2], dtype=value.dtype, device=value.device).expand(*value.shape[:-1], -1)
            return F.scaled_dot_product_attention(
                query, key, one, attn_mask, 0.0, is_causal, scale=scale, enable_gqa=enable_gqa
            )

        weights = self._constant(pattern)
        if enable_gqa:
            value = value.repeat_interleave(query.shape[-3] // value.shape[-3], -3)
        return weights @ value


class Recording(_Freezing):
    """Inside the block scales and patterns are the pass's own, and are added to `record` in their order."""

    def __init__(self, record: list[Tensor]) -> None:
        super().__init__()
        self._record = record

    def _constant(self, compute: Callable[[], Tensor]) -> Tensor:
        self._record.append(compute().detach())
        return self._record[-1]


class Replaying(_Freezing):
    """Inside the block one forward pass takes scales and patterns from `record`; its batch may be larger."""

    def __init__(self, record: list[Tensor]) -> None:
        super().__init__()
        self._left = iter(record)

    def _constant(self, compute: Callable[[], Tensor]) -> Tensor:
        for constant in self._left:
            return constant
        raise GraphError("the model's second forward pass takes another way than its first: it cannot be frozen")


def _narrows(x: Any, *args: Any, **kwargs: Any) -> bool:
    """Whether x.float() or x.to(...) would round float64 to float32."""
    wanted = [*args, *kwargs.values()] or [torch.float32]
    return isinstance(x, Tensor) and x.dtype is torch.float64 and any(w is torch.float32 for w in wanted)


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype is torch.float64 else x.float()
