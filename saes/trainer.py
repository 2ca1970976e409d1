"""One training step, whatever is trained: it knows no architecture, no game and no logger.

A trainer holds a stack of N dictionaries of one shape (one, or a sweep over coefficients, p, k or seeds), trained on
the same batches as one problem. The loop around it stands in saes.training.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import Any, Generic, Literal, TypeVar

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from saes.architectures import AffineDictionary, stack, unstack
from saes.architectures.affine import SHARED, join_parts, split
from saes.files import FileError
from saes.initialise import Normalise, geometric_median
from saes.measured import Measured
from saes.objective import Batch, Loss, Objective
from saes.optim import UnitNormAdam
from saes.penalties import Schedule
from saes.ranks import ALONE, Ranks
from saes.schedules import Trapezoid


@dataclass(frozen=True)
class TrainConfig:
    """What one run of the loop does, whatever it trains."""

    steps: int = 5000
    learning_rate: float = 1e-3
    warmup: float = 0.02
    """share of the steps over which the learning rate rises"""
    decay: float = 0.2
    """share of the steps, the last ones, over which the learning rate falls to 0"""
    decay_shape: Literal["linear", "cosine"] = "linear"
    clip: float | None = 1.0
    """largest gradient norm, after the part along unit decoder rows has been removed"""
    betas: tuple[float, float] = (0.9, 0.999)
    normalise: Normalise = "unit"
    """scale of the activations in training (unit mean square norm, mean norm sqrt(d), their own); the scale is folded
    into the finished dictionary"""
    first_bias: Literal["mean", "geometric_median", "zero"] = "mean"
    """what b_dec starts from"""
    compute: Literal["float32", "bfloat16"] = "float32"
    """of the products; weights, biases, thresholds and optimiser state keep the dictionary's own type"""
    schedule: Schedule = "exact"
    """`dictionary_learning` replicates the original: the learning rate is 0 at step 0"""

    def __post_init__(self) -> None:
        for name in ("warmup", "decay"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}: choose a share of the steps between 0 and 1")
        self.rate()

    def rate(self) -> Trapezoid:
        """The learning rate's multiplier by step."""
        warmup, decay = (round(share * self.steps) for share in (self.warmup, self.decay))
        first = 0 if self.schedule == "dictionary_learning" else 1
        return Trapezoid(self.steps, warmup, decay, self.decay_shape, first)


_SPLIT = ("dictionary", "optimizer", "objective")  # parts of a state that have numbers of each feature

A = TypeVar("A", bound=AffineDictionary)


