"""(a) Do circuits on the OthelloGPT name the squares that the rules make causal?"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

import numpy as np
import torch
from tqdm import tqdm
from transformers import PreTrainedModel

from circuit_truth.behaviours import Behaviour, behaviours
from circuit_truth.naming import Composites, Names, name_features, node_table
from circuit_truth.probe_flips import SquareUse, square_use
from circuit_truth.scores import NUMBERS, Truth, agreement
from circuits.attribution import counterfactual, node_effects
from circuits.discover import CircuitConfig
from circuits.exact import exact_effects
from circuits.faithfulness import faithfulness
from circuits.feature_acts import Dictionaries, NodeScores
from circuits.intervals import interval, resampled_means
from circuits.metrics import LogOdds
from circuits.ranked import rank_nodes
from saes.sites import Site


@dataclass(frozen=True)
class OthelloScale:
    behaviours: int = 60
    pairs: int = 8
    """of each behaviour; as many others measure faithfulness and calibrate the flips"""
    exact: int = 12
    """behaviours whose nodes are patched exactly, too"""
    least_fall: float = 2.0
    """nats that the log-odds must fall from clean to patch for a pair to count"""
    sizes: tuple[int, ...] = (10, 25, 50, 100, 200)
    """of circuits"""
    thresholds: tuple[float, ...] = (0.3, 0.5, 0.7)
    """of the F1 from which a feature has its property's name"""
    name_games: int = 500
    probe_games: int = 1000
    steps: int = 20
    """of integrated gradients"""


FAITHFUL = (50, 200, 1000)
USUAL = ("ig", 50, 0.5, "others")
"""method, nodes, F1 and composites of the rows that are not about these"""


def measure(model: PreTrainedModel, dictionaries: Dictionaries, scale: OthelloScale, seed: int) -> dict[str, Any]:
    """All numbers as JSON: of every behaviour, and means over behaviours with their bootstrap intervals."""
    every = behaviours(model, scale.behaviours, 2 * scale.pairs, scale.least_fall, seed)
    measured, others = ([b.take(part) for b in every] for part in (slice(scale.pairs), slice(scale.pairs, None)))
    use = square_use(model, measured, others, scale.probe_games, seed)
    names = name_features(model, dictionaries, scale.name_games, seed)
    rows: list[dict[str, Any]] = []
    for number, behaviour in enumerate(tqdm(measured, desc="circuits", unit="behaviour")):
        rows += [
            {"behaviour": behaviour.name, **row}
            for row in _rows(model, dictionaries, behaviour, use.used(number), names, scale, number < scale.exact)
        ]
    carried = [
        _faithful(model, dictionaries, found, testing, scale)
        for found, testing in zip(tqdm(measured, desc="faithfulness", unit="behaviour"), others, strict=True)
    ]
    return {
        "behaviours": [b.name for b in measured],
        "pairs": sum(map(len, measured)),
        "squares": _squares(measured, use),
        "flips": {"site": use.site, "threshold": use.threshold, "controls": use.controls},
        "faithfulness": {
            size: {name: _mean([c[size][name] for c in carried], seed) for name in numbers}
            for size, numbers in carried[0].items()
        },
        "table": _table(rows, seed),
        "rows": rows,
    }


def _rows(
    model: PreTrainedModel,
    dictionaries: Dictionaries,
    behaviour: Behaviour,
    used: np.ndarray,
    names: Names,
    scale: OthelloScale,
    exact: bool,
) -> list[dict[str, Any]]:
    """The numbers of every method, size, threshold and truth; what differs from USUAL differs in one thing."""
    truths = {
        "used": Truth(behaviour.causal & used, behaviour.differ & ~behaviour.causal),
        "rules": Truth(behaviour.causal, behaviour.differ & ~behaviour.causal),
    }
    methods = ["ig", "attribution", *(["exact"] if exact else [])]
    found = []
    for method in methods:
        effects = _effects(model, dictionaries, behaviour, method, scale)
        settings = {(method, *USUAL[1:])}
        settings |= {(method, size, *USUAL[2:]) for size in scale.sizes}
        if method == USUAL[0]:
            settings |= {(*USUAL[:2], t, c) for t in scale.thresholds for c in get_args(Composites)}
        for threshold, composites in {s[2:] for s in settings}:
            table = node_table(behaviour, effects, names, threshold, composites)
            for size in sorted(s[1] for s in settings if s[2:] == (threshold, composites)):
                for truth, squares in truths.items():
                    numbers = agreement(table, table.strongest(size), squares)
                    about = {"method": method, "nodes": size, "f1_from": threshold, "composites": composites}
                    found.append({**about, "truth": truth, "exact_too": exact, **numbers})
    return found


