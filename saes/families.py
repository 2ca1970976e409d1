"""Where each model family keeps its embedding, attention, MLP and residual stream: one row per family.

A block is described by its residual writers in the order in which they run. Names follow Marks et al. 2024:
embed, attn_i, mlp_i, resid_i (the output of block i), and finer ones: resid_mid_i, mlp_in_i (what the MLP reads,
behind the norm before it), mlp_hidden_i (the neurons) and attn_heads_i (before the output projection).
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal
from weakref import WeakKeyDictionary

import torch
from transformers import PretrainedConfig, PreTrainedModel

from saes.sites import Site, SiteError, capture


@dataclass(frozen=True)
class Projections:
    """The linear modules of a block's attention that make queries, keys and values out of the normed residual stream.

    Equal paths mean one fused module: all queries, then keys, then values, or with `interleaved` q, k, v head by head.
    """

    q: str
    k: str
    v: str
    interleaved: bool = False


@dataclass(frozen=True)
class Family:
    """Module paths of one family; `{i}` stands for the block. Only the first four are needed.

    `attn` and `mlp` are the residual writers: their outputs are what is *added* to the residual stream, so behind a
    norm that stands after the sublayer, if there is one. `check_family` (saes/family_checks.py) verifies it on a model.
    """

    embed: str  # output: the residual stream before the first block
    block: str  # output: the residual stream after block i
    attn: str
    mlp: str
    mid_norm: str | None = None  # input: the residual stream between attention and MLP; None: they are parallel
    heads: str | None = None  # input: the concatenated heads; None: the family has no attn_heads sites
    mlp_in: str | None = None  # input: what the MLP reads, behind the norm before it, if there is one
    neurons: str | None = None  # input: the hidden layer of the MLP, after its activation function
    attn_in: str | None = None  # input: the residual stream that attention reads; None: nodes are not heads or layers
    projections: Projections | None = None  # of the output of attn_in; None: heads are no nodes

    def __post_init__(self) -> None:
        for field in ("block", "attn", "mlp", "mid_norm", "heads", "mlp_in", "neurons", "attn_in"):
            path = getattr(self, field)
            if path is not None and "{i}" not in path:
                raise SiteError(f"family: {field} is {path!r}, which has no {{i}} for the number of the block")

    def parallel(self, config: PretrainedConfig) -> bool:
        """Whether attention and MLP read the same residual stream."""
        return self.mid_norm is None or bool(getattr(config, "use_parallel_residual", False))


def _fused(path: str, *, interleaved: bool = False) -> Projections:
    return Projections(path, path, path, interleaved)


def _separate(attention: str) -> Projections:
    return Projections(f"{attention}.q_proj", f"{attention}.k_proj", f"{attention}.v_proj")


def _gpt(attention: str, projections: Projections) -> Family:
    return Family(
        "transformer.drop",
        "transformer.h.{i}",
        "transformer.h.{i}.attn",
        "transformer.h.{i}.mlp",
        "transformer.h.{i}.ln_2",
        f"transformer.h.{{i}}.{attention}",
        "transformer.h.{i}.mlp",
        "transformer.h.{i}.mlp.c_proj",
        "transformer.h.{i}.ln_1",
        projections,
    )


def _llama(attn: str, mlp: str, mid_norm: str, attn_in: str, projections: Projections | None = None) -> Family:
    return Family(
        "model.embed_tokens",
        "model.layers.{i}",
        f"model.layers.{{i}}.{attn}",
        f"model.layers.{{i}}.{mlp}",
        f"model.layers.{{i}}.{mid_norm}",
        "model.layers.{i}.self_attn.o_proj",
        "model.layers.{i}.mlp",
        "model.layers.{i}.mlp.down_proj",
        f"model.layers.{{i}}.{attn_in}",
        projections,
    )


def _pre_norm(projections: Projections) -> Family:
    return _llama("self_attn", "mlp", "post_attention_layernorm", "input_layernorm", projections)


_SEPARATE = _separate("model.layers.{i}.self_attn")
_PRE_NORM = _pre_norm(_SEPARATE)
# norms before and after each sublayer: the second one writes
_SANDWICH = _llama(
    "post_attention_layernorm",
    "post_feedforward_layernorm",
    "pre_feedforward_layernorm",
    "input_layernorm",
    _SEPARATE,
)
FAMILIES: dict[str, Family] = {
    "gemma": _PRE_NORM,
    "gemma2": _SANDWICH,
    "gemma3_text": _SANDWICH,
    "gpt2": _gpt("attn.c_proj", _fused("transformer.h.{i}.attn.c_attn")),
    "gpt_neo": _gpt("attn.attention.out_proj", _separate("transformer.h.{i}.attn.attention")),
    "gpt_neox": Family(
        "gpt_neox.emb_dropout",
        "gpt_neox.layers.{i}",
        "gpt_neox.layers.{i}.attention",
        "gpt_neox.layers.{i}.mlp",
        "gpt_neox.layers.{i}.post_attention_layernorm",
        "gpt_neox.layers.{i}.attention.dense",
        "gpt_neox.layers.{i}.mlp",
        "gpt_neox.layers.{i}.mlp.dense_4h_to_h",
        "gpt_neox.layers.{i}.input_layernorm",
        _fused("gpt_neox.layers.{i}.attention.query_key_value", interleaved=True),
    ),
    "llama": _PRE_NORM,
    "mistral": _PRE_NORM,
    "olmo2": _llama("post_attention_layernorm", "post_feedforward_layernorm", "mlp", "self_attn", _SEPARATE),
    "phi3": _pre_norm(_fused("model.layers.{i}.self_attn.qkv_proj")),
    "qwen2": _PRE_NORM,
    "qwen3": _PRE_NORM,
    "smollm3": _PRE_NORM,
}
# what describe_family was told of single models; weak, so that a model is not kept alive by its description
_described: WeakKeyDictionary[PreTrainedModel, Family] = WeakKeyDictionary()

# TransformerLens' names for the same tensors. Its hook_embed leaves out learned positions, so it has no row.
_LENS = {
    r"blocks\.(\d+)\.hook_resid_post": "resid_{}",
    r"blocks\.(\d+)\.hook_resid_mid": "resid_mid_{}",
    r"blocks\.(\d+)\.hook_attn_out": "attn_{}",
    r"blocks\.(\d+)\.hook_mlp_out": "mlp_{}",
    r"blocks\.(\d+)\.attn\.hook_z": "attn_heads_{}",
    r"blocks\.(\d+)\.mlp\.hook_in": "mlp_in_{}",
    r"blocks\.(\d+)\.hook_mlp_in": "resid_mid_{}",  # the stream before the norm, in spite of its name
    r"blocks\.(\d+)\.mlp\.hook_post": "mlp_hidden_{}",
}


@dataclass(frozen=True)
class Block:
    """The sites of one block in forward order, and how they are wired."""

    before: Site  # the residual stream that the block reads
    attn: Site
    mlp: Site
    resid: Site
    parallel: bool


def _layers(model: PreTrainedModel) -> int:
    return int(model.config.get_text_config().num_hidden_layers)


def describe_family(model: PreTrainedModel, family: Family) -> None:
    """Use `family` for this one model, whatever its type; for every model of a type set FAMILIES[model_type]."""
    _described[model] = family


def family_of(model: PreTrainedModel) -> Family:
    """The model's own description, or else its type's row; SiteError if there is neither."""
    if model in _described:
        return _described[model]
    return family_of_type(model.config.model_type)


def family_of_type(kind: str) -> Family:
    """The row of a model type; SiteError for a type that has none."""
    if kind not in FAMILIES:
        known = ", ".join(sorted(FAMILIES))
        raise SiteError(f"model type {kind!r} is not described; known: {known}; describe it with family=Family(...)")
    return FAMILIES[kind]


def _named_sites(model: PreTrainedModel) -> dict[str, Site]:
    family = family_of(model)
    mid_norm = None if family.parallel(model.config) else family.mid_norm
    sites = {"embed": Site("embed", family.embed)}
    for i in range(_layers(model)):
        rows: list[tuple[str, str | None, Literal["in", "out"]]] = [
            (f"attn_heads_{i}", family.heads, "in"),
            (f"attn_{i}", family.attn, "out"),
            (f"resid_mid_{i}", mid_norm, "in"),
            (f"mlp_in_{i}", family.mlp_in, "in"),
            (f"mlp_hidden_{i}", family.neurons, "in"),
            (f"mlp_{i}", family.mlp, "out"),
            (f"resid_{i}", family.block, "out"),
        ]
        sites |= {name: Site(name, path.format(i=i), end) for name, path, end in rows if path is not None}
    return sites


def site_names(model: PreTrainedModel) -> list[str]:
    """Our names of all sites, in forward order."""
    return list(_named_sites(model))


def find_site(model: PreTrainedModel, name: str) -> Site:
    """A site by our name, by TransformerLens' name, or by the path of a module whose output it is."""
    sites = _named_sites(model)
    if match := re.fullmatch(r"blocks\.(\d+)\.hook_resid_pre", name):
        block = int(match[1])
        name = f"resid_{block - 1}" if block else "embed"
    for pattern, ours in _LENS.items():
        if match := re.fullmatch(pattern, name):
            name = ours.format(*match.groups())
    family = family_of(model)
    if (match := re.fullmatch(r"blocks\.(\d+)\.mlp\.hook_out", name)) and family.mlp == family.mlp_in:
        name = f"mlp_{match[1]}"  # elsewhere a norm stands between it and the stream
    if name in sites:
        return sites[name]
    by_path = {site.module: site for site in sites.values() if site.end == "out"}
    if name in by_path:
        return by_path[name]
    close = get_close_matches(name, sites, n=3, cutoff=0.4) or ["embed", f"resid_{_layers(model) - 1}"]
    raise SiteError(f"site {name!r}: this {model.config.model_type} has no such site; nearest: {', '.join(close)}")


def circuit_sites(model: PreTrainedModel) -> list[Site]:
    """embed, then attn_i, mlp_i, resid_i of every block, in forward order."""
    return [find_site(model, "embed")] + [s for b in blocks(model) for s in (b.attn, b.mlp, b.resid)]


def blocks(model: PreTrainedModel) -> list[Block]:
    """Every block with the residual site before it."""
    sites, parallel = _named_sites(model), family_of(model).parallel(model.config)
    before = ["embed"] + [f"resid_{i}" for i in range(_layers(model))]
    return [
        Block(sites[before[i]], sites[f"attn_{i}"], sites[f"mlp_{i}"], sites[f"resid_{i}"], parallel)
        for i in range(_layers(model))
    ]


def site_widths(model: PreTrainedModel, sites: Iterable[Site]) -> dict[Site, int]:
    """Last dimensions of the tensors at the sites, from one forward pass of one token."""
    sites = list(sites)
    with torch.no_grad(), capture(model, sites) as values:
        model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=model.device), use_cache=False)
    return {site: values[site].shape[-1] for site in sites}


def site_width(model: PreTrainedModel, site: Site) -> int:
    """Last dimension of the tensor at a site, from a one-token forward pass."""
    return site_widths(model, [site])[site]
