"""Faithfulness over circuit sizes: found circuits against random ones and against circuits of neurons.

Nodes are ranked by their effects on the examples `finding`, and circuits of the first n nodes are measured on other
examples, `testing`. Everything is the last size and faithful by definition; nothing is the first, and not faithful at
all by definition. So a curve is judged by how early it rises: by the areas CPR and CMD (Mueller et al. 2025, MIB).

* On a log axis, x = log(1 + n) / log(1 + N), N the number of nodes that are active in clean or patch (circuits.
  activity) on the examples `finding`. Nearly every feature is inactive, so sizes are counted among those that matter.
* Nominal, as MIB: x = the share of all nodes there are, at the shares .001 to 1, on a linear axis. Below .001 nothing
  is measured there, and all sizes from N on are everything: for dictionaries most of this curve is 1.

MIB reports CPR of circuits chosen by signed effect and CMD of circuits chosen by absolute effect: see `order`.
"""

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float
from transformers import PreTrainedModel

from circuits.areas import MIB_SHARES, Axis, cmd, cpr
from circuits.attribution import counterfactual
from circuits.discover import CircuitConfig
from circuits.end_points import EndPoints
from circuits.examples import Examples
from circuits.faithfulness import Evaluator, Measured, Score, variants
from circuits.feature_acts import Dictionaries
from circuits.held_out import MeasureError, also_in, check_apart
from circuits.intervals import Interval, interval
from circuits.metrics import Metric
from circuits.node_sets import Order, Ranking, Space, log_sizes
from circuits.random_circuits import Draw, random_circuit
from circuits.ranked import neurons_of, rank_nodes, to_neurons
from saes.sites import Site


@dataclass(frozen=True)
class CurveConfig:
    order: Order = "absolute"
    """nodes by mean absolute effect, or signed: those first that the metric needs most"""
    per_decade: int = 3
    """sizes for every factor of ten, besides 0 and everything"""
    draws: int = 5
    """random circuits of each kind at every size"""
    neurons: bool = True
    """the same curve for the neurons of the same sites"""
    nominal: bool = True
    """measure at MIB's sizes too"""
    batch_size: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("per_decade", 1), ("draws", 0), ("batch_size", 1)):
            if getattr(self, name) < least:
                raise MeasureError(f"{name} is {getattr(self, name)}: choose at least {least}")
        if self.order not in ("absolute", "signed"):
            raise MeasureError(f"order {self.order!r}: choose absolute or signed")


@dataclass(frozen=True)
class Point:
    """The circuit of one size; `size` nodes of which `errors` are error nodes."""

    size: int
    errors: int
    score: Score


@dataclass(frozen=True)
class Areas:
    cpr: Interval
    cmd: Interval


@dataclass(frozen=True)
class Band:
    """Random circuits of one kind: faithfulness of every draw at every size, and their areas on the log axis."""

    kind: Draw
    sizes: tuple[int, ...]
    faithfulness: tuple[tuple[float, ...], ...]
    cpr: tuple[float, ...]
    cmd: tuple[float, ...]

    def at_sizes(self) -> Float[np.ndarray, "draws sizes"]:
        return np.array(self.faithfulness)


@dataclass(frozen=True)
class Curve:
    """Circuits of growing size from one set of dictionaries."""

    nodes: str
    """what a node is: features or neurons"""
    points: tuple[Point, ...]
    active: int
    """N: nodes active in clean or patch"""
    total: int
    """all nodes there are"""
    log: Areas
    nominal: Areas | None
    bands: tuple[Band, ...]

    def line(self, name: str = "faithfulness") -> tuple[list[int], list[float]]:
        """Sizes, and one of the numbers of Score."""
        return [p.size for p in self.points], [getattr(p.score, name).value for p in self.points]


