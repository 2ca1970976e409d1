"""The document's sections on what each part of the trimming does, and on the rule planted in the model."""

from pathlib import Path
from typing import Any

from kibitz.scored import markdown
from saes.files import read_json
from shift.tasks.questions import spoken
from shift_truth.words import measurements


def left_out_section(run: Path) -> tuple[list[str], Any] | None:
    """What each site and judgement is worth."""
    results = [r for folder in (run / "left_out").glob("*") for r in measurements(folder, ".causal")]
    if not results:
        return None
    lines = ["## One site, one judgement left out", ""]
    for result in results:
        title = f"{spoken(result['task']['intended'])} / {spoken(result['task']['spurious'])}"
        rows = [
            [row["name"], f"{row['worst_group']:.2f}", f"{row['intended']:.2f}", f"{row['spurious']:.2f}"]
            for row in result["rows"]
        ]
        lines += [f"{title}:", "", markdown(["ablated", "worst group", "A", "B"], rows), ""]
    return lines, [{k: v for k, v in r.items() if k != "file"} for r in results]


def injected_section(run: Path) -> tuple[list[str], Any] | None:
    """The rule that was planted in the model."""
    file = run / "injected" / "study.json"
    if not file.exists():
        return None
    found = read_json(file)
    lines = [
        "## A rule planted in the model",
        "",
        "The model that ships was fine-tuned on games of a player who plays at random, but never a1 while the "
        "opponent has a disc on g2, unless forced; no line joins the two. No probe: the metric is the log-odds of "
        "a1 against the other legal moves, and the cause is known by construction. Trimmed is what depends on g2 "
        "and not on the lines of a1. Recovered is the share of the way back to a model that was fine-tuned on as "
        "many games without the rule.",
        "",
    ]
    rows = []
    for name, study in found.items():
        if "scores" not in study:
            continue
        fit = "variance explained " + ", ".join(f"{v:.2f}" for v in study["variance_explained"].values())
        count = sum(len(index) for index in study["trimmed"].values())
        for score, values in study["scores"].items():
            groups = values["groups"]
            rows.append(
                [
                    f"{name} ({fit}; {count} trimmed)" if score == "masked" else "", score,
                    f"{groups['theirs']['probability']:.4f}", f"{groups['own']['probability']:.4f}",
                    f"{study['recovered'][score]:.0%}",
                    f"{values['legal_move_rate']:.4f}", f"{values['cross_entropy']:.4f}",
                ]
            )  # fmt: skip
    header = [
        "dictionaries",
        "model",
        "P(a1), g2 theirs",
        "P(a1), g2 own",
        "recovered",
        "legal elsewhere",
        "nats elsewhere",
    ]
    return [*lines, markdown(header, rows)], found
