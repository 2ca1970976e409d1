"""The classifier that SHIFT repairs: a head on what is read of one site, linear if it is trained here."""

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from saes.sites import Edit, Site, capture, intervene
from shift.reading import Reading


@torch.no_grad()
def readout(
    model: PreTrainedModel,
    reading: Reading,
    tokens: Int[Tensor, "examples length"],
    position: Int[Tensor, " examples"],
    edits: Mapping[Site, Edit] | None = None,
    batch_size: int = 256,
) -> Float[Tensor, "examples d"]:
    """What the classifier sees of each prompt, on the CPU, with edits upstream or at the site itself.

    Prompts are read in the order of their length, each batch as far as anything in it is read: what stands behind
    changes nothing in a causal model.
    """
    site = reading.site
    order = position.argsort(stable=True)
    rows = []
    for chosen in order.split(batch_size):
        at = position[chosen]
        some = tokens[chosen, : int(at.max()) + 1]
        with intervene(model, edits or {}), capture(model, [site]) as values:
            model(input_ids=some.to(model.device), use_cache=False)
        rows.append(reading.kept(values[site], at))
    return torch.cat(rows)[order.argsort()]


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


def predict(head: nn.Module, x: Float[Tensor, "examples d"]) -> Bool[Tensor, " examples"]:
    """The classifier's answers; a head maps [examples, D] to logits [examples, 1]."""
    return head(x)[:, 0] > 0
