"""Planted circuits: every method of circuits/ against the true graph of transformers whose weights are set by hand.

`measure` plants random instances of seven programs and scores nodes and edges with the true dictionaries and with
trained ones; `section` says in Markdown what came out.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from circuit_truth.plant_dictionaries import FEATURES, SAME, given, trained
from circuit_truth.plant_methods import NOTHING, PLACES, Area, Bench, coarse_areas
from circuit_truth.programs import KINDS, instance
from circuits.end_points import Name
from circuits.intervals import interval, resampled_means

ENDS: tuple[Name, ...] = ("patch", "mean", "zero")
NODES = ("attribution", "ig", "ig, left", "exact", "change")
EDGES = ("secant", "secant, path", "clean slope", "secant, frozen", "attribution, clean slope", "product of ends")
COARSE = ("EAP", "clean-corrupted", "EAP-IG, inputs", "EAP-IG, activations", "exact", "change")
SHORT = 0.02  # what a method has to fall short of the best by to be named


@dataclass(frozen=True)
class PlantedConfig:
    programs: tuple[str, ...] = tuple(KINDS)
    instances: int = 4
    """of every program, with the true dictionaries"""
    trained: int = 2
    """of these, how many dictionaries are trained on"""
    recipe: str = "p_annealing"
    """of saes.recipes"""
    steps: int = 800
    """of training"""
    pairs: int = 12
    """examples of an instance"""
    seed: int = 0
    places: tuple[str, ...] = PLACES
    """nodes are features at all positions together, at each by itself, or both; trained dictionaries have the first"""


def measure(config: PlantedConfig | None = None, *, progress: bool = True) -> dict[str, Any]:
    """Areas under the ROC curve of every method on every program, one list entry for each instance; for JSON."""
    config = config or PlantedConfig()
    rows: dict[tuple[str, ...], list[Area]] = {}
    quality: list[dict[str, Any]] = []
    work = [(kind, number) for kind in config.programs for number in range(config.instances)]
    for kind, number in tqdm(work, desc="planted circuits", unit="instance", disable=not progress):
        planted = instance(kind, config.seed + number, config.pairs)
        found = {"given": [*Bench(planted, given(planted.plant)).areas(ENDS, config.places), *coarse_areas(planted)]}
        if number < config.trained:
            learnt = trained(planted, config.recipe, steps=config.steps, seed=config.seed + number)
            bench = Bench(planted, learnt)
            found["trained"] = list(bench.areas(ENDS[:1], config.places[:1]))
            quality.append({"program": kind, "instance": number, **learnt.quality, "error share": bench.error_share()})
        for dictionary, areas in found.items():
            for a in areas:
                rows.setdefault((kind, dictionary, a.what, a.end, a.places, a.method), []).append(a)
    names = ("program", "dictionary", "what", "end", "places", "method")
    results = [{**dict(zip(names, key, strict=True)), **_summary(areas)} for key, areas in rows.items()]
    settings = {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(config).items()}
    return {"config": settings, "results": results, "trained": quality}


def _summary(areas: Sequence[Area]) -> dict[str, Any]:
    """Means over instances with bootstrap intervals, the values themselves, and what is missed most often."""
    summary: dict[str, Any] = {"instances": len(areas)}
    for name in ("area", "found"):
        values = [value for a in areas if (value := getattr(a, name)) is not None]
        resampled = resampled_means(np.array([values])) if values else np.empty((0, 1))
        mean = interval(float(np.mean(values)) if values else float("nan"), resampled[:, 0])
        summary |= {name: mean.value if values else None, f"{name}_low": mean.low, f"{name}_high": mean.high}
        summary[f"{name}s"] = values
    missed = Counter(node for a in areas for node in a.missed)
    return {
        **summary,
        "true": float(np.mean([a.true for a in areas])),
        "candidates": float(np.mean([a.candidates for a in areas])),
        "missed": {node: count for node, count in missed.most_common() if 2 * count > len(areas)},
    }


Rows = Sequence[Mapping[str, Any]]


def section(result: Mapping[str, Any]) -> list[str]:
    """Markdown lines: how it was measured, tables, and what fails where."""
    c, rows = result["config"], result["results"]
    lines = ["## Planted circuits", "", *_method(c), ""]
    for dictionary in ("given", "trained"):
        lines += _dictionary_tables(dictionary, result)
    lines += ["### Other end points (true dictionaries, all positions together)", ""]
    for end in ENDS[1:]:
        some = _pick(rows, dictionary="given", what="nodes", end=end)
        lines += [
            f"Nodes moved to the {end}:" if end == "mean" else "Nodes moved to zero:",
            "",
            *_table(some, NODES),
            "",
        ]
    lines += ["### Heads and MLPs", "", *_table(_pick(rows, what="coarse edges"), COARSE), ""]
    return [*lines, "### What fails where", "", *_reading(rows), ""]


def _method(c: Mapping[str, Any]) -> list[str]:
    return [
        f"{c['instances']} random instances of each of {len(c['programs'])} programs, planted in GPT-2s of 2 blocks by "
        "setting their weights by hand (`scripts/circuit_truth/programs.py` says what each does), with "
        f"{c['pairs']} pairs of prompts each. Features are orthonormal directions; LayerNorm has an epsilon so large "
        "that it is the identity, so what nothing reads changes nothing: the norms of real models are not tested here. "
        "A node is true if it moves between the clean prompt and the end point and something that the metric depends "
        "on reads it, whether or not it does anything alone; an edge, if both ends are true and one is made directly "
        "of the other.",
        "",
        "Area under the ROC curve (.5 is chance) over the nodes that are active in clean or patch, and over all pairs "
        "of them between which the model has a path; mean over instances, with a 95 % interval where they differ. "
        f"Scores below {NOTHING:g} of the largest count as none. *change* scores a node by how much it changes, "
        "*product of ends* an edge by the effects of its two nodes: what the methods have to beat. With so many "
        "candidates an area near 1 still allows for many false ones, so the share of the true ones among as many "
        "strongest stands behind it.",
    ]


def _dictionary_tables(dictionary: str, result: Mapping[str, Any]) -> list[str]:
    rows, quality = _pick(result["results"], dictionary=dictionary), result["trained"]
    if not rows:
        return []
    lines = [f"### {dictionary.capitalize()} dictionaries", ""]
    if dictionary == "trained":
        c = result["config"]
        mean = {k: float(np.mean([q[k] for q in quality])) for k in quality[0] if k not in ("program", "instance")}
        lines += [
            f"{c['recipe']}, {FEATURES} features, {c['steps']} steps, {c['trained']} instances, a dictionary at each "
            "of 7 sites on the planted model's own activations; means over sites: mean max cosine "
            f"{mean['mean max cosine']:.2f}, {mean['found']:.0%} of the planted features found, variance explained "
            f"{mean['variance explained']:.3f}, L0 {mean['L0']:.1f} where {mean['true L0']:.1f} are on. Error nodes "
            f"have {mean['error share']:.0%} of all effects. A feature counts as the planted one with which it has a "
            f"cosine above {SAME:.2f} (no two can have that); a true node for which no active feature stands "
            "counts as missed, and a feature that mixes a cause with what goes with it counts as false, whatever it "
            "carries. So areas below those of the true dictionaries, and below .5, are what the dictionaries cost.",
            "",
        ]
    for what, methods in (("nodes", NODES), ("edges", EDGES)):
        for places in dict.fromkeys(row["places"] for row in _pick(rows, what=what, end="patch")):
            some = _pick(rows, what=what, places=places, end="patch")
            where = "all positions together" if places == "all" else "each position by itself"
            lines += [f"{what.capitalize()}, {where}:", "", *_table(some, methods), ""]
    return lines


def _pick(rows: Rows, **wanted: str) -> Rows:
    return [row for row in rows if all(row[name] == value for name, value in wanted.items())]


def _table(rows: Rows, methods: Sequence[str]) -> list[str]:
    """Programs by methods."""
    lines = [f"| program | true of | {' | '.join(methods)} |", "|---|---:|" + "---:|" * len(methods)]
    for program in dict.fromkeys(row["program"] for row in rows):
        by = {row["method"]: row for row in rows if row["program"] == program}
        first = by[methods[0]]
        counts = f"{first['true']:.0f} of {first['candidates']:.0f}"
        lines.append(f"| {program} | {counts} | {' | '.join(_cell(by[m]) for m in methods)} |")
    return lines


def _cell(row: Mapping[str, Any]) -> str:
    if row["area"] is None:
        return ""
    alone = row["area_low"] is None or row["area_high"] - row["area_low"] < 5e-4
    bounds = "" if alone else f" [{row['area_low']:.2f}, {row['area_high']:.2f}]"
    return f"{row['area']:.3f}{bounds}; {row['found']:.0%}"


def _reading(rows: Rows) -> list[str]:
    """One line for each program and kind of node: which methods are right, which fall short, and what they miss."""
    lines = []
    for dictionary, what, methods in (
        ("given", "nodes", NODES[:-1]),
        ("given", "edges", EDGES[:-1]),
        ("given", "coarse edges", COARSE[:-1]),
        ("trained", "nodes", NODES[:-1]),
        ("trained", "edges", EDGES[:-1]),
    ):
        some = [
            r
            for r in _pick(rows, dictionary=dictionary, what=what, end="patch", places="all")
            if r["method"] in methods
        ]
        some = [row for row in some if row["area"] is not None]
        said = [_short_of_best(program, _pick(some, program=program)) for program in _programs(some)]
        perfect = [program for program, line in zip(_programs(some), said, strict=True) if line is None]
        if perfect:
            lowest = min(row["area"] for row in some if row["program"] in perfect)
            said.append(f"{', '.join(perfect)}: no method falls short (lowest area {lowest:.3f}).")
        lines += [f"* {what}, {dictionary} dictionaries, {line}" for line in said if line is not None]
    return lines


def _programs(rows: Rows) -> list[str]:
    return list(dict.fromkeys(row["program"] for row in rows))


def _short_of_best(program: str, rows: Rows) -> str | None:
    """The methods that fall short of the best, with what they miss; None if none does."""
    best = max(row["area"] for row in rows)
    good = [row["method"] for row in rows if row["area"] >= best - SHORT]
    short = sorted((row for row in rows if row["area"] < best - SHORT), key=lambda row: row["area"])
    if not short and best >= 1 - SHORT:
        return None
    parts = [f"{row['method']} {row['area']:.2f}{_misses(row['missed'])}" for row in short]
    others = f"; {', '.join(good)} reach {best:.2f}" if short else f"all methods stay at {best:.2f}"
    return f"{program}: {', '.join(parts)}{others}."


def _misses(nodes: Iterable[str]) -> str:
    named = list(nodes)
    if not named:
        return ""
    more = f" and {len(named) - 4} more" if len(named) > 4 else ""
    return f" (no score for {', '.join(named[:4])}{more})"
