"""How the dictionaries of one game are trained: all stacks on the same batches of one language model.

A pilot chooses each type's learning rate: the highest variance explained at the middle L0, less a tenth of the
distance of log L0 from its target. Killed and started again, both go on from their last checkpoints.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from math import log
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import PreTrainedModel

from boardgame_sweep.caveats import chosen_rates
from boardgame_sweep.plan import Scale, Stack, build
from saes.architectures import AffineDictionary
from saes.buffer import ActivationBuffer
from saes.checkpoint import save_dictionary
from saes.families import site_width
from saes.files import FileError, read_json, write_json
from saes.recorder import JSONLines
from saes.run_checkpoints import Checkpoints
from saes.sites import Site
from saes.sweep import score
from saes.training import train_stacks

PILOT, TRAINED, IDENTITY = "pilot.json", "trained.json", "identity.json"


@dataclass(frozen=True)
class Reading:
    """What dictionaries learn from: a model, sites of one width, and rows of tokens with those that count."""

    model: PreTrainedModel
    sites: tuple[Site, ...]
    tokens: Int[Tensor, "rows length"]
    mask: Bool[Tensor, "rows length"]
    held_out: Int[Tensor, "others length"]
    held_out_mask: Bool[Tensor, "others length"]
    rows_per_refill: int = 1024

    @property
    def width(self) -> int:
        return site_width(self.model, self.sites[0])

    def batches(self, size: int, seed: int) -> ActivationBuffer:
        return ActivationBuffer(
            self.model,
            self.sites,
            self.tokens,
            self.mask,
            batch_size=size,
            rows_per_refill=min(self.rows_per_refill, len(self.tokens)),
            seed=seed,
        )

    def unseen(self) -> list[Any]:
        """Batches of rows that nothing is trained on."""
        buffer = ActivationBuffer(
            self.model, self.sites, self.held_out, self.held_out_mask, batch_size=1024, rows_per_refill=256
        )
        return list(islice(buffer.batches(), 8))


def check_same(run: Path, identity: Mapping[str, Any]) -> None:
    """Begin a run, or go on with one of the same identity; FileError for another, whose files would be mixed in."""
    file = run / IDENTITY
    if not file.exists():
        write_json(file, identity)
    before = read_json(file)
    different = sorted(key for key in {*before, *identity} if before.get(key) != identity.get(key))
    if different:
        raise FileError(f"{run}: was begun with another {', '.join(different)}; choose another --run or delete it")


def tune(reading: Reading, scale: Scale, plan: Sequence[Stack], run: Path) -> dict[str, float]:
    """The learning rate of each stack by name, chosen at the first site; what was tried is in pilot.json."""
    if not (run / PILOT).exists():
        middle = sorted(scale.l0s)[len(scale.l0s) // 2]
        trainers, tried = {}, {}
        for stack in plan:
            member = replace(stack.members[0], target_l0=middle)
            for rate in scale.rates:
                one = replace(stack, members=(member,))
                tried[f"{stack.name} {rate:g}"] = (stack.name, rate)
                trainers[f"{stack.name} {rate:g}"] = build(
                    one, scale, reading.sites[0], reading.width, rate, scale.pilot_steps, str(reading.model.device)
                )
        finished = train_stacks(
            trainers, reading.batches(scale.batch_size, 1), checkpoints=Checkpoints(run / "pilot"), log_every=100
        )
        unseen, rows = reading.unseen(), []
        for key, (name, rate) in tried.items():
            (numbers,) = score(trainers[key], finished[key], unseen)
            merit = numbers["variance_explained"] - abs(log(max(numbers["l0"], 0.1) / middle)) / 10
            rows.append({"stack": name, "learning_rate": rate, "target_l0": middle, "merit": merit, **numbers})
        write_json(run / PILOT, rows)
    return chosen_rates(pilot_of(run))


def pilot_of(run: Path) -> list[dict[str, Any]]:
    """What the pilot of a run tried."""
    return read_json(run / PILOT)


def train_plan(
    reading: Reading, scale: Scale, plan: Sequence[Stack], rates: Mapping[str, float], run: Path
) -> dict[tuple[str, Site], list[AffineDictionary]]:
    """Train every stack at every site on the same batches; the members' dictionaries by the stack's name and site."""
    names = {
        (stack.name, site): stack.name if len(reading.sites) == 1 else f"{stack.name}/{site.name}"
        for stack in plan
        for site in reading.sites
    }
    trainers = {
        names[stack.name, site]: build(
            stack, scale, site, reading.width, rates[stack.name], scale.steps, str(reading.model.device)
        )
        for stack in plan
        for site in reading.sites
    }
    finished = train_stacks(
        trainers,
        reading.batches(scale.batch_size, 0),
        recorder=JSONLines(run / "metrics.jsonl"),
        checkpoints=Checkpoints(run / "checkpoints", keep=1),
        save_every=100,
        log_every=100,
    )
    return {key: finished[name] for key, name in names.items()}


def train_all(reading: Reading, scale: Scale, plan: Sequence[Stack], run: Path) -> list[dict[str, Any]]:
    """Train every dictionary of a plan at one site; one record for each, with its folder below `run`."""
    if not (run / TRAINED).exists():
        (site,) = reading.sites
        rates = tune(reading, scale, plan, run)
        finished = train_plan(reading, scale, plan, rates, run)
        records = []
        for stack in plan:
            trained = zip(stack.members, finished[stack.name, site], stack.folders(), strict=True)
            for member, dictionary, folder in trained:
                save_dictionary(dictionary, run / "dictionaries" / folder)
                settings = {"type": stack.type, "expansion": stack.expansion, **member.settings()}
                records.append(
                    {"folder": folder, "learning_rate": rates[stack.name], "tokens": scale.tokens} | settings
                )
        write_json(run / TRAINED, {"scale": asdict(scale), "torch": torch.__version__, "dictionaries": records})
    return read_json(run / TRAINED)["dictionaries"]
