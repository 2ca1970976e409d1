"""What a dictionary is trained on: an objective computes, and moves its own state only in observe()."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from saes.dictionary import Dictionary
from saes.penalties import Penalty


@dataclass(frozen=True)
class Batch:
    """Rows to train on: what the dictionary reads and what it has to write (the same tensor for an SAE)."""

    inputs: Float[Tensor, "batch d_in"]
    targets: Float[Tensor, "batch d_out"]

    def scaled(self, scale: float) -> "Batch":
        """The batch divided by `scale`; the caller's tensors are left alone."""
        inputs = self.inputs / scale
        return Batch(inputs, inputs if self.targets is self.inputs else self.targets / scale)


class Loss(NamedTuple):
    """One evaluation of an objective."""

    total: Float[Tensor, ""]
    terms: dict[str, Tensor]
    features: Float[Tensor, "batch f"]
    reconstruction: Float[Tensor, "batch d_out"]


@runtime_checkable
class Objective(Protocol):
    """A loss with its moving parts."""

    def __call__(self, dictionary: Dictionary, batch: Batch, step: int) -> Loss:
        """Pure: evaluate it as often as you like."""
        ...

    def observe(self, loss: Loss, step: int) -> None:
        """Once per optimiser step; the only place where state moves."""
        ...

    def numbers(self) -> dict[str, float]:
        """What a log shows of the state."""
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


class SparseReconstruction:
    """mean_b ||target - reconstruction||^2 plus a penalty on the features."""

    def __init__(self, penalty: Penalty) -> None:
        self.penalty = penalty

    def __call__(self, dictionary: Dictionary, batch: Batch, step: int) -> Loss:
        features = dictionary.encode(batch.inputs)
        reconstruction = dictionary.decode(features)
        error = (batch.targets - reconstruction).square().sum(-1).mean()
        penalty = self.penalty(features, step)
        return Loss(error + penalty, {"error": error, "penalty": penalty}, features, reconstruction)

    def observe(self, loss: Loss, step: int) -> None:
        self.penalty.observe(loss.features, step)

    def numbers(self) -> dict[str, float]:
        return self.penalty.numbers()

    def state_dict(self) -> dict[str, Any]:
        return self.penalty.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.penalty.load_state_dict(state)
