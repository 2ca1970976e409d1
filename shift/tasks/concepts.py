"""Concepts of a board task for a concept bottleneck: what hangs on nothing else than the intended property does.

For the owner of c3: c3 is mine, yours, empty, just flipped, ...; for legality on b4: the contents of all its lines too.
A direction is the mean activation where the concept holds less that where it does not, on games of naming, which are
none of the task's.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from saes.families import find_site
from saes.harvest import harvest
from shift.specs import BoardTaskSpec
from shift.tasks.draws import everywhere
from shift.tasks.questions import columns, depends

_LEAST = 10  # positions with either answer, for a mean to mean anything


def concepts_of(spec: BoardTaskSpec) -> list[str]:
    """The names of all columns that depend on nothing that the intended property does not."""
    known = depends(spec.game, spec.intended)
    return [column for column in columns(spec.game) if depends(spec.game, column) <= known]


@torch.no_grad()
def board_concepts(
    model: PreTrainedModel, spec: BoardTaskSpec, games: int = 200
) -> tuple[Sequence[str], Float[Tensor, "concepts d"]]:
    """Names and directions at the task's site; concepts that (nearly) always or never hold are left out."""
    names, site = concepts_of(spec), find_site(model, spec.site)
    rows = everywhere(spec, "shift_names", games)
    mask, kept = torch.from_numpy(rows.mask), []
    start = 0
    for values in harvest(model, torch.from_numpy(rows.tokens), [site]):
        x = values[site].cpu()
        kept.append(x[mask[start : start + len(x)]])
        start += len(x)
    x, holds = torch.cat(kept), torch.from_numpy(np.stack([rows.answer(name) for name in names], axis=1)).to(kept[0])
    yes, no = holds.sum(0), (1 - holds).sum(0)
    direction = holds.T @ x / yes.clamp_min(1)[:, None] - (1 - holds).T @ x / no.clamp_min(1)[:, None]
    usual = torch.minimum(yes, no) >= _LEAST
    return [name for name, told in zip(names, usual.tolist(), strict=True) if told], direction[usual]
