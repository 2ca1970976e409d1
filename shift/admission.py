"""Is a task fit for SHIFT with this model and these dictionaries? Asked on games that the task itself never holds.

The classifier must be able to use either property (linear probes reach .95 on balanced data), must have been misled
(its worst group is at most .6), and a judge must have something to judge (a feature at some site detects each property
with F1 .8). Tasks that fail are reported with the numbers, beside those that pass.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from circuits.feature_acts import Dictionaries
from saes.families import find_site
from saes.sites import Site
from shift.admission_games import AdmissionGames, Detector, Read
from shift.candidates import sites_before
from shift.probe import fit_head, predict
from shift.specs import BoardTaskSpec
from shift.tasks.draws import CELLS, Cell, DrawError

AGREEING: tuple[Cell, ...] = ((False, False), (True, True))


@dataclass(frozen=True)
class Limits:
    """What a task must reach."""

    probe: float = 0.95
    """least accuracy of a linear probe, for A and for B"""
    worst_group: float = 0.6
    """largest worst group of the original classifier"""
    feature: float = 0.8
    """least F1 of the best feature at any site, for A and for B"""


@dataclass(frozen=True)
class Admission:
    """What was measured for one task."""

    spec: BoardTaskSpec
    probe_intended: float
    probe_spurious: float
    original_worst_group: float
    intended_feature: Detector | None  # None where no feature ever fires on the property
    spurious_feature: Detector | None
    scored: int  # examples of each cell that probes and classifier are scored on
    limits: Limits

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why it is not admitted; empty if it is."""
        limits, found = self.limits, []
        for name, probe in (("A", self.probe_intended), ("B", self.probe_spurious)):
            if probe < limits.probe:
                found.append(f"a linear probe for {name} reaches {probe:.3f}, less than {limits.probe}")
        if self.original_worst_group > limits.worst_group:
            found.append(f"the original worst group is {self.original_worst_group:.3f}, above {limits.worst_group}")
        for name, feature in (("A", self.intended_feature), ("B", self.spurious_feature)):
            if feature is None:
                found.append(f"no feature detects {name}")
            elif feature.f1 < limits.feature:
                where = f"{feature.site}/{feature.feature}"
                found.append(
                    f"the best feature for {name} ({where}) has F1 {feature.f1:.3f}, less than {limits.feature}"
                )
        return tuple(found)

    @property
    def passed(self) -> bool:
        return not self.reasons

    def to_json(self) -> dict[str, Any]:
        """Plain values, the verdict among them."""
        values = {k: v for k, v in asdict(self).items() if k != "spec"}
        return {"task": self.spec.name, "spec": self.spec.to_json(), **values, **_verdict(self)}


@dataclass(frozen=True)
class NotDrawn:
    """A task of which too few examples exist."""

    spec: BoardTaskSpec
    reasons: tuple[str, ...]
    passed: bool = False

    def to_json(self) -> dict[str, Any]:
        return {"task": self.spec.name, "spec": self.spec.to_json(), **_verdict(self)}


def _verdict(asked: Admission | NotDrawn) -> dict[str, Any]:
    return {"passed": asked.passed, "reasons": list(asked.reasons)}


class Admissions:
    """Measures tasks; games are shared by all tasks that can share them."""

    def __init__(
        self,
        model: PreTrainedModel,
        dictionaries: Dictionaries,
        *,
        cell: int = 1000,
        games: int = 3000,
        named_games: int = 400,
        limits: Limits | None = None,
    ) -> None:
        """`games` to fit probes and classifiers on, and as many to score them on, with at most `cell` examples in each
        cell; features are named on all positions of `named_games` more."""
        self._model, self._dictionaries, self._cell = model, dictionaries, cell
        self._games = AdmissionGames(model, dictionaries, games, named_games)
        self._limits = limits or Limits()

    def __call__(self, spec: BoardTaskSpec) -> Admission:
        """One task; DrawError if fewer than a twentieth of the examples exist."""
        site = find_site(self._model, spec.site)
        fit, unseen = (self._games.read(spec, use, site) for use in ("shift_admission", "shift_admission_balanced"))
        least = max(4, self._cell // 20)
        train = fit.cells(spec, dict.fromkeys(AGREEING, spec.train // 2), least)
        balanced = fit.cells(spec, dict.fromkeys(CELLS, self._cell), least)
        test = unseen.cells(spec, dict.fromkeys(CELLS, self._cell), least)
        head = fit_head(*_labelled(fit, site, train, of=0))
        named, sites = self._games.named(spec), sites_before(self._model, self._dictionaries, site)
        probes = []
        for of in (0, 1):
            probe = fit_head(*_labelled(fit, site, balanced, of))
            x, label = _labelled(unseen, site, test, of)
            probes.append(float((predict(probe, x) == label).float().mean()))
        right = [
            float((predict(head, unseen.activations[site][rows]) == cell[0]).float().mean())
            for cell, rows in test.items()
        ]
        features = [named.best(q, [s.name for s in sites]) for q in (spec.intended, spec.spurious)]
        return Admission(
            spec, probes[0], probes[1], min(right), features[0], features[1], len(test[CELLS[0]]), self._limits
        )


def admit_all(admissions: Admissions, specs: Iterable[BoardTaskSpec]) -> Iterator[Admission | NotDrawn]:
    """Every spec measured, those that fail and those that cannot be drawn too."""
    for spec in specs:
        try:
            yield admissions(spec)
        except DrawError as error:
            yield NotDrawn(spec, (str(error),))


def _labelled(
    read: Read, site: Site, cells: Mapping[Cell, Int[Tensor, " _"]], of: int
) -> tuple[Float[Tensor, "rows d"], Bool[Tensor, " rows"]]:
    """Activations of some cells, and the answers to A (`of` 0) or to B (1)."""
    labels = [torch.full((len(rows),), cell[of]) for cell, rows in cells.items()]
    return read.activations[site][torch.cat(list(cells.values()))], torch.cat(labels)
