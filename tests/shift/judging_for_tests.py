"""Candidates, judgements and a dictionary of known meaning, for the tests of judging."""

from saes.sites import Site
from shift.candidates import Candidate
from shift.verdicts import Judgement

SITES = tuple(Site(f"resid_{i}", f"transformer.h.{i}") for i in range(3))


def candidate(feature: int, effect: float = -1.0, site: int = 0) -> Candidate:
    return Candidate(SITES[site], feature, effect)


def judged(feature: int, verdict: str, rater: str = "ann", effect: float = -1.0, **given) -> Judgement:
    return Judgement("resid_0", feature, effect, verdict, "because", rater, **given)  # type: ignore[arg-type]
