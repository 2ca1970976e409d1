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

Derivative = Literal["full", "frozen"]
"""through everything, or with attention patterns and the scales of norms held as they are at the clean prompt, as
attribution graphs have it: another method, whose edges do not add up to the effects of nodes"""


class BlockPaths:
    """The path from the stream at `reads` to the sublayer's output `writes`, at the clean prompts."""

    def __init__(
        self,
        model: PreTrainedModel,
        examples: Examples,
        block: Block,
        reads: Site,
        writes: Site,
        before: Float[Tensor, "batch length d"],
        derivative: Derivative = "full",
    ) -> None:
        leaves: list[Tensor] = []

        def leaf(x: Tensor) -> Tensor:
            leaves.append(x.detach().requires_grad_())
            return leaves[-1]

        index = blocks(model).index(block)
        edits: dict[Site, Edit] = {block.before: lambda _: before}
        tokens = examples.clean.to(model.device)
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
        """Gradients at `reads` for each of the cotangents at `writes`."""
        (found,) = torch.autograd.grad(self._output, self._leaf, cotangents, is_grads_batched=True, retain_graph=True)
        return found
