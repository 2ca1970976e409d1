"""Random circuits that a found one has to beat: as many features at every site and place, and the same error nodes.

* *uniform*: features are drawn evenly from those that are active at the site and place, the circuit's own among them.
* *matched*: every feature of the circuit, in random order, is replaced by another one that is active at its site and
  place, outside the circuit and not taken yet: an even draw from the NEAREST ones in the distance
  |log a - log a'| + |log c - log c'|, a the number of positions at which a feature is active and c its mean absolute
  change (circuits.activity), on the examples that found the circuit. A change of zero counts as the smallest other one
  there. Where too few features lie outside, the circuit keeps some of its own, drawn evenly, to make up the number.

Both draw circuits that move as many numbers at the same places; the matched ones also move them about as far and as
often, so what they lack is only that the method chose them.
"""

from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from circuits.activity import Activity
from circuits.node_sets import Nodes, Space

Draw = Literal["uniform", "matched"]
NEAREST = 10


def random_circuit(kind: Draw, space: Space, circuit: Nodes, activity: Activity, seed: int | list[int]) -> Nodes:
    """One random circuit; the same seed gives the same one."""
    rng = np.random.default_rng(seed)
    errors = space.is_error(circuit)
    drawn = [circuit[errors]]
    for number, site in enumerate(space.features):
        active = activity.on(site)[:, :-1].numpy()
        for place in range(space.places):
            here = (circuit[:, 0] == number) & (circuit[:, 1] == place) & ~errors
            own = circuit[here, 2]
            if not len(own):
                continue
            if kind == "uniform":
                pool = np.union1d(active[place].nonzero()[0], own)
                features = rng.choice(pool, len(own), replace=False)
            else:
                outside = np.setdiff1d(active[place].nonzero()[0], own)
                positions, change = activity.positions[site][place].numpy(), activity.mean_change(site)[place].numpy()
                features = _matched(own, outside, _coordinates(positions, change), rng)
            rows = np.full((len(features), 3), (number, place, 0))
            rows[:, 2] = features
            drawn.append(rows)
    return np.concatenate(drawn)


def _coordinates(
    positions: Float[np.ndarray, " nodes"], change: Float[np.ndarray, " nodes"]
) -> Float[np.ndarray, "nodes 2"]:
    """Logarithms of activity and size of change: nodes are compared by factors."""
    moved = change[change > 0]
    return np.log(np.stack([np.maximum(positions, 1), np.maximum(change, moved.min() if len(moved) else 1.0)], 1))


def _matched(
    own: Int[np.ndarray, " n"],
    outside: Int[np.ndarray, " candidates"],
    at: Float[np.ndarray, "nodes 2"],
    rng: np.random.Generator,
) -> Int[np.ndarray, " n"]:
    """One stand-in for each of `own` from `outside`; some of `own` themselves where those are too few."""
    order = rng.permutation(own)
    free, found = outside, []
    for feature in order[: len(outside)]:
        distance = np.abs(at[free] - at[feature]).sum(1)
        near = np.argsort(distance, kind="stable")[:NEAREST]
        pick = rng.choice(near)
        found.append(free[pick])
        free = np.delete(free, pick)
    return np.concatenate([np.array(found, dtype=own.dtype), order[len(outside) :]])
