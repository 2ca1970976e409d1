"""Tokens in, activations out: every asked site from one forward pass that stops after the deepest one."""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from saes.sites import Site, capture


def harvest(
    model: PreTrainedModel, tokens: Int[Tensor, "rows length"], sites: Sequence[Site], batch_size: int = 256
) -> Iterator[dict[Site, Float[Tensor, "batch length d"]]]:
    """Activations at `sites`, `batch_size` rows of tokens at a time, in order."""
    for start in range(0, len(tokens), batch_size):
        with torch.no_grad(), capture(model, sites) as values:
            model(input_ids=tokens[start : start + batch_size].to(model.device), use_cache=False)
        yield values
