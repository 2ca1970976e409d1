"""What a source of games left out: counted by reason, the first of each named."""

from collections import Counter


class BrokenGameError(ValueError):
    """A game that cannot be read or breaks the rules, where none may be left out."""


class Skipped:
    """Games left out: `unwanted` ones are no mistake (a variant, say), a `broken` one is, and ends all if `strict`."""

    def __init__(self, strict: bool = False) -> None:
        self.strict = strict
        self.counts: Counter[str] = Counter()
        self.first: dict[str, str] = {}

    def unwanted(self, reason: str, where: str) -> None:
        """One that is not asked for."""
        self.counts[reason] += 1
        self.first.setdefault(reason, where)

    def broken(self, sentence: str, reason: str = "broken") -> None:
        """One with a fault, which the sentence names; BrokenGameError with `strict`."""
        if self.strict:
            raise BrokenGameError(sentence)
        self.unwanted(reason, sentence)

    def sentence(self) -> str:
        """Everything in a line; "" if nothing was left out."""
        each = (f"{count} {reason} (the first: {self.first[reason]})" for reason, count in self.counts.items())
        return "; ".join(each)
