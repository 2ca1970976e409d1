"""Games that many tasks are admitted on: drawn, replayed, read by the model and encoded once, asked many questions.

Tasks of one game, file of games, token and seed share them; which of the positions are a task's, its filters say.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from boardgames.confusion import count
from boardgames.coverage import choose, count_games
from boardgames.firing import Firing, SparseLabels
from boardgames.othello.streams import Use, stream
from boardgames.report import encoded
from circuits.feature_acts import Dictionaries
from saes.harvest import harvest
from saes.sites import Site
from shift.specs import BoardTaskSpec
from shift.tasks.draws import Cell, DrawError, Everywhere, everywhere
from shift.tasks.questions import with_owners_exchanged


@dataclass(frozen=True)
class Detector:
    """The feature that detects a property best, chosen on half of the games; F1 is on the other half."""

    question: str
    site: str
    feature: int
    f1: float


@dataclass(frozen=True)
class Read:
    """All positions of some games, and what the model makes of them at some sites: activations [rows, D]."""

    rows: Everywhere
    activations: Mapping[Site, Float[Tensor, "rows d"]]

    @classmethod
    def of(cls, model: PreTrainedModel, sites: list[Site], rows: Everywhere) -> "Read":
        mask = torch.from_numpy(rows.mask)
        kept: dict[Site, list[Tensor]] = {site: [] for site in sites}
        start = 0
        for values in harvest(model, torch.from_numpy(rows.tokens), sites):
            here = mask[start : start + len(values[sites[0]])]
            start += len(here)
            for site in sites:
                kept[site].append(values[site].cpu()[here])
        return cls(rows, {site: torch.cat(parts) for site, parts in kept.items()})

    def cells(self, spec: BoardTaskSpec, most: Mapping[Cell, int], least: int = 1) -> dict[Cell, Int[Tensor, " n"]]:
        """Rows of a task in each cell, at most one of a game: as many in each as the rarest has, or `most`.

        DrawError if a cell has fewer than `least`.
        """
        rows = np.flatnonzero(self.rows.usable(spec))
        rows = rows[stream("shift_admission", spec.seed, 0, 3).permutation(len(rows))]
        intended, spurious = (self.rows.answer(q)[rows] for q in (spec.intended, spec.spurious))
        found = {}
        for cell in most:
            here = rows[(intended == cell[0]) & (spurious == cell[1])]
            found[cell] = here[np.unique(self.rows.game[here], return_index=True)[1]]
        rarest = min(found, key=lambda c: len(found[c]) / most[c])
        if len(found[rarest]) < least:
            raise DrawError(
                f"{spec.name}: {len(found[rarest])} of {least} examples with {spec.intended!r} "
                f"{_yes(rarest[0])} and {spec.spurious!r} {_yes(rarest[1])}: they are too rare"
            )
        share = min(1.0, len(found[rarest]) / most[rarest])
        rng = stream("shift_admission", spec.seed, 0, 4)
        return {
            c: torch.from_numpy(rng.permutation(there)[: max(1, int(share * most[c]))]) for c, there in found.items()
        }


def _yes(answered: bool) -> str:
    return "yes" if answered else "no"


@dataclass(frozen=True)
class _Halves:
    """What fires at one site in the games that features are chosen on, and in the others."""

    chosen_on: Firing
    scored_on: Firing


class Named:
    """Features of all sites on games of their own; the best detector of any question."""

    def __init__(self, read: Read, dictionaries: Dictionaries) -> None:
        game = read.rows.game
        self._rows, self._first = read.rows, game < (int(game.max()) + 1) // 2
        self._game = game[~self._first] - game[~self._first][0]
        self._halves: dict[str, _Halves] = {}
        for site, dictionary in dictionaries.items():
            x = read.activations[site]
            halves = [encoded(dictionary, x[torch.from_numpy(of)]) for of in (self._first, ~self._first)]
            maxima = halves[0].maxima()
            self._halves[site.name] = _Halves(*(half.firing(maxima) for half in halves))
        self._found: dict[tuple[str, str], Detector | None] = {}

    def best(self, question: str, sites: list[str]) -> Detector | None:
        """Of all given sites; a feature that detects the other owner counts as well. None if none ever hits."""
        asked = dict.fromkeys([question, with_owners_exchanged(question)])
        found = [d for site in sites for q in asked if (d := self._detector(site, q)) is not None]
        return max(found, key=lambda d: d.f1, default=None)

    def _detector(self, site: str, question: str) -> Detector | None:
        if (site, question) not in self._found:
            self._found[site, question] = self._search(site, question)
        return self._found[site, question]

    def _search(self, site: str, question: str) -> Detector | None:
        truth = self._rows.answer(question)[:, None]
        best = choose(count(self._halves[site].chosen_on, SparseLabels.of(truth[self._first])))
        if best.feature[0] < 0:
            return None
        scored = count_games(best, self._halves[site].scored_on, truth[~self._first], self._game)
        return Detector(question, site, int(best.feature[0]), float(scored.f1()[0]))


class AdmissionGames:
    """Draws, reads and keeps the games of each use, once for all tasks that can share them."""

    def __init__(self, model: PreTrainedModel, dictionaries: Dictionaries, games: int, named: int) -> None:
        """`games` of each use to fit and to score probes on, `named` to name features on."""
        self._model, self._dictionaries, self._games, self._named = model, dictionaries, games, named
        self._rows: dict[tuple[object, ...], Everywhere] = {}
        self._read: dict[tuple[object, ...], Read] = {}
        self._names: dict[tuple[object, ...], Named] = {}

    def read(self, spec: BoardTaskSpec, use: Use, site: Site) -> Read:
        """Positions of one use at a site."""
        key = (*_shared(spec), use, site)
        if key not in self._read:
            if key[:-1] not in self._rows:
                self._rows[key[:-1]] = everywhere(spec, use, self._games)
            self._read[key] = Read.of(self._model, [site], self._rows[key[:-1]])
        return self._read[key]

    def named(self, spec: BoardTaskSpec) -> Named:
        """Features of all dictionaries on the games that they are named on."""
        key = _shared(spec)
        if key not in self._names:
            rows = everywhere(spec, "shift_names", self._named)
            read = Read.of(self._model, list(self._dictionaries), rows)
            self._names[key] = Named(read, self._dictionaries)
        return self._names[key]


def _shared(spec: BoardTaskSpec) -> tuple[object, ...]:
    """What tasks must have in common to share games."""
    return spec.game, spec.games, spec.parts, spec.token, spec.seed
