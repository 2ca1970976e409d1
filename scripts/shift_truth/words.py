"""Numbers as the document writes them, and the measurements that they come from."""

from collections.abc import Mapping, Sequence
from math import isfinite
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


def chosen(value: Interval, up: str, down: str, unclear: str) -> str:
    """The words for an interval that lies above zero, below it, or that holds it (or has no bounds)."""
    if value.low is None or value.high is None:
        return unclear
    return up if value.low > 0 else down if value.high < 0 else unclear


def depends(rho: Interval, on: str) -> str:
    """What a rank correlation says, with its numbers."""
    return f"{chosen(rho, 'rises with', 'falls with', 'is not seen to depend on')} {on} ({said(rho)})"


def compared(lead: Interval) -> str:
    """What a difference says, with its numbers."""
    return f"{chosen(lead, 'ahead', 'behind', 'not seen to differ')} ({said(lead)})"


def kept(value: Interval) -> dict[str, float | None]:
    """An interval as JSON can hold it: None for what is not a number."""
    return {name: v if v is not None and isfinite(v) else None for name, v in vars(value).items()}


def unkept(found: Mapping[str, float | None]) -> Interval:
    """The interval that `kept` wrote."""
    value = found["value"]
    return Interval(float("nan") if value is None else value, found["low"], found["high"])


def percent(value: Interval) -> str:
    if value.value != value.value:
        return "-"
    bounds = "" if value.low is None else f" [{value.low:.0%}, {value.high:.0%}]"
    return f"{value.value:.0%}{bounds}"


def of_draws(draws: np.ndarray) -> Interval:
    return interval(float(draws[0]), draws[1:][np.isfinite(draws[1:])])


def mean_of(values: Sequence[float | None]) -> str:
    known = [v for v in values if v is not None]
    return f"{np.mean(known):.2f}" if known else "-"
