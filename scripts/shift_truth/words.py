"""Numbers as the document writes them, and the measurements that they come from."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from circuits.intervals import Interval, interval
from shift_truth.study import read_all


def measurements(folder: Path, ending: str) -> list[dict[str, Any]]:
    """The measurements of a folder whose names end so, and are no judgements."""
    return [r for r in read_all(folder) if r["file"].endswith(ending)]


def said(value: Interval) -> str:
    if value.value != value.value:
        return "-"
    return f"{value.value:.2f}" if value.low is None else f"{value.value:.2f} [{value.low:.2f}, {value.high:.2f}]"


def percent(value: Interval) -> str:
    bounds = "" if value.low is None else f" [{value.low:.0%}, {value.high:.0%}]"
    return f"{value.value:.0%}{bounds}"


def of_draws(draws: np.ndarray) -> Interval:
    return interval(float(draws[0]), draws[1:][np.isfinite(draws[1:])])


def mean_of(values: Sequence[float | None]) -> str:
    known = [v for v in values if v is not None]
    return f"{np.mean(known):.2f}" if known else "-"
