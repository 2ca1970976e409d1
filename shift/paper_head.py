"""The classifier as Marks et al. 2024 fit it: one epoch of AdamW over the examples in their order."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn


def fit_paper_head(
    x: Float[Tensor, "examples d"],
    label: Bool[Tensor, " examples"],
    *,
    seed: int = 42,
    learning_rate: float = 1e-2,
    batch_size: int = 128,
    epochs: int = 1,
) -> nn.Linear:
    """A linear layer with torch's random start, trained by binary cross-entropy on unscaled activations.

    The seed decides the start alone, since batches are taken in order. How good it is depends on the scale of the
    activations; shift.probe.fit_head finds the optimum without such luck.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = nn.Linear(x.shape[1], 1, dtype=x.dtype)
    optimizer = torch.optim.AdamW(head.parameters(), lr=learning_rate)
    for _ in range(epochs):
        for inputs, target in zip(x.split(batch_size), label.to(x).split(batch_size), strict=True):
            optimizer.zero_grad()
            nn.functional.binary_cross_entropy_with_logits(head(inputs)[:, 0], target).backward()
            optimizer.step()
    return head.requires_grad_(False)
