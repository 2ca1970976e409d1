"""The one training loop: several trainers, at one site or many, share one stream of batches."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from tqdm import tqdm

from saes.architectures import AffineDictionary
from saes.files import FileError
from saes.objective import Batch, Loss
from saes.ranks import Ranks
from saes.recorder import Recorder, Silent
from saes.run_checkpoints import Checkpoints
from saes.sites import Site
from saes.streams import Activations, ActivationStream, opened
from saes.trainer import Trainer

_PLACE = "(place of the stream)"  # in a checkpoint, beside the trainers


class TrainingError(ValueError):
    """Training cannot go on."""


A = TypeVar("A", bound=AffineDictionary)
Observer = Callable[[int, Mapping[str, Trainer[Any]]], None]  # the step that was just made, and the trainers by name


def batch_for(dictionary: AffineDictionary, activations: Activations) -> Batch:
    """What a dictionary reads and what it has to write; a crosscoder's sites stand side by side."""
    inputs = _side_by_side(dictionary.reads, activations)
    return Batch(
        inputs, inputs if dictionary.reads == dictionary.writes else _side_by_side(dictionary.writes, activations)
    )


def check_finite(name: str, step: int, loss: Loss, batch: Batch, checkpoints: Checkpoints | None) -> None:
    """TrainingError that says which dictionary, whether its activations are to blame, and what is left."""
    finite = loss.total.isfinite()
    if bool(finite.all()):
        return
    members = "" if len(finite) == 1 else f", members {(~finite).nonzero()[:, 0].tolist()}"
    if not bool(batch.inputs.isfinite().all()) or not bool(batch.targets.isfinite().all()):
        cause = "the activations hold NaN or infinite values; look at the model, or at its dtype"
    else:
        cause = "the activations are finite; a lower learning rate may help"
    kept = "" if checkpoints is None else f"; the checkpoints in {checkpoints.folder} are from before"
    raise TrainingError(f"{name}{members}: the loss is not finite at step {step}: {cause}{kept}")


def check_weights(name: str, step: int, trainer: Trainer[A], checkpoints: Checkpoints) -> None:
    """TrainingError if a weight is not finite: a step can spoil weights though its own loss was finite."""
    wrong = [key for key, p in trainer.stack.named_parameters() if not bool(p.isfinite().all())]
    if wrong:
        raise TrainingError(
            f"{name}: {', '.join(wrong)} hold NaN or infinite values after step {step}; "
            f"a lower learning rate may help; the checkpoints in {checkpoints.folder} are from before"
        )


def _check_alike(ranks: Ranks, found: int, checkpoints: Checkpoints | None, trainers: Mapping[str, Trainer[A]]) -> None:
    """TrainingError if this rank has found another checkpoint than the first."""
    mine = torch.tensor(found, device=next(iter(trainers.values())).stack.W_dec.device)
    if ranks.size > 1 and int(ranks.largest((mine - ranks.from_first(mine.clone())).abs())):
        folder = None if checkpoints is None else checkpoints.folder
        raise TrainingError(
            f"{folder}: not all processes see the same checkpoint; use a folder that all machines share"
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
    observe: Observer | None = None,
    observe_every: int = 500,
    progress: bool = True,
) -> dict[str, list[A]]:
    """Train stacks of dictionaries on shared batches to the end, from the last of `checkpoints` if there is one.

    All trainers must ask for the same number of steps. A resumed run draws the batches that an undisturbed one would.
    Of a stream that has a place the checkpoints hold it; of others batch n is asked for by its number.
    `observe` is called after every `observe_every` steps and after the last, on all ranks and before the checkpoint of
    the same step, so that what it keeps is never behind a checkpoint; it may ask the trainers and must not move them.
    A loss or weight that is not finite ends the run (TrainingError) when it is logged or before it is saved.
    Of several ranks the first records and writes, and returns the dictionaries; the others return empty lists.
    """
    if observe_every < 1:
        raise ValueError(f"observe_every is {observe_every}: choose 1 or more")
    ranks = next(iter(trainers.values())).ranks
    recorder = recorder if recorder is not None and ranks.leads else Silent()
    steps = {trainer.config.steps for trainer in trainers.values()}
    if len(steps) != 1:
        raise ValueError(f"trainers that share batches need the same number of steps, not {sorted(steps)}")
    total = steps.pop()
    state = None if checkpoints is None else checkpoints.load()
    place = None if state is None else state.pop(_PLACE, None)
    _check_alike(ranks, 0 if state is None else 1 + next(iter(state.values()))["steps_done"], checkpoints, trainers)
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
    with (
        tqdm(total=total, initial=done, desc="train", unit="step", disable=not (progress and ranks.leads)) as bar,
        opened(buffer, done, place) as stream,
    ):
        for step in range(done, total):
            activations = next(stream)
            save = (step + 1) % save_every == 0 or step + 1 == total
            for name, trainer in trainers.items():
                batch = batch_for(trainer.stack, activations)
                loss = trainer.step(batch)
                if step % log_every == 0 or save:
                    check_finite(name, step, loss, batch, checkpoints)
                if step % log_every == 0 or step + 1 == total:
                    measured = trainer.measure(batch)
                    for member, values in enumerate(measured):
                        which = {"member": member} if len(measured) > 1 else {}
                        recorder.record(step, {"site": name, **which, **values})
                    bar.set_postfix(l0=f"{measured[0]['l0']:.1f}", explained=f"{measured[0]['variance_explained']:.3f}")
            bar.update()
            if observe is not None and ((step + 1) % observe_every == 0 or step + 1 == total):
                observe(step, trainers)
            if checkpoints is not None and save:
                for name, trainer in trainers.items():
                    check_weights(name, step, trainer, checkpoints)
                states = {name: trainer.state_dict() for name, trainer in trainers.items()}
                place = stream.place()
                if ranks.leads:
                    checkpoints.save(step + 1, states if place is None else {**states, _PLACE: place})
    return {name: trainer.finish() for name, trainer in trainers.items()}
