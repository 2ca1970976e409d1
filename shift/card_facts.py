"""What is measured of a feature for its card: how it is distributed, what it writes, and what lies beside it."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt64
from torch import Tensor, nn
from transformers import PreTrainedModel

from boardgames.game import unpack
from saes.dictionary import Dictionary

BINS = 24
_CHUNK = 4096  # positions whose squares are unpacked at once
_STREAM = re.compile(r"embed|(attn|mlp|resid|resid_mid)_\d+")  # the residual stream, and what is added to it
_LARGE = 1e4  # norms divide by the length of what they read, up to a small constant that this hides


@dataclass(frozen=True)
class Histogram:
    """Positions by activation, of those where the feature fires; `counts[i]` between `edges[i]` and `edges[i + 1]`."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True)
class LogitEffects:
    """What the feature's decoder direction does to the logits directly, with the scale of the last norm left out."""

    top: tuple[tuple[str, float], ...]
    """tokens that it makes likelier, the strongest first"""
    bottom: tuple[tuple[str, float], ...]
    squares: tuple[float | None, ...] = ()
    """of Othello: one for each square, None where no move can be made; empty for others"""


@dataclass(frozen=True)
class Neighbour:
    """Another feature of the same dictionary, by the cosine of the decoder directions."""

    feature: int
    cosine: float
    match: str | None = None
    """the property that it matches best; None in blind mode, and where nobody asked"""


@dataclass(frozen=True)
class Facts:
    """The measured part of a card; what does not apply is empty or None."""

    positions: int
    """how many were looked at"""
    histogram: Histogram
    heat: Mapping[str, tuple[float | None, ...]]
    """mean activation where a square is in a state, one number a square; None where it was too rarely"""
    logits: LogitEffects | None
    neighbours: tuple[Neighbour, ...]


def histogram(values: Float[Tensor, " positions"], bins: int = BINS) -> Histogram:
    """Of the activations above 0, from 0 to the largest."""
    firing = values[values > 0].double().numpy()
    if not len(firing):
        return Histogram((), ())
    counts, edges = np.histogram(firing, bins, (0.0, float(firing.max())))
    return Histogram(tuple(edges.tolist()), tuple(counts.tolist()))


def heat_maps(
    acts: Float[Tensor, "positions chosen"], planes: Mapping[str, UInt64[np.ndarray, " positions"]], least: int = 5
) -> list[dict[str, tuple[float | None, ...]]]:
    """Mean activation of each feature over the positions where a bit of a plane is set, by plane and square.

    None where fewer than `least` positions have it set. Memory: some thousand positions times the squares.
    """
    found: list[dict[str, tuple[float | None, ...]]] = [{} for _ in range(acts.shape[1])]
    for name, boards in planes.items():
        sums, counts = torch.zeros(acts.shape[1], 64, dtype=torch.double), torch.zeros(64)
        for start in range(0, len(boards), _CHUNK):
            held = torch.from_numpy(unpack(boards[start : start + _CHUNK])).float()
            sums += (acts[start : start + _CHUNK].float().T @ held).double()
            counts += held.sum(0)
        means = (sums / counts.clamp_min(1)).tolist()
        for feature, row in zip(found, means, strict=True):
            feature[name] = tuple(m if n >= least else None for m, n in zip(row, counts.tolist(), strict=True))
    return found


@torch.no_grad()
def direct_logits(
    model: PreTrainedModel, dictionary: Dictionary, features: list[int]
) -> Float[Tensor, "features v"] | None:
    """Logits of decoder directions that reach the unembedding through the last norm alone, less their mean.

    A norm keeps no scale, so each direction counts as if it were all that the norm reads: norm(d) - norm(0). None where
    the dictionary does not write the residual stream, or the model has no linear head.
    """
    head = model.get_output_embeddings()
    if not isinstance(head, nn.Linear) or dictionary.W_dec.shape[1] != head.in_features:
        return None
    if not _STREAM.fullmatch(dictionary.writes[0].name):
        return None
    norms = [m for m in model.base_model.children() if getattr(getattr(m, "weight", None), "ndim", 0) == 1]
    directions = dictionary.W_dec[features].to(head.weight)
    if norms:
        directions = norms[-1](_LARGE * directions) - norms[-1](torch.zeros_like(directions[:1]))
    logits = (directions @ head.weight.T).float().cpu()
    return logits - logits.mean(1, keepdim=True)


def logit_effects(
    logits: Float[Tensor, " v"],
    spell: Callable[[int], str],
    square_of: Callable[[int], int | None] | None = None,
    count: int = 8,
) -> LogitEffects:
    """The extreme tokens, and for games whose tokens are squares a number for each."""
    order = [token for token in logits.argsort(descending=True).tolist() if spell(token)]
    count = min(count, len(order) // 2)
    pairs = [tuple((spell(t), float(logits[t])) for t in some) for some in (order[:count], order[::-1][:count])]
    squares: list[float | None] = []
    if square_of is not None:
        squares = [None] * 64
        for token, value in enumerate(logits.tolist()):
            square = square_of(token)
            if square is not None:
                squares[square] = value
    return LogitEffects(pairs[0], pairs[1], tuple(squares))


@torch.no_grad()
def neighbours(
    dictionary: Dictionary,
    features: list[int],
    names: Mapping[int, str] | None = None,
    count: int = 6,
) -> list[tuple[Neighbour, ...]]:
    """For each feature the others whose decoder directions have the largest cosine with its own."""
    rows = nn.functional.normalize(dictionary.W_dec.detach().float(), dim=1)
    cosines = rows[features] @ rows.T
    cosines[torch.arange(len(features)), torch.tensor(features)] = -2.0
    best = cosines.topk(min(count, len(rows) - 1), dim=1)
    return [
        tuple(
            Neighbour(f, cosine, (names or {}).get(f))
            for f, cosine in zip(found.tolist(), values.tolist(), strict=True)
        )
        for found, values in zip(best.indices, best.values, strict=True)
    ]


def facts_json(facts: Facts) -> dict[str, Any]:
    """Plain values, as docs/cards.md has them."""
    logits = facts.logits
    return {
        "positions": facts.positions,
        "histogram": {"edges": list(facts.histogram.edges), "counts": list(facts.histogram.counts)},
        "heat": [{"state": state, "values": list(values)} for state, values in facts.heat.items()],
        "logits": logits
        and {
            "top": [{"token": token, "value": value} for token, value in logits.top],
            "bottom": [{"token": token, "value": value} for token, value in logits.bottom],
            "squares": list(logits.squares),
        },
        "neighbours": [{"feature": n.feature, "cosine": n.cosine, "property": n.match} for n in facts.neighbours],
    }
