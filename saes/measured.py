"""How sparse a run is, known to the host without waiting for a GPU: which way of a step pays, and the room it needs.

The device writes what it measured to the host's memory; the host reads it at the next measurement, by when it has long
been there. What a run does so depends neither on timing nor on when it is logged, and a resumed run does the same.
"""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from saes.entries import Padded
from saes.ranks import Ranks

LEAST_ROOM = 64  # room costs little, and the fullest of rows with few entries varies most


class CapacityError(ValueError):
    """Rows had more active features than the sparse step had room for, so that a step was not exact."""

    def __init__(self) -> None:
        super().__init__(
            "a step on the GPU had rows with more active features than there was room for, and was not exact: resume "
            'from the last checkpoint with --step dense (in Python: step="dense")'
        )


class Measured:
    """Of the steps on a GPU: share of active features, entries of the fullest row, and whether any entry was lost."""

    def __init__(self) -> None:
        self.density: float | None = None
        """largest of the members'; None until it was measured"""
        self.capacity: int | None = None
        """room of a row: twice what the fullest one took, as a power of two, and no less than LEAST_ROOM; None until it
        was measured"""
        self._overflow: Bool[Tensor, ""] | None = None
        self._pending: Float[Tensor, " 3"] | None = None
        self._written: torch.cuda.Event | None = None

    def watch(self, layout: Any) -> None:
        """Note on the device whether entries were lost, in every evaluation."""
        if isinstance(layout, Padded):
            self._overflow = layout.overflow if self._overflow is None else self._overflow | layout.overflow

    @torch.no_grad()
    def measure(self, features: Any, pre: Any) -> None:
        """Take in the last measurement and ask for another."""
        self._read()
        counts = pre.row_counts(features)
        density = features.l0().max() / (features.layout.features * features.layout.ranks.feature_size)
        lost = torch.zeros_like(density) if self._overflow is None else self._overflow
        numbers = torch.stack([part.double() for part in (density, counts.max(), lost)])
        self._pending = torch.empty(3, dtype=torch.float64, pin_memory=numbers.is_cuda)
        self._pending.copy_(numbers, non_blocking=True)
        if numbers.is_cuda:
            self._written = torch.cuda.Event()
            self._written.record()

    def check(self) -> None:
        """CapacityError if any entry was lost so far; waits for the device."""
        if self._overflow is not None and bool(self._overflow):
            raise CapacityError

    def state_dict(self) -> dict[str, Any]:
        self.check()  # no checkpoint is made of an inexact step
        if self._written is not None:
            self._written.synchronize()
        pending = None if self._pending is None else self._pending.tolist()
        return {"density": self.density, "capacity": self.capacity, "pending": pending}

    @staticmethod
    def for_all(state: dict[str, Any], ranks: Ranks, device: torch.device) -> dict[str, Any]:
        """A state with room for the fullest row of any rank: a checkpoint holds one state for all of them."""
        pending = state["pending"] or [0.0, 0.0, 0.0]
        room, largest = ranks.largest(torch.tensor([state["capacity"] or 0, pending[1]], device=device)).tolist()
        return {
            **state,
            "capacity": None if state["capacity"] is None else int(room),
            "pending": None if state["pending"] is None else [pending[0], largest, pending[2]],
        }

    @staticmethod
    def divided(state: dict[str, Any], before: int, now: int) -> dict[str, Any]:
        """A state of `before` feature ranks for `now` of them: a rank's rows may hold what several ranks' held."""
        times = -(-before // now)
        pending = state["pending"]
        return {
            **state,
            "capacity": None if state["capacity"] is None else state["capacity"] * times,
            "pending": None if pending is None else [pending[0], pending[1] * times, pending[2]],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.density, self.capacity, self._overflow, self._written = state["density"], state["capacity"], None, None
        self._pending = None if state["pending"] is None else torch.tensor(state["pending"], dtype=torch.float64)

    def _read(self) -> None:
        if self._pending is None:
            return
        if self._written is not None:
            self._written.synchronize()  # of a measurement many steps old: the device has work left all the while
        self.density, largest, lost = self._pending.tolist()
        self.capacity = max(LEAST_ROOM, 1 << max(2 * int(largest) - 1, 0).bit_length())
        if lost:
            raise CapacityError
