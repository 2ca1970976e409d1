"""Coarser nodes: the input embedding, attention heads and MLPs, and the graph of who reads whom in the residual stream.

A *source* writes a vector into the residual stream at every position; a *destination* is one reader's own copy of
that stream: the query, key and value input of a head, the input of an MLP, the end. Names are those of EAP-IG
(Hanna et al. 2024): input, a0.h1, m2 -> a2.h0<q>, m2, logits; `ours` gives the sites. Sources stand in forward order,
destinations block by block as q of all heads, k of all heads, v of all heads, MLP.

Heads are nodes where attention's output is a sum over heads that is added to the stream as it is. Families that norm
what attention writes (Gemma 2 and 3, OLMo 2) have whole attention layers as nodes instead (`heads=False`: a0, m0).
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from circuits.attention import heads_of, twin
from saes.families import Family, blocks, family_of, find_site
from saes.sites import Site, SiteError, capture


class ComponentError(SiteError):
    """Nodes that a model does not have."""


@dataclass(frozen=True)
class Heads:
    """How the heads of one block read and write; D is the width of the residual stream, d that of a head.

    `reads` is [letter, head, d, D] with letters q, k, v: projection = reads @ norm(stream) + bias. `writes` is
    [head, d, D]: what a head adds to the stream is z @ writes; the bias of the output projection belongs to no head.
    """

    norm: nn.Module
    projections: tuple[tuple[Site, str], ...]  # the output of each projecting module, and the letters that it holds
    interleaved: bool
    z: Site
    reads: Float[Tensor, "letters heads d_head d"]
    writes: Float[Tensor, "heads d_head d"]

    def unpack(self, projected: Float[Tensor, "*rows width"], letters: str) -> Float[Tensor, "*rows letters heads d"]:
        """A projecting module's output by letter and head."""
        return _unpacked(projected, len(letters), self.writes.shape[0], self.interleaved)

    def pack(self, parts: Float[Tensor, "*rows letters heads d"]) -> Float[Tensor, "*rows width"]:
        """What `unpack` came from."""
        return (parts.transpose(-3, -2) if self.interleaved else parts).flatten(-3)


def _unpacked(projected: Tensor, letters: int, heads: int, interleaved: bool) -> Float[Tensor, "*rows letters heads d"]:
    if interleaved:
        return projected.unflatten(-1, (heads, letters, -1)).transpose(-3, -2)
    return projected.unflatten(-1, (letters, heads, -1))


@dataclass(frozen=True)
class Layer:
    """One block: where attention and the MLP read the residual stream, and what they write into it."""

    attn_in: Site
    attn: Site
    mlp_in: Site
    mlp: Site
    resid: Site
    heads: Heads | None  # None: attention as a whole is the node


