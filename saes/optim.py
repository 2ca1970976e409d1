"""Adam that keeps decoder rows on the unit sphere (Bricken et al. 2023, appendix on training).

The part of a row's gradient along the row is removed before anything else, so that neither the clipping nor Adam's
moments see it, and the rows are normalised after the step. Parameters carry a leading member axis: each member of a
stack is clipped by its own gradient norm, as it would be alone.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saes.ranks import ALONE, Ranks
from saes.sparse_step import available, kernels, on_gpu


class UnitNormAdam(torch.optim.Adam):
    """torch's Adam over stacked `params` [N, ...], with the last-axis rows of every tensor in `unit_rows` at norm 1."""

    def __init__(
        self,
        params: Iterable[Tensor],
        unit_rows: Sequence[Tensor],
        *,
        clip: float | None = None,
        shared: Sequence[Tensor] = (),
        ranks: Ranks = ALONE,
        **options: Any,
    ) -> None:
        """`clip`: the largest gradient norm of a member; `shared`: parameters that all feature ranks hold whole."""
        super().__init__(params, fused=True, **options)
        self._unit, self._clip, self._ranks = {id(rows) for rows in unit_rows}, clip, ranks
        self._shared = {id(p) for p in shared}

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # a closure would move rows off the sphere
        (group,) = self.param_groups
        params = [p for p in group["params"] if p.grad is not None]
        if all(available(p.device) and p.dtype in (torch.float32, torch.float64) for p in params):
            self._compiled_step(params, group)
            return
        for rows in params:
            if id(rows) in self._unit:  # rows have norm 1
                assert rows.grad is not None
                rows.grad.addcmul_(rows, (rows.grad * rows).sum(-1, keepdim=True), value=-1)
        if self._clip is not None:
            scale = self._clip_scale(params, [p.grad.flatten(1).square().sum(1) for p in params if p.grad is not None])
            for p in params:
                assert p.grad is not None
                p.grad.mul_(scale.to(p.grad).view(-1, *[1] * (p.dim() - 1)))
        super().step()
        for rows in params:
            if id(rows) in self._unit:
                rows /= rows.norm(dim=-1, keepdim=True)

    def _compiled_step(self, params: list[Tensor], group: dict[str, Any]) -> None:
        """The same in one pass over the weights, and one more over the gradients if they are to be clipped."""
        k, gpu = kernels(params[0].device), on_gpu(params[0].device)
        gradients = [p.grad.contiguous() for p in params if p.grad is not None]
        scale: float | Tensor = 1.0
        if self._clip is not None:
            squares = [
                k.sum_of_squares(g, len(p), p if id(p) in self._unit else None)
                for p, g in zip(params, gradients, strict=True)
            ]
            scale = self._clip_scale(params, squares)
        for p, g in zip(params, gradients, strict=True):
            state = self.state[p]
            if not state:
                step = torch.zeros((), device=p.device if gpu else "cpu")  # a GPU counts on its own
                state.update(step=step, exp_avg=torch.zeros_like(p), exp_avg_sq=torch.zeros_like(p))
            state["step"] += 1
            k.adam(
                p,
                g,
                state["exp_avg"],
                state["exp_avg_sq"],
                lr=group["lr"],
                beta1=group["betas"][0],
                beta2=group["betas"][1],
                eps=group["eps"],
                step=state["step"] if gpu else int(state["step"]),
                scale=scale,
                unit_rows=id(p) in self._unit,
            )

    def _clip_scale(self, params: Sequence[Tensor], squares: Sequence[Tensor]) -> Float[Tensor, " member"]:
        """From the sums of squares of each parameter's gradient, on this rank."""
        assert self._clip is not None
        if self._ranks.feature_size == 1:
            total = torch.stack(list(squares)).sum(0)
        else:
            of_features = [s for p, s in zip(params, squares, strict=True) if id(p) not in self._shared]
            of_all = [s for p, s in zip(params, squares, strict=True) if id(p) in self._shared]
            total = self._ranks.sum_features(torch.stack(of_features).sum(0)) + torch.stack(of_all).sum(0)
        return (self._clip / (total.sqrt() + 1e-6)).clamp_max(1.0)  # as torch.nn.utils.clip_grad_norm_

    @torch.no_grad()
    def forget(self, params: Sequence[Tensor], member: int, rows: Int[Tensor, " row"]) -> None:
        """Set the moments of some rows of one member to zero: they have become other features."""
        for p in params:
            for name in ("exp_avg", "exp_avg_sq"):
                if name in self.state[p]:
                    self.state[p][name][member, rows] = 0.0
