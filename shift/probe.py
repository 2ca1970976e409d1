"""The classifier that SHIFT repairs: a linear head on one site, read at one position of every prompt."""

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from saes.sites import Edit, Site, capture, intervene


@torch.no_grad()
def readout(
    model: PreTrainedModel,
    site: Site,
    tokens: Int[Tensor, "examples length"],
    position: Int[Tensor, " examples"],
    edits: Mapping[Site, Edit] | None = None,
    batch_size: int = 256,
) -> Float[Tensor, "examples d"]:
    """Activations of the site at each prompt's position, with edits upstream or at the site itself."""
    rows = []
    for t, p in zip(tokens.split(batch_size), position.split(batch_size), strict=True):
        with intervene(model, edits or {}), capture(model, [site]) as values:
            model(input_ids=t.to(model.device), use_cache=False)
        rows.append(values[site][torch.arange(len(p)), p].cpu())
    return torch.cat(rows)


def fit_head(
    x: Float[Tensor, "examples d"],
    label: Bool[Tensor, " examples"],
    *,
    learning_rate: float = 1e-2,
    epochs: int = 4,
    batch_size: int = 128,
    seed: int = 0,
) -> nn.Linear:
    """Logistic regression by AdamW from zero weights (the paper's head; several epochs, since games are fewer)."""
    head = nn.Linear(x.shape[1], 1)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    optimizer = torch.optim.AdamW(head.parameters(), lr=learning_rate)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=generator).split(batch_size):
            loss = nn.functional.binary_cross_entropy_with_logits(head(x[rows])[:, 0], label[rows].float())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return head.requires_grad_(False)


def predict(head: nn.Linear, x: Float[Tensor, "examples d"]) -> Bool[Tensor, " examples"]:
    """The classifier's answers."""
    return head(x)[:, 0] > 0
