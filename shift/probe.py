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
    weight_decay: float = 1e-3,
    iterations: int = 100,
) -> nn.Linear:
    """L2-regularised logistic regression by L-BFGS on standardised activations, folded back to the site's units.

    The paper trains its head for one epoch of AdamW; the optimum needs no learning rate, no seed, and no luck with the
    scale of the activations.
    """
    mean, std = x.mean(0), x.std(0).clamp_min(1e-6)
    inputs, target = (x - mean) / std, label.to(x)
    head = nn.Linear(x.shape[1], 1, dtype=x.dtype)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=iterations, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = nn.functional.binary_cross_entropy_with_logits(head(inputs)[:, 0], target)
        loss = loss + weight_decay * head.weight.square().sum() / 2
        loss.backward()
        return loss

    optimizer.step(closure)
    with torch.no_grad():
        head.weight.div_(std)
        head.bias.sub_(head.weight @ mean)
    return head.requires_grad_(False)


def predict(head: nn.Linear, x: Float[Tensor, "examples d"]) -> Bool[Tensor, " examples"]:
    """The classifier's answers."""
    return head(x)[:, 0] > 0
