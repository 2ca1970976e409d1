"""Where a training loop's batches come from, and how it finds its place again.

A stream either makes batch n a pure function of n, or says where its next batch is: resuming is then to open that
place.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from saes.row_sources import Place
from saes.sites import Site

Activations = dict[Site, Float[Tensor, "batch d"]]


@runtime_checkable
class ActivationStream(Protocol):
    """Batches by number."""

    def batches(self, start: int = 0) -> Iterator[Activations]:
        """Batches number start, start + 1, ... without end."""
        ...

    def sample(self) -> Activations:
        """Activations for initial means and norms; the same on all ranks."""
        ...


class Batches(Iterator[Activations]):
    """Batches in order; one that has a place, or a thread to end, says so."""

    def __init__(self, batches: Iterator[Activations]) -> None:
        self._batches = batches

    def __next__(self) -> Activations:
        return next(self._batches)

    def place(self) -> Place | None:
        """Where the next batch comes from, plain JSON and the same on all ranks; None: only its number says it."""
        return None

    def close(self) -> None:
        """End whatever makes batches ahead of time."""


@runtime_checkable
class PlacedStream(ActivationStream, Protocol):
    """Batches that are found again by their place, without making those before it."""

    def open(self, place: Place) -> Batches:
        """The batches that came next when that place was asked for."""
        ...


@contextmanager
def opened(stream: ActivationStream, start: int, place: Place | None) -> Iterator[Batches]:
    """Batches from that place where there is one, else from number `start`; closed at the end of the block."""
    if place is not None and isinstance(stream, PlacedStream):
        batches = stream.open(place)
    else:
        found = stream.batches(start)
        batches = found if isinstance(found, Batches) else Batches(found)
    try:
        yield batches
    finally:
        batches.close()
