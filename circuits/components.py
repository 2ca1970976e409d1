"""Coarser nodes: the input embedding, attention heads and MLPs, and the graph of who reads whom in the residual stream.

A *source* writes a vector into the residual stream at every position; a *destination* is one reader's own copy of
that stream: the query, key and value input of a head, the input of an MLP, the end. Names are those of EAP-IG
(Hanna et al. 2024): input, a0.h1, m2 -> a2.h0<q>, m2, logits; `ours` gives the sites. Sources stand in forward order,
destinations block by block as q of all heads, k of all heads, v of all heads, MLP. With `heads=False` whole attention
layers are the nodes: a0, m0. What a head writes behind a norm is said in circuits/heads.py.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from circuits.attention import heads_of, twin
from circuits.heads import ComponentError, Heads, heads_of_block
from saes.families import Family, blocks, family_of, find_site
from saes.sites import Site, capture


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
                else f"{kind}: heads are no nodes of their own (the family does not name the projections); use "
                "heads=False for whole attention layers"
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

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of what writes, in forward order."""
        names = ["input"]
        for i, layer in enumerate(self.layers):
            names += [f"a{i}"] if layer.heads is None else [f"a{i}.h{h}" for h in range(self.per_layer)]
            names.append(f"m{i}")
        return tuple(names)

    @property
    def sites(self) -> tuple[Site, ...]:
        """Where the sources are read, in forward order: the input, then z (or attention's output), the MLP's output."""
        sites = [self.input]
        for layer in self.layers:
            sites += [layer.attn if layer.heads is None else layer.heads.z, layer.mlp]
        return tuple(sites)

    @property
    def written(self) -> tuple[Site, ...]:
        """Where what is read at `sites` enters the residual stream."""
        return (self.input, *(site for layer in self.layers for site in (layer.attn, layer.mlp)))

    @property
    def counts(self) -> tuple[int, ...]:
        """How many sources each site has."""
        return (1, *(count for _ in self.layers for count in (self.per_layer, 1)))

    @property
    def alone(self) -> bool:
        """Whether integrated gradients over activations count at the site that moves alone; here at all sites."""
        return False

    def part(self, index: int, value: Float[Tensor, "*rows width"]) -> Tensor:
        """The tensor of site `index` as ComponentStates keeps it: attention as the shares of its heads."""
        heads = self._heads(index)
        if heads is not None:
            return heads.shares(value)
        return value[..., None, :] if index % 2 else value

    def write(self, index: int, part: Tensor, chosen: slice = slice(None)) -> Float[Tensor, "*rows sources d"]:
        """What the sources of site `index`, or some of them, write into the residual stream."""
        heads = self._heads(index)
        if heads is not None:
            return torch.einsum("...hk,hkd->...hd", part[..., chosen, :], heads.writes[chosen])
        return part if index % 2 else part[..., None, :]

    def write_all(self, index: int, part: Tensor) -> Float[Tensor, "*rows d"]:
        """What the sources of site `index` write together."""
        heads = self._heads(index)
        if heads is not None:
            return torch.einsum("...hk,hkd->...d", part, heads.writes)
        return part[..., 0, :] if index % 2 else part

    def _heads(self, index: int) -> Heads | None:
        """Of the site that is number `index`: input, attention, MLP, attention, MLP, ..."""
        return self.layers[index // 2].heads if index % 2 else None

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
                written = torch.einsum("...hk,hkd->...d", heads.shares(values[heads.z]), heads.writes)
                attn = values[layer.attn]
                _same(f"the heads of {layer.attn.module}", attn - attn[:, :1], written - written[:, :1])


def _same(what: str, found: Tensor, expected: Tensor) -> None:
    """Both are differences between positions, in which biases cancel."""
    gap, size = float((found - expected).norm()), float(found.norm())
    # in bfloat16 alone a few roundings are more than a hundredth
    if not gap <= max(1e-2, 4 * torch.finfo(found.dtype).eps) * size + 1e-12:
        raise ComponentError(f"{what} are not as the family describes them: off by {gap / max(size, 1e-12):.1%}")


def _layer(model: PreTrainedModel, family: Family, i: int, heads: bool) -> Layer:
    assert family.attn_in is not None
    if family.mid_norm is None:
        kind = model.config.model_type
        raise ComponentError(f"{kind}: attention and MLP share a norm (no mid_norm), so they cannot be read apart")
    attn_in = Site(f"attn_in_{i}", family.attn_in.format(i=i), "in")
    mlp_in = Site(f"mlp_norm_in_{i}", family.mid_norm.format(i=i), "in")
    attn, mlp, resid = (find_site(model, f"{name}_{i}") for name in ("attn", "mlp", "resid"))
    return Layer(attn_in, attn, mlp_in, mlp, resid, heads_of_block(model, family, i) if heads else None)


def _path_of(model: PreTrainedModel, module: nn.Module) -> str:
    return next(path for path, found in model.named_modules() if found is module)


def _index(layers: list[Layer], end: Site) -> int:
    for i, layer in enumerate(layers):
        if layer.resid.name == end.name:
            return i
    raise ComponentError(
        f"end {end.name!r}: components end at the logits or at one of resid_0..resid_{len(layers) - 1}"
    )
