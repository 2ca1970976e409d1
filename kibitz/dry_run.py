"""`kibitz train --dry-run`: how large a run would be, how long it would take, and what bounds it, from a few steps.

A few rows are read and run through the model, and a few steps are made with trainers that are thrown away. Nothing is
written.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from time import perf_counter
from typing import Any

import torch

from kibitz.material import Material, ModelMaterial
from saes.architectures import AffineDictionary
from saes.harvest import harvest
from saes.row_sources import Round
from saes.shard_writer import size_sentence
from saes.streams import Activations
from saes.trainer import Trainer
from saes.training import batch_for

_WARM_UP, _MEASURED = 2, 5  # steps


@dataclass(frozen=True)
class Parts:
    """Seconds of one training step, all sites together."""

    data: float
    """reading and tokenising, or reading activations from disk"""
    forward: float
    """the model's forward pass"""
    step: float
    """the dictionaries' forward and backward pass: matrix products, for the most part"""
    optimiser: float

    def by_name(self) -> dict[str, float]:
        names = ("data", "model forward", "dictionary step", "optimiser")
        return dict(zip(names, (self.data, self.forward, self.step, self.optimiser), strict=True))

    def seconds(self, prefetch: bool) -> float:
        """Of a step: with prefetch the refill goes on beside it."""
        made, used = self.data + self.forward, self.step + self.optimiser
        return max(made, used) if prefetch else made + used


def dry_run(
    material: Material, trainers: Mapping[str, Trainer[AffineDictionary]], batch_size: int, steps: int, keep: int
) -> str:
    """The table to print; the trainers are used up. `keep`: checkpoints that a run holds."""
    if isinstance(material, ModelMaterial):
        data, forward, sample = _from_model(material, batch_size)
        prefetch, resident = material.stream.prefetch, {"language model": _bytes(material.model)}
        resident["buffer"] = material.stream.rows_per_refill * _row_bytes(material) * (2 if prefetch else 1)
    else:
        data, forward, prefetch, resident = 0.0, 0.0, False, {}
        batches = material.stream.batches()
        sample = next(batches)
        data = _seconds(material.device, lambda: list(islice(batches, _MEASURED))) / _MEASURED
    weights = sum(_bytes(trainer.stack) for trainer in trainers.values())
    count = sum(p.numel() for trainer in trainers.values() for p in trainer.stack.parameters())
    step, optimiser = map(sum, zip(*(_steps(t, sample, material.device) for t in trainers.values()), strict=True))
    parts = Parts(data, forward, step, optimiser)
    # of every entry of [members, batch, features]: its value and its gradient, when no sparse step is taken
    passing = max(8 * (t.stack.members or 1) * batch_size * t.stack.features for t in trainers.values())
    resident |= {"weights": weights, "gradients": weights, "optimiser": 2 * weights, "features of a batch": passing}
    seconds = parts.seconds(prefetch)
    rows = [
        ["tokens", f"{steps * batch_size:,}"],
        ["parameters", f"{count:,}"],
        *([f"memory: {name}", size_sentence(size)] for name, size in resident.items()),
        ["memory in all, about", size_sentence(sum(resident.values()))],
        ["checkpoints on disk", f"{keep} x {size_sentence(3 * weights)}"],
        *([f"time a step: {name}", _time(part)] for name, part in parts.by_name().items()),
        ["time a step", f"{_time(seconds)}{', the next refill being made meanwhile' if prefetch else ''}"],
        [f"time of {steps} steps", _time(steps * seconds)],
    ]
    bound = max(parts.by_name().items(), key=lambda item: item[1])[0]
    width = max(len(name) for name, _ in rows)
    table = "\n".join(f"{name.ljust(width)}  {value}" for name, value in rows)
    return f"{table}\nThe run is bound by: {bound}. Nothing was written."


def _from_model(material: ModelMaterial, batch_size: int) -> tuple[float, float, Activations]:
    """Seconds a step of reading and of the forward pass, and activations of a batch."""
    size, sites, device = material.batch_rows, list(material.widths), material.device
    rounds = material.stream.source.rounds(material.stream.rows_per_refill)  # long enough to meet a chunk of documents
    first = next(rounds)
    list(harvest(material.model, first.tokens[:size], sites, size, material.stream.autocast))  # warm-up
    read: list[Round] = []
    data = _seconds(device, lambda: read.append(next(rounds)))
    tokens, keep = read[0].tokens[:size], read[0].keep[:size]
    found: list[Activations] = []
    forward = _seconds(
        device, lambda: found.extend(harvest(material.model, tokens, sites, size, material.stream.autocast))
    )
    kept = torch.arange(keep.numel())[keep.flatten()]
    chosen = kept[torch.arange(batch_size) % len(kept)].to(device)  # fewer than a batch are repeated
    whole = max(1, int(read[0].keep.sum()))
    sample = {site: x.flatten(0, 1)[chosen].float() for site, x in found[0].items()}
    return data * batch_size / whole, forward * batch_size / len(kept), sample


def _steps(trainer: Trainer[AffineDictionary], sample: Activations, device: torch.device) -> tuple[float, float]:
    """Seconds of a step without and of its optimiser."""
    batch = batch_for(trainer.stack, sample)
    trainer.initialise(batch)
    spent = 0.0
    optimise = trainer.optimizer.step

    def timed() -> None:
        nonlocal spent
        spent += _seconds(device, optimise)

    for _ in range(_WARM_UP):
        trainer.step(batch)
    setattr(trainer.optimizer, "step", timed)  # noqa: B010 - a method of an object that is thrown away
    whole = _seconds(device, lambda: [trainer.step(batch) for _ in range(_MEASURED)])
    return (whole - spent) / _MEASURED, spent / _MEASURED


def _seconds(device: torch.device, work: Callable[[], Any]) -> float:
    """Until the device has done it."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    began = perf_counter()
    work()
    wait()
    return perf_counter() - began


def _row_bytes(material: ModelMaterial) -> int:
    """Of the activations of a full row at all sites."""
    return material.held_out.shape[1] * sum(material.widths.values()) * material.model.dtype.itemsize


def _bytes(module: torch.nn.Module) -> int:
    return sum(p.numel() * p.dtype.itemsize for p in module.parameters())


def _time(seconds: float) -> str:
    """For people."""
    for unit, length in (("days", 86_400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.1f} s" if seconds >= 1 else f"{1000 * seconds:.1f} ms"
