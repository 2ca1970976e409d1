"""Where features fire: for each one its strongest positions, a random sample in bands of strength, and one of all.

One pass over the tokens. A feature keeps 1 + `bands` lists of at most `count` positions with the tokens around them,
so memory is features x (1 + bands) x count x window, whatever the number of tokens:

* top: the largest activations; of equal ones the earlier.
* bands: octaves of the activation. With e the exponent of the largest activation (2^e <= max < 2^(e + 1)), band 0 holds
  [2^e, 2^(e + 1)), band 1 the octave below, ..., the last one everything weaker. Fixed octaves rather than fifths of
  [0, max], because the maximum is known at the end only, and octaves can be re-numbered exactly when it grows.
* random: a sample of all positions where the feature fires, from the bands' lists.

Each list but the first holds the positions with the smallest keys, hash(seed, position in the corpus, feature): a
uniform sample without replacement, the same for any batch size; and the smallest keys of a union are among the smallest
keys of its parts, so lists can be merged. A feature fires where it is above 0.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from saes.dictionary import Dictionary
from saes.files import atomic
from saes.passes import clean_activations, side_by_side
from saes.reservoirs import Reservoirs, random_keys, strongest_first
from saes.samples import TokenBatch
from saes.sites import Site

_CHUNK = 1 << 25  # features of positions that are encoded at once
_ABSENT = -1  # in place of a token outside its row


class ContextError(ValueError):
    """Features, counts or windows that cannot be collected."""


@dataclass(frozen=True)
class Context:
    """One position where a feature fires, and the tokens around it."""

    activation: float
    document: int
    offset: int
    """place in the document; -1 at a BOS token put in by the corpus"""
    position: int
    """place in `tokens`"""
    tokens: tuple[int, ...]
    """of the row, `window` on each side of the position or up to the row's ends"""
    activations: tuple[float, ...]
    """of the feature at each of `tokens`"""


@dataclass(frozen=True)
class Band:
    """A sample of the positions with an activation in [low, high); the last band begins at 0."""

    low: float
    high: float
    fires: int
    """positions of the band in all tokens"""
    contexts: tuple[Context, ...]


@dataclass(frozen=True)
class FeatureContexts:
    """All that is kept of one feature; the strongest band first, samples in random order."""

    feature: int
    fires: int
    maximum: float
    top: tuple[Context, ...]
    bands: tuple[Band, ...]
    random: tuple[Context, ...]


