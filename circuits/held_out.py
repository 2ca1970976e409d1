"""Examples that find a circuit and examples that measure it, kept apart."""

import torch
from jaxtyping import Bool
from torch import Tensor

from circuits.examples import Examples


class MeasureError(ValueError):
    """A measurement that cannot be made as it was asked for."""


def also_in(testing: Examples, finding: Examples) -> Bool[Tensor, " testing"]:
    """Which examples are among `finding` too: the same prompts, padding aside, read at the same position."""
    known = set(_keys(finding))
    return torch.tensor([key in known for key in _keys(testing)], dtype=torch.bool)


def unseen(testing: Examples, finding: Examples) -> Examples:
    """The examples that are not among `finding`."""
    return testing.take((~also_in(testing, finding)).nonzero().flatten())


def check_apart(testing: Examples, finding: Examples) -> None:
    """MeasureError if an example would measure what it found."""
    again = int(also_in(testing, finding).sum())
    if again:
        raise MeasureError(
            f"{again} of the {len(testing)} test examples also found the circuit: leave them out "
            "(circuits.held_out.unseen), or ask for an in-sample measurement (overlap=True)"
        )


def _keys(examples: Examples) -> list[tuple[tuple[int, ...], tuple[int, ...], int]]:
    keys = []
    for i, (end, position) in enumerate(zip(examples.ends.tolist(), examples.position.tolist(), strict=True)):
        patch = () if examples.patch is None else tuple(examples.patch[i, :end].tolist())
        keys.append((tuple(examples.clean[i, :end].tolist()), patch, position))
    return keys
