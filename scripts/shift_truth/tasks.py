"""The pool of tasks: the pairs of squares that linear probes read best, the depth dial, consequences against state.

Which pairs are taken is decided on games of their own (the stream `shift_screening`), so that what admission measures
of them afterwards is not the luck of the choice.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from boardgame_sweep.plan import ScaleName
from transformers import PreTrainedModel

from boardgames.othello.properties import SQUARES
from circuits.feature_acts import Dictionaries
from saes.families import find_site
from saes.sites import Site
from shift.admission import Admission, Admissions, NotDrawn
from shift.admission_games import Read
from shift.probe import fit_head, predict
from shift.specs import BoardTaskSpec
from shift.tasks.draws import DrawError, everywhere
from shift.tasks.families import consequences, depth_dial, pair_family, unrelated_owners

Family = Literal["pair", "depth", "consequence"]
TARGET = "b4"
"""the square of the consequence tasks"""


@dataclass(frozen=True)
class PoolScale:
    """How many tasks, and the sizes of their sets."""

    pairs: int = 20
    owners: int = 2
    """cues of the consequence tasks, beside the age of the game"""
    repeats: int = 2
    """tasks at most that share an intended square, and as many a spurious one"""
    train: int = 4000
    test: int = 1000
    cell: int = 1000
    seed: int = 0


POOLS: Mapping[ScaleName, PoolScale] = {"small": PoolScale(), "paper": PoolScale(pairs=100)}


@dataclass(frozen=True)
class PoolTask:
    """A task of the pool, its family, and what admission says."""

    family: Family
    admission: Admission | NotDrawn

    @property
    def spec(self) -> BoardTaskSpec:
        return self.admission.spec


def task_pool(
    model: PreTrainedModel, dictionaries: Dictionaries, site: str = "resid_2", scale: PoolScale | None = None
) -> list[PoolTask]:
    """Every task with its measurements, those that fail too: nobody is left out for failing."""
    scale = scale or PoolScale()
    read_by = screen(model, find_site(model, site), seed=scale.seed)
    admissions = Admissions(model, dictionaries, cell=scale.cell)
    pool = []
    for family, spec in pool_specs(read_by, site, scale):
        try:
            pool.append(PoolTask(family, admissions(spec)))
        except DrawError as error:
            pool.append(PoolTask(family, NotDrawn(spec, (str(error),))))
    return pool


def pool_specs(
    accuracy: Mapping[str, float], site: str, scale: PoolScale | None = None
) -> Iterator[tuple[Family, BoardTaskSpec]]:
    """The declared tasks; `accuracy` of a probe for the owner of every square, as `screen` gives it."""
    scale = scale or PoolScale()
    cues = sorted(unrelated_owners(TARGET), key=lambda s: -accuracy[s])[: scale.owners]
    families: dict[Family, list[BoardTaskSpec]] = {
        "pair": best_pairs(list(pair_family(seed=scale.seed)), accuracy, scale.pairs, scale.repeats),
        "depth": list(depth_dial()),
        "consequence": list(consequences(TARGET, cues)),
    }
    sizes = {"site": site, "train": scale.train, "test": scale.test, "cell": scale.cell, "seed": scale.seed}
    for family, specs in families.items():
        for spec in specs:
            yield family, replace(spec, **sizes)


def best_pairs(
    specs: Sequence[BoardTaskSpec], accuracy: Mapping[str, float], count: int, repeats: int
) -> list[BoardTaskSpec]:
    """The pairs of the largest smaller accuracy; a square is intended in at most `repeats`, and as often spurious."""
    chosen: list[BoardTaskSpec] = []
    used: Counter[tuple[str, str]] = Counter()
    for spec in sorted(specs, key=lambda s: -min(accuracy[_square(s.intended)], accuracy[_square(s.spurious)])):
        roles = ("intended", _square(spec.intended)), ("spurious", _square(spec.spurious))
        if len(chosen) < count and all(used[role] < repeats for role in roles):
            used.update(roles)
            chosen.append(spec)
    return chosen


@torch.no_grad()
def screen(
    model: PreTrainedModel,
    site: Site,
    games: int = 3000,
    each: int = 1000,
    plies: tuple[int, int] = (9, 51),
    seed: int = 0,
) -> dict[str, float]:
    """Balanced accuracy of a linear probe for the owner of every square where it is taken, on unseen games.

    `each`: positions of each label, from different games, to fit on and again to score on. NaN where fewer exist.
    """
    any_spec = BoardTaskSpec("mine a1", "mine h7", plies=plies, seed=seed)
    read = Read.of(model, [site], everywhere(any_spec, "shift_screening", games))
    positions, x = read.rows, read.activations[site]
    first, rng = positions.game < games // 2, np.random.default_rng(seed)
    order = rng.permutation(np.flatnonzero(positions.usable(any_spec)))
    accuracy = {}
    for square in SQUARES:
        taken, mine = (positions.answer(f"{state} {square}")[order] for state in ("occupied", "mine"))
        parts = []
        for half in (first[order], ~first[order]):
            found = [order[half & taken & (mine == yes)] for yes in (False, True)]
            found = [f[np.unique(positions.game[f], return_index=True)[1]] for f in found]
            size = min(each, *map(len, found))
            parts.append([torch.from_numpy(rng.permutation(f)[:size]) for f in found])
        (fit, unseen), label = parts, torch.tensor([False, True])
        if min(len(half[0]) for half in parts) < 50:
            accuracy[square] = float("nan")
            continue
        with torch.enable_grad():
            head = fit_head(x[torch.cat(fit)], label.repeat_interleave(len(fit[0])))
        right = predict(head, x[torch.cat(unseen)]) == label.repeat_interleave(len(unseen[0]))
        accuracy[square] = float(right.float().mean())
    return accuracy


def _square(question: str) -> str:
    return question.split()[-1]
