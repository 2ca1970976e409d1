"""Where a classifier's attribution sits, and what became of it: shares of the sum of all absolute effects.

What no verdict trims bounds what any judge could have done: error nodes, features too weak to be shown, those kept, and
those that detect both properties (`mixed`). Risk (d) and (b) of trimming by features.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from shift.candidates import Effects
from shift.judgements import Frozen
from shift.trim import Features

Fate = Literal["trimmed", "mixed", "unsure", "kept"]
"""what became of a feature that was judged"""


@dataclass(frozen=True)
class SiteShare:
    """One site's share of all attribution."""

    features: float
    error: float


@dataclass(frozen=True)
class Shares:
    """All add up to 1: the sites; and trimmed, mixed, unsure, kept, unjudged and error."""

    sites: Mapping[str, SiteShare]
    trimmed: float
    mixed: float
    """not trimmed, and some rater said that it detects both properties"""
    unsure: float
    """not trimmed, nobody said mixed, and some rater could not tell"""
    kept: float
    unjudged: float
    """of features that nobody was shown"""
    error: float

    @property
    def untrimmed(self) -> float:
        """What no verdict removes."""
        return 1 - self.trimmed


def attribution_shares(effects: Effects, frozen: Frozen, trimmed: Features) -> Shares:
    """Of effects on the classifier's margin; zeros where nothing has any effect."""
    whole = sum(float(e.abs().sum()) for e in effects.features.values()) + sum(abs(e) for e in effects.errors.values())
    scale = 1 / whole if whole else 0.0
    sites = {
        site.name: SiteShare(scale * float(values.abs().sum()), scale * abs(effects.errors[site]))
        for site, values in effects.features.items()
    }
    said: dict[tuple[str, int], set[str]] = {}
    for j in frozen.judgements:
        if j.role == "candidate":
            said.setdefault(j.key, set()).add(j.verdict)
    by_name = {site.name: values for site, values in effects.features.items()}
    sums: dict[Fate, float] = dict.fromkeys(get_args(Fate), 0.0)
    cut = {(site, f) for site, index in trimmed.items() for f in index}
    for site, feature in said.keys() | cut:
        if site in by_name:
            fate = _fate((site, feature) in cut, said.get((site, feature), set()))
            sums[fate] += scale * abs(float(by_name[site][feature]))
    error = sum(share.error for share in sites.values())
    unjudged = sum(share.features for share in sites.values()) - sum(sums.values())
    return Shares(
        sites,
        sums["trimmed"],
        sums["mixed"],
        sums["unsure"],
        sums["kept"],
        max(unjudged, 0.0),  # rounding
        error,
    )


def _fate(trimmed: bool, verdicts: set[str]) -> Fate:
    if trimmed:
        return "trimmed"
    if "mixed" in verdicts:
        return "mixed"
    return "unsure" if "unsure" in verdicts else "kept"