@dataclass(frozen=True)
class Curves:
    """Curves over the same test examples; `model` and `empty` are mean metrics."""

    features: Curve
    neurons: Curve | None
    model: float
    empty: float
    order: Order
    finding: int
    testing: int
    overlap: int
    """test examples that also found the circuits, 0 unless asked for"""

    def sentence(self) -> str:
        """CPR and CMD on the log axis, with what they have to beat."""
        said = [f"features CPR {self.features.log.cpr} CMD {self.features.log.cmd}"]
        said += [f"{b.kind} random CPR {np.mean(b.cpr):.3g} CMD {np.mean(b.cmd):.3g}" for b in self.features.bands]
        if self.neurons is not None:
            said.append(f"neurons CPR {self.neurons.log.cpr} CMD {self.neurons.log.cmd}")
        return f"Areas over log size, {self.order} order, {self.testing} test examples: {'; '.join(said)}."

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def faithfulness_curves(
    model: PreTrainedModel,
    dictionaries: Dictionaries,
    finding: Examples,
    testing: Examples,
    metric: Metric,
    to: EndPoints = counterfactual,
    config: CurveConfig | None = None,
    effects: CircuitConfig | None = None,
    *,
    free: Collection[Site] = (),
    overlap: bool = False,
    progress: bool = True,
) -> Curves:
    """Rank nodes on `finding` (as `effects` says), measure on `testing`; MeasureError if they share an example.

    Sites in `free` are never replaced, and their nodes are not ranked. Costs for every size 4 + 2 `draws` passes over
    the test examples, and 4 more for neurons.
    """
    config, effects = config or CurveConfig(), effects or CircuitConfig()
    if not overlap:
        check_apart(testing, finding)
    if finding.grouped.names != testing.grouped.names:
        raise MeasureError(
            f"places of the finding examples are {', '.join(finding.grouped.names)}, of the test examples "
            f"{', '.join(testing.grouped.names)}: use the same spans, or prompts of one length"
        )
    ranked = {site: d for site, d in dictionaries.items() if site not in free}
    run = partial(_curve, model, finding, testing, metric, config, effects, progress)
    features, measured = run("features", ranked, to, config.draws)
    neurons = None
    if config.neurons:
        neurons, _ = run("neurons", neurons_of(ranked), to_neurons(to, ranked), 0)
    again = 0 if not overlap else int(also_in(testing, finding).sum())
    return Curves(
        features,
        neurons,
        float(measured.model.mean()),
        float(measured.empty.mean()),
        config.order,
        len(finding),
        len(testing),
        again,
    )


def _curve(
    model: PreTrainedModel,
    finding: Examples,
    testing: Examples,
    metric: Metric,
    config: CurveConfig,
    effects: CircuitConfig,
    progress: bool,
    name: str,
    dictionaries: Dictionaries,
    to: EndPoints,
    draws: int,
) -> tuple[Curve, Measured]:
    ranking, activity = rank_nodes(model, dictionaries, finding, metric, to, effects, config.order, progress=progress)
    space, active = ranking.space, len(ranking)
    if not active:
        raise MeasureError(f"no {name} move between the clean prompts and the end point: there is nothing to rank")
    sizes = log_sizes(active, config.per_decade)
    shares = {share: min(active, round(share * space.nominal)) for share in MIB_SHARES} if config.nominal else {}
    every = sorted({*sizes, *shares.values()})
    masks = {}
    for size in every:
        masks |= variants(str(size), partial(ranking.mask, size, dictionaries))
    kinds: tuple[Draw, ...] = ("uniform", "matched") if draws else ()
    between = [size for size in sizes if 0 < size < active]
    for kind in kinds:
        for draw in range(draws):
            for size in between:
                nodes = random_circuit(kind, space, ranking.top(size), activity, [config.seed, draw, size])
                masks[f"{kind} {draw} {size}"] = partial(space.mask, nodes)
    evaluator = Evaluator(model, dictionaries, metric, to, batch_size=config.batch_size)
    measured = evaluator.run(testing, masks)
    points = [Point(size, _errors(space, ranking, size), Score.of(measured, str(size))) for size in every]
    log = _areas(measured, [str(s) for s in sizes], sizes, active, "log")
    nominal = _areas(measured, [str(s) for s in shares.values()], list(shares), 1.0, "linear") if shares else None
    bands = tuple(_band(measured, kind, draws, sizes, between, active) for kind in kinds)
    return Curve(name, tuple(points), active, space.nominal, log, nominal, bands), measured


def _errors(space: Space, ranking: Ranking, size: int) -> int:
    return int(space.is_error(ranking.top(size)).sum())


def _areas(measured: Measured, names: Sequence[str], x: Sequence[float], total: float, axis: Axis) -> Areas:
    """Areas of the curve through some masks, with intervals from the resampled curves."""
    values, resampled = [measured.ratio(name) for name in names], measured.resampled(names)
    finite = resampled.tolist() if np.isfinite(resampled).all() else []

    def estimate(area: Any) -> Interval:
        found = np.array([area(x, row, total, axis=axis) for row in finite])
        return interval(area(x, values, total, axis=axis), found)

    return Areas(estimate(cpr), estimate(cmd))


def _band(
    measured: Measured, kind: Draw, draws: int, sizes: Sequence[int], between: Sequence[int], active: int
) -> Band:
    """Nothing and everything are the same for every circuit: 0 and 1."""
    ends = {0: 0.0, active: 1.0}
    lines = [
        tuple(measured.ratio(f"{kind} {draw} {size}") if size in between else ends[size] for size in sizes)
        for draw in range(draws)
    ]
    return Band(
        kind,
        tuple(sizes),
        tuple(lines),
        tuple(cpr(sizes, line, active, axis="log") for line in lines),
        tuple(cmd(sizes, line, active, axis="log") for line in lines),
    )
