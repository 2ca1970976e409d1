"""Where each model family keeps its embedding, attention, MLP and residual stream: one row per family.

A block is described by its residual writers in the order in which they run. Names follow Marks et al. 2024:
embed, attn_i, mlp_i, resid_i (the output of block i), and finer ones: resid_mid_i, mlp_hidden_i (the neurons)
and attn_heads_i (before the output projection).
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from saes.sites import Site, SiteError, capture, intervene


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
    norm that stands after the sublayer, if there is one. `check_family` verifies all of this on a model.
    """

    embed: str  # output: the residual stream before the first block
    block: str  # output: the residual stream after block i
    attn: str
    mlp: str
    mid_norm: str | None = None  # input: the residual stream between attention and MLP; None: they are parallel
    heads: str | None = None  # input: the concatenated heads; None: the family has no attn_heads sites
    neurons: str | None = None  # input: the hidden layer of the MLP, after its activation function
    attn_in: str | None = None  # input: the residual stream that attention reads; None: nodes are not heads or layers
    projections: Projections | None = None  # of the output of attn_in; None: heads are no nodes

    def __post_init__(self) -> None:
        for field in ("block", "attn", "mlp", "mid_norm", "heads", "neurons", "attn_in"):
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


@torch.no_grad()
def check_family(model: PreTrainedModel, tolerance: float = 1e-3) -> None:
    """Check the description of a model on real forward passes; SiteError names the first site that is not as described.

    In every block resid_i = resid_{i-1} + attn_i + mlp_i, up to `tolerance` times what attn_i and mlp_i write (the
    residual stream is no measure: one large entry would hide a wrong writer) and the rounding of the model's dtype.
    In serial blocks also resid_mid_i = resid_{i-1} + attn_i; in parallel ones mlp_i must not depend on attn_i.
    """
    values = _every_site(model)
    for index, block in enumerate(blocks(model)):
        if not block.parallel:
            _check_sum(values, find_site(model, f"resid_mid_{index}"), block.before, [block.attn], tolerance)
        _check_sum(values, block.resid, block.before, [block.attn, block.mlp], tolerance)
    first = blocks(model)[0]
    if first.parallel:
        with intervene(model, {first.attn: lambda x: 2 * x + 1}), capture(model, [first.mlp]) as edited:
            model(input_ids=_probe(model), use_cache=False)
        if not torch.equal(edited[first.mlp], values[first.mlp]):
            raise SiteError(f"{first.mlp}: depends on {first.attn}, so the blocks are not parallel; name mid_norm")


def _check_sum(values: dict[Site, Tensor], site: Site, before: Site, writers: list[Site], tolerance: float) -> None:
    """SiteError unless `site` is `before` plus what `writers` write."""
    terms, dtype = " + ".join(map(str, (before, *writers))), values[site].dtype
    shapes = {str(part): list(values[part].shape) for part in (site, before, *writers)}
    if any(shape != shapes[str(site)] for shape in shapes.values()):
        listed = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise SiteError(f"{site}: cannot be {terms}, for their shapes differ: {listed}")
    start, end, *parts = (values[part].cpu().double() for part in (before, site, *writers))
    written = torch.stack(parts).sum(0)
    gap = (end - start - written).norm()
    if not gap.isfinite():
        raise SiteError(f"{site}: infinite or NaN in {dtype}; load the model in another dtype")
    # a sum of three is rounded twice, by half an eps each time; four times that is allowed
    rounding = 4 * torch.finfo(dtype).eps * torch.maximum(start.norm(), end.norm())
    if gap > tolerance * written.norm() + rounding:
        share = float(gap / written.norm().clamp_min(1e-12))
        raise SiteError(f"{site}: differs from {terms} by {share:.1%} of what is written, so the family does not fit")


def _probe(model: PreTrainedModel) -> Int[Tensor, "1 4"]:
    return torch.arange(4, device=model.device).remainder(model.config.get_text_config().vocab_size)[None]


def _every_site(model: PreTrainedModel) -> dict[Site, Tensor]:
    """The values of all sites, each [1, 4, width], from one whole forward pass."""
    sites = list(_named_sites(model).values())
    with capture(model, sites, stop_after=False) as values:
        model(input_ids=_probe(model), use_cache=False)
    for site in sites:
        if site not in values:
            raise SiteError(f"{site}: {site.module!r} does not run in a forward pass")
        value: Any = values[site]  # whatever a user's module hands on
        if not isinstance(value, Tensor) or value.shape[:-1] != (1, 4):
            found = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise SiteError(f"{site}: {site.module!r} hands on {found}, not activations [batch, length, width]")
    return values


def site_widths(model: PreTrainedModel, sites: Iterable[Site]) -> dict[Site, int]:
    """Last dimensions of the tensors at the sites, from one forward pass of one token."""
    sites = list(sites)
    with torch.no_grad(), capture(model, sites) as values:
        model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=model.device), use_cache=False)
    return {site: values[site].shape[-1] for site in sites}


def site_width(model: PreTrainedModel, site: Site) -> int:
    """Last dimension of the tensor at a site, from a one-token forward pass."""
    return site_widths(model, [site])[site]
