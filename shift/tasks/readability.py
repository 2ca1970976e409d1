"""How far a property can be read off the words of an Othello transcript, with no board tracked: the depth of a cue.

Three linear readouts of pooled features that every token has by itself: which squares were played; by which side (the
one that has just moved, if the plies differ by an even number: no pass is known of); and how many plies ago. Each also
sees the last move and the ply. The best of the three is what erasing words could hope to remove.
"""

from dataclasses import asdict, dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from boardgames.othello.rules import MAX_PLIES
from boardgames.othello.transcript import PAD, VOCABULARY
from shift.probe import fit_head, predict
from shift.specs import BoardTaskSpec, SpecError
from shift.task import Positions, Tokens
from shift.tasks.draws import CELLS, Drawn, collect


@dataclass(frozen=True)
class Readability:
    """Accuracy of each readout on held-out games in which half of the answers are yes."""

    played: float
    by_side: float
    by_age: float

    @property
    def best(self) -> float:
        return max(asdict(self).values())


def token_readability(spec: BoardTaskSpec, examples: int = 4000) -> Readability:
    """Of the spurious property, on games of admission; half of them fit the readouts and half score them.

    The cells are equally large, so that what tells A does not help with B.
    """
    if spec.game != "othello":
        raise SpecError(f"readability of tokens is measured for Othello, not for {spec.game}")
    drawn = collect(spec, "shift_admission_balanced", dict.fromkeys(CELLS, examples // 4), Drawn())
    label = torch.from_numpy(drawn.spurious)
    half = slice(len(drawn) // 2), slice(len(drawn) // 2, None)
    accuracy = []
    for table in token_features(drawn.tokens, drawn.position):
        features = table[:, table.any(0)]
        head = fit_head(features[half[0]], label[half[0]], weight_decay=0.1)
        right = predict(head, features[half[1]]) == label[half[1]]
        accuracy.append(float(right.float().mean()))
    return Readability(*accuracy)


def token_features(
    tokens: Int[np.ndarray, "games length"], position: Int[np.ndarray, " games"]
) -> tuple[Float[Tensor, "games played"], Float[Tensor, "games side"], Float[Tensor, "games age"]]:
    """Zeros and ones: squares played; squares played by either side; squares played so many plies ago.

    The columns do not depend on the games, so what is fitted on some can be asked of others.
    """
    games, length = len(tokens), MAX_PLIES
    row, place = np.nonzero(tokens != PAD)
    square, age = tokens[row, place], position[row] - place
    last = np.zeros((games, VOCABULARY + length), np.float32)
    last[np.arange(games), tokens[np.arange(games), position]] = 1
    last[np.arange(games), VOCABULARY + position] = 1
    found = []
    for kind, kinds in ((np.zeros_like(age), 1), (age % 2, 2), (age, length)):
        table = np.zeros((games, VOCABULARY * kinds), np.float32)
        table[row, square * kinds + kind] = 1
        found.append(torch.from_numpy(np.concatenate([table, last], axis=1)))
    return found[0], found[1], found[2]


def token_tables(tokens: Tokens, position: Positions) -> tuple[Tensor, ...]:
    """token_features of prompts, as a task hands them out (`ShiftTask.token_local`)."""
    return token_features(tokens.numpy(), position.numpy())
