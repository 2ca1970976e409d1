"""Coverage and board reconstruction of the original implementation, on given activations and labels.

Counts must be equal, scores within 1e-6 and L0 within 1e-5. What the original gets wrong is in boardgames.paper.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from boardgames.confusion import Confusion, count
from boardgames.firing import THRESHOLDS, SparseActivations, SparseLabels
from boardgames.paper import PaperReconstruction, coverage, precise_in_float32, reconstruction
from golden.arrays import read_arrays, read_object
from saes.files import FileError

SCORE, L0 = 1e-6, 1e-5


@dataclass(frozen=True)
class Difference:
    """How far one number, or array of numbers, is from the reference."""

    name: str
    error: float
    limit: float

    @property
    def passed(self) -> bool:
        return self.error <= self.limit  # a NaN does not pass


def check(folder: Path) -> bool:
    """Compare one folder of metrics, or the one named `metrics` in it; whether all is within its limits."""
    folder = folder if (folder / "metrics.json").is_file() else folder / "metrics"
    if not (folder / "metrics.json").is_file():
        raise FileError(f"{folder.parent} holds no metrics.json; name a metrics folder")
    numbers = read_object(folder / "metrics.json")
    train, test = read_arrays(folder / "acts_train.npz"), read_arrays(folder / "acts_test.npz")
    labels = read_arrays(folder / "labels.npz")
    passed = True
    print(f"{'largest difference of':78s}{'error':>10s}{'limit':>8s}")
    for game in (name for name in ("chess", "othello") if name in numbers):
        arrays = read_arrays(folder / f"arrays_{game}.npz")
        try:
            found = list(_check_game(game, numbers[game], arrays, train[game], test[game], labels))
        except (KeyError, ValueError, IndexError, TypeError) as error:
            raise FileError(f"{folder}: {game}: {type(error).__name__}: {error}") from None
        for difference in found:
            mark = "" if difference.passed else "  FAILED"
            print(f"{difference.name:78s}{difference.error:10.2g}{difference.limit:8.0e}{mark}")
            passed &= difference.passed
    print(f"\n{'all within their limits' if passed else 'NOT within the limits'}")
    return passed


def _far(name: str, ours: Any, theirs: Any, limit: float = 0.0) -> Difference:
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    if ours.shape != theirs.shape:
        return Difference(f"{name} ({list(ours.shape)}, reference {list(theirs.shape)})", float("inf"), limit)
    return Difference(name, float(np.abs(ours - theirs).max(initial=0.0)), limit)


def _check_game(
    game: str,
    numbers: Mapping[str, Any],
    arrays: Mapping[str, NDArray[Any]],
    train: NDArray[np.float32],
    test: NDArray[np.float32],
    labels: Mapping[str, NDArray[Any]],
) -> Iterator[Difference]:
    maxima = torch.from_numpy(train[: numbers["alive_pass_train_rows"]]).amax(0)
    alive = np.flatnonzero(maxima.numpy() > 0)
    yield _far(f"{game}: alive features", alive, arrays["alive_features"])
    maxima = maxima[alive]
    acts, held_out = torch.from_numpy(train[:, alive]), torch.from_numpy(test[:, alive])
    yield _far(f"{game}: thresholds", THRESHOLDS[:, None] * maxima, arrays["thresholds_TF"])
    active = [(held_out > t * maxima).double().sum(-1).mean(-1) for t in THRESHOLDS]
    yield _far(f"{game}: features active per position", active, numbers["active_per_token_test"], L0)
    chosen_from, scored_on = (SparseActivations.of([x]).firing(maxima) for x in (acts, held_out))
    for function, theirs in numbers["functions"].items():
        counts = count(chosen_from, SparseLabels.of(labels[f"{game}__train__{function}"].astype(bool)))
        name = f"{game}: {function.removeprefix('board_to_').removeprefix('games_batch_to_')}:"
        yield _far(f"{game}: firing counts", counts.fires, arrays["on_count_TF"])
        yield _far(f"{name} true positives", counts.true_positives, arrays[f"{function}__tp"])
        yield _far(f"{name} positives", counts.positives, arrays[f"{function}__positives"])
        yield from _coverage(name, counts, theirs, arrays[f"{function}__best_f1_TP"])
        given = precise_in_float32(counts)
        expected = np.zeros_like(given)
        expected[tuple(arrays[f"{function}__feature_labels_tfp"].T.astype(int))] = True
        yield _far(f"{name} labels", given, expected)
        truth = labels[f"{game}__test__{function}"].astype(bool)
        square = np.arange(truth.shape[1]) // theirs["config"]["classes"]
        yield from _reconstruction(name, reconstruction(given, scored_on, truth, square), theirs)


def _coverage(
    name: str, counts: Confusion, theirs: Mapping[str, Any], best_f1: NDArray[np.float32]
) -> Iterator[Difference]:
    expected = theirs["coverage"]
    found = coverage(counts, expected["denominator"])
    yield _far(f"{name} best F1", counts.best()[0], best_f1, SCORE)
    yield _far(f"{name} coverage by threshold", found.per_threshold, expected["per_threshold"], SCORE)
    yield _far(f"{name} coverage", found.best, expected["best"], SCORE)
    if other := theirs.get("coverage_other_denominator"):
        shown = coverage(counts, other["denominator"]).best
        yield _far(f"{name} coverage / {other['denominator']}", shown, other["best"], SCORE)
    any_threshold = expected["per_property_any_threshold_mean"]
    yield _far(f"{name} coverage, any threshold", found.any_threshold, any_threshold, SCORE)


def _reconstruction(name: str, found: PaperReconstruction, theirs: Mapping[str, Any]) -> Iterator[Difference]:
    reference, reported = theirs["reconstruction"], theirs["reconstruction_reported"]
    yield _far(f"{name} squares found", found.hits, reference["num_true_positive_squares"])
    yield _far(f"{name} squares wrongly found", found.wrong, reference["num_false_positive_squares"])
    yield _far(f"{name} reconstruction by threshold", found.by_class, reference["f1_score_per_class"], SCORE)
    yield _far(f"{name} reconstruction by square", found.by_square, reference["f1_score_per_square"], SCORE)
    yield _far(f"{name} threshold reported", found.reported, reported["best_idx"])
    yield _far(f"{name} reconstruction", found.score, reported["best_f1_score_per_class"], SCORE)
    yield _far(f"{name} reconstruction, last", found.last, reported["last_f1_score_per_class"], SCORE)