@dataclass(frozen=True)
class Components:
    """The nodes of a model down to the end (the last residual stream, or an earlier one that a probe reads).

    `model` is what every measurement runs on: the model itself, or a copy that shares its weights where heads share
    keys and values or attention has to be open (circuits/attention.py).
    """

    model: PreTrainedModel
    input: Site
    layers: tuple[Layer, ...]
    end: Site
    parallel: bool
    width: int
    tail: str  # the name of the end

    @classmethod
    def of(
        cls,
        model: PreTrainedModel,
        *,
        heads: bool = True,
        end: Site | None = None,
        tokens_only: bool = False,
        open_attention: bool = False,
    ) -> "Components":
        """Describe a model, and check the description on it.

        `heads=False`: attention layers as wholes. `end`: the residual site of a probe, instead of the logits.
        `tokens_only`: the input node is the token embedding without learned positions, as in EAP-IG; by default it
        is all of the stream that the first block reads. `open_attention`: needed for PEAP.
        """
        family = family_of(model)
        if family.attn_in is None or (heads and (family.projections is None or family.heads is None)):
            kind = model.config.model_type
            raise ComponentError(
                f"{kind}: no attn_in in its description, so it has no component nodes"
                if family.attn_in is None
                else f"{kind}: heads are no nodes of their own (a norm stands behind attention, or the family does not "
                "name the projections); use heads=False for whole attention layers"
            )
        queries, keys = heads_of(model)
        copied = open_attention or (heads and queries != keys)
        used = twin(model, open_attention=open_attention) if copied else model
        every = [_layer(used, family, i, heads) for i in range(len(blocks(used)))]
        count = len(every) if end is None else 1 + _index(every, end)
        start = Site("tokens", _path_of(used, used.get_input_embeddings())) if tokens_only else find_site(used, "embed")
        width = int(used.config.get_text_config().hidden_size)
        tail = "logits" if end is None else end.name
        parallel = family.parallel(model.config)
        made = cls(used, start, tuple(every[:count]), every[count - 1].resid, parallel, width, tail)
        made._check()
        return made

    @property
    def per_layer(self) -> int:
        """How many attention nodes a block has."""
        first = self.layers[0].heads
        return 1 if first is None else first.writes.shape[0]

    @cached_property
    def sources(self) -> tuple[str, ...]:
        """Names of what writes, in forward order."""
        names = ["input"]
        for i, layer in enumerate(self.layers):
            names += [f"a{i}"] if layer.heads is None else [f"a{i}.h{h}" for h in range(self.per_layer)]
            names.append(f"m{i}")
        return tuple(names)

    @cached_property
    def destinations(self) -> tuple[str, ...]:
        """Names of what reads, in EAP-IG's order."""
        names = []
        for i, layer in enumerate(self.layers):
            names += (
                [f"a{i}"]
                if layer.heads is None
                else [f"a{i}.h{h}<{letter}>" for letter in "qkv" for h in range(self.per_layer)]
            )
            names.append(f"m{i}")
        return (*names, self.tail)

    def readers(self, layer: int) -> slice:
        """The destinations that are the attention of a block; its MLP stands right behind them."""
        wide = 1 if self.layers[0].heads is None else 3 * self.per_layer
        return slice(layer * (wide + 1), layer * (wide + 1) + wide)

    def before_attention(self, layer: int) -> int:
        """How many sources the attention of a block can read."""
        return 1 + layer * (self.per_layer + 1)

    def before_mlp(self, layer: int) -> int:
        """How many sources the MLP of a block can read: in parallel blocks not the attention beside it."""
        return self.before_attention(layer) + (0 if self.parallel else self.per_layer)

    @cached_property
    def real(self) -> Bool[Tensor, "sources destinations"]:
        """Which edges there are."""
        mask = torch.zeros(len(self.sources), len(self.destinations), dtype=torch.bool)
        for i in range(len(self.layers)):
            readers = self.readers(i)
            mask[: self.before_attention(i), readers] = True
            mask[: self.before_mlp(i), readers.stop] = True
        mask[:, -1] = True
        return mask

    @cached_property
    def owner(self) -> Bool[Tensor, "sources destinations"]:
        """Which destinations are the inputs of a source: q, k and v of a head, the input of an MLP."""
        whose = [name.split("<")[0] for name in self.destinations]
        return torch.tensor([[name == source for name in whose] for source in self.sources])

    def ours(self, name: str) -> str:
        """A node's name by our sites: embed, attn_heads_0/1 (head 1), mlp_2, attn_heads_0/1<q>, resid_2 (the end)."""
        if name not in self.sources and name not in self.destinations:
            raise ComponentError(f"component {name!r}: this model has {', '.join(self.sources)} and {self.tail}")
        if name in ("input", self.tail):
            return (self.input if name == "input" else self.end).name
        node, bracket, letter = name.partition("<")
        layer, _, head = node.partition(".h")
        if layer[0] == "m":
            return f"mlp_{layer[1:]}"
        return f"attn_heads_{layer[1:]}/{head}{bracket}{letter}" if head else f"attn_{layer[1:]}"

    def _check(self) -> None:
        """ComponentError unless heads read and write as described, on a real forward pass."""
        described = [(layer, layer.heads) for layer in self.layers if layer.heads is not None]
        sites = {s for layer, h in described for s in (layer.attn_in, layer.attn, h.z, *(p for p, _ in h.projections))}
        if not sites:
            return
        tokens = torch.arange(4, device=self.model.device).remainder(self.model.config.get_text_config().vocab_size)
        with torch.no_grad(), capture(self.model, sites, stop_after=False) as values:
            self.model(input_ids=tokens[None], use_cache=False)
            for layer, heads in described:
                stream = heads.norm(values[layer.attn_in])
                found = torch.cat([heads.unpack(values[site], letters) for site, letters in heads.projections], -3)
                made = torch.einsum("...d,lhkd->...lhk", stream, heads.reads)
                _same(f"the projections of {layer.attn_in.module}", found - found[:, :1], made - made[:, :1])
                z = values[heads.z].unflatten(-1, heads.writes.shape[:2])
                # the first token attends to itself alone, so there z is v: layout and grouping of heads are right
                _same(f"the values of {layer.attn.module}", z[:, 0], found[:, 0, 2])
                written = torch.einsum("...hk,hkd->...d", z, heads.writes)
                attn = values[layer.attn]
                _same(f"the heads of {layer.attn.module}", attn - attn[:, :1], written - written[:, :1])


