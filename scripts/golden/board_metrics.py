"""Coverage and board reconstruction of the original implementation, on given activations and labels.

Counts must be equal, scores within 1e-6 and L0 within 1e-5. Two of the original's habits are repeated here because its
numbers contain them: a label is given where TP * (1 / fires) >= 0.95 in float32, which refuses some pairs of exactly
0.95, and the last threshold is replaced by a vote of each feature at its highest labelled threshold.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from boardgames.confusion import THRESHOLDS, Confusion, count_confusion
from boardgames.reconstruction import MINIMUM_TRUE_POSITIVES, micro_f1
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
    active = torch.stack([held_out > t * maxima for t in THRESHOLDS])
    yield _far(f"{game}: features active per position", active.double().sum(-1).mean(-1),
               numbers["active_per_token_test"], L0)  # fmt: skip
    for function, theirs in numbers["functions"].items():
        truth = labels[f"{game}__train__{function}"].astype(bool)
        counts = count_confusion([(acts, truth)], maxima)
        name = f"{game}: {function.removeprefix('board_to_').removeprefix('games_batch_to_')}:"
        yield _far(f"{game}: firing counts", counts.fires, arrays["on_count_TF"])
        yield _far(f"{name} true positives", counts.true_positives, arrays[f"{function}__tp"])
        yield _far(f"{name} positives", counts.positives, arrays[f"{function}__positives"])
        yield from _coverage(name, counts, theirs, arrays[f"{function}__best_f1_TP"])
        given = precise_in_float32(counts)
        expected = np.zeros_like(given)
        expected[tuple(arrays[f"{function}__feature_labels_tfp"].T.astype(int))] = True
        yield _far(f"{name} labels", given, expected)
        yield from _reconstruction(name, given, active, labels[f"{game}__test__{function}"].astype(bool), theirs)


def _coverage(
    name: str, counts: Confusion, theirs: Mapping[str, Any], best_f1: NDArray[np.float32]
) -> Iterator[Difference]:
    best_TP, coverage = counts.f1().max(1), theirs["coverage"]
    per_threshold = best_TP.sum(1) / coverage["denominator"]
    yield _far(f"{name} best F1", best_TP, best_f1, SCORE)
    yield _far(f"{name} coverage by threshold", per_threshold, coverage["per_threshold"], SCORE)
    yield _far(f"{name} coverage", per_threshold.max(), coverage["best"], SCORE)
    if other := theirs.get("coverage_other_denominator"):
        shown = best_TP.sum(1).max() / other["denominator"]
        yield _far(f"{name} coverage / {other['denominator']}", shown, other["best"], SCORE)
    best_any = best_TP.max(0).sum() / coverage["denominator"]
    yield _far(f"{name} coverage, any threshold", best_any, coverage["per_property_any_threshold_mean"], SCORE)


def precise_in_float32(counts: Confusion) -> NDArray[np.bool_]:
    """The original's labels [threshold, feature, property]: TP times the float32 inverse of the firing count."""
    tp = counts.true_positives.astype(np.float32)
    inverse = np.float32(1) / np.maximum(counts.fires, 1).astype(np.float32)
    return (tp * inverse[..., None] >= np.float32(0.95)) & (counts.true_positives >= MINIMUM_TRUE_POSITIVES)


def _reconstruction(
    name: str, given: NDArray[np.bool_], active: Tensor, truth: NDArray[np.bool_], theirs: Mapping[str, Any]
) -> Iterator[Difference]:
    boards = [_any(active[t].numpy(), given[t]) for t in range(len(given))]
    boards[-1] = highest_labelled(given, active)
    reference = theirs["reconstruction"]
    hits = np.array([(board & truth).sum() for board in boards])
    false = np.array([(board & ~truth).sum() for board in boards])
    yield _far(f"{name} squares found", hits, reference["num_true_positive_squares"])
    yield _far(f"{name} squares wrongly found", false, reference["num_false_positive_squares"])
    f1 = [micro_f1(int(h), int(h + f), int(truth.sum())) for h, f in zip(hits, false, strict=True)]
    yield _far(f"{name} reconstruction by threshold", f1, reference["f1_score_per_class"], SCORE)
    classes = theirs["config"]["classes"]
    squares = [f1_by_square(board, truth, classes) for board in boards]
    yield _far(f"{name} reconstruction by square", squares, reference["f1_score_per_square"], SCORE)
    reported = theirs["reconstruction_reported"]
    yield _far(f"{name} threshold reported", np.argmax(squares[:-1]), reported["best_idx"])
    yield _far(f"{name} reconstruction", f1[reported["best_idx"]], reported["best_f1_score_per_class"], SCORE)
    yield _far(f"{name} reconstruction, last", f1[-1], reported["last_f1_score_per_class"], SCORE)


def f1_by_square(board: NDArray[np.bool_], truth: NDArray[np.bool_], classes: int) -> float:
    """The original's second F1: a square found right is not counted where exactly one wrong class was found with it.

    What is not counted is not counted as missed either.
    """
    hits, false = ((board & which).reshape(-1, classes).sum(1) for which in (truth, ~truth))
    found, missed = int(hits[false != 1].sum()), int((truth & ~board).sum())
    return micro_f1(found, found + int(false.sum()), found + missed)


def _any(active: NDArray[np.bool_], labels: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return active.astype(np.float32) @ labels.astype(np.float32) > 0


def highest_labelled(given: NDArray[np.bool_], active: Tensor) -> NDArray[np.bool_]:
    """Each active feature votes with its highest exceeded threshold at which it has a label of this property group."""
    board = np.zeros((active.shape[1], given.shape[-1]), bool)
    voted = np.zeros(active.shape[1:], bool)
    for t in reversed(range(len(given))):
        votes = active[t].numpy() & given[t].any(-1) & ~voted
        board |= _any(votes, given[t])
        voted |= votes
    return board
