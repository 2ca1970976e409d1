"""What a rater is shown, in which order: the strongest first, some twice, and some that do nothing.

A feature shown a second time tells how consistent the rater is; features without effect (controls) tell how often he
trims what does not matter. Neither looks different to him, and neither decides what is trimmed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool
from torch import Tensor

from saes.sites import Site
from shift.candidates import Candidate, Effects
from shift.verdicts import Judgement, Role

Group = tuple[Candidate, ...]
"""Features that detect the same, the strongest first; judged once, and written down for each."""


class QueueError(ValueError):
    """A queue that cannot be made as asked."""


@dataclass(frozen=True)
class Item:
    """One thing to judge. The name tells nothing of the role."""

    name: str
    group: Group
    role: Role


@dataclass(frozen=True)
class QueueConfig:
    repeats: float = 0.1
    """groups that are shown a second time, for each group that is judged"""
    controls: float = 0.1
    """features without effect, for each group that is judged"""
    gap: int = 5
    """least number of other items between a group and its repeat"""
    seed: int = 0
    """of which are repeated, which controls are drawn, and where they stand"""

    def __post_init__(self) -> None:
        for name in ("repeats", "controls"):
            if not 0 <= getattr(self, name) <= 1:
                raise QueueError(f"{name} is {getattr(self, name)}: it is a share between 0 and 1")
        if self.gap < 0:
            raise QueueError(f"gap is {self.gap}: it is a number of items")


def by_influence(groups: Sequence[Group]) -> list[Group]:
    """Groups with the largest sum of absolute effects first; within a group the strongest feature first."""
    inside = [tuple(sorted(group, key=lambda c: (-abs(c.effect), c.site.name, c.feature))) for group in groups]
    return sorted(inside, key=lambda g: (-sum(abs(c.effect) for c in g), g[0].site.name, g[0].feature))


def queue(groups: Sequence[Group], controls: Sequence[Candidate] = (), config: QueueConfig | None = None) -> list[Item]:
    """All groups in order of influence, with repeats and controls between them; the same for the same seed.

    `controls` are drawn from as many as there are (`without_effect`); QueueError if they are too few. There are at
    least `gap` items between a group and its repeat, so only groups with as many behind them are repeated.
    """
    config = QueueConfig() if config is None else config
    rng = np.random.default_rng(config.seed)
    ordered = by_influence(groups)
    wanted = round(config.controls * len(ordered))
    if wanted > len(controls):
        raise QueueError(
            f"{wanted} controls were asked for and {len(controls)} features without effect are there: lower `controls`"
        )
    drawn = [controls[i] for i in rng.choice(len(controls), wanted, replace=False)] if wanted else []
    shown: list[tuple[Group, Role]] = [(group, "candidate") for group in ordered]
    for control in drawn:
        shown.insert(int(rng.integers(len(shown) + 1)), ((control,), "control"))
    able = [group for i, (group, role) in enumerate(shown) if role == "candidate" and i + config.gap < len(shown)]
    count = min(round(config.repeats * len(ordered)), len(able))
    for i in sorted(rng.choice(len(able), count, replace=False)) if count else []:
        first = shown.index((able[i], "candidate"))
        shown.insert(int(rng.integers(first + config.gap + 1, len(shown) + 1)), (able[i], "repeat"))
    return [Item(str(i), group, role) for i, (group, role) in enumerate(shown, 1)]


def singles(candidates: Sequence[Candidate]) -> list[Item]:
    """Every candidate for itself, in the given order, with nothing hidden between."""
    return [Item(str(i), (c,), "candidate") for i, c in enumerate(candidates, 1)]


def without_effect(
    effects: Effects,
    least: float,
    fires: Mapping[Site, Bool[Tensor, " f"]] | None = None,
    share: float = 1e-3,
) -> list[Candidate]:
    """Features whose absolute effect is at most `share` of `least`, the weakest candidate's effect.

    `fires`: choose among features that fire somewhere, since a card with nothing to show would give a control away.
    """
    found = []
    for site, values in effects.features.items():
        idle = values.abs() <= share * abs(least)
        if fires is not None:
            idle &= fires[site]
        found += [Candidate(site, f, float(values[f])) for f in idle.nonzero().flatten().tolist()]
    return found


def to_judge(items: Sequence[Item], standing: Sequence[Judgement], rater: str) -> list[Item]:
    """The items that this rater has not judged as a whole, in order."""
    done = {j.slot for j in standing}
    return [item for item in items if any((rater, item.role, c.site.name, c.feature) not in done for c in item.group)]


@dataclass(frozen=True)
class Reliability:
    """How far a rater's verdicts can be trusted; None where nothing of the kind was shown."""

    consistency: float | None
    """share of repeated features with the same verdict both times"""
    repeats: int
    control_trim_rate: float | None
    """share of the features without effect that were trimmed"""
    controls: int


def reliability(judgements: Sequence[Judgement], rater: str) -> Reliability:
    """Of one rater's standing verdicts; a group counts once."""
    first = {j.key: j.verdict for j in judgements if j.rater == rater and j.role == "candidate"}
    again: dict[str, list[bool]] = {}
    trims: dict[str, bool] = {}
    for j in judgements:
        if j.rater == rater and j.role == "repeat" and j.key in first:
            again.setdefault(j.item or str(j.key), []).append(first[j.key] == j.verdict)
        elif j.rater == rater and j.role == "control":
            trims[j.item or str(j.key)] = j.verdict == "trim"
    same = [all(members) for members in again.values()]
    return Reliability(_share(same), len(same), _share(list(trims.values())), len(trims))


def _share(answers: list[bool]) -> float | None:
    return sum(answers) / len(answers) if answers else None
