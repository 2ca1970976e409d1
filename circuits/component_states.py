"""What the components of a model write, in little room: a head as z [d_head], expanded by W_O a few rows at a time."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.components import ComponentError, Components
from circuits.examples import Examples
from saes.sites import Site, capture

End = Literal["patch", "zero", "mean"]


@dataclass(frozen=True)
class ComponentStates:
    """The outputs of all sources; leading axes are [batch, length], or rows when flattened.

    `attn` holds one tensor a block: [..., heads, d_head], or [..., 1, D] where attention is one node.
    """

    input: Float[Tensor, "*rows d"]
    attn: tuple[Float[Tensor, "*rows heads d_head"], ...]
    mlp: tuple[Float[Tensor, "*rows d"], ...]

    def map(self, function: Callable[[Tensor], Tensor]) -> "ComponentStates":
        return ComponentStates(
            function(self.input), tuple(function(x) for x in self.attn), tuple(function(x) for x in self.mlp)
        )

    def combine(self, other: "ComponentStates", function: Callable[[Tensor, Tensor], Tensor]) -> "ComponentStates":
        return ComponentStates(
            function(self.input, other.input),
            tuple(function(a, b) for a, b in zip(self.attn, other.attn, strict=True)),
            tuple(function(a, b) for a, b in zip(self.mlp, other.mlp, strict=True)),
        )

    def __sub__(self, other: "ComponentStates") -> "ComponentStates":
        return self.combine(other, torch.sub)


def source_sites(graph: Components) -> list[Site]:
    """Where the sources are read, in forward order: the input, then z (or attention's output) and the MLP's output."""
    sites = [graph.input]
    for layer in graph.layers:
        sites += [layer.attn if layer.heads is None else layer.heads.z, layer.mlp]
    return sites


def as_source(graph: Components, index: int, value: Float[Tensor, "*rows width"]) -> Tensor:
    """The tensor of source site number `index` as ComponentStates keeps it: attention split by head."""
    if index % 2 == 0:  # input, attention, MLP, attention, MLP, ...
        return value
    heads = graph.layers[index // 2].heads
    return value[..., None, :] if heads is None else value.unflatten(-1, heads.writes.shape[:2])


def as_site(index: int, value: Tensor) -> Float[Tensor, "*rows width"]:
    """What `as_source` came from."""
    return value.flatten(-2) if index % 2 else value


def gather(values: Sequence[Tensor]) -> ComponentStates:
    """States of the tensors of some first source sites, in their order."""
    return ComponentStates(values[0], tuple(values[1::2]), tuple(values[2::2]))


def expand(graph: Components, states: ComponentStates) -> Float[Tensor, "rows sources d"]:
    """What every source of `states` (rows of it, perhaps of the first blocks only) writes into the residual stream."""
    parts = [states.input[:, None]]
    for i, attn in enumerate(states.attn):
        heads = graph.layers[i].heads
        parts.append(attn if heads is None else torch.einsum("nhk,hkd->nhd", attn, heads.writes))
        parts += [mlp[:, None] for mlp in states.mlp[i : i + 1]]
    return torch.cat(parts, 1)


@torch.no_grad()
def read_states(graph: Components, tokens: Int[Tensor, "batch length"]) -> ComponentStates:
    """The sources of an unmodified forward pass."""
    sites = source_sites(graph)
    with capture(graph.model, sites) as values:
        graph.model(input_ids=tokens.to(graph.model.device), use_cache=False)
    return gather([as_source(graph, i, values[site]) for i, site in enumerate(sites)])


def end_points(
    graph: Components, examples: Examples, end: End | ComponentStates = "patch", batch_size: int = 16
) -> Callable[[Examples], ComponentStates]:
    """What the sources are moved to, for batches of examples: read from the counterfactual, zero, or a mean.

    `mean` is over the clean prompts of `examples`, position by position (prompts of other lengths count where they
    have the position). Given states, such as those of another dataset's `mean_states`, stand as they are.
    """
    if not len(examples):
        raise ComponentError("no examples: components are measured on at least one")
    if end == "patch":
        if examples.patch is None:
            raise ComponentError('these examples have no patch prompts: choose end="zero" or end="mean"')
        return lambda batch: read_states(graph, _patch(batch))
    if end == "zero":
        return lambda batch: read_states(graph, batch.clean).map(torch.zeros_like)
    if end == "mean":
        mean = mean_states(graph, examples, batch_size)
        return lambda _: mean
    if isinstance(end, ComponentStates):
        return lambda _: end
    raise ComponentError(f"end {end!r}: choose patch, zero or mean, or give states")


def _patch(batch: Examples) -> Int[Tensor, "batch length"]:
    assert batch.patch is not None
    return batch.patch


def mean_states(graph: Components, examples: Examples, batch_size: int = 16) -> ComponentStates:
    """Means of the clean prompts' sources by position, with a batch axis of 1; needs an example."""

    def summed(batch: Examples) -> ComponentStates:
        mask = batch.mask()
        return read_states(graph, batch.clean).map(lambda x: (x * _like(mask, x)).sum(0, keepdim=True))

    first, *rest = examples.batches(batch_size)
    total = summed(first)
    for batch in rest:
        total = total.combine(summed(batch), torch.add)
    count = examples.mask().sum(0, keepdim=True).clamp_min(1)
    return total.map(lambda x: x / _like(count, x))


def _like(value: Int[Tensor, "batch length"] | Bool[Tensor, "batch length"], x: Tensor) -> Tensor:
    """With as many axes, of the same type and on the same device as x."""
    return value.reshape(*value.shape, *[1] * (x.dim() - 2)).to(x)
