"""The data oracle, or feature skyline (Marks et al. 2024, appendix): trims what a spurious label says to trim.

It breaks SHIFT's rules on purpose, as an upper bound: it ranks features by their effect on the margin of the *spurious*
labels of balanced data, so it can be made of opened data only, and judges after the freeze, in a file of its own.
"""

from collections.abc import Sequence

from torch import nn
from transformers import PreTrainedModel

from circuits.feature_acts import Dictionaries
from shift.candidates import Candidate, margin_effects, sites_before
from shift.cards import Card
from shift.judge import JudgeError, Opinion
from shift.reading import Reading
from shift.task import Balanced


class DataOracle:
    """Trims the `count` features that the classifier's spurious margin relies on most; keeps the others."""

    name = "data oracle"

    def __init__(
        self,
        model: PreTrainedModel,
        dictionaries: Dictionaries,
        head: nn.Module,
        reading: Reading,
        opened: Balanced,
        count: int,
        *,
        examples: int = 100,
        steps: int = 10,
        progress: bool = True,
    ) -> None:
        if not isinstance(opened, Balanced):
            raise JudgeError(f"the data oracle needs opened balanced data, not {type(opened).__name__}")
        spread = slice(None, None, max(1, len(opened.tokens) // examples))  # the cells lie one after the other
        effects = margin_effects(
            model,
            sites_before(model, dictionaries, reading.site),
            head,
            reading,
            opened.tokens[spread],
            opened.position[spread],
            opened.spurious[spread],
            steps=steps,
            progress=progress,
        )
        self.features: Sequence[Candidate] = effects.most_relied_on(count)
        """what to trim, the most relied on first, with the effect on the spurious margin"""
        self._rank = {(c.site.name, c.feature): i for i, c in enumerate(self.features, 1)}

    def __call__(self, card: Card) -> Opinion:
        ranks = [self._rank[c] for c in ((c.site.name, c.feature) for c in card.group) if c in self._rank]
        if ranks:
            return Opinion("trim", f"number {min(ranks)} of those that the spurious label relies on most")
        return Opinion("keep", f"not among the {len(self._rank)} that the spurious label relies on most")
