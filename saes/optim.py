"""Adam that keeps decoder rows on the unit sphere (Bricken et al. 2023, appendix on training).

The part of a row's gradient along the row is removed before the step, so that Adam's moments never hold it, and the
rows are normalised after the step.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor


class UnitNormAdam(torch.optim.Adam):
    """torch's fused Adam over `params`, with the rows of every tensor in `unit_rows` held at norm 1."""

    def __init__(self, params: Iterable[Tensor], unit_rows: Sequence[Tensor], **options: Any) -> None:
        super().__init__(params, fused=True, **options)
        self._unit_rows = unit_rows

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # a closure would move rows off the sphere
        for rows in self._unit_rows:
            if rows.grad is not None:
                along = (rows.grad * rows).sum(1, keepdim=True)  # rows have norm 1
                rows.grad.addcmul_(rows, along, value=-1)
        super().step(closure)
        for rows in self._unit_rows:
            rows /= rows.norm(dim=1, keepdim=True)
