"""Blind judges: rules that anyone could follow without knowing what a feature detects. A judge has to beat them."""

from collections import Counter
from collections.abc import Sequence

from shift.candidates import Candidate
from shift.cards import Card, Showing
from shift.judge import JudgeError, Opinion


class StrongestHalf:
    """Trims the `share` of the candidates with the largest absolute effect."""

    def __init__(self, candidates: Sequence[Candidate], share: float = 0.5) -> None:
        if not 0 < share <= 1:
            raise JudgeError(f"the share to trim is {share}: above 0 and at most 1")
        self.name = f"strongest {share:.0%}"
        ordered = sorted(candidates, key=lambda c: (-abs(c.effect), c.site.name, c.feature))
        self._trimmed = {(c.site.name, c.feature) for c in ordered[: round(share * len(ordered))]}

    def __call__(self, card: Card) -> Opinion:
        return Opinion("trim" if card.key in self._trimmed else "keep", "by the size of its effect alone")


class OneSquare:
    """Trims a feature whose strongest positions agree on the content of one square more than random positions do.

    Such a feature is about a square, whichever; it is kept if it is about none. `excess`: how much larger the share of
    positions with that content has to be.
    """

    name = "one square"

    def __init__(self, excess: float = 0.4, least: int = 5) -> None:
        if not 0 < excess < 1:
            raise JudgeError(f"the excess is {excess}: a difference of two shares, between 0 and 1")
        self._excess, self._least = excess, least

    def __call__(self, card: Card) -> Opinion:
        if len(card.top) < self._least or not card.random:
            return Opinion("unsure", f"fires on {len(card.top)} of the positions shown")
        top, base = _shares(card.top), _shares(card.random)
        if not top:
            return Opinion("unsure", "shows no board")
        (square, content), excess = max(((k, share - base.get(k, 0.0)) for k, share in top.items()), key=lambda x: x[1])
        reason = f"{square} is {content} in {top[square, content]:.0%} of its strongest positions, {excess:+.0%}"
        return Opinion("trim" if excess >= self._excess else "keep", reason)


def _shares(showings: Sequence[Showing]) -> dict[tuple[str, str], float]:
    """Share of the positions with each (square, content)."""
    counts = Counter(item for showing in showings for item in showing.squares.items())
    return {item: count / len(showings) for item, count in counts.items()}
