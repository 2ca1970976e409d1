"""A board task from its spec: ambiguous sets now, balanced ones from other games when the seal is opened.

The classifier reads one position of every game. A set's games come from a stream of its own; the balanced stream is
numbered by the frozen verdicts (`Opening.key`), and holds neither a game nor a board of the ambiguous sets.
"""

from copy import deepcopy

import numpy as np
import torch

from boardgames.othello.streams import Use
from saes.sites import Site
from shift.reading import Reading
from shift.specs import BoardTaskSpec, SpecError
from shift.task import Ambiguous, Balanced, BalancedSplits, Opening, Sealed, ShiftTask
from shift.tasks.draws import CELLS, Drawn, Examples, collect
from shift.tasks.questions import spoken
from shift.tasks.readability import token_tables


def board_task(spec: BoardTaskSpec, site: Site) -> ShiftTask:
    """The task; `site` is the spec's, found in the model."""
    if site.name != spec.site:
        raise SpecError(f"site {site.name} was given to a task that reads {spec.site}")
    drawn = Drawn()
    train, test = ambiguous_sets(spec, drawn)

    def generate(opening: Opening) -> BalancedSplits:
        # a copy, so that opening it again draws the same
        return balanced_sets(spec, deepcopy(drawn), "shift_balanced", spec.cell, opening.key(spec.name))

    titles = spoken(spec.intended), spoken(spec.spurious)
    return ShiftTask(
        spec.name,
        *titles,
        Reading(site),
        train,
        test,
        Sealed(spec.name, generate),
        token_local=token_tables if spec.game == "othello" else None,
    )


def ambiguous_sets(spec: BoardTaskSpec, drawn: Drawn, use: Use = "shift_ambiguous") -> tuple[Ambiguous, Ambiguous]:
    """(train, test) where A and B agree, together half of each label."""
    each = (spec.train + spec.test) // 2
    both = collect(spec, use, {(False, False): each, (True, True): each}, drawn)
    first, second = (
        Ambiguous(*_prompts(part), torch.from_numpy(part.intended)) for part in (both[: spec.train], both[spec.train :])
    )
    return first, second


def balanced_sets(spec: BoardTaskSpec, drawn: Drawn, use: Use, cell: int, *key: int) -> BalancedSplits:
    """`cell` examples of each cell in train, and as many in test; the cells lie one after the other."""
    whole = collect(spec, use, dict.fromkeys(CELLS, 2 * cell), drawn, *key)
    members = [np.flatnonzero(whole.in_cell(c)) for c in CELLS]
    halves = (whole[np.concatenate([m[half] for m in members])] for half in (slice(cell), slice(cell, None)))
    return BalancedSplits(
        *(
            Balanced(*_prompts(part), torch.from_numpy(part.intended), torch.from_numpy(part.spurious))
            for part in halves
        )
    )


def _prompts(examples: Examples) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens as far as anything is read, and where."""
    length = int(examples.position.max()) + 1
    return torch.from_numpy(examples.tokens[:, :length].astype(np.int64)), torch.from_numpy(examples.position)
