"""The one training loop: it knows no architecture, no game and no logger; several sites share one stream of batches."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from saes.architectures import ReLUDictionary
from saes.buffer import ActivationBuffer, Activations
from saes.files import FileError, read_state, write_state
from saes.objective import Batch, Loss, Objective
from saes.optim import UnitNormAdam
from saes.recorder import Recorder, Silent
from saes.schedules import Trapezoid
from saes.sites import Site


@dataclass(frozen=True)
class TrainConfig:
    """What one run of the loop does, whatever it trains."""

    steps: int = 5000
    learning_rate: float = 1e-3
    warmup: int = 100
    """steps of linear warm-up of the learning rate"""
    decay: int = 1000
    """last steps, over which the learning rate falls linearly to 0"""
    clip: float = 1.0
    """largest gradient norm"""
    normalise: bool = True
    """train on activations of unit mean square norm; the scale is folded into the finished dictionary"""

    def __post_init__(self) -> None:
        Trapezoid(self.steps, self.warmup, self.decay)


class Trainer:
    """One dictionary, its objective and its optimiser."""

    def __init__(self, dictionary: ReLUDictionary, objective: Objective, config: TrainConfig) -> None:
        self.dictionary, self.objective, self.config = dictionary, objective, config
        self.optimizer = UnitNormAdam(dictionary.parameters(), [dictionary.W_dec], lr=config.learning_rate)
        self.schedule = Trapezoid(config.steps, config.warmup, config.decay)
        self.scale = 1.0
        self.steps_done = 0

    @torch.no_grad()
    def initialise(self, sample: Tensor) -> None:
        """Set the scale and the decoder bias (the mean) from sample activations [N, D]."""
        self.dictionary.check_width(sample.shape[-1])
        if self.config.normalise:
            self.scale = float(sample.square().sum(-1).mean().sqrt())
        self.dictionary.b_dec.copy_(sample.mean(0) / self.scale)

    def step(self, batch: Batch) -> Loss:
        """One optimiser step on activations in their own units."""
        batch = batch.scaled(self.scale)
        self.optimizer.param_groups[0]["lr"] = self.config.learning_rate * self.schedule(self.steps_done)
        loss = self.objective(self.dictionary, batch, self.steps_done)
        loss.total.backward()
        nn.utils.clip_grad_norm_(self.dictionary.parameters(), self.config.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.objective.observe(loss, self.steps_done)
        self.steps_done += 1
        return loss

    @torch.no_grad()
    def measure(self, batch: Batch) -> dict[str, float]:
        """Numbers for a log, from a fresh evaluation; nothing moves."""
        batch = batch.scaled(self.scale)
        loss = self.objective(self.dictionary, batch, self.steps_done)
        left = (batch.targets - loss.reconstruction).square().sum()
        whole = (batch.targets - batch.targets.mean(0)).square().sum()
        return {
            **{name: float(value) for name, value in loss.terms.items()},
            "loss": float(loss.total),
            "l0": float((loss.features != 0).sum() / len(loss.features)),
            "variance_explained": float(1 - left / whole),
            **self.objective.numbers(),
        }

    def finish(self) -> ReLUDictionary:
        """The trained dictionary in the units of the activations, frozen."""
        self.dictionary.fold_scale(self.scale)
        self.scale = 1.0
        return self.dictionary.eval().requires_grad_(False)

    def state_dict(self) -> dict[str, Any]:
        return {
            "config": asdict(self.config),
            "dictionary": self.dictionary.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "objective": self.objective.state_dict(),
            "scale": self.scale,
            "steps_done": self.steps_done,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if state["config"] != asdict(self.config):
            raise FileError("the checkpoint belongs to another training configuration: choose another folder")
        self.dictionary.load_state_dict(state["dictionary"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.objective.load_state_dict(state["objective"])
        self.scale, self.steps_done = state["scale"], state["steps_done"]


def train(
    trainers: Mapping[Site, Trainer],
    buffer: ActivationBuffer,
    *,
    recorder: Recorder | None = None,
    log_every: int = 50,
    checkpoint: Path | None = None,
    save_every: int = 500,
    progress: bool = True,
) -> dict[Site, ReLUDictionary]:
    """Train one dictionary per site on shared batches to the end; continues from `checkpoint` if that file exists.

    All trainers must ask for the same number of steps. A resumed run draws the batches that an undisturbed one would.
    """
    recorder = recorder or Silent()
    steps = {trainer.config.steps for trainer in trainers.values()}
    if len(steps) != 1:
        raise ValueError(f"trainers that share batches need the same number of steps, not {sorted(steps)}")
    total = steps.pop()
    if checkpoint is not None and checkpoint.exists():
        state = read_state(checkpoint)
        if set(state) != {site.name for site in trainers}:
            raise FileError(f"{checkpoint}: holds sites {sorted(state)}; delete it or choose another folder")
        for site, trainer in trainers.items():
            trainer.load_state_dict(state[site.name])
    else:
        sample = buffer.sample()
        for site, trainer in trainers.items():
            trainer.initialise(sample[site])
    done = min(trainer.steps_done for trainer in trainers.values())
    stream: Iterator[Activations] = buffer.batches(done)
    with tqdm(total=total, initial=done, desc="train", unit="step", disable=not progress) as bar:
        for step in range(done, total):
            batch = next(stream)
            for site, trainer in trainers.items():
                rows = Batch(batch[site], batch[site])
                trainer.step(rows)
                if step % log_every == 0 or step + 1 == total:
                    values = trainer.measure(rows)
                    recorder.record(step, {"site": site.name, **values})
                    bar.set_postfix(l0=f"{values['l0']:.1f}", explained=f"{values['variance_explained']:.3f}")
            bar.update()
            if checkpoint is not None and ((step + 1) % save_every == 0 or step + 1 == total):
                write_state(checkpoint, {site.name: trainer.state_dict() for site, trainer in trainers.items()})
    return {site: trainer.finish() for site, trainer in trainers.items()}
