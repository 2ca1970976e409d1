"""Run a model from a cached residual stream: the blocks before a site are skipped, for what they make is known.

A block that is skipped hands on what it gets; its output is then set to the cached stream. Where a sublayer's output
does nothing but add to the stream after its block, moving it moves that stream, and its own block is skipped too.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from saes.families import blocks, find_site, site_names
from saes.sites import Edit, Site


@dataclass(frozen=True)
class Entry:
    """How to run on from a site: `skipped` blocks, the stream they would make, and the tensor that is moved."""

    skipped: int
    held: Site | None
    moved: Site

    def edits(self, clean: Mapping[Site, Tensor], repeats: int, moved: Tensor) -> dict[Site, Edit]:
        """Edits for `repeats` copies of a batch; `clean` has the streams of one."""
        edits: dict[Site, Edit] = {self.moved: lambda _: moved}
        if self.held is not None:
            stream = clean[self.held].repeat(repeats, 1, 1)
            edits[self.held] = lambda _: stream
        return edits


def stream_sites(model: PreTrainedModel) -> list[Site]:
    """The residual stream before the first block and after every block."""
    return [find_site(model, "embed"), *(block.resid for block in blocks(model))]


def entry_of(model: PreTrainedModel, site: Site, reads: Site | None = None) -> Entry:
    """The latest place from which a site can be run on to the output, or to the site that a metric reads."""
    every = blocks(model)
    order = {name: i for i, name in enumerate(site_names(model))}
    for index, block in enumerate(every):
        adds = site in (block.mlp, block.resid) or (block.parallel and site == block.attn)
        seen_within = reads is not None and order.get(reads.name, -1) < order[block.resid.name]
        if adds and not seen_within:
            return Entry(index + 1, None, block.resid)
        if order.get(site.name, len(order)) <= order[block.resid.name]:
            if site.name == "embed" or (reads is not None and order.get(reads.name, -1) < order[block.before.name]):
                return Entry(0, None, site)
            return Entry(index, block.before, site)
    return Entry(0, None, site)


@contextmanager
def skipping(model: PreTrainedModel, count: int) -> Iterator[None]:
    """Inside the block the first `count` blocks of the model hand on what they get."""
    layers = [model.get_submodule(block.resid.module) for block in blocks(model)[:count]]
    for layer in layers:
        layer.forward = _hand_on  # shadows the class's method
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _hand_on(hidden_states: Tensor, *_args: Any, **_kwargs: Any) -> Tensor:
    return hidden_states


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Weights need no gradients inside the block: what is differentiated is the activations alone."""
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    for weight in trained:
        weight.requires_grad_(False)
    try:
        with torch.enable_grad():
            yield
    finally:
        for weight in trained:
            weight.requires_grad_(True)
