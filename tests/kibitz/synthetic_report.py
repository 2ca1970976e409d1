"""A made-up run for the tests of the report: real Othello positions, invented numbers, and a full-sized circuit."""

from typing import Any

import numpy as np

from boardgames.othello.rules import random_games, replay, square_name

SITES = ["embed"] + [f"{kind}_{i}" for i in range(4) for kind in ("attn", "mlp", "resid")]


def report_data(nodes: int = 90, edges: int = 300) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    games = replay(random_games(40, rng))
    return {
        "title": "Kibitz demo",
        "created": "2025-01-02 03:04:05 UTC",
        "seed": 0,
        "quick": False,
        "seconds": 287.4,
        "versions": {"python": "3.11.7", "torch": "2.13.0", "kibitz": "0.1.0"},
        "timings": [{"name": name, "seconds": s} for name, s in (("Games", 1.2), ("Dictionary at resid_1", 141.0))],
        "games": {"count": 20_000, "source": "random legal games", "positions": 1_198_744},
        "language_model": {
            "legal_move_rate": 0.9837,
            "legal_mass": 0.9712,
            "cross_entropy": 1.987,
            "ideal_cross_entropy": 1.934,
            "legal_move_rate_by_ply": (1 - 0.05 * np.exp(-((np.arange(59) - 38) ** 2) / 150)).tolist(),
            "games": 2000,
        },
        "training": _training(rng),
        "board": {
            "floor": 0.409,
            "ceiling": 1,
            "rows": [
                _row("p-annealed dictionary at resid_1", 0.641, 0.702, 1024, 34.2),
                _row("MLP neurons at mlp_hidden_1", 0.587, 0.312, 512, None),
                _row("linear probe at resid_1", 0.912, 0.934, None, None),
            ],
            "f1_mine": rng.beta(5, 2, 64).tolist(),
            "f1_yours": rng.beta(4, 3, 64).tolist(),
        },
        "features": [_feature(games, rng, square) for square in (18, 45, 0, 63)],
        "circuit": _circuit(games, rng, nodes, edges),
        "shift": _shift(rng),
    }


def _training(rng: np.random.Generator) -> dict[str, Any]:
    steps = range(0, 1500, 25)
    share = [step / 1500 for step in steps]
    return {
        "site": "resid_1",
        "features": 1024,
        "records": [
            {
                "step": step,
                "l0": 30 + 300 * np.exp(-6 * x) + rng.normal(0, 1.5),
                "variance_explained": 0.93 - 0.8 * np.exp(-9 * x) - 0.05 * x,
                "p": round(float(np.clip(1 - (x - 0.2) / 0.6, 0, 1) * 0.8 + 0.2), 2),
                "coefficient": 0.12 * np.exp(-1.5 * x),
                "loss": 0.4 + 3 * np.exp(-7 * x) + rng.normal(0, 0.01),
            }
            for step, x in zip(steps, share, strict=True)
        ],
        "l0": 34.2,
        "variance_explained": 0.884,
        "loss_recovered": 0.962,
        "alive": 0.871,
        "p_final": 0.2,
        "tokens": 3_072_000,
    }


def _row(name: str, coverage: float, reconstruction: float, features: int | None, l0: float | None) -> dict[str, Any]:
    return {"name": name, "coverage": coverage, "reconstruction": reconstruction, "features": features, "l0": l0}


def _position(games: Any, game: int, ply: int) -> dict[str, Any]:
    black, white = int(games.black[game, ply]), int(games.white[game, ply])
    return {
        "black": [s for s in range(64) if black >> s & 1],
        "white": [s for s in range(64) if white >> s & 1],
        "last": int(games.moves[game, ply]),
        "mover": int(games.mover[game, ply]) or 1,
        "game": game,
        "ply": ply,
    }