class Trainer(Generic[A]):
    """A stack of dictionaries, its objective and its optimiser."""

    def __init__(
        self,
        dictionary: A | Sequence[A],
        objective: Objective,
        config: TrainConfig,
        ranks: Ranks = ALONE,
        device: str | torch.device | None = None,
    ) -> None:
        """`dictionary`: one, or the members of a stack. They are copied: finish() hands out the trained ones.

        With several `ranks` each process makes a trainer of the same dictionaries and gives it its own rows; all of
        them call the same methods in the same order. `device`: where this rank's features go; by default they stay.
        """
        members = [dictionary] if isinstance(dictionary, AffineDictionary) else list(dictionary)
        self.stack: A = split(stack(members), ranks).to(device)
        self.objective, self.config, self.ranks = objective, config, ranks
        self.stack.requires_grad_(True)
        unit_rows = [self.stack.W_dec] if self.stack.config.unit_norm else []
        self.optimizer = UnitNormAdam(
            self.stack.parameters(),
            unit_rows,
            clip=config.clip,
            shared=[p for name, p in self.stack.named_parameters() if name in SHARED],
            ranks=ranks,
            lr=config.learning_rate,
            betas=config.betas,
        )
        self._rate = config.rate()
        self.scale_in = self.scale_out = torch.ones(())
        self.steps_done = 0

    @property
    def dictionary(self) -> A:
        """The first member as it is now: a copy, in units of normalised activations."""
        return unstack(self.stack)[0]

    @torch.no_grad()
    def initialise(self, sample: Batch) -> None:
        """Set the scales and the decoder bias from sample activations: those of rank 0."""
        d = self.stack
        d.check_width(sample.inputs.shape[-1])
        self.scale_in = d.scale_of(sample.inputs, self.config.normalise)
        self.scale_out = self.scale_in
        if sample.targets is not sample.inputs:
            self.scale_out = d.scale_of(sample.targets, self.config.normalise)
        if self.config.first_bias != "zero":
            median = self.config.first_bias == "geometric_median"
            targets = sample.targets / self.scale_out
            centre = geometric_median(targets) if median else targets.mean(0)
            d.b_dec.copy_(self.ranks.from_first(centre.to(d.b_dec)).expand_as(d.b_dec))
        self.scale_in, self.scale_out = map(self.ranks.from_first, (self.scale_in, self.scale_out))

    def step(self, batch: Batch) -> Loss:
        """One optimiser step on activations in their own units; of several ranks each gives rows of its own."""
        batch = self._scaled(batch)
        self.optimizer.param_groups[0]["lr"] = self.config.learning_rate * self._rate(self.steps_done)
        with self._precision(batch):
            loss = self.objective(self.stack, batch, self.steps_done)
        loss.total.sum().backward()
        self.ranks.add_gradients(list(self.stack.parameters()))
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.stack.constrain()
        self.objective.observe(self.stack, loss, self.steps_done)
        self.objective.after_step(loss, self.optimizer, self.steps_done)
        self.steps_done += 1
        return loss._replace(total=loss.total.detach(), terms={name: t.detach() for name, t in loss.terms.items()})

    @torch.no_grad()
    def measure(self, batch: Batch) -> list[dict[str, float]]:
        """Numbers of each member for a log, from a fresh evaluation; nothing moves."""
        batch = self._scaled(batch)
        with self._precision(batch):
            loss = self.objective(self.stack, batch, self.steps_done)
        left = self.ranks.sum_rows(loss.forward.residual.square().sum((1, 2)))
        centre = self.ranks.mean_rows(batch.targets.mean(0))
        whole = self.ranks.sum_rows((batch.targets - centre).square().sum())
        numbers: dict[str, float | Tensor] = {
            **loss.terms,
            "loss": loss.total,
            "l0": loss.encoded.features.l0(),
            "variance_explained": 1 - left / whole,
            **self.objective.numbers(),
        }
        columns = {name: torch.as_tensor(v).double().cpu().expand(len(left)) for name, v in numbers.items()}
        return [{name: float(v[n]) for name, v in columns.items()} for n in range(len(left))]

    def finish(self) -> list[A]:
        """The trained dictionaries in the units of the activations, frozen; the trainer stays as it is.

        Of several ranks the first has them, and where features were split it has them in the host's memory; the
        others have none.
        """
        self.objective.numbers()  # a step that turned out not to be exact is refused here at the latest
        singles = join_parts(self.stack)
        for dictionary in singles:
            dictionary.fold_scale(self.scale_in.to(dictionary.b_dec), self.scale_out.to(dictionary.b_dec))
        return [dictionary.eval().requires_grad_(False) for dictionary in singles]

    def _scaled(self, batch: Batch) -> Batch:
        """The rows of this data rank, in the units of training: what its feature ranks drew, together."""
        inputs = self.ranks.rows_of_features(batch.inputs)
        same = batch.targets is batch.inputs
        whole = Batch(inputs, inputs if same else self.ranks.rows_of_features(batch.targets))
        return whole.scaled(self.scale_in, self.scale_out)

    def _precision(self, batch: Batch) -> AbstractContextManager[Any]:
        half = self.config.compute == "bfloat16"
        return torch.autocast(batch.inputs.device.type, torch.bfloat16, enabled=half)

    def state_dict(self) -> dict[str, Any]:
        """Everything that training depends on. All ranks call it; what rank 0 gets is whole, fit for any number."""
        return {
            "config": asdict(self.config),
            **self._by_feature(
                {
                    "dictionary": self.stack.state_dict(),
                    "optimizer": self.optimizer.state_dict(),
                    "objective": self._objective_state(),
                },
                self.ranks.whole,
            ),
            "scales": [self.scale_in, self.scale_out],
            "steps_done": self.steps_done,
            "feature_ranks": self.ranks.feature_size,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """A whole state, on every rank."""
        if state["config"] != asdict(self.config):
            raise FileError("the checkpoint belongs to another training configuration: choose another folder")
        own = self._by_feature({name: state[name] for name in _SPLIT}, self.ranks.part)
        if "measured" in own["objective"]:
            division = state.get("feature_ranks", 1), self.ranks.feature_size  # older states are of one process
            own["objective"]["measured"] = Measured.divided(own["objective"]["measured"], *division)
        # the file was read into the host's memory; modules and optimisers move what they load by themselves
        device = self.stack.W_dec.device
        own["objective"], scales = pytree.tree_map_only(
            Tensor, lambda t: t.to(device), (own["objective"], state["scales"])
        )
        self.stack.load_state_dict(own["dictionary"])
        self.optimizer.load_state_dict(own["optimizer"])
        self.objective.load_state_dict(own["objective"])
        self.scale_in, self.scale_out = scales
        self.steps_done = state["steps_done"]

    def _objective_state(self) -> dict[str, Any]:
        state = self.objective.state_dict()
        if self.ranks.size > 1 and "measured" in state:
            state["measured"] = Measured.for_all(state["measured"], self.ranks, self.stack.W_dec.device)
        return state

    def _by_feature(self, state: dict[str, Any], change: Callable[[Tensor], Tensor]) -> dict[str, Any]:
        """The state with `change` applied to every tensor that has a number for each feature (axis 1)."""
        parameters = [name for name, _ in self.stack.named_parameters()]
        split_up = [name not in SHARED for name in parameters]
        dictionary = {
            name: change(t) if name in parameters and name not in SHARED else t
            for name, t in state["dictionary"].items()
        }
        moments = {
            number: {key: change(t) if split_up[number] and t.dim() else t for key, t in of_one.items()}
            for number, of_one in state["optimizer"]["state"].items()
        }
        idle = state["objective"].get("idle")
        return {
            "dictionary": dictionary,
            "optimizer": {**state["optimizer"], "state": moments},
            "objective": {**state["objective"], "idle": None if idle is None else change(idle)},
        }