@torch.no_grad()
def _effects(
    model: PreTrainedModel, dictionaries: Dictionaries, behaviour: Behaviour, method: str, scale: OthelloScale
) -> dict[Site, NodeScores]:
    examples = behaviour.examples
    if method == "exact":
        return exact_effects(model, dictionaries, examples, LogOdds())
    how = "ig" if method == "ig" else "attribution"
    with torch.enable_grad():
        effects = node_effects(model, dictionaries, examples, LogOdds(), method=how, steps=scale.steps)
    return {site: e.at_places(examples.grouped, dictionaries[site].features) for site, e in effects.items()}


def _faithful(
    model: PreTrainedModel, dictionaries: Dictionaries, found: Behaviour, testing: Behaviour, scale: OthelloScale
) -> dict[str, dict[str, float]]:
    """Of circuits of some sizes, on the behaviour's other pairs."""
    config, metric = CircuitConfig(steps=scale.steps), LogOdds()
    ranking, _ = rank_nodes(
        model, dictionaries, found.examples, metric, counterfactual, config, "absolute", progress=False
    )
    numbers = {}
    for size in FAITHFUL:
        score = faithfulness(
            model, dictionaries, ranking.mask(size, dictionaries), found.examples, testing.examples, metric,
            random_circuits=0, overlap=True,
        )  # fmt: skip
        numbers[str(size)] = {
            "errors as nodes": score.faithfulness,
            "all errors kept": score.score.errors_kept.value,
            "no errors": score.faithfulness_without_errors,
        }
    return numbers


def _squares(measured: Sequence[Behaviour], use: SquareUse) -> dict[str, float]:
    """How many squares differ, are causal by the rules, and are used by the model."""
    causal = [(b.causal, use.used(i), np.isnan(use.falls[i])) for i, b in enumerate(measured)]
    other = [(b.differ & ~b.causal, use.used(i)) for i, b in enumerate(measured)]
    return {
        "differing": float(np.mean([b.differ.sum(1).mean() for b in measured])),
        "causal": float(np.mean([b.causal.sum(1).mean() for b in measured])),
        "causal unreadable": _share(np.concatenate([n[c] for c, _, n in causal])),
        "causal used": _share(np.concatenate([u[c] for c, u, _ in causal])),
        "others used": _share(np.concatenate([u[o] for o, u in other])),
        "fall": float(np.mean([b.fall.mean() for b in measured])),
    }


def _share(flags: np.ndarray) -> float:
    return float(flags.mean())


def _mean(values: Sequence[float], seed: int) -> list[float | None]:
    """Mean over behaviours, with the bounds of its interval; behaviours without a number are left out."""
    finite = np.array([v for v in values if np.isfinite(v)])
    if not len(finite):
        return [None, None, None]
    found = interval(float(finite.mean()), resampled_means(finite[None], seed=seed)[:, 0])
    return [found.value, found.low, found.high]


def _table(rows: Sequence[dict[str, Any]], seed: int) -> list[dict[str, Any]]:
    """Means over behaviours of every setting; where the exact effects are, also of those behaviours alone."""
    keys = ("method", "nodes", "f1_from", "composites", "truth")
    settings = dict.fromkeys(tuple(row[k] for k in keys) for row in rows)
    found = []
    for setting in settings:
        same = [row for row in rows if tuple(row[k] for k in keys) == setting]
        for group, chosen in (("all", same), ("exact too", [row for row in same if row["exact_too"]])):
            if group == "all" and setting[0] == "exact":
                continue
            means = {name: _mean([row[name] for row in chosen], seed) for name in NUMBERS}
            count = int(np.isfinite([row["f1"] for row in chosen]).sum())
            found.append({**dict(zip(keys, setting, strict=True)), "group": group, "behaviours": count, **means})
    return found


def quick(scale: OthelloScale) -> OthelloScale:
    """A few behaviours, to try the code."""
    return replace(scale, behaviours=3, pairs=3, exact=1, name_games=60, probe_games=100, sizes=(25, 50))