def _feature(games: Any, rng: np.random.Generator, square: int) -> dict[str, Any]:
    distance = np.hypot(np.arange(64) // 8 - square // 8, np.arange(64) % 8 - square % 8)
    mine = np.clip(0.3 + 0.65 * np.exp(-(distance**2)) + rng.normal(0, 0.05, 64), 0, 1)
    return {
        "feature": int(rng.integers(1024)),
        "column": f"mine {square_name(square)}",
        "square": square,
        "f1": float(rng.uniform(0.8, 0.97)),
        "precision": 0.941,
        "recall": 0.873,
        "density": 0.213,
        "threshold": 0.1,
        "mean_mine": mine.tolist(),
        "mean_yours": np.clip(0.75 - mine, 0, 1).tolist(),
        "positions": [
            _position(games, int(rng.integers(40)), int(rng.integers(10, 50))) | {"activation": float(9.5 - i)}
            for i in range(3)
        ],
    }


def _circuit(games: Any, rng: np.random.Generator, count: int, edges: int) -> dict[str, Any]:
    nodes: dict[str, dict[str, Any]] = {}
    for site in SITES:
        nodes[f"{site}/error"] = {"site": site, "feature": None, "label": "error", "f1": None, "positions": []}
    while len(nodes) < count:
        site, feature = SITES[min(int(rng.gamma(3, 2.4)), 12)], int(rng.integers(1024))
        what = ("mine", "yours", "last move", "legal", "flipped")[int(rng.integers(5))]
        label = f"{what} {square_name(int(rng.integers(64)))}"
        f1 = float(rng.uniform(0.4, 0.99))
        shown = [_position(games, int(rng.integers(40)), 20) | {"activation": 3.5}]
        nodes[f"{site}/{feature}"] = {
            "site": site, "feature": feature, "label": label, "f1": f1, "positions": shown,
        }  # fmt: skip
    drawn = [{"id": id_, "effect": float(rng.normal() * rng.lognormal(-1.5, 1)), **node} for id_, node in nodes.items()]
    order = {site: i for i, site in enumerate(SITES)}
    pairs = [(a, b) for a in drawn for b in drawn if 0 < order[b["site"]] - order[a["site"]] <= 3]
    chosen = rng.choice(len(pairs), min(edges, len(pairs)), replace=False)
    position = _position(games, 0, 24)
    clean = {key: position[key] for key in ("black", "white", "last", "mover")}
    return {
        "node_count": 1325,
        "edge_count": 7784,
        "behaviour": "log-odds of playing b4 where it is legal by one line only, "
        "against games that differ in one earlier move and where it is not legal",
        "target": 11,
        "sites": SITES,
        "nodes": drawn,
        "edges": [
            {
                "source": pairs[i][0]["id"],
                "target": pairs[i][1]["id"],
                "weight": float(rng.normal() * rng.lognormal(-2, 1)),
            }
            for i in sorted(chosen)
        ],
        "faithfulness": 0.83,
        "faithfulness_without_errors": 0.42,
        "completeness": 0.11,
        "random_faithfulness": 0.24,
        "ig_sum_error": 0.013,
        "examples": 48,
        "example": {
            "clean": clean,
            "patch": clean | {"black": clean["white"], "white": clean["black"]},
            "changed_ply": 12,
            "changed_from": 20,
            "changed_to": 50,
        },
    }


def _shift(rng: np.random.Generator) -> dict[str, Any]:
    def row(name: str, *cells: float) -> dict[str, Any]:
        a, b, c, d = cells
        return {
            "name": name,
            "cells": [[a, b], [c, d]],
            "worst_group": min(cells),
            "intended_accuracy": sum(cells) / 4,
            "spurious_accuracy": (a + d + 2 - b - c) / 4,
        }

    return {
        "intended": "owner of c3",
        "spurious": "owner of f5",
        "rows": [
            row("Original classifier", 0.97, 0.42, 0.39, 0.98),
            row("SHIFT: judged features trimmed", 0.91, 0.84, 0.82, 0.93),
            row("SHIFT, head retrained", 0.95, 0.92, 0.91, 0.96),
            row("Random features trimmed, draw 1", 0.95, 0.44, 0.4, 0.97),
            row("Feature skyline (knows the spurious labels)", 0.93, 0.88, 0.89, 0.93),
            row("Oracle head (trained on balanced data)", 0.98, 0.97, 0.97, 0.98),
        ],
        "candidates": 60,
        "trimmed": 14,
        "judgements": [
            {
                "site": SITES[i % 13],
                "feature": 7 * i,
                "effect": float(rng.normal()),
                "verdict": ("keep", "trim", "unsure")[i % 3],
                "label": f"mine {square_name(i)}",
                "f1": float(rng.uniform(0.3, 1)),
            }
            for i in range(40)
        ],
        "site": "resid_2",
        "ambiguous_games": 4000,
        "balanced_games": 4000,
    }
