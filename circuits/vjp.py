"""Vector-Jacobian products through one block: from what a sublayer writes back to the stream that it reads.

One forward pass of that block alone, from the cached stream before it; many cotangents go back as one batch.
"""

from contextlib import nullcontext
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import PreTrainedModel

from circuits.examples import Examples
from circuits.frozen import Recording
from circuits.suffix import frozen, skipping
from saes.families import Block, blocks
from saes.sites import Edit, Site, capture, intervene

Derivative = Literal["full", "path", "frozen"]
"""of attention, MLPs and norms: at the clean prompt through everything; its mean over the line on which their input
moves, with which the edges into their nodes add up, too, and closed gates and saturated patterns do not hide edges; or
at the clean prompt with attention patterns and the scales of norms held, as attribution graphs have it"""
POINTS = 8
"""of the line, in the middle of as many pieces"""


class BlockPaths:
    """The path from the stream at `reads` to the sublayer's output `writes`, at the clean prompts.

    `shift`: how the stream at `reads` moves, and then the derivative is the mean over POINTS of that line.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        examples: Examples,
        block: Block,
        reads: Site,
        writes: Site,
        before: Float[Tensor, "batch length d"],
        derivative: Derivative = "full",
        shift: Float[Tensor, "batch length d"] | None = None,
    ) -> None:
        leaves: list[Tensor] = []
        self.points = 1 if shift is None else POINTS

        def leaf(x: Tensor) -> Tensor:
            if shift is not None:
                x = x + torch.cat([(k + 0.5) / POINTS * shift for k in range(POINTS)])
            leaves.append(x.detach().requires_grad_())
            return leaves[-1]

        index = blocks(model).index(block)
        edits: dict[Site, Edit] = {block.before: lambda _: before.repeat(self.points, 1, 1)}
        tokens = examples.clean.to(model.device).repeat(self.points, 1)
        held = Recording([]) if derivative == "frozen" else nullcontext()
        # the fused attention kernels have no batched backward pass
        with (
            held,
            sdpa_kernel(SDPBackend.MATH),
            frozen(model),
            skipping(model, index),
            intervene(model, edits),
            intervene(model, {reads: leaf}),
            capture(model, [writes]) as values,
        ):
            model(input_ids=tokens, use_cache=False)
        self._output, self._leaf = values[writes], leaves[0]

    def back(self, cotangents: Float[Tensor, "nodes batch length d"]) -> Float[Tensor, "nodes batch length d"]:
        """Gradients at `reads` for each of the cotangents at `writes`, means over the points of the line."""
        repeated = cotangents.repeat(1, self.points, 1, 1)
        (found,) = torch.autograd.grad(self._output, self._leaf, repeated, is_grads_batched=True, retain_graph=True)
        return found.unflatten(1, (self.points, -1)).mean(1)