class ContextCollector:
    """Collects while it is shown batches in order, as `observe` of saes.evaluation.evaluate_all does."""

    def __init__(
        self,
        dictionary: Dictionary,
        features: Sequence[int] | None = None,
        *,
        count: int = 20,
        window: int = 10,
        bands: int = 5,
        seed: int = 0,
    ) -> None:
        """By default of all features; `count` positions a list, `window` tokens on each side."""
        for name, value, least in (("count", count, 1), ("window", window, 0), ("bands", bands, 1), ("seed", seed, 0)):
            if value < least:
                raise ContextError(f"{name} is {value}: choose {least} or more")
        if features is None:
            features = range(dictionary.features)
        chosen = np.unique(np.asarray(features, np.int64))
        if not len(chosen):
            raise ContextError("there is no feature to collect contexts of")
        if chosen[0] < 0 or chosen[-1] >= dictionary.features:
            wrong = chosen[-1] if chosen[-1] >= dictionary.features else chosen[0]
            raise ContextError(f"feature {wrong}: the dictionary has features 0 to {dictionary.features - 1}")
        self._dictionary, self._features = dictionary, chosen
        self._count, self._window, self._bands, self._seed = count, window, bands, seed
        width = 2 * window + 1
        payload: dict[str, tuple[tuple[int, ...], type]] = {
            "activation": ((), np.float32),
            "document": ((), np.int64),
            "offset": ((), np.int64),
            "tokens": ((width,), np.int32),
            "activations": ((width,), np.float32),
        }
        self._lists = Reservoirs(len(chosen) * (1 + bands), count, payload)
        self._exponent = np.full(len(chosen), np.iinfo(np.int32).min, np.int32)  # of each feature's largest activation
        self._fires = np.zeros((len(chosen), bands), np.int64)
        self._seen = 0  # places of all rows so far, padding included

    @torch.no_grad()
    def observe(self, batch: TokenBatch, values: Mapping[Site, Tensor]) -> None:
        """The next rows of the corpus, with the clean activations [rows, length, D] of what the dictionary reads."""
        x = side_by_side(self._dictionary.reads, values)
        rows, length = batch.keep.shape
        size = max(1, _CHUNK // (length * self._dictionary.features))
        for start in range(0, rows, size):
            part = slice(start, start + size)
            self._observe(TokenBatch(batch.rows[part], batch.keep[part]), x[part])

    def _observe(self, batch: TokenBatch, x: Float[Tensor, "rows length d"]) -> None:
        rows, length = batch.keep.shape
        f = self._encode(x)
        flat, keep = f.flatten(0, 1), batch.keep.flatten().to(f.device)
        found = ((flat > 0) & keep[:, None]).nonzero()
        place, feature = found.cpu().numpy().T
        activation = flat[found[:, 0], found[:, 1]].cpu().numpy()
        exponent = np.frexp(activation)[1].astype(np.int32)
        self._raise_maxima(feature, exponent)
        band = np.minimum(self._exponent[feature] - exponent, self._bands - 1)
        self._fires += np.bincount(feature * self._bands + band, minlength=self._fires.size).reshape(self._fires.shape)
        ordinal = self._seen + place
        sampled = np.concatenate(
            [strongest_first(activation), random_keys(self._seed, ordinal, self._features[feature])]
        )
        lists = np.concatenate([feature * (1 + self._bands), feature * (1 + self._bands) + 1 + band])
        chosen = np.flatnonzero(self._lists.would_keep(lists, sampled, np.concatenate([ordinal, ordinal])))
        source = chosen % len(place)  # every firing is offered twice
        entries = self._entries(batch, f, place[source], feature[source], activation[source])
        entries["key"], entries["ordinal"] = sampled[chosen], ordinal[source]
        self._lists.merge(lists[chosen], entries)
        self._seen += rows * length

    def _encode(self, x: Float[Tensor, "rows length d"]) -> Float[Tensor, "rows length chosen"]:
        dictionary = self._dictionary
        x = x.to(dictionary.W_dec)
        if len(self._features) == dictionary.features:
            return dictionary.encode(x).float()
        return dictionary.encode_chosen(x, torch.from_numpy(self._features).to(x.device)).float()

    def _raise_maxima(self, feature: np.ndarray, exponent: np.ndarray) -> None:
        """Where a feature's largest exponent grows, its bands move down; those past the last are merged into it."""
        new = self._exponent.copy()
        np.maximum.at(new, feature, exponent)
        first = self._exponent == np.iinfo(np.int32).min
        grown = np.flatnonzero((new > self._exponent) & ~first)
        rise = (new[grown] - self._exponent[grown])[:, None]
        bands = np.arange(self._bands)
        to = np.minimum(bands + rise, self._bands - 1)  # [grown, bands]
        fires = np.zeros_like(to, np.int64)
        np.add.at(fires, (np.arange(len(grown))[:, None], to), self._fires[grown])
        self._fires[grown] = fires
        lists = grown[:, None] * (1 + self._bands) + 1
        where, entries = self._lists.take_out((lists + bands).ravel())
        self._lists.merge((lists + to).ravel()[where], entries)
        self._exponent = new

    def _entries(
        self, batch: TokenBatch, f: Tensor, place: np.ndarray, feature: np.ndarray, activation: np.ndarray
    ) -> dict[str, np.ndarray]:
        rows = batch.rows
        row, column = np.divmod(place, rows.tokens.shape[1])
        columns = column[:, None] + np.arange(-self._window, self._window + 1)
        inside = (columns >= 0) & (columns < rows.tokens.shape[1])
        columns = np.where(inside, columns, 0)
        where = [torch.from_numpy(each).to(f.device) for each in (row[:, None], columns, feature[:, None])]
        inside &= rows.mask.numpy()[row[:, None], columns]
        return {
            "activation": activation,
            "document": rows.documents.numpy()[row, column],
            "offset": rows.offsets.numpy()[row, column],
            "tokens": np.where(inside, rows.tokens.numpy()[row[:, None], columns], _ABSENT).astype(np.int32),
            "activations": f[where[0], where[1], where[2]].cpu().numpy(),
        }

    def contexts(self) -> Iterator[FeatureContexts]:
        """What was collected of each feature, in the order of the features."""
        for one, feature in enumerate(self._features):
            whole = one * (1 + self._bands)
            top, *bands = (self._kept(whole + i) for i in range(1 + self._bands))
            keyed = sorted((pair for kept in bands for pair in kept), key=lambda pair: pair[0])
            yield FeatureContexts(
                int(feature),
                int(self._fires[one].sum()),
                top[0][1].activation if top else 0.0,
                _contexts(top),
                tuple(self._band(one, i, _contexts(kept)) for i, kept in enumerate(bands)) if top else (),
                _contexts(keyed[: self._count]),
            )

    def _band(self, one: int, band: int, contexts: tuple[Context, ...]) -> Band:
        high = float(np.ldexp(1.0, int(self._exponent[one]) - band))  # frexp: 2^(exponent - 1) <= activation
        low = 0.0 if band == self._bands - 1 else high / 2
        return Band(low, high, int(self._fires[one, band]), contexts)

    def _kept(self, number: int) -> list[tuple[int, Context]]:
        """Keys and contexts of one list, in order."""
        columns = self._lists.entries(number)
        kept = []
        for i, inside in enumerate(columns["tokens"] != _ABSENT):
            context = Context(
                float(columns["activation"][i]),
                int(columns["document"][i]),
                int(columns["offset"][i]),
                int(inside[: self._window].sum()),
                tuple(columns["tokens"][i][inside].tolist()),
                tuple(columns["activations"][i][inside].tolist()),
            )
            kept.append((int(columns["key"][i]), context))
        return kept


def _contexts(kept: Sequence[tuple[int, Context]]) -> tuple[Context, ...]:
    return tuple(context for _, context in kept)


def collect_contexts(
    model: PreTrainedModel,
    dictionary: Dictionary,
    batches: Iterable[TokenBatch],
    features: Sequence[int] | None = None,
    **options: int,
) -> list[FeatureContexts]:
    """Contexts of one dictionary from one pass that stops after what it reads; options as for ContextCollector."""
    collector = ContextCollector(dictionary, features, **options)
    for batch, values in clean_activations(model, dictionary.reads, batches):
        collector.observe(batch, values)
    return list(collector.contexts())


def write_contexts(
    path: Path | str, found: Iterable[FeatureContexts], spell: Callable[[int], str] | None = None
) -> None:
    """One JSON object a feature and line, atomically; `spell` gives a token's text, which then stands beside its id.

    Activations are rounded to six digits.
    """
    spell = None if spell is None else cache(spell)
    with atomic(path) as part, open(part, "w", encoding="utf-8") as lines:
        for each in found:
            lines.write(json.dumps(_plain(asdict(each), spell), allow_nan=False, ensure_ascii=False) + "\n")


def _plain(value: Any, spell: Callable[[int], str] | None) -> Any:
    if isinstance(value, dict):
        plain = {name: _plain(each, spell) for name, each in value.items()}
        if spell is not None and "tokens" in value:
            plain["texts"] = [spell(token) for token in value["tokens"]]
        return plain
    if isinstance(value, list | tuple):
        return [_plain(each, spell) for each in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value
