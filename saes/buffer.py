"""Shuffled batches of activations of fixed size, harvested round by round from rows of tokens.

A refill harvests the rows of a round at all sites in one pass and permutes their positions together. Mixing is complete
within a refill and none between refills; positions that do not fill a batch are left out. Everything follows from
(rows, seed): a place names the round and how many of its batches were used, and no buffer content is ever stored.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Event
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from saes.harvest import harvest, largest, typical
from saes.row_sources import MemoryRows, Place, Round, RowSource
from saes.sites import Site
from saes.streams import Activations, Batches


@dataclass
class _Refill:
    """The activations of a round, in the order of its rows, and the permutation that batches are taken from."""

    place: Place
    values: dict[Site, Tensor]
    order: Int[Tensor, " n"]
    batches: int
    used: int = 0


class _Stopped(Exception):
    """A refill that nobody waits for."""


class RowBuffer:
    """Endless batches of `batch_size` positions from a source of rows; a PlacedStream.

    Of `world` processes the one of `rank` gives its own part of each global batch, which is the parts in the order of
    ranks: a round has world x rows_per_refill rows, split evenly in their order, and as many batches as the rank with
    the fewest positions fills. `batch_size` is one rank's.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        sites: Sequence[Site],
        source: RowSource,
        *,
        batch_size: int,
        rows_per_refill: int = 2048,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        prefetch: bool | None = None,
        batch_rows: int = 256,
        autocast: torch.dtype | None = None,
        max_norm: float | None = None,
    ) -> None:
        """`prefetch`: harvest the next refill in a thread meanwhile; by default on a GPU, no batch depends on it.

        `batch_rows`: rows per forward pass. `autocast`: see harvest(). `max_norm`: leave out positions whose norm at
        some site is more than so many times the refill's median. How many those are only the values tell, so with
        `max_norm` there is one rank, and batches(n) harvests all that comes before n.
        """
        if not 0 <= rank < world:
            raise ValueError(f"rank is {rank} of {world}: ranks are counted from 0")
        if max_norm is not None and world > 1:
            raise ValueError("max_norm leaves a number of positions that other processes do not know: use one process")
        if max_norm is not None and not max_norm > 1:
            raise ValueError(f"max_norm is {max_norm}: choose more than 1, the median norm itself")
        self._model, self._sites, self.source = model, list(sites), source
        self.batch_size, self.rows_per_refill, self._seed = batch_size, rows_per_refill, seed
        self._rank, self._world = rank, world
        self.prefetch = model.device.type == "cuda" if prefetch is None else prefetch
        self._batch_rows, self.autocast, self._max_norm = batch_rows, autocast, max_norm
        self.epoch = 0  # of the refill in use: how often the rows have come to their end
        self._check_fills()

    def batches(self, start: int = 0) -> "BufferBatches":
        """Batches number start, start + 1, ...; refills before them are not harvested, though their rows are read."""
        return BufferBatches(self, None, start, self.prefetch)

    def open(self, place: Place) -> "BufferBatches":
        """The batches that came next when that place was asked for.

        A place of another `world` lies in rounds of another size: what is left of the one in use is passed over.
        """
        state, used = place["round"], place["used"]
        if place["world"] != self._world and used:
            rounds = self.source.rounds(place["rows"], state)
            next(rounds)
            state, used = next(rounds).place, 0
        return BufferBatches(self, state, used, self.prefetch)

    def sample(self) -> Activations:
        """All positions of the first refill of rank 0, for initial means and norms."""
        tokens, keep = self._parts(next(self.source.rounds(self._round_size)))[0]
        values, kept = self._values(tokens, keep, Event())
        return {site: _full(x if kept is None else x[kept]) for site, x in values.items()}

    @property
    def device(self) -> torch.device:
        """Where batches are."""
        return self._model.device

    @property
    def _round_size(self) -> int:
        return self._world * self.rows_per_refill

    def refills(self, place: Place | None, used: int, stop: Event) -> Iterator[_Refill]:
        """Refills from a round on, without its first `used` batches; whoever sets `stop` wants no more of them."""
        barren_since: int | None = None  # the epoch of the first refill in a row that outliers left without a batch
        for each in self.source.rounds(self._round_size, place):
            count = self._batches_in(each)
            if not count or (self._max_norm is None and used >= count):
                used -= min(used, count)
                continue
            refill = self._refill(each, stop)
            refill.used = min(used, refill.batches)
            used -= refill.used
            if refill.batches:
                barren_since = None
            elif barren_since is None:
                barren_since = each.epoch
            elif each.epoch > barren_since + 1:
                raise self._too_few(f"positions within {self._max_norm:g} times the median norm")
            if refill.used < refill.batches:
                yield refill
            del refill  # before the next one is made

    def _refill(self, each: Round, stop: Event) -> _Refill:
        values, kept = self._values(*self._parts(each)[self._rank], stop)
        x = next(iter(values.values()))
        count = self._batches_in(each) if kept is None else len(kept) // self.batch_size
        # rank 0 of many draws what a single process would
        numbers = [self._seed, each.epoch, each.row // self.rows_per_refill, *([self._rank] if self._rank else [])]
        drawn = np.random.default_rng(numbers).permutation(len(x) if kept is None else len(kept))
        order = torch.from_numpy(drawn[: count * self.batch_size]).to(x.device)
        place = {"round": each.place, "rows": self._round_size, "world": self._world}
        return _Refill(place, values, order if kept is None else kept[order], count)

    def _values(
        self, tokens: Int[Tensor, "rows length"], keep: Bool[Tensor, "rows length"], stop: Event
    ) -> tuple[dict[Site, Tensor], Int[Tensor, " n"] | None]:
        """Activations at the kept positions, in order, and which of them are no outliers (None: nobody asks)."""
        values: dict[Site, Tensor] = {}
        at, size = 0, self._batch_rows
        passes = harvest(self._model, tokens, self._sites, size, self.autocast)
        for found, mask in zip(passes, keep.split(size), strict=True):
            if stop.is_set():
                raise _Stopped
            chosen = mask.flatten().nonzero().squeeze(1).to(self._model.device)
            for site in self._sites:
                x = found[site].flatten(0, 1)
                if site not in values:
                    values[site] = x.new_empty(int(keep.sum()), x.shape[1])
                torch.index_select(x, 0, chosen, out=values[site][at : at + len(chosen)])
            at += len(chosen)
        if self._max_norm is not None:
            return values, typical(values, self._max_norm).nonzero().squeeze(1)
        for site, x in values.items():
            largest(site, x)
        return values, None

    def _parts(self, each: Round) -> list[tuple[Tensor, Tensor]]:
        """Tokens and mask of each rank."""
        parts = each.tokens.tensor_split(self._world), each.keep.tensor_split(self._world)
        return list(zip(*parts, strict=True))

    def _batches_in(self, each: Round) -> int:
        """What every rank can fill, from the mask alone."""
        return min(int(keep.sum()) for _, keep in self._parts(each)) // self.batch_size

    def _check_fills(self) -> None:
        """ValueError if no round of an epoch fills a batch."""
        positions = 0
        for each in self.source.rounds(self._round_size):
            if each.epoch:
                raise self._too_few(f"{positions} positions")
            if self._batches_in(each):
                return
            positions += int(each.keep.sum())

    def _too_few(self, what: str) -> ValueError:
        return ValueError(
            f"{what} in refills of {self._round_size} rows never fill a batch of {self.batch_size}"
            f"{'' if self._world == 1 else f' on each of {self._world} ranks'}: use more tokens or a smaller batch"
        )


class ActivationBuffer(RowBuffer):
    """A RowBuffer over rows in memory: batches of positions of `tokens` [rows, length] where `mask` is True."""

    def __init__(
        self,
        model: PreTrainedModel,
        sites: Sequence[Site],
        tokens: Int[Tensor, "rows length"],
        mask: Bool[Tensor, "rows length"],
        *,
        rows_per_refill: int = 2048,
        seed: int = 0,
        **options: Any,
    ) -> None:
        """`options`: those of RowBuffer; `batch_size` is one that must be given."""
        rows = min(rows_per_refill, len(tokens))
        super().__init__(model, sites, MemoryRows(tokens, mask, seed), rows_per_refill=rows, seed=seed, **options)


class BufferBatches(Batches):
    """Batches of a buffer from a place on; the next refill is made in a thread while one is used, or when it is due."""

    def __init__(self, buffer: RowBuffer, place: Place | None, used: int, prefetch: bool) -> None:
        self._buffer, self._size, self._stop = buffer, buffer.batch_size, Event()
        buffer.epoch = place["epoch"] if place else 0
        refills = buffer.refills(place, used, self._stop)
        self._refills: Iterator[_Refill] = _Ahead(refills, buffer.device) if prefetch else refills
        self._refill: _Refill | None = None

    def __next__(self) -> Activations:
        refill = self._current()
        chosen = refill.order[refill.used * self._size : (refill.used + 1) * self._size]
        refill.used += 1
        return {site: _full(x.index_select(0, chosen)) for site, x in refill.values.items()}

    def place(self) -> Place:
        refill = self._refill or self._current()
        return {**refill.place, "used": refill.used}

    def close(self) -> None:
        self._stop.set()
        if isinstance(self._refills, _Ahead):
            self._refills.close()

    def _current(self) -> _Refill:
        if self._refill is None or self._refill.used == self._refill.batches:
            self._refill = None  # before the next one is waited for
            self._refill = next(self._refills)
            self._buffer.epoch = self._refill.place["round"]["epoch"]
        return self._refill


class _Ahead(Iterator[_Refill]):
    """Refills of which the next one is made by a thread, on a GPU in a CUDA stream of its own."""

    def __init__(self, refills: Iterator[_Refill], device: torch.device) -> None:
        self._refills, self._thread = refills, ThreadPoolExecutor(1, "refill")
        self._side = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._next = self._thread.submit(self._make)

    def __next__(self) -> _Refill:
        refill = self._next.result()
        self._next = self._thread.submit(self._make)
        if self._side is not None:
            for tensor in (refill.order, *refill.values.values()):
                tensor.record_stream(torch.cuda.current_stream(tensor.device))  # or its memory is reused too early
        return refill

    def close(self) -> None:
        self._thread.shutdown(cancel_futures=True)

    def _make(self) -> _Refill:
        if self._side is None:
            return next(self._refills)
        with torch.cuda.stream(self._side):
            refill = next(self._refills)
            self._side.synchronize()
        return refill


def _full(x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """In float32 at least: what dictionaries are trained in."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
