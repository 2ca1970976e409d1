"""The concept oracle: knows what each feature detects, and on what that depends by the rules of the game.

What a feature detects is the board property that it matches best on labelled positions of its own, never on the task's
balanced data. What a property depends on are squares (`owner of c3` on c3, `b4 is legal` on b4 and on the lines that
close it), or the fact that it is about where that is no square, such as the ply.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from boardgames.game import BoardProperty, Labels, label
from boardgames.matching import Match
from boardgames.othello.dependence import dependence
from boardgames.othello.properties import EVERYTHING, SQUARES
from boardgames.othello.rules import OthelloPositions
from shift.candidates import Candidate
from shift.cards import Card
from shift.judge import JudgeError, Opinion
from shift.tasks.questions import Game, facts

DependenceSets = Mapping[str, frozenset[str]]
"""For each column: the squares that it depends on, or the fact that it is about if there are none."""


class ConceptOracle:
    """Trims what depends on the spurious property's squares and not on the intended one's; `mixed` if on both.

    `matches` is keyed by (site name, feature). `intended` and `spurious` are what the two properties depend on (values
    of `depends`). A match below `minimum_f1` tells nothing: unsure, as is one that depends on neither.
    """

    name = "concept oracle"

    def __init__(
        self,
        matches: Mapping[tuple[str, int], Match],
        depends: DependenceSets,
        intended: frozenset[str],
        spurious: frozenset[str],
        minimum_f1: float = 0.3,
    ) -> None:
        if not spurious or spurious <= intended:
            raise JudgeError(
                f"the spurious property depends on {sorted(spurious) or 'nothing'}, the intended one on "
                f"{sorted(intended) or 'nothing'}: nothing tells them apart"
            )
        if unknown := sorted({m.column for m in matches.values()} - depends.keys()):
            raise JudgeError(f"no dependence set for {', '.join(unknown[:3])}: give one for every property matched")
        self._matches, self._depends = matches, depends
        self._intended, self._spurious, self._minimum = intended, spurious, minimum_f1

    def __call__(self, card: Card) -> Opinion:
        match = self._matches.get(card.key)
        if match is None:
            return Opinion("unsure", "never fires on the labelled positions")
        on = self._depends[match.column]
        text = f"{match.column} (F1 {match.f1:.2f})"
        if match.f1 < self._minimum or not on & (self._spurious | self._intended):
            return Opinion("unsure", f"best match {text}")
        if on & self._spurious and on & self._intended:
            return Opinion("mixed", f"{text} depends on both", match.f1)
        return Opinion("trim" if on & self._spurious else "keep", text, match.f1)


def outside_share(
    candidates: Sequence[Candidate],
    matches: Mapping[tuple[str, int], Match],
    depends: DependenceSets,
    intended: frozenset[str],
    spurious: frozenset[str],
) -> float:
    """Share of the candidates' absolute effect that lies outside both properties: what a concept oracle leaves alone.

    Outside is a feature whose best-matching property depends on nothing that A or B depends on, and one without a
    match, which nothing ties to either. 0 where no candidate has an effect.
    """

    def outside(candidate: Candidate) -> bool:
        match = matches.get((candidate.site.name, candidate.feature))
        return match is None or not depends[match.column] & (intended | spurious)

    whole = sum(abs(c.effect) for c in candidates)
    return sum(abs(c.effect) for c in candidates if outside(c)) / whole if whole else 0.0


def named_squares(labels: Labels, game: Game = "othello") -> dict[str, frozenset[str]]:
    """Dependence sets by name alone: each column depends on the square that it names, or on the fact it is about.

    Columns of one fact depend on the same: on "ply" all buckets of the ply.
    """
    known, named = facts(game), zip(labels.columns, labels.squares, strict=True)
    return {column: frozenset({square or known.get(column, column)}) for column, square in named}


def rule_dependence(
    positions: OthelloPositions,
    properties: Sequence[BoardProperty] = EVERYTHING,
    usually: float = 0.25,
    sample: int = 1000,
    seed: int = 0,
) -> dict[str, frozenset[str]]:
    """Dependence sets by the rules of Othello: the squares of which another content alone would change the answer.

    A square counts if it does so in at least the share `usually` of the positions where the property holds: with 0
    every square on a line through b4 would count for `legal b4`, and nearly every move would depend on nearly every
    square. `sample` positions are drawn from those given. A property that holds in none of them depends on the square
    that it names.
    """
    if not 0 < usually <= 1:
        raise JudgeError(f"usually is {usually}: a share of the positions, above 0 and at most 1")
    drawn = np.zeros(len(positions.ply), bool)
    drawn[np.random.default_rng(seed).permutation(len(drawn))[:sample]] = True
    positions = positions[drawn]
    truth, found = label(positions, properties), dependence(positions, properties)
    sets = named_squares(truth)
    for i, column in enumerate(truth.columns):
        holds = truth.matrix[:, i]
        if holds.any():
            often = found[holds, i].mean(0) >= usually
            sets[column] = frozenset(np.array(SQUARES)[often].tolist()) or sets[column]
    return sets
