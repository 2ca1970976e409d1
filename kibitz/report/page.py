"""The whole page: headline numbers, sections in order, style and script inside. One file, nothing fetched."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from circuits.markup import number, text
from circuits.page import view_script, view_style
from kibitz.report.causal_sections import circuit_section, shift_section
from kibitz.report.data import ReportData, checked
from kibitz.report.dictionary_sections import (
    board_section,
    facts_list,
    features_section,
    model_section,
    training_section,
)
from kibitz.report.markup import count, intro, percent, seconds, table
from kibitz.report.style import CSS
from saes.files import write_text


def write_report(data: Mapping[str, Any], path: Path) -> None:
    """Write the report of one run (format: kibitz/report/data.py) atomically. Raises ReportDataError."""
    write_text(path, report_html(checked(data)))


def report_html(data: ReportData) -> str:
    """The page as text; the same data give the same bytes."""
    shift_name = "SHIFT: taking a shortcut out"
    sections = [
        ("model", "Games and language model", model_section(data["games"], data["language_model"])),
        ("dictionary", "Training the dictionary", training_section(data["training"])),
        ("board", "Does it know the board?", board_section(data["board"])),
        ("features", "The best features", features_section(data["features"])),
        ("circuit", "A circuit", circuit_section(data["circuit"])),
        ("shift", shift_name, shift_section(data["shift"])),
        ("run", "Settings and timings", _run_section(data)),
    ]
    links = "".join(f'<a href="#{key}">{text(name)}</a>' for key, name, _ in sections)
    body = "".join(f'<section id="{key}"><h2>{text(name)}</h2>{inner}</section>' for key, name, inner in sections)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<meta name="referrer" content="no-referrer">'
        f"<title>{text(data['title'])}</title><style>{CSS}{view_style()}</style></head>\n<body>{_header(data)}"
        f'<main><nav aria-label="Sections">{links}</nav>\n{body}</main>\n'
        f"<footer>Made by <code>kibitz demo</code>, seed {data['seed']}. This page is one file and fetches"
        " nothing.</footer>"
        f'<script type="module">{view_script()}</script></body></html>\n'
    )


def _header(data: ReportData) -> str:
    quick = (
        "<p><b>A quick run:</b> fewer games and steps than the full demo, so its numbers are only a sign of life.</p>"
        if data["quick"]
        else ""
    )
    return (
        f'<header><h1>{text(data["title"])}</h1><p class="meta">{text(data["created"])} · seed {data["seed"]} · '
        f"{seconds(data['seconds'])}</p>"
        '<p class="lead">A small transformer learned to continue games of Othello. This run took its activations apart '
        "into features, marked them against the true boards, traced the circuit behind one behaviour, and used"
        " features to "
        f"repair a classifier that had learned a shortcut.</p>{quick}{_tiles(data)}</header>"
    )


def _tiles(data: ReportData) -> str:
    board, circuit, shift = data["board"], data["circuit"], data["shift"]
    tiles = [
        ("Legal moves", percent(data["language_model"]["legal_move_rate"], 1), "of the language model's first choices"),
        (
            "Sparse dictionary",
            percent(data["training"]["variance_explained"], 1),
            f"of the variance, with {number(data['training']['l0'], 1)} features active at a time",
        ),
    ]
    if board["rows"]:
        ours = board["rows"][0]
        tiles += [
            (
                "Coverage",
                number(ours["coverage"]),
                f"between floor {number(board['floor'])} and ceiling {number(board['ceiling'])}",
            ),
            ("Board reconstruction", number(ours["reconstruction"]), "F1 of whole boards rebuilt from features"),
        ]
    tiles.append(
        (
            "Circuit faithfulness",
            number(circuit["faithfulness"]),
            (
                f"{number(circuit['faithfulness_without_errors'])} without error nodes; random circuits "
                f"{number(circuit['random_faithfulness'])}"
            ),
        )
    )
    if len(shift["rows"]) >= 2:
        before, after = shift["rows"][0], shift["rows"][1]
        tiles.append(
            (
                "SHIFT, worst group",
                f"{percent(before['worst_group'])} \u2192 {percent(after['worst_group'])}",
                f"accuracy after cutting {count(shift['trimmed'])} of {count(shift['candidates'])} features",
            )
        )
    return (
        '<div class="tiles">'
        + "".join(
            f'<div class="tile"><span class="of">{name}</span><b>{value}</b><small>{said}</small></div>'
            for name, value, said in tiles
        )
        + "</div>"
    )


def _run_section(data: ReportData) -> str:
    timings = [[text(t["name"]), seconds(t["seconds"])] for t in data["timings"]]
    timings.append(["<b>in all</b>", f"<b>{seconds(data['seconds'])}</b>"])
    versions = [(name, text(version)) for name, version in data["versions"].items()]
    facts = [("seed", str(data["seed"])), ("quick", "yes" if data["quick"] else "no"), ("made", text(data["created"]))]
    return (
        intro(
            "What to set to get this page again, and where the time went.",
            "Bad would be another number in two runs with the same seed, versions and machine.",
        )
        + f'<div class="cols"><div>{table(["step", "time"], timings)}</div>{facts_list(facts + versions)}</div>'
    )
