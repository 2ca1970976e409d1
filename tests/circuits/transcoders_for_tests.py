"""Tiny random models with random transcoders, and the frozen model written out by hand for four families."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from saes.architectures import ReLUDictionary, transcoder
from saes.dictionary import Dictionary
from saes.families import blocks, find_site
from saes.sites import Site, capture
from tests.saes.models_for_tests import some_tokens, tiny

FEATURES = 12


def mlp_input(model: PreTrainedModel, block: int) -> Site:
    """What the MLP module of a block reads: behind the norm, if one stands before it."""
    return find_site(model, f"mlp_in_{block}")


def transcoders_for(
    model: PreTrainedModel, missing: tuple[int, ...] = (), skip: tuple[int, ...] = (), width: int = 16
) -> dict[Site, Dictionary]:
    """Random ones, every parameter random, for all blocks but the missing ones."""
    made: dict[Site, Dictionary] = {}
    for i, block in enumerate(blocks(model)):
        if i in missing:
            continue
        reads = mlp_input(model, i)
        shape = {"width_in": width, "width": width, "features": FEATURES, "skip": i in skip}
        dictionary = transcoder(ReLUDictionary, reads, block.mlp, seed=i, **shape).to(model.dtype)
        random = torch.Generator().manual_seed(100 + i)
        for parameter in (dictionary.b_dec, dictionary.b_enc, *([dictionary.W_skip] if i in skip else [])):
            parameter.data.copy_(0.3 * torch.randn(parameter.shape, generator=random, dtype=torch.float64))
        made[reads] = dictionary.requires_grad_(False)
    return made


@dataclass(frozen=True)
class Case:
    model: PreTrainedModel
    transcoders: dict[Site, Dictionary]
    tokens: Tensor


def case(family: str, layers: int = 3, length: int = 5) -> Case:
    """A float64 model whose second block has no transcoder and whose third has one with a skip term."""
    model = tiny(family, layers).double()
    return Case(model, transcoders_for(model, missing=(1,), skip=(2,)), some_tokens(1, length)[0])


def values_at(model: PreTrainedModel, sites: list[Site], tokens: Tensor) -> dict[Site, Tensor]:
    with torch.no_grad(), capture(model, sites, stop_after=False) as values:
        model(input_ids=tokens[None], use_cache=False)
    return {site: value[0] for site, value in values.items()}


@dataclass(frozen=True)
class _Family:
    """How the hand-written model finds its parts."""

    block: str
    norms: tuple[str, str | None, str, str | None]
    """before and after attention, before and after the MLP"""
    last_norm: str
    value: Callable[[torch.nn.Module, Tensor], Tensor]
    """values [batch, length, heads, d_head] from the normed stream"""
    output: Callable[[torch.nn.Module, Tensor], Tensor]
    parallel: bool = False
    one_plus: bool = False


def _gpt2_values(block, x):
    return (x @ block.attn.c_attn.weight[:, 32:] + block.attn.c_attn.bias[32:]).unflatten(-1, (2, 8))


def _neox_values(block, x):
    whole = block.attention.query_key_value(x).unflatten(-1, (2, 3, 8))
    return whole[..., 2, :]


def _llama_values(block, x):
    return block.self_attn.v_proj(x)[..., None, :].expand(*x.shape[:-1], 2, -1)  # one key-value head for two


BY_HAND = {
    "gpt2": _Family(
        "transformer.h.{}", ("ln_1", None, "ln_2", None), "transformer.ln_f", _gpt2_values,
        lambda block, z: z @ block.attn.c_proj.weight + block.attn.c_proj.bias,
    ),
    "neox parallel": _Family(
        "gpt_neox.layers.{}", ("input_layernorm", None, "post_attention_layernorm", None), "gpt_neox.final_layer_norm",
        _neox_values, lambda block, z: block.attention.dense(z), parallel=True,
    ),
    "llama": _Family(
        "model.layers.{}", ("input_layernorm", None, "post_attention_layernorm", None), "model.norm", _llama_values,
        lambda block, z: block.self_attn.o_proj(z),
    ),
    "gemma2": _Family(
        "model.layers.{}",
        ("input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", None), "model.norm", _llama_values,
        lambda block, z: block.self_attn.o_proj(z), one_plus=True,
    ),
}  # fmt: skip


class FrozenByHand:
    """The affine model from weights, attention patterns and norms' inputs alone: no hooks, no autograd, no library."""

    def __init__(self, family: str, model: PreTrainedModel, transcoders: dict[Site, Dictionary], tokens: Tensor):
        self.model, self.family = model, BY_HAND[family]
        model.set_attn_implementation("eager")
        with torch.no_grad():
            self.patterns = model(tokens[None], output_attentions=True, use_cache=False).attentions
        self.mlps = [block.mlp for block in blocks(model)]
        self.by_mlp = {d.writes[0]: d for d in transcoders.values()}
        layers = range(len(self.mlps))
        paths = [f"{self.family.block.format(i)}.{n}" for i in layers for n in self.family.norms if n is not None]
        norm_inputs = [Site(path, path, "in") for path in (*paths, self.family.last_norm)]
        self.norm_inputs = {s.name: x for s, x in values_at(model, norm_inputs, tokens).items()}
        sites = [find_site(model, "embed"), *self.mlps, *(d.reads[0] for d in transcoders.values())]
        at_prompt = values_at(model, sites, tokens)
        self.embedding = at_prompt[sites[0]]
        self.written = {}
        for mlp in self.mlps:
            dictionary = self.by_mlp.get(mlp)
            bypass = None if dictionary is None else dictionary.bypass(at_prompt[dictionary.reads[0]])
            self.written[mlp] = at_prompt[mlp] if bypass is None else at_prompt[mlp] - bypass

    def norm(self, path: str, x: Tensor) -> Tensor:
        module, then = self.model.get_submodule(path), self.norm_inputs[path]
        if isinstance(module, torch.nn.LayerNorm):
            scale = 1 / torch.sqrt(then.var(-1, unbiased=False, keepdim=True) + module.eps)
            return (x - x.mean(-1, keepdim=True)) * scale * module.weight + module.bias
        eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
        return x / torch.sqrt((then**2).mean(-1, keepdim=True) + eps) * (module.weight + self.family.one_plus)

    def run(self, embedding: Tensor, written: dict[Site, Tensor]) -> tuple[dict[Site, Tensor], Tensor]:
        """What each MLP reads, by its site, and what the head reads; sources [batch, length, d]."""
        stream, read = embedding, {}
        for i, mlp in enumerate(self.mlps):
            path = self.family.block.format(i)
            block, before = self.model.get_submodule(path), stream
            pre, post, mlp_norm, _ = self.family.norms
            values = self.family.value(block, self.norm(f"{path}.{pre}", stream))
            mixed = torch.einsum("hqk,bkhd->bqhd", self.patterns[i][0].to(values), values).flatten(-2)
            attention = self.family.output(block, mixed)
            if post is not None:
                attention = self.norm(f"{path}.{post}", attention)
            stream = stream + attention
            x = self.norm(f"{path}.{mlp_norm}", before if self.family.parallel else stream)
            read[mlp] = x
            dictionary = self.by_mlp.get(mlp)
            bypass = None if dictionary is None else dictionary.bypass(x)
            stream = stream + written[mlp] + (0 if bypass is None else bypass)
        return read, self.norm(self.family.last_norm, stream)
