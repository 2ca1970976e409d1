"""How much of a behaviour a circuit carries (Marks et al. 2024, section 3.3), with intervals over examples.

faithfulness = (m(C) - m(empty)) / (m(M) - m(empty)); completeness is the same ratio for everything but the circuit,
so a complete circuit has a low one. Error nodes count as nodes. Kept errors make any circuit look faithful, even the
empty one; so beside every number stand those with all errors kept and with all of them removed, over the same
denominator, and random circuits with as many features and the same errors.

Sites without a dictionary, and those named `free`, are never replaced: they carry on what they read.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from transformers import PreTrainedModel

from circuits.ablation import Mask, ablated_metric, complement, keep_none, replacements, with_errors
from circuits.activity import activity_on
from circuits.attribution import counterfactual
from circuits.end_points import EndPoints
from circuits.examples import Examples
from circuits.feature_acts import Dictionaries
from circuits.held_out import MeasureError, check_apart
from circuits.intervals import RESAMPLES, Interval, interval, resampled_means
from circuits.metrics import Metric, measure
from circuits.node_sets import Space
from circuits.random_circuits import Draw, random_circuit
from saes.sites import Site

Values = Float[np.ndarray, " examples"]


@dataclass(frozen=True)
class Measured:
    """The metric of every example: of the model, with everything replaced, and under named masks."""

    model: Values
    empty: Values
    masks: Mapping[str, Values]

    def __post_init__(self) -> None:
        whole, nothing = float(self.model.mean()), float(self.empty.mean())
        if not np.isfinite([whole, nothing]).all() or whole == nothing:
            raise MeasureError(
                f"the metric is {whole:g} with the model and {nothing:g} with everything replaced: there is no "
                "behaviour to measure; choose other examples, another end point or another metric"
            )

    def ratio(self, name: str) -> float:
        """Faithfulness of one mask."""
        whole, nothing = self.model.mean(), self.empty.mean()
        return float((self.masks[name].mean() - nothing) / (whole - nothing))

    def resampled(self, names: Collection[str], seed: int = 0) -> Float[np.ndarray, "resamples names"]:
        """Faithfulness of some masks on resampled examples, the same draws for all."""
        rows = np.stack([self.model, self.empty, *(self.masks[name] for name in names)])
        means = resampled_means(rows, RESAMPLES, seed)
        whole, nothing = means[:, :1], means[:, 1:2]
        with np.errstate(divide="ignore", invalid="ignore"):
            return (means[:, 2:] - nothing) / (whole - nothing)

    def estimate(self, name: str, seed: int = 0) -> Interval:
        """Faithfulness of one mask with its bootstrap interval."""
        return interval(self.ratio(name), self.resampled([name], seed)[:, 0])

    def to_json(self) -> dict[str, Any]:
        """All values, in the order of the examples."""
        masks = {name: values.tolist() for name, values in self.masks.items()}
        return {"model": self.model.tolist(), "empty": self.empty.tolist(), "masks": masks}


@dataclass(frozen=True)
class Evaluator:
    """Runs a model on examples with all nodes outside a mask moved to an end point."""

    model: PreTrainedModel
    dictionaries: Dictionaries
    metric: Metric
    to: EndPoints = counterfactual
    free: Collection[Site] = ()
    batch_size: int = 64

    def __post_init__(self) -> None:
        unknown = [site.name for site in self.free if site not in self.dictionaries]
        if unknown:
            raise MeasureError(f"free site {unknown[0]}: it has no dictionary, so it is free already; leave it out")

    @torch.no_grad()
    def run(self, examples: Examples, masks: Mapping[str, Mask | Callable[[], Mask]]) -> Measured:
        """Every mask on every example. Masks may be made when they are needed: they are as large as dictionaries.

        The end point is computed once per batch for all masks.
        """
        replaced = {site: d for site, d in self.dictionaries.items() if site not in self.free}
        empty = keep_none(replaced, len(examples.grouped))
        model, nothing, found = [], [], {name: [] for name in masks}
        for batch in examples.batches(self.batch_size):
            states = replacements(replaced, self.to(self.model, replaced, batch))

            def value(mask: Mask, batch: Examples = batch, states: Any = states) -> Values:
                mask = {site: mask[site] for site in replaced if site in mask}
                result = ablated_metric(self.model, replaced, batch, self.metric, mask, states)
                return result.double().cpu().numpy()

            model.append(measure(self.model, self.metric, batch.clean, batch).double().cpu().numpy())
            nothing.append(value(empty))
            for name, mask in masks.items():
                found[name].append(value(mask() if callable(mask) else mask))
        together = {name: np.concatenate(values) for name, values in found.items()}
        return Measured(np.concatenate(model), np.concatenate(nothing), together)


@dataclass(frozen=True)
class Score:
    """What a circuit keeps, with its errors as nodes, all kept and all removed; and what everything else keeps."""

    faithfulness: Interval
    errors_kept: Interval
    errors_removed: Interval
    completeness: Interval

    @classmethod
    def of(cls, measured: Measured, name: str) -> "Score":
        """From the masks that `variants` made."""
        return cls(*(measured.estimate(variant) for variant in _names(name)))


def variants(name: str, mask: Callable[[], Mask]) -> dict[str, Callable[[], Mask]]:
    """The masks that a Score needs."""
    made = (
        mask,
        lambda: with_errors(mask(), True),
        lambda: with_errors(mask(), False),
        lambda: complement(mask()),
    )
    return dict(zip(_names(name), made, strict=True))


def _names(name: str) -> list[str]:
    return [name, f"{name}, errors kept", f"{name}, errors removed", f"all but {name}"]


@dataclass(frozen=True)
class Faithfulness:
    """One circuit, measured; `random` and `matched` are the faithfulness of random circuits."""

    model: float
    """mean metric over the examples"""
    empty: float
    """the same with everything replaced"""
    score: Score
    empty_errors_kept: Interval
    """what the errors alone carry"""
    random: tuple[float, ...]
    matched: tuple[float, ...]
    examples: int

    @property
    def faithfulness(self) -> float:
        return self.score.faithfulness.value

    @property
    def completeness(self) -> float:
        return self.score.completeness.value

    @property
    def faithfulness_without_errors(self) -> float:
        return self.score.errors_removed.value

    @property
    def random_faithfulness(self) -> float:
        """Mean over the random circuits."""
        return float(np.mean(self.random))

    def sentence(self) -> str:
        return (
            f"Faithfulness {self.score.faithfulness} on {self.examples} examples, {self.score.errors_kept} with all "
            f"errors kept (the errors alone: {self.empty_errors_kept}), {self.score.errors_removed} with none; "
            f"random circuits {_mean(self.random)}, matched ones {_mean(self.matched)}; "
            f"completeness {self.score.completeness}."
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def _mean(values: tuple[float, ...]) -> str:
    return f"{np.mean(values):.3g}" if values else "not measured"


def faithfulness(
    model: PreTrainedModel,
    dictionaries: Dictionaries,
    kept: Mask,
    finding: Examples,
    testing: Examples,
    metric: Metric,
    to: EndPoints = counterfactual,
    *,
    free: Collection[Site] = (),
    random_circuits: int = 10,
    seed: int = 0,
    batch_size: int = 64,
    overlap: bool = False,
) -> Faithfulness:
    """Measure the circuit `kept`, found on `finding`, on the examples `testing`; MeasureError if they share any.

    `to` gives what stands in for everything outside it. Random circuits are drawn from what is active in `finding`.
    With `overlap` examples may be in both.
    """
    if not overlap:
        check_apart(testing, finding)
    dictionaries = {site: dictionaries[site] for site in kept}
    activity = activity_on(model, dictionaries, finding, to, batch_size)
    space = Space.of(dictionaries, len(testing.grouped))
    nodes = space.rows(kept)
    masks = variants("the circuit", lambda: kept)
    masks["errors"] = lambda: with_errors(keep_none(dictionaries, space.places), True)
    kinds: tuple[Draw, ...] = ("uniform", "matched")
    for kind in kinds:
        for i in range(random_circuits):
            drawn = random_circuit(kind, space, nodes, activity, [seed, i])
            masks[f"{kind} {i}"] = partial(space.mask, drawn)
    measured = Evaluator(model, dictionaries, metric, to, free, batch_size).run(testing, masks)
    random, matched = (tuple(measured.ratio(f"{kind} {i}") for i in range(random_circuits)) for kind in kinds)
    return Faithfulness(
        float(measured.model.mean()),
        float(measured.empty.mean()),
        Score.of(measured, "the circuit"),
        measured.estimate("errors"),
        random,
        matched,
        len(testing),
    )
