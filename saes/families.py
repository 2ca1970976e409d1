"""Where each model family keeps its embedding, attention, MLP and residual stream: one row per family.

A block is described by its residual writers in the order in which they run. Names follow Marks et al. 2024:
embed, attn_i, mlp_i, resid_i (the output of block i), and finer ones: resid_mid_i, mlp_hidden_i (the neurons)
and attn_heads_i (before the output projection).
"""

import re
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

import torch
from transformers import PretrainedConfig, PreTrainedModel

from saes.sites import Site, SiteError, capture


@dataclass(frozen=True)
class Family:
    """Module paths of one family; `{i}` stands for the block."""

    embed: str  # output: the residual stream before the first block
    block: str  # output: the residual stream after block i
    attn: str
    mlp: str
    mid_norm: str  # input: the residual stream between attention and MLP, in serial blocks
    heads: str  # input: the concatenated heads
    neurons: str  # input: the hidden layer of the MLP, after its activation function

    def parallel(self, config: PretrainedConfig) -> bool:
        """Whether attention and MLP read the same residual stream."""
        return bool(getattr(config, "use_parallel_residual", False))


_LLAMA = Family(
    "model.embed_tokens",
    "model.layers.{i}",
    "model.layers.{i}.self_attn",
    "model.layers.{i}.mlp",
    "model.layers.{i}.post_attention_layernorm",
    "model.layers.{i}.self_attn.o_proj",
    "model.layers.{i}.mlp.down_proj",
)
FAMILIES: dict[str, Family] = {
    "gpt2": Family(
        "transformer.drop",
        "transformer.h.{i}",
        "transformer.h.{i}.attn",
        "transformer.h.{i}.mlp",
        "transformer.h.{i}.ln_2",
        "transformer.h.{i}.attn.c_proj",
        "transformer.h.{i}.mlp.c_proj",
    ),
    "gpt_neox": Family(
        "gpt_neox.emb_dropout",
        "gpt_neox.layers.{i}",
        "gpt_neox.layers.{i}.attention",
        "gpt_neox.layers.{i}.mlp",
        "gpt_neox.layers.{i}.post_attention_layernorm",
        "gpt_neox.layers.{i}.attention.dense",
        "gpt_neox.layers.{i}.mlp.dense_4h_to_h",
    ),
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
}

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


def family_of(model: PreTrainedModel) -> Family:
    """The family's row; SiteError for a model type that has none."""
    kind = model.config.model_type
    if kind not in FAMILIES:
        raise SiteError(f"model type {kind!r} is not described; known: {', '.join(sorted(FAMILIES))}")
    return FAMILIES[kind]


def _named_sites(model: PreTrainedModel) -> dict[str, Site]:
    family = family_of(model)
    rows: list[tuple[str, str, Literal["in", "out"]]] = [("embed", family.embed, "out")]
    for i in range(_layers(model)):
        rows.append((f"attn_heads_{i}", family.heads.format(i=i), "in"))
        rows.append((f"attn_{i}", family.attn.format(i=i), "out"))
        if not family.parallel(model.config):
            rows.append((f"resid_mid_{i}", family.mid_norm.format(i=i), "in"))
        rows.append((f"mlp_hidden_{i}", family.neurons.format(i=i), "in"))
        rows.append((f"mlp_{i}", family.mlp.format(i=i), "out"))
        rows.append((f"resid_{i}", family.block.format(i=i), "out"))
    return {name: Site(name, module, end) for name, module, end in rows}


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
    """Run one real forward pass and check resid_i = resid_{i-1} + attn_i + mlp_i in every block; else SiteError."""
    tokens = torch.arange(4, device=model.device).remainder(model.config.get_text_config().vocab_size)[None]
    with capture(model, circuit_sites(model)) as values:
        model(input_ids=tokens, use_cache=False)
    for block in blocks(model):
        total = values[block.before] + values[block.attn] + values[block.mlp]
        gap = float((values[block.resid] - total).norm() / values[block.resid].norm().clamp_min(1e-12))
        if not gap <= tolerance:
            raise SiteError(f"{block.resid}: differs from {block.before} + {block.attn} + {block.mlp} by {gap:.1%}")


def site_width(model: PreTrainedModel, site: Site) -> int:
    """Last dimension of the tensor at a site, from a one-token forward pass."""
    with torch.no_grad(), capture(model, [site]) as values:
        model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=model.device), use_cache=False)
    return values[site].shape[-1]
