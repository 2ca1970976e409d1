"""The document's section on sets of dictionaries."""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from kibitz.scored import markdown
from saes.files import read_json
from shift_truth.figures import TYPES, draw_dictionaries
from shift_truth.numbers import cluster_draws, gap_draws, rank_correlation, square_of, worst
from shift_truth.words import kept, measurements, of_draws, said

JUDGES = {"concept": "concept oracle", "causal": "causal oracle"}
METHODS = {"shift": "SHIFT", "shift_retrained": "retrained"}
MEASURES = {
    "coverage": "coverage",
    "reconstruction": "board reconstruction",
    "explained": "variance explained",
    "recovered": "loss recovered",
    "l0": "L0",
}
GIVEN = "coverage, given variance explained"
"""a partial rank correlation: does it matter what features stand for, beyond how much they explain?"""
Gains = dict[tuple[str, str], Float[np.ndarray, "sets draws"]]
"""by judge and method: the share of the gap closed with each set, and its resamples"""


def dictionaries_section(run: Path, images: Path, link: str) -> tuple[list[str], Any] | None:
    """Does a better dictionary give better SHIFT?"""
    sets = finished_sets(run)
    if len(sets) < 3:
        return None
    gains = gains_of(sets)
    for number, found in enumerate(sets):
        found["gap"] = float(gains["causal", "shift"][number, 0])
    drawn = {name: MEASURES[name] for name in ("coverage", "reconstruction", "explained")}
    draw_dictionaries(sets, drawn, images / "shift_dictionaries.png")
    of = {name: [s[name] for s in sets] for name in MEASURES}
    rho = {
        key: {name: rank_correlation(of[name], each) for name in MEASURES}
        | {GIVEN: rank_correlation(of["coverage"], each, of["explained"])}
        for key, each in gains.items()
    }
    header = ["measure", *(f"{JUDGES[judge]}: {METHODS[method]}" for judge, method in rho)]
    table = [
        [title, *(said(each[name]) for each in rho.values())] for name, title in {**MEASURES, GIVEN: GIVEN}.items()
    ]
    lines = [
        "## Does a better dictionary give better SHIFT?",
        "",
        f"{len(sets)} sets (dictionaries at {', '.join(sets[0]['sites'])}) x {len(sets[0]['concept'])} owner tasks, "
        "each judged by the concept oracle, which goes by F1 as coverage does, and by the causal oracle, which does "
        "not. Spearman's rank correlation of the share of the gap closed with what is usually measured of "
        "dictionaries; each resample draws sets, and clusters of tasks:",
        "",
        markdown(header, table),
        "",
        f"![Share of the gap that un-retrained SHIFT closes, causal oracle]({link}/shift_dictionaries.png)",
        "",
        "Share of the gap closed, by type:",
        "",
        markdown(["type", *header[1:]], [[TYPES[k][0], *_of_type(sets, gains, k)] for k in _types(sets)]),
        "",
        markdown(
            ["type", "target", "seed", "L0", "explained", "coverage", "reconstruction", "in errors", *header[1:]],
            [_row(found, number, gains) for number, found in enumerate(sets)],
        ),
    ]
    entries = ("type", "target_l0", "seed", "l0", "explained", "recovered", "coverage", "reconstruction", "errors")
    numbers = {
        "tasks": len(sets[0]["concept"]),
        "sets": [
            {name: found[name] for name in entries}
            | {f"{judge} {method}": float(each[i, 0]) for (judge, method), each in gains.items()}
            for i, found in enumerate(sets)
        ],
        "rho": {" ".join(key): {name: kept(value) for name, value in each.items()} for key, each in rho.items()},
    }
    return lines, numbers


def finished_sets(run: Path) -> list[dict[str, Any]]:
    """The records of all sets that were measured on every task, with their measurements by judge."""
    sets = []
    for folder in sorted((run / "compared" / "dictionaries").glob("*_x*")):
        kind, _, name = folder.name.partition("_x")
        record = run / "dictionaries" / f"{kind}_x{name.partition('_')[0]}" / name.partition("_")[2]
        results = {judge: measurements(folder, f".{judge}") for judge in JUDGES}
        if all(results.values()) and (record / "scores.json").exists():
            found = {**read_json(record / "record.json"), **read_json(record / "scores.json"), **results}
            readout = found["quality"][found["board"]["site"]]
            found |= {name: found["board"][name] for name in ("coverage", "reconstruction")}
            found |= {"l0": readout["l0"], "explained": readout["variance_explained"]}
            found |= {"recovered": readout["loss_recovered_mean"]}
            found["errors"] = float(np.mean([r["error_share"] for r in results["causal"]]))
            sets.append(found)
    return _on_the_same_tasks(sets)


def _on_the_same_tasks(sets: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The sets of which as many tasks are done as of any, with the tasks that all of these share."""
    full = max((len(s["causal"]) for s in sets), default=0)
    done = [s for s in sets if len(s["causal"]) >= min(full, _FEWEST_TASKS)]
    files = [{r["file"].rpartition(".")[0] for r in s["causal"]} for s in done]
    common = set.intersection(*files) if files else set()
    for found in done:
        for judge in JUDGES:
            found[judge] = [r for r in found[judge] if r["file"].rpartition(".")[0] in common]
    return done


_FEWEST_TASKS = 4


def gains_of(sets: list[dict[str, Any]]) -> Gains:
    """The share of the gap closed with each set, the same resamples of clusters for all."""
    draws = cluster_draws([square_of(r["task"]) for r in sets[0]["causal"]])
    return {
        (judge, method): np.array(
            [
                gap_draws(worst(s[judge], method), worst(s[judge], "original"), worst(s[judge], "oracle"), draws)
                for s in sets
            ]
        )
        for judge in JUDGES
        for method in METHODS
    }


def _types(sets: list[dict[str, Any]]) -> list[str]:
    return [kind for kind in TYPES if any(s["type"] == kind for s in sets)]


def _of_type(sets: list[dict[str, Any]], gains: Gains, kind: str) -> list[str]:
    """The mean over the sets of a type."""
    chosen = [i for i, s in enumerate(sets) if s["type"] == kind]
    return [said(of_draws(each[chosen].mean(0))) for each in gains.values()]


def _row(found: dict[str, Any], number: int, gains: Gains) -> list[str]:
    numbers = [f"{found['l0']:.1f}", f"{found['explained']:.2f}", f"{found['coverage']:.3f}"]
    numbers += [f"{found['reconstruction']:.3f}", f"{found['errors']:.0%}"]
    named = [TYPES[found["type"]][0], f"{found['target_l0']:g}", str(found["seed"])]
    return [*named, *numbers, *(f"{each[number, 0]:.2f}" for each in gains.values())]
