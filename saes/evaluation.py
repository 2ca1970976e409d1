"""How faithful and how sparse dictionaries are, many at once on the same tokens; docs/evaluation.md has the formulas.

Per batch the language model runs once as it is, twice for each set of written sites (set to zero, set to the mean) and
once for each dictionary; before that, one pass that stops after the deepest site finds the mean activations. Memory
holds one batch and a few numbers per feature and site, whatever the number of tokens.

In the passes with a replacement, the sites that a dictionary writes are replaced, at the counted positions alone, by
what it makes of the *clean* activations of the sites that it reads: for an SAE its reconstruction, for a transcoder the
output that it predicts, for a crosscoder all its sites at once. A loss counts at a counted position whose next token
is no padding. Any Dictionary can be evaluated that encodes a position without looking at others.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from saes.densities import FeatureCounter, FeatureCounts
from saes.dictionary import Dictionary
from saes.estimates import RowSums, Statistic
from saes.passes import Passes, by_row, clean_activations, side_by_side
from saes.samples import TokenBatch, in_batches
from saes.sites import Site, SiteError

_CHUNK = 1 << 25  # features that are worked on at once
Observer = Callable[[TokenBatch, Mapping[Site, Tensor]], None]


class EvaluationError(ValueError):
    """Tokens or a model that give nothing to measure."""


@dataclass(frozen=True)
class Quality:
    """Averages over `tokens` positions of `rows` rows; losses over `predictions` of them, in nats.

    Numbers that are 0 / 0 (such as loss recovered where ablation changes nothing) are NaN.
    """

    tokens: int
    predictions: int
    rows: int
    l0: float  # mean number of non-zero features
    l1: float  # mean sum of absolute activations
    variance_explained: float  # 1 - sum ||x - reconstruction||^2 / sum ||x - mean||^2
    mse: float  # mean over positions and coordinates of (x - reconstruction)^2
    cosine: float  # mean of cos(x, reconstruction); 0 where one of them is
    norm_in: float  # mean ||x||
    norm_out: float  # mean ||reconstruction||
    norm_ratio: float  # mean ||reconstruction|| / ||x||; 0 where x is
    reconstruction_bias: float  # sum ||reconstruction||^2 / sum x . reconstruction
    loss_recovered: float  # (zero - reconstructed) / (zero - original), zero = the site's activations set to 0
    loss_recovered_mean: float  # the same with the site's mean activation as the ablation
    loss_original: float
    loss_reconstructed: float
    loss_zero: float
    loss_mean: float
    kl: float  # mean KL(original || reconstructed) of next-token distributions
    kl_zero: float
    kl_mean: float
    alive: float  # share of features that fire at least once
    dead: float
    dense: float  # share of features that fire at more than a tenth of the positions
    standard_errors: Mapping[str, float]  # of the averages above, by name, clustered by row; see saes/estimates.py

    def to_json(self) -> dict[str, Any]:
        """What saes.files.write_json can hold: null in place of NaN."""
        numbers = {**asdict(self), "standard_errors": dict(self.standard_errors)}
        return {name: _jsonable(value) for name, value in numbers.items()}


@dataclass(frozen=True)
class Evaluation:
    """One dictionary's averages, and what each of its features did."""

    quality: Quality
    features: FeatureCounts


_ESTIMATES: dict[str, Statistic] = {
    "l0": lambda s: s["l0"] / s["tokens"],
    "l1": lambda s: s["l1"] / s["tokens"],
    "variance_explained": lambda s: 1 - s["error"] / s["whole"],
    "mse": lambda s: s["error"] / s["tokens"],
    "cosine": lambda s: s["cosine"] / s["tokens"],
    "norm_in": lambda s: s["norm_in"] / s["tokens"],
    "norm_out": lambda s: s["norm_out"] / s["tokens"],
    "norm_ratio": lambda s: s["norm_ratio"] / s["tokens"],
    "reconstruction_bias": lambda s: s["square_out"] / s["product"],
    "loss_recovered": lambda s: (s["loss_zero"] - s["loss_reconstructed"]) / (s["loss_zero"] - s["loss_original"]),
    "loss_recovered_mean": lambda s: (s["loss_mean"] - s["loss_reconstructed"]) / (s["loss_mean"] - s["loss_original"]),
    "loss_original": lambda s: s["loss_original"] / s["predictions"],
    "loss_reconstructed": lambda s: s["loss_reconstructed"] / s["predictions"],
    "loss_zero": lambda s: s["loss_zero"] / s["predictions"],
    "loss_mean": lambda s: s["loss_mean"] / s["predictions"],
    "kl": lambda s: s["kl_reconstructed"] / s["predictions"],
    "kl_zero": lambda s: s["kl_zero"] / s["predictions"],
    "kl_mean": lambda s: s["kl_mean"] / s["predictions"],
}
_SUMS = (
    *("tokens", "l0", "l1", "error", "whole", "cosine", "norm_in", "norm_out", "norm_ratio", "square_out", "product"),
    *("predictions", "loss_original", "loss_reconstructed", "loss_zero", "loss_mean"),
    *("kl_reconstructed", "kl_zero", "kl_mean"),
)


