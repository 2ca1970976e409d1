"""Copies of a model that share its weights, in which every head has keys and values of its own and can be watched.

Grouped-query attention shares keys and values among heads; repeating the rows of their projections changes no output
and makes the key input of one head a thing of its own (TransformerLens calls this ungrouping). An *open* copy also
computes attention where its patterns can be read and replaced.
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import eager_mask

from saes.families import Family, describe_family, family_of
from saes.sites import SiteError

Attend = Callable[
    [
        Float[Tensor, "batch heads length d_head"],
        Float[Tensor, "batch heads length d_head"],
        Float[Tensor, "batch heads length d_head"],
        Float[Tensor, "batch heads length length"],
        float,
    ],
    Float[Tensor, "batch heads length d_head"],
]
"""what stands in for pattern @ v: queries, keys (both as they are multiplied), values, pattern and scale -> outputs"""

_OPEN = "kibitz_open"
_watched: WeakKeyDictionary[nn.Module, Attend] = WeakKeyDictionary()


def heads_of(model: PreTrainedModel) -> tuple[int, int]:
    """How many query heads, and how many heads of keys and values, each block has."""
    config = model.config.get_text_config()
    queries = int(config.num_attention_heads)
    return queries, int(getattr(config, "num_key_value_heads", None) or queries)


def twin(model: PreTrainedModel, *, open_attention: bool = False) -> PreTrainedModel:
    """A copy that shares every weight of the model but for ungrouped keys and values; attention open, or as it is."""
    family = family_of(model)
    shared: dict[int, Any] = {id(t): t for t in (*model.parameters(), *model.buffers())}
    copied = copy.deepcopy(model, shared)
    describe_family(copied, family)
    if open_attention:
        copied.config._attn_implementation = _OPEN
    queries, keys = heads_of(model)
    if queries != keys:
        _ungroup(copied, family, queries, keys)
    return copied


def _ungroup(model: PreTrainedModel, family: Family, queries: int, keys: int) -> None:
    """Repeat the rows of key and value projections, so that head h has its own; in place."""
    row = family.projections
    assert row is not None
    for i in range(int(model.config.get_text_config().num_hidden_layers)):
        attention = model.get_submodule(row.k.format(i=i).rpartition(".")[0])
        for path in dict.fromkeys((row.k, row.v)):
            name = path.format(i=i)
            module = model.get_submodule(name)
            if not isinstance(module, nn.Linear):
                raise SiteError(f"{name}: cannot ungroup a {type(module).__name__}; grouped heads need a Linear")
            letters = [letter for letter in "qkv" if getattr(row, letter) == path]
            setattr(attention, name.rpartition(".")[2], _repeated(module, letters, queries, keys))
        _repeat_norm(attention, queries, keys)
        attention.num_key_value_groups = 1  # type: ignore[assignment]  # plain attributes of transformers' modules
        if hasattr(attention, "num_key_value_heads"):
            attention.num_key_value_heads = queries  # type: ignore[assignment]


def _repeat_norm(attention: nn.Module, queries: int, keys: int) -> None:
    """Repeat the weights of a norm over all keys together (OLMo 2); its mean is the same over repeated heads."""
    over_queries, over_keys = (getattr(getattr(attention, f"{c}_norm", None), "weight", None) for c in "qk")
    if over_queries is not None and over_keys is not None and len(over_queries) * keys == len(over_keys) * queries:
        by_head = over_keys.detach().unflatten(0, (keys, -1)).repeat_interleave(queries // keys, 0)
        attention.get_submodule("k_norm").weight = nn.Parameter(by_head.flatten(), requires_grad=False)


def _repeated(module: nn.Linear, letters: list[str], queries: int, keys: int) -> nn.Linear:
    """The projection with the rows of every key and value head as often as there are query heads in its group."""
    heads = [queries if letter == "q" else keys for letter in letters]
    width = module.out_features // sum(heads)

    def repeat(rows: Tensor) -> Tensor:
        parts = rows.split([count * width for count in heads])
        grown = [
            part if count == queries else part.unflatten(0, (count, width)).repeat_interleave(queries // count, 0)
            for part, count in zip(parts, heads, strict=True)
        ]
        return torch.cat([part.reshape(queries * width, *rows.shape[1:]) for part in grown])

    made = nn.Linear(module.in_features, len(letters) * queries * width, bias=module.bias is not None, device="meta")
    made.weight = nn.Parameter(repeat(module.weight.detach()), requires_grad=False)
    if module.bias is not None:
        made.bias = nn.Parameter(repeat(module.bias.detach()), requires_grad=False)
    return made.train(module.training)


@contextmanager
def attending(model: PreTrainedModel, heads: Mapping[str, Attend]) -> Iterator[None]:
    """Replace pattern @ v in attention modules of an open copy, by path, in every forward pass inside the block."""
    if model.config._attn_implementation != _OPEN:
        raise SiteError("attention can be watched in an open copy only: twin(model, open_attention=True)")
    modules = {model.get_submodule(path): attend for path, attend in heads.items()}
    try:
        _watched.update(modules)
        yield
    finally:
        for module in modules:
            _watched.pop(module, None)


def capped(scores: Tensor, cap: float | None) -> Tensor:
    """Scores that approach ±cap smoothly (Gemma 2); None: as they are."""
    return scores if cap is None else cap * (scores / cap).tanh()


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    **options: Any,
) -> tuple[Tensor, Tensor]:
    """Attention by transformers' interface, in the model's own dtype: [batch, heads, length, d_head] -> heads third."""
    unknown = [name for name in ("s_aux", "position_bias") if options.get(name) is not None]
    if unknown:
        raise SiteError(f"{type(module).__name__}: attention with {', '.join(unknown)} cannot be opened")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = capped(query @ key.transpose(-1, -2) * scale, softcap)
    pattern = (scores if attention_mask is None else scores + attention_mask).softmax(-1)
    watched = _watched.get(module)
    heads = pattern @ value if watched is None else watched(query, key, value, pattern, scale)
    return heads.transpose(1, 2).contiguous(), pattern


AttentionInterface.register(_OPEN, _attend)
AttentionMaskInterface.register(_OPEN, eager_mask)
