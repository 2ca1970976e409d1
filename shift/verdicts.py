"""What a rater says about a feature, and what several verdicts amount to."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

Verdict = Literal["keep", "trim", "unsure", "mixed"]
"""`mixed`: the feature detects what the task should use and what it should not; `unsure`: the rater cannot tell."""
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)

Role = Literal["candidate", "repeat", "control"]
"""Why a feature was shown: to be judged, a second time to see whether the rater agrees with himself, or as a feature
without effect. Only verdicts on candidates decide what is trimmed."""
ROLES: tuple[Role, ...] = get_args(Role)


class JudgementError(ValueError):
    """A verdict that cannot be, or a judgement file that is frozen, changed, or not yet frozen."""


@dataclass(frozen=True)
class Judgement:
    """One rater's verdict on one feature."""

    site: str
    feature: int
    effect: float
    verdict: Verdict
    reason: str
    rater: str
    confidence: float | None = None
    """in [0, 1]; None if the rater gave none"""
    seconds: float | None = None
    """taken for the verdict; of a group, for the whole group"""
    item: str = ""
    """what was shown: features that were judged together as a group have the same"""
    role: Role = "candidate"
    time: str | None = None
    """UTC, ISO 8601; set when it is written"""

    def __post_init__(self) -> None:
        where = f"verdict on {self.site}/{self.feature}"
        if self.verdict not in VERDICTS:
            raise JudgementError(f"{where} is {self.verdict!r}: choose one of {', '.join(VERDICTS)}")
        if self.role not in ROLES:
            raise JudgementError(f"{where} has the role {self.role!r}: choose one of {', '.join(ROLES)}")
        if not self.site or self.feature < 0:
            raise JudgementError(f"{where}: a feature is a site's name and a number from 0")
        if not math.isfinite(self.effect):
            raise JudgementError(f"{where}: the effect is {self.effect}, which is no number")
        if not self.rater:
            raise JudgementError(f"{where} has no rater: say who judged")
        if self.confidence is not None and not 0 <= self.confidence <= 1:
            raise JudgementError(f"{where}: the confidence is {self.confidence}; it lies between 0 and 1")
        if self.seconds is not None and not 0 <= self.seconds < math.inf:
            raise JudgementError(f"{where}: it took {self.seconds} seconds; they are 0 or more")

    @property
    def key(self) -> tuple[str, int]:
        """(site name, feature)."""
        return self.site, self.feature

    @property
    def slot(self) -> tuple[str, Role, str, int]:
        """What a later verdict replaces: that of the same rater, on the same feature, shown in the same role."""
        return self.rater, self.role, self.site, self.feature


@dataclass(frozen=True)
class Policy:
    """Which features are trimmed, given what was said about each.

    `unsure` and `mixed` count as a vote to keep (the paper's implicit rule: unclear features stay), as a vote to trim,
    or as no vote. Of several raters a `majority` (more than half of the votes), `any` or `all` of them have to trim;
    a feature without votes is kept.
    """

    unsure: Literal["keep", "trim", "abstain"] = "keep"
    mixed: Literal["keep", "trim", "abstain"] = "keep"
    raters: Literal["majority", "any", "all"] = "majority"

    def __post_init__(self) -> None:
        choices = {
            "unsure": ("keep", "trim", "abstain"),
            "mixed": ("keep", "trim", "abstain"),
            "raters": ("majority", "any", "all"),
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise JudgementError(f"{name} is {getattr(self, name)!r}: choose one of {', '.join(known)}")

    def trims(self, verdicts: Iterable[Verdict]) -> bool:
        """Whether a feature with these verdicts, one of each rater, is trimmed."""
        read_as = {"keep": "keep", "trim": "trim", "unsure": self.unsure, "mixed": self.mixed}
        votes = [read_as[v] == "trim" for v in verdicts if read_as[v] != "abstain"]
        if not votes:
            return False
        match self.raters:
            case "any":
                return any(votes)
            case "all":
                return all(votes)
            case "majority":
                return 2 * sum(votes) > len(votes)


def trimmed(
    judgements: Sequence[Judgement], policy: Policy | None = None, raters: Iterable[str] | None = None
) -> set[tuple[str, int]]:
    """The features (site name, number) to trim; by all raters, or by those named. `policy`: Policy() if not given."""
    policy = Policy() if policy is None else policy
    chosen = {j.rater for j in judgements} if raters is None else set(raters)
    unknown = chosen - {j.rater for j in judgements}
    if unknown:
        raise JudgementError(f"no verdict of {', '.join(sorted(unknown))}: known are {_names(judgements)}")
    said: dict[tuple[str, int], dict[str, Verdict]] = {}
    for j in judgements:
        if j.role == "candidate" and j.rater in chosen:
            said.setdefault(j.key, {})[j.rater] = j.verdict
    return {feature for feature, verdicts in said.items() if policy.trims(verdicts.values())}


def _names(judgements: Sequence[Judgement]) -> str:
    return ", ".join(sorted({j.rater for j in judgements})) or "none"
