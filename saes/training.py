"""The one training loop: several trainers, at one site or many, share one stream of batches."""

from collections.abc import Mapping
from typing import TypeVar

import torch
from tqdm import tqdm

from saes.architectures import AffineDictionary
from saes.buffer import Activations, ActivationStream
from saes.files import FileError
from saes.objective import Batch
from saes.recorder import Recorder, Silent
from saes.run_checkpoints import Checkpoints
from saes.sites import Site
from saes.trainer import Trainer

A = TypeVar("A", bound=AffineDictionary)


def batch_for(dictionary: AffineDictionary, activations: Activations) -> Batch:
    """What a dictionary reads and what it has to write; a crosscoder's sites stand side by side."""
    inputs = _side_by_side(dictionary.reads, activations)
    return Batch(
        inputs, inputs if dictionary.reads == dictionary.writes else _side_by_side(dictionary.writes, activations)
    )


def _side_by_side(sites: tuple[Site, ...], activations: Activations) -> torch.Tensor:
    return activations[sites[0]] if len(sites) == 1 else torch.cat([activations[site] for site in sites], dim=-1)


def train(
    trainers: Mapping[Site, Trainer[A]],
    buffer: ActivationStream,
    *,
    recorder: Recorder | None = None,
    log_every: int = 50,
    checkpoints: Checkpoints | None = None,
    save_every: int = 500,
    progress: bool = True,
) -> dict[Site, A]:
    """Train one dictionary per site on shared batches to the end; see train_stacks for sweeps."""
    for site, trainer in trainers.items():
        if trainer.stack.members != 1:
            raise ValueError(f"{site.name}: train() returns one dictionary a site; use train_stacks() for a sweep")
    stacks = train_stacks(
        {site.name: trainer for site, trainer in trainers.items()},
        buffer,
        recorder=recorder,
        log_every=log_every,
        checkpoints=checkpoints,
        save_every=save_every,
        progress=progress,
    )
    return {site: stacks[site.name][0] for site in trainers}


def train_stacks(
    trainers: Mapping[str, Trainer[A]],
    buffer: ActivationStream,
    *,
    recorder: Recorder | None = None,
    log_every: int = 50,
    checkpoints: Checkpoints | None = None,
    save_every: int = 500,
    progress: bool = True,
) -> dict[str, list[A]]:
    """Train stacks of dictionaries on shared batches to the end; continues from the last of `checkpoints`, if there is one.

    All trainers must ask for the same number of steps. A resumed run draws the batches that an undisturbed one would.
    """
    recorder = recorder or Silent()
    steps = {trainer.config.steps for trainer in trainers.values()}
    if len(steps) != 1:
        raise ValueError(f"trainers that share batches need the same number of steps, not {sorted(steps)}")
    total = steps.pop()
    state = None if checkpoints is None else checkpoints.load()
    if checkpoints is not None and state is not None:
        if set(state) != set(trainers):
            raise FileError(f"{checkpoints.folder}: holds {sorted(state)}; delete it or choose another folder")
        for name, trainer in trainers.items():
            trainer.load_state_dict(state[name])
    else:
        sample = buffer.sample()
        for trainer in trainers.values():
            trainer.initialise(batch_for(trainer.stack, sample))
    done = min(trainer.steps_done for trainer in trainers.values())
    stream = buffer.batches(done)
    with tqdm(total=total, initial=done, desc="train", unit="step", disable=not progress) as bar:
        for step in range(done, total):
            activations = next(stream)
            for name, trainer in trainers.items():
                batch = batch_for(trainer.stack, activations)
                trainer.step(batch)
                if step % log_every == 0 or step + 1 == total:
                    measured = trainer.measure(batch)
                    for member, values in enumerate(measured):
                        which = {"member": member} if len(measured) > 1 else {}
                        recorder.record(step, {"site": name, **which, **values})
                    bar.set_postfix(l0=f"{measured[0]['l0']:.1f}", explained=f"{measured[0]['variance_explained']:.3f}")
            bar.update()
            if checkpoints is not None and ((step + 1) % save_every == 0 or step + 1 == total):
                checkpoints.save(step + 1, {name: trainer.state_dict() for name, trainer in trainers.items()})
    return {name: trainer.finish() for name, trainer in trainers.items()}