def evaluate(
    model: PreTrainedModel,
    dictionary: Dictionary,
    tokens: Int[Tensor, "rows length"],
    mask: Bool[Tensor, "rows length"],
    batch_size: int = 256,
) -> Quality:
    """Score one dictionary on the positions of `tokens` that `mask` allows."""
    return evaluate_all(model, [dictionary], in_batches(tokens, mask, batch_size))[0].quality


@torch.no_grad()
def evaluate_all(
    model: PreTrainedModel,
    dictionaries: Sequence[Dictionary],
    batches: Iterable[TokenBatch],
    *,
    observe: Observer | None = None,
    progress: Callable[[int], object] = lambda tokens: None,
) -> list[Evaluation]:
    """Score dictionaries of any sites on the same tokens; one Evaluation each, in their order.

    `batches` is gone through twice: a list or a Sample, not an iterator. `observe` is shown every batch and the clean
    activations of all sites in the first pass (saes.contexts collects from it); `progress` is told the counted tokens
    of every batch of both passes. EvaluationError if no position counts or no token is predicted, SiteError for a
    dictionary that does not fit the model.
    """
    if iter(batches) is batches:
        raise EvaluationError("the tokens are gone through twice: give a list of batches or a Sample, not an iterator")
    sites = list(dict.fromkeys(site for d in dictionaries for site in (*d.reads, *d.writes)))
    means = _site_means(model, sites, dictionaries, batches, observe, progress)
    scores = [_Scores(dictionary, means) for dictionary in dictionaries]
    for batch in batches:
        passes = Passes(model, batch)
        values = passes.clean(sites)
        ablated: dict[tuple[Site, ...], dict[str, Tensor]] = {}
        for score in scores:
            writes = score.dictionary.writes
            if writes not in ablated:
                zero = passes.replaced({site: torch.zeros(()) for site in writes})
                mean = passes.replaced({site: means[site] for site in writes})
                ablated[writes] = {
                    **{f"{name}_zero": column for name, column in zero.items()},
                    **{f"{name}_mean": column for name, column in mean.items()},
                }
            columns, written = score.reconstruct(batch, values)
            new = {f"{name}_reconstructed": column for name, column in passes.replaced(written).items()}
            score.sums.add({**columns, **passes.original, **ablated[writes], **new})
        progress(int(batch.keep.sum()))
    return [score.evaluation() for score in scores]


def check_fits(dictionary: Dictionary, values: Mapping[Site, Tensor]) -> None:
    """SiteError if the sites' tensors have other widths than the dictionary."""
    dictionary.check_width(sum(values[site].shape[-1] for site in dictionary.reads))
    width = sum(values[site].shape[-1] for site in dictionary.writes)
    if width != dictionary.width:
        names = ", ".join(map(str, dictionary.writes))
        raise SiteError(f"site {names}: activations have width {width}, the dictionary writes {dictionary.width}")


