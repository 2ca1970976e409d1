"""Labelled prompts that are not the task's: what names features may also train probes, and what these could buy.

SHIFT forbids labels that tell the two properties apart on the task's own data. Whoever has an oracle that names
features has labelled data of another kind, and should say what could be had from it directly.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from shift.judge import JudgeError
from shift.specs import BoardTaskSpec
from shift.tasks.draws import DrawError, Drawn, concatenate, draw


@dataclass(frozen=True)
class Labelled:
    """Prompts with both properties labelled, none of them the task's; no combination is more common than it happens."""

    tokens: Int[Tensor, "examples length"]
    position: Int[Tensor, " examples"]
    intended: Bool[Tensor, " examples"]
    spurious: Bool[Tensor, " examples"]

    def equal_cells(self, seed: int = 0) -> "Labelled":
        """As many prompts of each of the four combinations, drawn from all; JudgeError if one is absent."""
        return self._rows(self.equal_rows(seed))

    def equal_rows(self, seed: int = 0, most: int | None = None) -> Int[Tensor, " chosen"]:
        """The prompts of equal_cells by number, and at most `most` of each combination."""
        rng = np.random.default_rng(seed)
        cells = [
            np.flatnonzero(((self.intended == a) & (self.spurious == b)).numpy())
            for a in (False, True)
            for b in (False, True)
        ]
        least = min(map(len, cells))
        if not least:
            raise JudgeError(f"the four combinations of labels have {[len(c) for c in cells]} prompts: each needs some")
        least = least if most is None else min(least, most)
        return torch.from_numpy(np.concatenate([rng.choice(cell, least, replace=False) for cell in cells]))

    def halves(self) -> tuple["Labelled", "Labelled"]:
        """Every second prompt, and the others; JudgeError for fewer than two."""
        if len(self.tokens) < 2:
            raise JudgeError(
                f"{len(self.tokens)} labelled prompts: at least 2 are needed, and some hundreds to tell much"
            )
        rows = torch.arange(len(self.tokens))
        return self._rows(rows[::2]), self._rows(rows[1::2])

    def _rows(self, rows: Int[Tensor, " chosen"]) -> "Labelled":
        return Labelled(self.tokens[rows], self.position[rows], self.intended[rows], self.spurious[rows])


def labelled_board(spec: BoardTaskSpec, examples: int = 4000) -> Labelled:
    """One position of each of so many games, drawn as the task draws them but from games of their own.

    DrawError if there are none; fewer than asked for if a file has no more.
    """
    drawn, found, count = Drawn(), [], 0
    for block in range(examples):
        some = draw(spec, "shift_names", block, 1)  # features are named on the games without this 1
        if some is None or count >= examples:
            break
        found.append(drawn.new(some))
        count += len(found[-1])
    if not count:
        raise DrawError(f"{spec.name}: no games to name features on")
    whole = concatenate(found)[:examples]
    return Labelled(
        torch.from_numpy(whole.tokens.astype(np.int64)),
        torch.from_numpy(whole.position),
        torch.from_numpy(whole.intended),
        torch.from_numpy(whole.spurious),
    )
