"""How faithful and how sparse a dictionary is: L0, variance explained, loss recovered, alive features."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from saes.dictionary import Dictionary
from saes.sites import Edit, Site, capture, intervene


@dataclass(frozen=True)
class Quality:
    """Averages over `tokens` positions; cross-entropies in nats."""

    tokens: int
    l0: float  # mean number of non-zero features
    variance_explained: float  # 1 - sum ||x - reconstruction||^2 / sum ||x - mean||^2
    loss_recovered: float  # (zero - reconstructed) / (zero - original), zero = the site's activations set to 0
    loss_recovered_mean: float  # the same with the site's mean activation as the ablation
    loss_original: float
    loss_reconstructed: float
    loss_zero: float
    loss_mean: float
    alive: float  # share of features that fire at least once


@torch.no_grad()
def next_token_loss(
    model: PreTrainedModel,
    tokens: Int[Tensor, "batch length"],
    mask: Bool[Tensor, "batch length"],
    edits: dict[Site, Edit] | None = None,
) -> Float[Tensor, ""]:
    """Summed cross-entropy of every token that `mask` allows, given the ones before it."""
    with intervene(model, edits or {}):
        logits = model(input_ids=tokens, use_cache=False).logits[:, :-1].float()
    return cross_entropy(logits[mask[:, 1:]], tokens[:, 1:][mask[:, 1:]], reduction="sum").double()


@torch.no_grad()
def evaluate(
    model: PreTrainedModel,
    dictionary: Dictionary,
    tokens: Int[Tensor, "rows length"],
    mask: Bool[Tensor, "rows length"],
    batch_size: int = 256,
) -> Quality:
    """Score an SAE on the positions of `tokens` that `mask` allows; two passes, the first for the mean activation."""
    site = dictionary.site
    batches = list(zip(tokens.to(model.device).split(batch_size), mask.to(model.device).split(batch_size), strict=True))
    total = torch.zeros(dictionary.width, dtype=torch.float64, device=model.device)
    count = 0
    for rows, keep in batches:
        with capture(model, [site]) as values:
            model(input_ids=rows, use_cache=False)
        total += values[site][keep].double().sum(0)
        count += int(keep.sum())
    mean = (total / count).to(dictionary.W_dec.dtype)

    fired = torch.zeros(dictionary.features, dtype=torch.bool, device=model.device)
    sums = {name: torch.zeros((), dtype=torch.float64, device=model.device) for name in ("l0", "left", "whole")}
    losses = {name: torch.zeros_like(sums["l0"]) for name in ("original", "reconstructed", "zero", "mean")}
    predicted = 0
    for rows, keep in batches:
        with capture(model, [site]) as values:
            model(input_ids=rows, use_cache=False)
        x = values[site][keep]
        features = dictionary.encode(x)
        fired |= (features != 0).any(0)
        sums["l0"] += (features != 0).sum()
        sums["left"] += (x - dictionary.decode(features)).double().square().sum()
        sums["whole"] += (x - mean).double().square().sum()
        edits: dict[str, Edit] = {
            "reconstructed": lambda x: dictionary.decode(dictionary.encode(x)),
            "zero": torch.zeros_like,
            "mean": lambda x: mean.expand_as(x),
        }
        losses["original"] += next_token_loss(model, rows, keep)
        for name, edit in edits.items():
            losses[name] += next_token_loss(model, rows, keep, {site: edit})
        predicted += int(keep[:, 1:].sum())
    loss = {name: float(value) / predicted for name, value in losses.items()}
    return Quality(
        tokens=count,
        l0=float(sums["l0"]) / count,
        variance_explained=1 - float(sums["left"] / sums["whole"]),
        loss_recovered=(loss["zero"] - loss["reconstructed"]) / (loss["zero"] - loss["original"]),
        loss_recovered_mean=(loss["mean"] - loss["reconstructed"]) / (loss["mean"] - loss["original"]),
        loss_original=loss["original"],
        loss_reconstructed=loss["reconstructed"],
        loss_zero=loss["zero"],
        loss_mean=loss["mean"],
        alive=float(fired.float().mean()),
    )
