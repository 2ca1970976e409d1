"""docs/results/shift.md from the measurements of a run: tables, figures, and what they say."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from circuits.intervals import Interval
from kibitz.scored import markdown
from saes.files import read_json, write_json, write_text
from shift.tasks.questions import spoken
from shift_truth.phases import SIZES
from shift_truth.words import said
from shift_truth.writing_causes import injected_section, left_out_section
from shift_truth.writing_depth import depth_section
from shift_truth.writing_methods import battery_section
from shift_truth.writing_sets import dictionaries_section, judges_section

HEAD = """# SHIFT against what is known

Written by `python scripts/shift_ground_truth.py --scale {scale}`; all numbers are in shift.json beside this file.
docs/shift.md says what the methods are and which labels each uses.

Brackets are 95 % bootstrap intervals over tasks, whole clusters at a time: tasks that intend the same square. A **share
of the gap** is the way from the original classifier's worst group (0) to that of the oracle head (1), of sums over
tasks.
"""


def write_results(run: Path, out: Path, images: Path, scale: str) -> None:
    """The document, its figures, and a JSON of all that it says."""
    pool, sizes = read_json(run / "tasks.json"), SIZES[scale]
    text, numbers = [HEAD.format(scale=scale)], {"scale": scale}
    link = "../img"
    sections = (
        ("tasks", lambda: tasks_section(pool)),
        ("battery", lambda: battery_section(run, pool, images, link)),
        ("depth", lambda: depth_section(run, images, link)),
        ("dictionaries", lambda: dictionaries_section(run, images, link)),
        ("judges", lambda: judges_section(run, images, link)),
        ("left_out", lambda: left_out_section(run)),
        ("injected", lambda: injected_section(run)),
    )
    for name, section in sections:
        found = section()
        if found is None:
            continue
        lines, values = found
        text.append("\n".join(lines))
        numbers[name] = values
    text.insert(1, "\n".join(["## In short", "", *(f"* {line}" for line in in_short(numbers))]))
    text.append(_settings(sizes))
    write_text(out, "\n\n".join(part.strip() for part in text) + "\n")
    write_json(out.with_suffix(".json"), numbers)


def in_short(numbers: Mapping[str, Any]) -> list[str]:
    """The findings, one sentence each, of the sections that are there."""

    def bounds(found: Mapping[str, float | None]) -> str:
        return said(Interval(found["value"] or 0.0, found["low"], found["high"]))

    lines = []
    if "battery" in numbers:
        closed = {name: bounds(m["gap_closed"]) for name, m in numbers["battery"]["methods"].items()}
        tasks = {name: m["tasks"] for name, m in numbers["battery"]["methods"].items()}
        lines.append(
            f"Un-retrained SHIFT, judged by the causal oracle, closes {closed['shift']} of the gap "
            f"({tasks['shift']} tasks); features set to their mean {closed['shift_mean']} "
            f"({tasks['shift_mean']} tasks); to zero, with the head fitted again, {closed['shift_retrained']}."
        )
        lines.append(
            "Whoever has labelled prompts to name features with gets more from them directly: LEACE and a new head "
            f"close {closed['leace_retrained']}, last-layer retraining {closed['last_layer']} "
            f"({tasks['last_layer']} tasks)."
        )
        judges = {name: bounds(j["retrained"]) for name, j in numbers["battery"]["judges"].items()}
        lines.append(
            f"Judging matters: retrained, the concept oracle closes {judges['concept']}, the causal oracle "
            f"{judges['causal']}, blind rules {judges['one-square']} and {judges['strongest-half']}; with the roles "
            f"exchanged the classifier follows the wrong property ({judges['turned']})."
        )
    if "dictionaries" in numbers:
        rho = {name: bounds(each["coverage"]) for name, each in numbers["dictionaries"]["rho"].items()}
        lines.append(
            f"Better dictionaries give better retrained SHIFT: its rank correlation with coverage is "
            f"{rho['causal shift_retrained']} under the causal oracle and {rho['concept shift_retrained']} under the "
            f"concept oracle; of un-retrained SHIFT {rho['causal shift']} and {rho['concept shift']}."
        )
    if "depth" in numbers:
        lead = {rival: {k: bounds(v) for k, v in each.items()} for rival, each in numbers["depth"]["lead"].items()}
        kept, again = lead["tokens_erased"], lead["tokens_erased_retrained"]
        lines.append(
            "Against erasing what words tell of the cue, SHIFT's worst group is ahead by "
            f"{kept['shallow']} on shallow cues and {kept['deep']} on deep ones (rank correlation of its lead with "
            f"depth {kept['rho']}); both retrained {again['shallow']} and {again['deep']} ({again['rho']})."
        )
    if "injected" in numbers:
        (study,) = (v for v in numbers["injected"].values() if "recovered" in v)
        lines.append(
            "Of a rule planted in the model itself the concept oracle's trims bring back "
            f"{study['recovered']['trimmed']:.0%}, as many random features {study['recovered']['random 0']:.0%}."
        )
    return lines


def tasks_section(pool: Sequence[Mapping[str, Any]]) -> tuple[list[str], Any]:
    """What was admitted, and how far the others are from it."""
    passed = [t for t in pool if t["passed"]]
    measured = [t for t in pool if "probe_intended" in t]
    rows = []
    for task in pool:
        spec = task["spec"]
        title = f"{spoken(spec['intended'])} / {spoken(spec['spurious'])}"
        if "probe_intended" not in task:
            rows.append([task["family"], title, "-", "-", "-", "-", "-", "not drawn"])
            continue
        f1 = [detector(task[name]) for name in ("intended_feature", "spurious_feature")]
        rows.append(
            [
                task["family"], title, f"{task['probe_intended']:.2f}", f"{task['probe_spurious']:.2f}",
                f"{task['original_worst_group']:.2f}", *f1, "yes" if task["passed"] else "no",
            ]
        )  # fmt: skip
    lines = [
        "## Tasks",
        "",
        f"{len(passed)} of {len(pool)} tasks pass the admission test (linear probes of A and B reach .95 on balanced "
        "data, the original worst group is at most .6, a feature detects each with F1 .8)."
        + (
            " Fewer than 20 pass, so all that could be drawn are reported below: the model that ships is small "
            "(0.8 M parameters), and its probes do not reach .95."
            if len(passed) < 20
            else ""
        ),
        "",
        markdown(["family", "A / B", "probe A", "probe B", "original", "F1 A", "F1 B", "admitted"], rows),
    ]
    return lines, {"passed": len(passed), "measured": len(measured), "tasks": list(pool)}


def _settings(sizes: Any) -> str:
    return (
        f"## Settings\n\nCandidates {sizes.settings.candidates}, effects over {sizes.settings.examples} prompts and "
        f"{sizes.settings.steps} steps, {sizes.train} ambiguous games for the head, {sizes.cell} balanced games in "
        f"each cell for the test; where sets of dictionaries are compared {sizes.quick.candidates}, "
        f"{sizes.quick.examples}, {sizes.quick.steps}, {sizes.quick_train} and {sizes.quick_cell}. Features are "
        f"named on {sizes.settings.names} random games that are no task's; a match below F1 .3 counts as unsure, and "
        "unsure and mixed features are kept."
    )


def detector(found: Mapping[str, Any] | None) -> str:
    return "-" if found is None else f"{found['f1']:.2f}"
