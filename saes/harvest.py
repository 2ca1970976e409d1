"""Tokens in, activations out: every asked site from one forward pass that stops after the deepest one.

Beside it, what decides on the activations themselves: whether they are finite, and which positions are outliers.
"""

from collections.abc import Iterator, Mapping, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from saes.dictionary import Dictionary
from saes.sites import Site, capture


class HarvestError(ValueError):
    """Activations that nothing can be trained on."""


def harvest(
    model: PreTrainedModel,
    tokens: Int[Tensor, "rows length"],
    sites: Sequence[Site],
    batch_size: int = 256,
    autocast: torch.dtype | None = None,
) -> Iterator[dict[Site, Float[Tensor, "batch length d"]]]:
    """Activations at `sites`, `batch_size` rows of tokens at a time, in order.

    `autocast`: the type in which torch makes the matrix products of the pass, such as torch.bfloat16.
    """
    kind = model.device.type
    for start in range(0, len(tokens), batch_size):
        with (
            torch.no_grad(),
            torch.autocast(kind, autocast, enabled=autocast is not None),
            capture(model, sites) as values,
        ):
            model(input_ids=tokens[start : start + batch_size].to(model.device), use_cache=False)
        yield values


@torch.no_grad()
def harvest_features(
    model: PreTrainedModel,
    dictionaries: Mapping[Site, Dictionary],
    features: Mapping[Site, Int[Tensor, " chosen"]],
    tokens: Int[Tensor, "rows length"],
    mask: Bool[Tensor, "rows length"],
) -> dict[Site, Float[Tensor, "positions chosen"]]:
    """Chosen features of several sites at the positions of `mask`, row after row, from one pass; on the CPU.

    A site without a chosen feature is left out.
    """
    wanted = {site: index for site, index in features.items() if len(index)}
    if not wanted:
        return {}
    parts: dict[Site, list[Tensor]] = {site: [] for site in wanted}
    start = 0
    for values in harvest(model, tokens, list(wanted)):
        rows = mask[start : start + len(next(iter(values.values())))]
        start += len(rows)
        for site, index in wanted.items():
            parts[site].append(dictionaries[site].encode_chosen(values[site][rows], index).cpu())
    return {site: torch.cat(found) for site, found in parts.items()}


def largest(site: Site, x: Float[Tensor, "n d"]) -> float:
    """max |x|, 0 of nothing; HarvestError if NaN or infinity is among it."""
    found = max(map(abs, torch.stack(x.aminmax()).tolist())) if x.numel() else 0.0  # one pass; NaN comes through
    if not found < float("inf"):
        raise HarvestError(f"{site}: the model gives NaN or infinity; load it with another dtype, such as float32")
    return found


def typical(values: Mapping[Site, Float[Tensor, "n _"]], max_norm: float) -> Bool[Tensor, " n"]:
    """Positions whose norm is at most `max_norm` times the median norm, at every site; HarvestError for NaN."""
    keep: Tensor | None = None
    for site, x in values.items():
        largest(site, x)
        norms = x.float().norm(dim=1)
        here = norms <= max_norm * norms.median() if len(norms) else norms > 0
        keep = here if keep is None else keep & here
    assert keep is not None
    return keep