def _site_means(
    model: PreTrainedModel,
    sites: Sequence[Site],
    dictionaries: Sequence[Dictionary],
    batches: Iterable[TokenBatch],
    observe: Observer | None,
    progress: Callable[[int], object],
) -> dict[Site, Float[Tensor, " d"]]:
    """The mean activation over all counted positions, in float64."""
    totals: dict[Site, Tensor] = {}
    count = 0
    for batch, values in clean_activations(model, sites, batches):
        keep = batch.keep.to(model.device)
        if not totals:
            for dictionary in dictionaries:
                check_fits(dictionary, values)
            totals = {site: values[site].new_zeros(values[site].shape[-1], dtype=torch.float64) for site in sites}
        for site in sites:
            totals[site] += values[site][keep].sum(0, dtype=torch.float64)
        if observe is not None:
            observe(batch, values)
        count += int(keep.sum())
        progress(int(keep.sum()))
    if not count:
        raise EvaluationError("no position of the tokens counts: all of it is padding, or was dropped with the BOS")
    for site, total in totals.items():
        if not bool(total.isfinite().all()):
            raise EvaluationError(f"{site}: the model gives NaN or infinity; load it with another dtype, as float32")
    return {site: total / count for site, total in totals.items()}


class _Scores:
    """One dictionary's sums."""

    def __init__(self, dictionary: Dictionary, means: Mapping[Site, Tensor]) -> None:
        self.dictionary, self.sums = dictionary, RowSums(_SUMS)
        self._mean = side_by_side(dictionary.writes, means).to(dictionary.W_dec.device)
        self._features = FeatureCounter(dictionary.features)

    def reconstruct(
        self, batch: TokenBatch, values: Mapping[Site, Tensor]
    ) -> tuple[dict[str, Tensor], dict[Site, Tensor]]:
        """Sums over each row, and what each written site is replaced by at the n counted positions."""
        dictionary, lengths = self.dictionary, batch.keep.sum(1)
        x, y = (
            torch.cat([values[site][batch.keep.to(values[site].device)] for site in sites], -1).to(dictionary.W_dec)
            for sites in (dictionary.reads, dictionary.writes)
        )
        parts: list[dict[str, Tensor]] = []
        written: list[Tensor] = []
        start = 0
        for rows in _row_groups(lengths.tolist(), _CHUNK // dictionary.features):
            end = start + sum(rows)
            f = dictionary.encode(x[start:end])
            bypass, decoded = dictionary.bypass(x[start:end]), dictionary.decode(f)
            written.append(decoded if bypass is None else decoded + bypass)
            on = f != 0
            self._features.add(f, on, rows)
            firing = {"l0": on.sum(1), "l1": torch.linalg.vector_norm(f, ord=1, dim=1)}
            parts.append(firing | self._distances(y[start:end], written[-1]))
            start = end
        columns = {name: by_row(torch.cat([part[name] for part in parts]), lengths) for name in parts[0]}
        widths = [values[site].shape[-1] for site in dictionary.writes]
        replacements = zip(dictionary.writes, torch.cat(written).split(widths, dim=-1), strict=True)
        return {"tokens": lengths, **columns}, dict(replacements)

    def _distances(self, y: Float[Tensor, "n d"], found: Float[Tensor, "n d"]) -> dict[str, Tensor]:
        y, found = y.double(), found.double()
        norm_in, norm_out, product = y.norm(dim=1), found.norm(dim=1), (y * found).sum(1)
        both = norm_in * norm_out
        return {
            "error": (y - found).square().mean(1),
            "whole": (y - self._mean).square().mean(1),
            "cosine": (product / both).where(both > 0, 0.0),
            "norm_in": norm_in,
            "norm_out": norm_out,
            "norm_ratio": (norm_out / norm_in).where(norm_in > 0, 0.0),
            "square_out": norm_out.square(),
            "product": product,
        }

    def evaluation(self) -> Evaluation:
        predictions = round(self.sums.total("predictions"))
        if not predictions:
            raise EvaluationError("no token is predicted: every row counts one position at most; use longer rows")
        estimates = {name: self.sums.estimate(statistic) for name, statistic in _ESTIMATES.items()}
        counts = self._features.counts()
        quality = Quality(
            tokens=counts.tokens,
            predictions=predictions,
            rows=self.sums.rows,
            **{name: each.value for name, each in estimates.items()},
            alive=counts.alive,
            dead=counts.dead,
            dense=counts.dense,
            standard_errors={name: each.standard_error for name, each in estimates.items()},
        )
        return Evaluation(quality, counts)


def _row_groups(lengths: Sequence[int], limit: int) -> Iterator[list[int]]:
    """Lengths of successive rows in groups of at most `limit` positions, or of one row; at least one group."""
    group: list[int] = []
    for length in lengths:
        if group and sum(group) + length > limit:
            yield group
            group = []
        group.append(length)
    yield group


def _jsonable(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _jsonable(each) for name, each in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
