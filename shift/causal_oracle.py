"""The causal oracle: does the feature carry the spurious property to the readout, or the intended one?

A probe of each property is trained at the readout site, on labelled positions of the oracle's own with the four
combinations equally often. Then each feature is ablated by itself, and the change of the two probes' margins compared,
on positions that the probes were not fitted on. A thousand games or more make good probes.
F1 says what a feature looks like, and coverage measures that too; this says what it does.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from circuits.ablation import ablate_features
from circuits.feature_acts import Dictionaries
from shift.candidates import chosen_features, sites_before
from shift.cards import Card
from shift.judge import JudgeError, Opinion
from shift.labelled import Labelled
from shift.probe import fit_head, predict, readout
from shift.queue import Group
from shift.reading import Reading
from shift.repeated import RepeatedReading


@dataclass(frozen=True)
class CausalEffect:
    """Change of each probe's mean signed margin when features are ablated, in units of the mean absolute margin."""

    intended: float
    spurious: float


class CausalOracle:
    """Trims a feature whose effect on the spurious probe is `ratio` times that on the intended one, or more.

    `keep` if it is the other way round, `mixed` in between, `unsure` if both effects are below `minimum`.
    """

    name = "causal oracle"

    def __init__(
        self,
        model: PreTrainedModel,
        dictionaries: Dictionaries,
        reading: Reading,
        labelled: Labelled,
        *,
        ratio: float = 2.0,
        minimum: float = 1e-3,
        seed: int = 0,
    ) -> None:
        if ratio < 1:
            raise JudgeError(f"the ratio is {ratio}: at least 1, or features would be both trimmed and kept")
        if minimum <= 0:
            raise JudgeError(f"the minimum effect is {minimum}: above 0, or features without effect would be judged")
        self._reading, self._ratio, self._minimum = reading, ratio, minimum
        self._dictionaries = sites_before(model, dictionaries, reading.site)
        even = labelled.equal_cells(seed)
        fitted, self._data = even.halves()
        x = readout(model, reading, fitted.tokens, fitted.position)
        self._again = RepeatedReading(model, reading, self._data.tokens, self._data.position)
        self._before = self._again.unedited
        self._intended, self._spurious = (fit_head(x, label) for label in (fitted.intended, fitted.spurious))
        self.accuracy = {
            "intended": float((predict(self._intended, self._before) == self._data.intended).float().mean()),
            "spurious": float((predict(self._spurious, self._before) == self._data.spurious).float().mean()),
        }
        """of the probes, on the half that they were not fitted on: a probe that cannot tell makes no oracle"""

    def __call__(self, card: Card) -> Opinion:
        effect = self.effect(card.group)
        a, b = abs(effect.intended), abs(effect.spurious)
        reason = f"ablation moves the spurious probe by {b:.4f}, the intended one by {a:.4f}"
        if max(a, b) < self._minimum:
            return Opinion("unsure", reason)
        share = max(a, b) / (a + b)  # 1/2: as much on one as on the other
        if b >= self._ratio * a:
            return Opinion("trim", reason, share)
        return Opinion("keep" if a >= self._ratio * b else "mixed", reason, share)

    def effect(self, group: Group) -> CausalEffect:
        """Of a feature, or of a group together, set to zero at every position."""
        if late := sorted({c.site.name for c in group} - {site.name for site in self._dictionaries}):
            raise JudgeError(f"{', '.join(late)}: no dictionary at or before the readout site {self._reading.site}")
        ablated = ablate_features(self._dictionaries, chosen_features(group))
        edits = {site: self._reading.within(edit) for site, edit in ablated.items()}
        after = self._again.read(edits)
        return CausalEffect(
            self._moved(self._intended, self._data.intended, after),
            self._moved(self._spurious, self._data.spurious, after),
        )

    def _moved(self, probe: nn.Module, label: Bool[Tensor, " rows"], after: Float[Tensor, "rows d"]) -> float:
        before = probe(self._before)[:, 0]
        change = (probe(after)[:, 0] - before) * torch.where(label, 1.0, -1.0)
        return float(change.mean() / before.abs().mean())
