"""Areas over curves of faithfulness against circuit size: CPR and CMD of the MIB benchmark (Mueller et al. 2025).

CPR is the area under the faithfulness f, best for circuits chosen by signed effect: it grows with how much of the
behaviour a circuit brings back. CMD is the area of |1 - f|, best for circuits chosen by magnitude: 0 for circuits that
behave as the model at every size.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

MIB_SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""sizes at which MIB measures, as shares of all edges: asked for, whatever is left of them after pruning"""

Axis = Literal["linear", "log"]


def cpr(sizes: Sequence[float], faithfulness: Sequence[float], total: float = 1.0, *, axis: Axis = "linear") -> float:
    """Area under the faithfulness. A circuit that is faithful at every size from 0 to `total` has 1.

    `sizes` in any unit, `total` the size of everything (1 for shares). On a "log" axis x = log(1 + size) / log(1 +
    total), so sizes are counts and 0 has a place. MIB's nominal version: MIB_SHARES, which leaves out 0 to 0.001.
    """
    return _area(sizes, np.asarray(faithfulness, np.float64), total, axis)


def cmd(sizes: Sequence[float], faithfulness: Sequence[float], total: float = 1.0, *, axis: Axis = "linear") -> float:
    """Area between the faithfulness and 1; arguments as for `cpr`."""
    return _area(sizes, np.abs(1 - np.asarray(faithfulness, np.float64)), total, axis)


def _area(sizes: Sequence[float], heights: NDArray[np.float64], total: float, axis: Axis) -> float:
    x = np.asarray(sizes, np.float64)
    if x.ndim != 1 or x.shape != heights.shape or len(x) < 2:
        raise ValueError(f"an area needs at least two sizes, with a value each: {list(x.shape)}, {list(heights.shape)}")
    if not (np.isfinite(x).all() and np.isfinite(heights).all()):
        raise ValueError("an area needs finite sizes and values; one of them is infinite or NaN")
    if x.min() < 0 or x.max() > total or total <= 0:
        raise ValueError(f"sizes from {x.min():g} to {x.max():g}, but everything together has the size {total:g}")
    if axis not in ("linear", "log"):
        raise ValueError(f"axis {axis!r}: choose linear or log")
    x = x / total if axis == "linear" else np.log1p(x) / np.log1p(total)
    order = np.argsort(x, kind="stable")
    return float(np.trapezoid(heights[order], x[order]))
