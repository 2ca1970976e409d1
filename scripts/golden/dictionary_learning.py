"""dictionary-learning's training runs, repeated step for step (docs/p_annealing.md).

The tolerances are those of the reference's README: with p < 1 the original's training is chaotic, so those cases are
held to the exact schedule of p, to single steps restarted from stored states and to the envelope of the loss; all
others to 1e-5 in loss and weights from end to end.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saes.files import FileError, read_json, read_tensors
from saes.objective import Batch
from saes.p_annealing import PAnneal
from saes.replication import DictionaryLearning, parameters_of
from saes.sites import Site
from saes.trainer import Trainer

COLUMNS = ("loss", "p", "coefficient", "threshold", "gradient", "weights")


@dataclass(frozen=True)
class Check:
    """The largest error of one quantity of one case."""

    case: str
    quantity: str
    error: float
    limit: float

    @property
    def column(self) -> str | None:
        """Where it stands in the table; the share of the loss's envelope stands in none."""
        if "envelope" in self.quantity:
            return None
        return next((column for column in COLUMNS if self.quantity.startswith(column)), "weights")

    @property
    def passed(self) -> bool:
        return self.error <= self.limit  # a NaN does not pass


def check_case(folder: Path) -> Iterator[Check]:
    """Everything that is compared in one case."""
    config, inputs = read_json(folder / "config.json"), read_tensors(folder / "inputs.safetensors")
    expected = read_tensors(folder / "outputs.safetensors")
    name, x = config["case"], inputs.pop("x")
    trainer = _trainer(config)
    _load(trainer, _strip(inputs, "init."))
    steps = len(x)
    seen: dict[str, list[float]] = {"loss": [], "p": [], "sparsity_coeff": [], "threshold": []}
    weights: dict[str, dict[str, Tensor]] = {}
    for t, batch in enumerate(x):
        if t == 0 and trainer.config.first_bias != "zero":
            trainer.initialise(Batch(batch, batch))
        numbers = trainer.objective.numbers()
        seen["p"].append(float(numbers.get("p", 1.0)))
        seen["sparsity_coeff"].append(float(numbers.get("coefficient", 1.0)))
        loss = trainer.step(Batch(batch, batch))
        seen["loss"].append(float(loss.total))
        if "threshold" in expected:
            seen["threshold"].append(float(trainer.stack.threshold))
        when = {5: "early", steps // 2: "half", steps: "final"}.get(t + 1)
        if when:
            weights[when] = {k: v[0].clone() for k, v in trainer.stack.state_dict().items()}
    ours = {k: torch.tensor(v, dtype=torch.float64) for k, v in seen.items()}
    chaotic = "p" in expected and float(expected["p"].min()) < 1
    distance = (ours["loss"] - expected["loss"]).abs() / expected["loss"].abs()
    if chaotic:
        envelope = (10 * expected["envelope.loss"].cummax(0).values).clamp(1e-6)
        yield Check(name, "loss / (10 x envelope)", float((distance / envelope).max()), 1.0)
        yield Check(name, "loss, whole run", float(distance.max()), 0.05)
    else:
        yield Check(name, "loss", float(distance.max()), 1e-5)
        for when, tensors in weights.items():
            for key, theirs in parameters_of(_strip(expected, when + ".")).items():
                yield Check(name, f"{when} {key}", _relative(tensors[key], theirs), 1e-5)
    if "p" in expected:
        yield Check(name, "p", float((ours["p"] - expected["p"]).abs().max()), 1e-7)
        limit = 5e-3 if chaotic else 1e-5
        yield Check(name, "coefficient", _largest(ours["sparsity_coeff"], expected["sparsity_coeff"]), limit)
    if "threshold" in expected:
        yield Check(name, "threshold", _largest(ours["threshold"], expected["threshold"]), 1e-5)
    for restart in config.get("restarts", []):
        yield from _check_restart(folder, config, restart, x)


def _check_restart(folder: Path, config: Mapping[str, Any], restart: Mapping[str, Any], x: Tensor) -> Iterator[Check]:
    """One step from a stored state: loss, raw gradients, and the weights after it."""
    stored = _strip(read_tensors(folder / "restarts.safetensors"), restart["key_prefix"])
    step, before = restart["step"], restart["before"]
    trainer = _trainer(config)
    _load(trainer, _strip(stored, "before."))
    moments = {name: parameters_of(_strip(stored, name + ".")) for name in ("exp_avg", "exp_avg_sq")}
    for key, parameter in trainer.stack.named_parameters():
        state = {name: tensors[key][None].clone() for name, tensors in moments.items()}
        taken = torch.tensor(float(restart["adam_steps_taken_before"]))
        trainer.optimizer.state[parameter] = {"step": taken, **state}
    penalty = trainer.objective.penalty  # type: ignore[attr-defined]
    assert isinstance(penalty, PAnneal)
    queue = [pair[:, None].double() for pair in stored["queue_before"] if not pair.isnan().any()]
    coefficient = torch.tensor([before["sparsity_coeff"]], dtype=torch.float64)
    penalty.load_state_dict({"coefficient": coefficient, "changes_done": before["p_step_count"], "queue": queue})
    trainer.steps_done = step
    batch = Batch(x[step], x[step])
    loss = trainer.objective(trainer.stack, batch, step)
    names = [name for name, _ in trainer.stack.named_parameters()]
    gradients = dict(zip(names, torch.autograd.grad(loss.total.sum(), list(trainer.stack.parameters())), strict=True))
    case = f"{config['case']} step {step}"
    yield Check(case, "loss", abs(float(loss.total.detach()) - restart["loss"]) / abs(restart["loss"]), 1e-6)
    for key, theirs in parameters_of(_strip(stored, "grad.")).items():
        yield Check(case, f"gradient {key}", _relative(gradients[key][0], theirs), 2e-2)
    trainer.step(batch)
    for key, theirs in parameters_of(_strip(stored, "after.")).items():
        difference = trainer.stack.state_dict()[key][0] - theirs
        yield Check(case, f"weights after {key}", float(difference.abs().max()), 5e-5)
    after = restart["after"]
    yield Check(case, "p after", abs(penalty.p - after["p"]), 1e-7)
    distance = abs(float(penalty.coefficient) / after["sparsity_coeff"] - 1)
    yield Check(case, "coefficient after", distance, 5e-3)


def _trainer(config: Mapping[str, Any]) -> Trainer[Any]:
    arguments, later = config["constructor_arguments"], config.get("set_after_construction", {})
    settings = DictionaryLearning(config["trainer"], arguments, later.get("dead_feature_threshold", 10_000_000))
    return settings.build(Site("x", "x"))


def _load(trainer: Trainer[Any], tensors: Mapping[str, Tensor]) -> None:
    stacked = {name: t[None] for name, t in parameters_of(tensors).items()}
    missing = sorted(dict(trainer.stack.named_parameters()).keys() - stacked)
    if missing:
        raise FileError(f"no first weights for {', '.join(missing)}")
    trainer.stack.load_state_dict(stacked)


def _strip(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def _relative(ours: Tensor, theirs: Tensor) -> float:
    """Relative L2 distance."""
    return float((ours - theirs).norm() / theirs.norm().clamp_min(1e-12))


def _largest(ours: Tensor, theirs: Tensor) -> float:
    """Largest relative distance over the steps."""
    return float(((ours - theirs).abs() / theirs.abs().clamp_min(1e-12)).max())


def _worst(errors: Iterable[float]) -> float | None:
    """The largest, a NaN being larger than all; None of nothing."""
    return max(errors, key=lambda e: float("inf") if e != e else e, default=None)


def check(folder: Path) -> bool:
    """Compare one case, or a folder of cases, and print a table; whether all is within its limits."""
    cases = [folder] if (folder / "config.json").is_file() else sorted(p.parent for p in folder.glob("*/config.json"))
    if not cases:
        raise FileError(f"{folder} holds no case (a folder with config.json); name a reference folder")
    torch.set_num_threads(1)
    failed = 0
    print(f"{'largest relative error of':28s}" + "".join(f"{column:>13s}" for column in COLUMNS) + "   error / limit")
    for case in cases:
        try:
            checks = list(check_case(case))
        except (FileError, KeyError, ValueError, json.JSONDecodeError) as error:
            raise FileError(f"{case}: {error}") from None
        groups: dict[str, list[Check]] = {}
        for check in checks:
            groups.setdefault(check.case, []).append(check)
        for name, group in groups.items():
            cells = {column: _worst(c.error for c in group if c.column == column) for column in COLUMNS}
            row = "".join(f"{'-' if value is None else f'{value:.2g}':>13s}" for value in cells.values())
            print(f"{name:28s}{row}{_worst(c.error / c.limit for c in group):16.2g}")
            wrong = [check for check in group if not check.passed]
            failed += len(wrong)
            for check in wrong:
                print(f"  FAILED  {check.quantity}: {check.error:.3g}, and the limit is {check.limit:.0e}")
    print(f"\n{'all within their limits' if not failed else f'{failed} quantities are outside their limits'}")
    return not failed
