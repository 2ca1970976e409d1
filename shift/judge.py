"""Judges: they see a candidate feature and say whether the task should depend on it.

The concept oracle knows what each feature detects: the board property that it matches best on labelled positions of
its own, never on the task's balanced data. It trims a feature whose best match is a statement about the spurious
property and not about the intended one, if the match is good enough.
"""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from boardgames.matching import Match
from shift.candidates import Candidate
from shift.judgements import Judgement


@runtime_checkable
class Judge(Protocol):
    """A rater."""

    name: str

    def __call__(self, candidate: Candidate) -> Judgement: ...


class ConceptOracle:
    """Trims what detects the squares of the spurious property. `matches` is keyed by (site name, feature)."""

    name = "concept oracle"

    def __init__(
        self, matches: Mapping[tuple[str, int], Match], intended: set[str], spurious: set[str], minimum_f1: float = 0.3
    ) -> None:
        if intended & spurious:
            raise ValueError(f"squares {sorted(intended & spurious)} belong to both properties: nothing to tell apart")
        self._matches, self._intended, self._spurious, self._minimum = matches, intended, spurious, minimum_f1

    def __call__(self, candidate: Candidate) -> Judgement:
        match = self._matches.get((candidate.site.name, candidate.feature))
        if match is None:
            verdict, reason = "unsure", "never fires on the labelled positions"
        elif match.square in self._spurious and match.f1 >= self._minimum:
            verdict, reason = "trim", f"{match.column} (F1 {match.f1:.2f})"
        elif match.square in self._intended and match.f1 >= self._minimum:
            verdict, reason = "keep", f"{match.column} (F1 {match.f1:.2f})"
        else:
            verdict, reason = "unsure", f"best match {match.column} (F1 {match.f1:.2f})"
        return Judgement(candidate.site.name, candidate.feature, candidate.effect, verdict, reason, self.name)