def _same(what: str, found: Tensor, expected: Tensor) -> None:
    """Both are differences between positions, in which biases cancel."""
    gap, size = float((found - expected).norm()), float(found.norm())
    if not gap <= 1e-2 * size + 1e-12:
        raise ComponentError(f"{what} are not as the family describes them: off by {gap / max(size, 1e-12):.1%}")


def _layer(model: PreTrainedModel, family: Family, i: int, heads: bool) -> Layer:
    assert family.attn_in is not None
    if family.mid_norm is None:
        kind = model.config.model_type
        raise ComponentError(f"{kind}: attention and MLP share a norm (no mid_norm), so they cannot be read apart")
    attn_in = Site(f"attn_in_{i}", family.attn_in.format(i=i), "in")
    mlp_in = Site(f"mlp_norm_in_{i}", family.mid_norm.format(i=i), "in")
    attn, mlp, resid = (find_site(model, f"{name}_{i}") for name in ("attn", "mlp", "resid"))
    return Layer(attn_in, attn, mlp_in, mlp, resid, _heads(model, family, i) if heads else None)


def _heads(model: PreTrainedModel, family: Family, i: int) -> Heads:
    row, out, norm = family.projections, family.heads, family.attn_in
    assert row is not None and out is not None and norm is not None
    count = heads_of(model)[0]
    paths = dict.fromkeys(p.format(i=i) for p in (row.q, row.k, row.v))
    letters = {path: "".join(c for c in "qkv" if getattr(row, c).format(i=i) == path) for path in paths}
    reads = [
        _unpacked(_matrix(model, path).T, len(held), count, row.interleaved).movedim(0, -1)
        for path, held in letters.items()
    ]
    return Heads(
        model.get_submodule(norm.format(i=i)),
        tuple((Site(f"{held}_{i}", path), held) for path, held in letters.items()),
        row.interleaved,
        find_site(model, f"attn_heads_{i}"),
        torch.cat(reads),
        _matrix(model, out.format(i=i)).T.unflatten(0, (count, -1)),
    )


def _matrix(model: PreTrainedModel, path: str) -> Float[Tensor, "out into"]:
    module = model.get_submodule(path)
    if type(module) is nn.Linear:
        return module.weight.detach()
    if isinstance(module, Conv1D):
        return module.weight.detach().T
    raise ComponentError(f"{path}: a {type(module).__name__}; heads need the plain weights of a Linear or a Conv1D")


def _path_of(model: PreTrainedModel, module: nn.Module) -> str:
    return next(path for path, found in model.named_modules() if found is module)


def _index(layers: list[Layer], end: Site) -> int:
    for i, layer in enumerate(layers):
        if layer.resid.name == end.name:
            return i
    raise ComponentError(
        f"end {end.name!r}: components end at the logits or at one of resid_0..resid_{len(layers) - 1}"
    )
