"""What the nodes of a model write, in little room: a head as its share [d_head], expanded by W_O a few rows a time."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from circuits.components import ComponentError
from circuits.examples import Examples
from saes.sites import Site, capture

End = Literal["patch", "zero", "mean"]


@runtime_checkable
class Nodes(Protocol):
    """What scores ask of nodes: Components, or the whole sites of circuits/site_nodes.py.

    Site 0 is the input embedding, which has no source if it is no node. A source is what one node writes, [..., width].
    """

    @property
    def model(self) -> PreTrainedModel: ...
    @property
    def sources(self) -> tuple[str, ...]: ...
    @property
    def width(self) -> int: ...
    @property
    def sites(self) -> tuple[Site, ...]: ...  # where nodes are read
    @property
    def written(self) -> tuple[Site, ...]: ...  # where their sources are, or are added: the place of their gradient
    @property
    def counts(self) -> tuple[int, ...]: ...  # sources of every site
    @property
    def alone(self) -> bool: ...
    def part(self, index: int, value: Tensor) -> Tensor: ...
    def write(self, index: int, part: Tensor, chosen: slice = slice(None)) -> Tensor: ...
    def write_all(self, index: int, part: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class ComponentStates:
    """What was read at the sites of nodes, in forward order; leading axes are [batch, length], or rows when flattened.

    A part is [..., width]; of components, attention's is [..., heads, d_head], or [..., 1, D] where it is one node.
    """

    parts: tuple[Tensor, ...]

    @property
    def input(self) -> Float[Tensor, "*rows d"]:
        return self.parts[0]

    @property
    def attn(self) -> tuple[Float[Tensor, "*rows heads d_head"], ...]:
        return self.parts[1::2]

    @property
    def mlp(self) -> tuple[Float[Tensor, "*rows d"], ...]:
        return self.parts[2::2]

    def map(self, function: Callable[[Tensor], Tensor]) -> "ComponentStates":
        return ComponentStates(tuple(function(x) for x in self.parts))

    def combine(self, other: "ComponentStates", function: Callable[[Tensor, Tensor], Tensor]) -> "ComponentStates":
        return ComponentStates(tuple(function(a, b) for a, b in zip(self.parts, other.parts, strict=True)))

    def __sub__(self, other: "ComponentStates") -> "ComponentStates":
        return self.combine(other, torch.sub)


def expand(nodes: Nodes, states: ComponentStates) -> Float[Tensor, "*rows sources d"]:
    """What every source of `states` (rows of it, perhaps of the first sites only) writes."""
    return torch.cat([nodes.write(i, part) for i, part in enumerate(states.parts) if nodes.counts[i]], -2)


@torch.no_grad()
def read_states(nodes: Nodes, tokens: Int[Tensor, "batch length"]) -> ComponentStates:
    """The nodes of an unmodified forward pass."""
    with capture(nodes.model, nodes.sites) as values:
        nodes.model(input_ids=tokens.to(nodes.model.device), use_cache=False)
    return ComponentStates(tuple(nodes.part(i, values[site]) for i, site in enumerate(nodes.sites)))


def end_points(
    nodes: Nodes, examples: Examples, end: End | ComponentStates = "patch", batch_size: int = 16
) -> Callable[[Examples], ComponentStates]:
    """What the sources are moved to, for batches of examples: read from the counterfactual, zero, or a mean.

    `mean` is over the clean prompts of `examples`, position by position (prompts of other lengths count where they
    have the position). Given states, such as other examples' `mean_states`, stand as they are, cut to the prompts.
    """
    if not len(examples):
        raise ComponentError("no examples: components are measured on at least one")
    if end == "patch":
        if examples.patch is None:
            raise ComponentError('these examples have no patch prompts: choose end="zero" or end="mean"')
        return lambda batch: read_states(nodes, _patch(batch))
    if end == "zero":
        return lambda batch: read_states(nodes, batch.clean).map(torch.zeros_like)
    if end == "mean":
        mean = mean_states(nodes, examples, batch_size)
        return lambda _: mean
    if isinstance(end, ComponentStates):
        return lambda batch: _fitted(end, batch)
    raise ComponentError(f"end {end!r}: choose patch, zero or mean, or give states")


def _fitted(states: ComponentStates, batch: Examples) -> ComponentStates:
    known, length = states.input.shape[1], batch.clean.shape[1]
    if known < length:
        raise ComponentError(f"end points of {known} positions are given, and these examples have {length}")
    return states.map(lambda x: x[:, :length])


def _patch(batch: Examples) -> Int[Tensor, "batch length"]:
    assert batch.patch is not None
    return batch.patch


def mean_states(nodes: Nodes, examples: Examples, batch_size: int = 16) -> ComponentStates:
    """Means of the clean prompts' sources by position, with a batch axis of 1; needs an example."""

    def summed(batch: Examples) -> ComponentStates:
        mask = batch.mask()
        return read_states(nodes, batch.clean).map(lambda x: (x * _like(mask, x)).sum(0, keepdim=True))

    first, *rest = examples.batches(batch_size)
    total = summed(first)
    for batch in rest:
        total = total.combine(summed(batch), torch.add)
    count = examples.mask().sum(0, keepdim=True).clamp_min(1)
    return total.map(lambda x: x / _like(count, x))


def _like(value: Int[Tensor, "batch length"] | Bool[Tensor, "batch length"], x: Tensor) -> Tensor:
    """With as many axes, of the same type and on the same device as x."""
    return value.reshape(*value.shape, *[1] * (x.dim() - 2)).to(x)
