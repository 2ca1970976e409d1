"""Behaviours of Othello whose causes the rules fix: a square that is legal through one line, in several pairs each."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from tqdm import tqdm
from transformers import PreTrainedModel

from boardgames.game import unpack
from boardgames.othello.counterfactuals import Counterfactuals, counterfactuals
from boardgames.othello.dependence import causal_squares, differing, positions_asked
from boardgames.othello.rules import CENTRE, DIRECTIONS, OthelloPositions, square_name
from boardgames.othello.streams import stream
from circuits.examples import Examples
from circuits.metrics import LogOdds, measure
from kibitz.chain.circuit import as_examples
from kibitz.circuit_problem import LINES


@dataclass(frozen=True)
class Behaviour:
    """A square that is legal through one line in the clean games and illegal in the patch games.

    `differ` and `causal` are squares whose content is not the same, and those of them that the rules make causal; the
    target is neither. `fall` is what the log-odds of playing it lose from clean to patch.
    """

    target: int
    direction: tuple[int, int]
    pairs: Counterfactuals
    differ: Bool[np.ndarray, "pairs 64"]
    causal: Bool[np.ndarray, "pairs 64"]
    fall: Float[np.ndarray, " pairs"]

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def name(self) -> str:
        line = next(name for name, step in LINES.items() if step == self.direction)
        return f"{square_name(self.target)} {line}"

    @property
    def examples(self) -> Examples:
        return as_examples(self.pairs)

    def positions(self) -> tuple[OthelloPositions, OthelloPositions]:
        """Clean and patch, where the target is asked for."""
        return positions_asked(self.pairs)

    def take(self, rows: slice) -> "Behaviour":
        """Some of its pairs."""
        return Behaviour(
            self.target, self.direction, _rows(self.pairs, rows), self.differ[rows], self.causal[rows], self.fall[rows]
        )


def _rows(pairs: Counterfactuals, rows: slice | Bool[np.ndarray, " pairs"]) -> Counterfactuals:
    return Counterfactuals(pairs.target, pairs.clean[rows], pairs.patch[rows], pairs.ply[rows], pairs.changed_ply[rows])


def behaviours(model: PreTrainedModel, count: int, pairs: int, least_fall: float, seed: int) -> list[Behaviour]:
    """`count` behaviours of `pairs` pairs each, drawn from all squares and lines.

    A pair counts where the model's log-odds fall by `least_fall` nats or more, some differing square is causal, and
    some is not; a square and line that random games show too rarely are passed over.
    """
    squares = [s for s in range(64) if s not in CENTRE]
    every = [(target, step) for target in squares for step in DIRECTIONS]
    found: list[Behaviour] = []
    rng = stream("circuit_truth", seed)
    with tqdm(total=count, desc="behaviours", unit="behaviour") as bar:
        for i in rng.permutation(len(every)):
            target, step = every[i]
            made = _behaviour(model, target, step, pairs, least_fall, stream("circuit_truth", seed, 1 + int(i)))
            if made is not None:
                found.append(made)
                bar.update()
            if len(found) == count:
                return found
    raise ValueError(f"{len(found)} behaviours of {pairs} pairs, {count} asked for: ask for fewer")


def _behaviour(
    model: PreTrainedModel,
    target: int,
    step: tuple[int, int],
    count: int,
    least_fall: float,
    rng: np.random.Generator,
) -> Behaviour | None:
    try:
        drawn = counterfactuals(2 * count, target, step, rng, attempts=8)
    except ValueError:
        return None
    clean, patch = positions_asked(drawn)
    differ, causal = unpack(differing(clean, patch)), causal_squares(clean, patch, target, step)
    differ[:, target] = False
    examples = as_examples(drawn)
    assert examples.patch is not None
    with torch.no_grad():
        fall = measure(model, LogOdds(), examples.clean, examples) - measure(model, LogOdds(), examples.patch, examples)
    size = fall.cpu().numpy()
    good = (size >= least_fall) & causal.any(1) & (differ & ~causal).any(1)
    if good.sum() < count:
        return None
    keep = np.flatnonzero(good)[:count]
    return Behaviour(target, step, _rows(drawn, keep), differ[keep], causal[keep], size[keep])
