"""Muon (Jordan et al. 2024): momentum whose matrix updates are orthogonalised by a Newton-Schulz iteration.

torch.optim.Muon iterates in bfloat16, which a CPU without bf16 units emulates at twice the cost of the whole
training step; this one works in the dtype of the weights and treats matrices of one shape as a batch.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # the quintic of the original: fast, ends with singular values in 0.7..1.2


def orthogonalise(matrices: Tensor, iterations: int = 5) -> Tensor:
    """Nearest semi-orthogonal matrices to a batch [..., rows, columns], up to the quintic's tolerance."""
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp_min(1e-7)
    a, b, c = _COEFFICIENTS
    for _ in range(iterations):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Nesterov momentum with orthogonalised updates of spectral norm about lr.

    `pieces` says how many matrices lie side by side in a parameter's columns (3 for a fused query-key-value
    projection), so that each is orthogonalised by itself.
    """

    def __init__(self, params: Iterable[Tensor], lr: float, momentum: float = 0.95, pieces: int = 1) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "pieces": pieces})

    @torch.no_grad()
    def step(self, closure=None) -> None:  # type: ignore[override]  # no closure: the loss is never re-evaluated
        if closure is not None:
            raise ValueError("Muon takes no closure")
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[tuple[Tensor, Tensor]]] = {}
            for weight in group["params"]:
                momentum = self.state[weight].setdefault("momentum", torch.zeros_like(weight))
                momentum.lerp_(weight.grad, 1 - group["momentum"])
                direction = weight.grad.lerp(momentum, group["momentum"])
                for w, d in zip(weight.chunk(group["pieces"], 1), direction.chunk(group["pieces"], 1), strict=True):
                    by_shape.setdefault(w.shape, []).append((w, d))
            for pairs in by_shape.values():
                update = orthogonalise(torch.stack([d for _, d in pairs]))
                rows, columns = update.shape[-2:]
                scale = max(1.0, columns / rows) ** 0.5  # weights are [in, out] here: grow with the fan-out
                for (w, _), u in zip(pairs, update, strict=True):
                    w.add_(u, alpha=-group["lr"] * scale)
