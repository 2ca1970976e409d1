"""`kibitz shift report`: a run's outcome as one page that opens offline, and as a table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from circuits.markup import text
from kibitz.report.style import CSS
from kibitz.scored import markdown
from kibitz.shift_problem import ShiftError
from saes.files import write_text
from shift.judgements import Frozen
from shift.run_folder import judgements_path, outcome_path, read_outcome, read_task
from shift.verdicts import Judgement


@dataclass(frozen=True)
class ReportConfig:
    """Write a scored run as a page (report.html) and as a table (report.md)."""

    run: tyro.conf.Positional[Path]
    """a folder that `kibitz shift score` has scored"""


def run_report(config: ReportConfig) -> str:
    """The table to print, and where the page is."""
    run = config.run
    if not outcome_path(run).exists():
        raise ShiftError(f"{run}: is not scored yet; run kibitz shift score {run}")
    task, outcome, frozen = read_task(run), read_outcome(run), Frozen.read(judgements_path(run))
    if outcome.get("frozen") != frozen.sha256:
        raise ShiftError(f"{run}: outcome.json is not of these judgements; run kibitz shift score {run} again")
    table = markdown(HEADER, [_row(row) for row in outcome["rows"]])
    said = sentences(task, outcome)
    write_text(run / "report.md", "\n\n".join([f"# {_title(task)}", *said, table]) + "\n")
    write_text(run / "report.html", page(task, outcome, frozen.judgements, said))
    return f"{table}\n\nReport: {run / 'report.html'}"


HEADER = ["method", "labels", "worst group", "A", "B", "cells 00 01 10 11"]


def sentences(task: Mapping[str, Any], outcome: Mapping[str, Any]) -> list[str]:
    """What came out, in words."""
    said = [
        f"The classifier reads {task['site']} and should tell {task['intended']}; where it was trained, "
        f"{task['spurious']} says the same. {outcome.get('trimmed', 0)} of {outcome.get('candidates', 0)} candidates "
        "were judged irrelevant and are ablated."
    ]
    if (closed := outcome.get("gap_closed")) and closed["shift"] is not None:
        said.append(
            f"Without retraining, SHIFT closes {closed['shift']:.0%} of the gap between the original's worst group and "
            f"the oracle's; retrained, {closed['shift_retrained']:.0%}."
        )
    if "error_share" in outcome:
        said.append(f"{outcome['error_share']:.0%} of the absolute effect is in error nodes, which nobody can trim.")
    for rater, q in outcome.get("judges", {}).items():
        numbers = ", ".join(f"{n} {'undefined' if q[n] is None else f'{q[n]:.2f}'}" for n in ("precision", "recall"))
        same, controls = q.get("consistency"), q.get("control_trim_rate")
        steady = [] if same is None else [f"gave the same verdict on {same:.0%} of repeats"]
        steady += [] if controls is None else [f"trimmed {controls:.0%} of the controls"]
        said.append(f"{rater}: {numbers} against the {q['reference']}{'; ' + ', '.join(steady) if steady else ''}.")
    return said


def page(
    task: Mapping[str, Any], outcome: Mapping[str, Any], judgements: Sequence[Judgement], said: Sequence[str]
) -> str:
    """The whole page; nothing is fetched from anywhere."""
    parts = [
        f"<header><h1>{text(_title(task))}</h1>{''.join(f'<p>{text(line)}</p>' for line in said)}</header><main>",
        "<h2>Methods</h2>",
        _table(HEADER, [_row(row) for row in outcome["rows"]]),
        "<p class='meta'>Worst group: the least accuracy of the four cells, with a 95 % bootstrap interval over the "
        "balanced examples. A, B: accuracy at the intended and at the spurious property. Cells: A no and B no, A no "
        "and B yes, A yes and B no, both yes.</p>",
    ]
    if outcome.get("leave_one_out"):
        rows = [[r["name"], f"{r['worst_group']:.2f}"] for r in outcome["leave_one_out"]]
        parts += ["<h2>What each part does</h2>", _table(["ablated", "worst group"], rows)]
    if scores := outcome.get("scr_tpp"):
        rows = [
            ["SCR", *map(_number, scores["scr"] or [None] * len(scores["tpp"]))],
            ["TPP", *map(_number, scores["tpp"])],
        ]
        parts += [
            "<h2>SCR and TPP of the dictionary that is read</h2>",
            _table(["features ablated", *map(str, scores["thresholds"])], rows),
            "<p class='meta'>As published (Karvonen et al. 2024), to be compared with; the ranking uses the labels "
            "that tell A from B, and docs/shift.md says what else is wanting.</p>",
        ]
    if outcome.get("side_effects"):
        found = {name: v if isinstance(v, list) else [v] for name, v in outcome["side_effects"].items()}
        rows = [[name, *map(_number, values)] for name, values in found.items()]
        parts += ["<h2>Side effects on the language model</h2>", _table(["", "before", "after"], rows)]
    rows = [[f"{j.site}/{j.feature}", f"{j.effect:+.3g}", j.rater, j.verdict, j.reason] for j in judgements]
    parts += ["<h2>Judgements</h2>", _table(["feature", "effect", "rater", "verdict", "reason"], rows), "</main>"]
    title = f"<title>{text(_title(task))}</title>"
    head = (
        f"<meta charset='utf-8'><meta name='viewport' content='width=device-width'>{title}<style>{CSS}{_TABLES}</style>"
    )
    return f"<!doctype html><html lang='en'><head>{head}</head><body>{''.join(parts)}</body></html>"


_TABLES = """
.wide{overflow-x:auto}
table{border-collapse:collapse;font-size:14px;margin:8px 0 20px}
th,td{padding:5px 12px;text-align:left;border-bottom:1px solid var(--line);vertical-align:top}
th{color:var(--soft);font-weight:600}
"""


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{text(cell)}</th>" for cell in header)
    body = "".join(f"<tr>{''.join(f'<td>{text(str(cell))}</td>' for cell in row)}</tr>" for row in rows)
    return f"<div class='wide'><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def _row(row: Mapping[str, Any]) -> list[str]:
    low, high = row.get("worst_group_low"), row.get("worst_group_high")
    bounds = "" if low is None or high is None else f" [{low:.2f}, {high:.2f}]"
    cells = " ".join(f"{v:.2f}" for line in row["cells"] for v in line)
    numbers = [_number(row.get(name)) for name in ("intended_accuracy", "spurious_accuracy")]
    return [row["name"], row.get("labels", ""), f"{row['worst_group']:.2f}{bounds}", *numbers, cells]


def _title(task: Mapping[str, Any]) -> str:
    return f"SHIFT: {task['intended']} against {task['spurious']}"


def _number(value: Any) -> str:
    if isinstance(value, int | float):
        return f"{value:.2f}"
    return "-" if value is None else str(value)
