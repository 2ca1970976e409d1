"""Does the model use a square? The board it holds, as a linear probe reads it, is changed there (Nanda et al. 2023).

At the position that is read, the residual stream is mirrored along the direction between the probe's two states of the
square, so that the logits of the old and the new state change places. A square counts as used where this lowers the
target's log-odds further than it does for 95 % of the squares that lie on no line through the target.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from boardgames.game import label, unpack
from boardgames.linear_probe import LinearProbe, fit_probe
from boardgames.othello.dependence import next_sides
from boardgames.othello.properties import CORRECTED
from boardgames.othello.rules import OthelloPositions, random_games
from boardgames.othello.streams import stream
from boardgames.report import Positions, activations
from circuit_truth.behaviours import Behaviour
from circuits.metrics import LogOdds, measure
from saes.families import find_site
from saes.sites import Site

STATES = ("mine", "yours", "empty")
LEVEL = 0.95
_ROWS = 512  # prompts at once


@dataclass(frozen=True)
class SquareUse:
    """How far log-odds fall when the probe's square is flipped, at one site; NaN where nothing was flipped."""

    site: str
    threshold: float  # the fall that 95 % of the control squares stay below
    controls: int
    falls: tuple[Float[np.ndarray, "pairs 64"], ...]  # by behaviour, of all differing squares

    def used(self, number: int) -> Bool[np.ndarray, "pairs 64"]:
        """The differing squares of one behaviour that the model uses."""
        return np.nan_to_num(self.falls[number], nan=-np.inf) > self.threshold


def square_use(
    model: PreTrainedModel, measured: Sequence[Behaviour], calibrating: Sequence[Behaviour], games: int, seed: int
) -> SquareUse:
    """Flip every differing square of every pair, at the residual site where flips of causal squares tell most.

    The site and the threshold are chosen on `calibrating`; probes are fitted on random games of their own.
    """
    sites = [find_site(model, f"resid_{i}") for i in range(model.config.num_hidden_layers - 1)]
    positions = Positions(random_games(games, stream("circuit_truth", seed, 0)))
    truth = label(positions.replay.at(positions.mask), [CORRECTED[name] for name in STATES]).matrix
    rng = np.random.default_rng(seed)
    best: tuple[float, Site, LinearProbe, float, int] | None = None
    for site in sites:
        probe = fit_probe(activations(model, site, positions), truth, seed=seed)
        causal, control = [], []
        for behaviour in calibrating:
            others = _controls(behaviour)
            falls = flip_squares(model, site, probe, behaviour, behaviour.causal | others, rng)
            causal.append(falls[behaviour.causal])
            control.append(falls[others])
        fall, floor = np.concatenate(causal), np.concatenate(control)
        threshold = float(np.nanquantile(floor, LEVEL))
        share = float((np.nan_to_num(fall, nan=-np.inf) > threshold).mean())
        if best is None or share > best[0]:
            best = share, site, probe, threshold, int(np.isfinite(floor).sum())
    assert best is not None
    _, site, probe, threshold, controls = best
    falls = tuple(flip_squares(model, site, probe, b, b.differ, rng) for b in measured)
    return SquareUse(site.name, threshold, controls, falls)


def _controls(behaviour: Behaviour) -> Bool[np.ndarray, "pairs 64"]:
    """Squares on no line through the target."""
    row, col = np.arange(64) // 8 - behaviour.target // 8, np.arange(64) % 8 - behaviour.target % 8
    apart = (row != 0) & (col != 0) & (abs(row) != abs(col))
    return np.broadcast_to(apart, behaviour.causal.shape).copy()


def board_states(p: OthelloPositions) -> Int[np.ndarray, "rows 64"]:
    """The content of every square as an index into STATES; mine is the side that has just moved."""
    own, opponent = (unpack(side) for side in next_sides(p))  # the side to move next is "yours" but for forced passes
    again = (p.next_mover == p.mover)[:, None]
    mine, yours = np.where(again, own, opponent), np.where(again, opponent, own)
    return np.where(mine, 0, np.where(yours, 1, 2))


@torch.no_grad()
def flip_squares(
    model: PreTrainedModel,
    site: Site,
    probe: LinearProbe,
    behaviour: Behaviour,
    wanted: Bool[np.ndarray, "pairs 64"],
    rng: np.random.Generator,
) -> Float[np.ndarray, "pairs 64"]:
    """The fall of the log-odds as each square of the clean board becomes what it is in patch (where both agree, another
    content drawn at random); NaN for squares not wanted, and where the probe does not see the old content.
    """
    clean, patch = (board_states(p) for p in behaviour.positions())
    new = np.where(clean == patch, (clean + rng.integers(1, 3, clean.shape)) % 3, patch)
    examples = behaviour.examples
    pair, square = np.nonzero(wanted)
    row = torch.from_numpy(pair)
    weight, bias = probe.linear.weight / probe.std, probe.linear.bias - probe.linear.weight @ (probe.mean / probe.std)
    old_column, new_column = (torch.from_numpy(64 * states[pair, square] + square) for states in (clean, new))
    direction, offset = weight[new_column] - weight[old_column], bias[new_column] - bias[old_column]
    base = measure(model, LogOdds(), examples.clean, examples)
    found = np.full(wanted.shape, np.nan)
    for part in torch.arange(len(row)).split(_ROWS):
        chosen = examples.take(row[part])
        at = torch.arange(len(part)), chosen.position
        seen = torch.ones(len(part), dtype=torch.bool)

        def flipped(x: Tensor, part: Tensor = part, at: tuple[Tensor, Tensor] = at, seen: Tensor = seen) -> Tensor:
            x, old = x.clone(), x[at]
            x[at] = mirrored(old, direction[part], offset[part])
            seen &= (x[at] != old).any(-1)
            return x

        after = measure(model, LogOdds(), chosen.clean, chosen, {site: flipped})
        fall = (base[row[part]] - after).numpy()
        found[pair[part], square[part]] = np.where(seen.numpy(), fall, np.nan)
    return found


def mirrored(
    x: Float[Tensor, "rows d"], direction: Float[Tensor, "rows d"], offset: Float[Tensor, " rows"]
) -> Float[Tensor, "rows d"]:
    """x with the sign of `x . direction + offset` turned, by the shortest step; as it is where that is not negative."""
    gap = (x * direction).sum(-1) + offset
    return x - (2 * gap / direction.square().sum(-1)).clamp(max=0)[:, None] * direction
