"""docs/results/shift.md from the measurements of a run: tables, figures, and what they say."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from boardgame_sweep.plan import ScaleName

from kibitz.scored import markdown
from saes.files import read_json, write_json, write_text
from shift.specs import BoardTaskSpec
from shift.tasks.questions import spoken
from shift_truth.identities import FOLDERS, Measured, check_measured, recorded
from shift_truth.writing_causes import injected_section, left_out_section
from shift_truth.writing_depth import depth_section
from shift_truth.writing_judges import judges_section
from shift_truth.writing_methods import battery_section
from shift_truth.writing_sets import dictionaries_section
from shift_truth.writing_short import in_short

HEAD = """# SHIFT against what is known

Written by `python scripts/shift_ground_truth.py --scale {scale}`; all numbers are in shift.json beside this file.
docs/shift.md says what the methods are and which labels each uses.

Brackets are 95 % bootstrap intervals over tasks, whole clusters at a time: tasks that intend the same square. A **share
of the gap** is the way from the original classifier's worst group (0) to that of the oracle head (1), of sums over
tasks.
"""

PARTS_TITLES: Mapping[Measured, str] = {
    "battery": "methods, judges, depth",
    "dictionaries": "sets of dictionaries",
    "noise": "how good a judge must be",
    "left_out": "one left out",
}
SETTINGS = {
    "train": "games for a head",
    "cell": "balanced games in each cell",
    "candidates": "candidates",
    "examples": "prompts for effects",
    "steps": "steps",
    "labelled": "labelled games",
    "names": "games to name features on",
}


def write_results(run: Path, out: Path, images: Path, scale: ScaleName) -> None:
    """The document, its figures, and a JSON of all that it says; FileError if what was measured is of another scale."""
    check_measured(run, scale)
    pool = read_json(run / "tasks.json")
    text = [HEAD.format(scale=scale)]
    numbers: dict[str, Any] = {"scale": scale}
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
    lines, numbers["settings"] = settings_section(run)
    text.append("\n".join(lines))
    write_text(out, "\n\n".join(part.strip() for part in text) + "\n")
    write_json(out.with_suffix(".json"), numbers)


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
        f"{len(passed)} of {len(pool)} tasks pass the admission test. {limits_met(measured)}"
        + (" Those that fail are reported below, too." if len(passed) < len(measured) else ""),
        "",
        markdown(["family", "A / B", "probe A", "probe B", "original", "F1 A", "F1 B", "admitted"], rows),
    ]
    return lines, {"passed": len(passed), "measured": len(measured), "tasks": list(pool)}


def limits_met(measured: Sequence[Mapping[str, Any]]) -> str:
    """How many of the tasks that could be drawn meet each limit of the admission test."""
    if not measured:
        return "None could be drawn."
    limits = measured[0]["limits"]

    def detected(task: Mapping[str, Any], name: str) -> bool:
        return task[name] is not None and task[name]["f1"] >= limits["feature"]

    counts = {
        f"a linear probe of A reaches {limits['probe']:g}": [t["probe_intended"] >= limits["probe"] for t in measured],
        f"one of B reaches {limits['probe']:g}": [t["probe_spurious"] >= limits["probe"] for t in measured],
        f"the original worst group is at most {limits['worst_group']:g}": [
            t["original_worst_group"] <= limits["worst_group"] for t in measured
        ],
        f"features detect both with F1 {limits['feature']:g}": [
            detected(t, "intended_feature") and detected(t, "spurious_feature") for t in measured
        ],
    }
    met = "; ".join(f"{name} in {sum(each)}" for name, each in counts.items())
    return f"Of the {len(measured)} that could be drawn, on balanced data: {met}."


def settings_section(run: Path) -> tuple[list[str], dict[str, Any]]:
    """What the measurements were made with, as the run recorded it."""
    parts = {part: found for part in FOLDERS if (found := recorded(part, run)) is not None}
    if not parts:
        return [], {}
    table = [[PARTS_TITLES[part], *(str(found[name]) for name in SETTINGS)] for part, found in parts.items()]
    tasks = [BoardTaskSpec.from_json(task["spec"]) for task in read_json(run / "tasks.json")]
    first, last = min(t.plies[0] for t in tasks), max(t.plies[1] for t in tasks)
    lines = [
        "## Settings",
        "",
        markdown(["part", *SETTINGS.values()], table),
        "",
        "Heads are fitted on games of uniformly random legal play in which A and B agree where the head reads, half of "
        f"each label, at one ply of {first} to {last} in each game; so is a head that is fitted again. The probe for A "
        "and last-layer retraining are fitted on labelled games instead, the oracle head on as many balanced games as "
        "the test has; no balanced game is among the ambiguous ones. Features are named on random games that are no "
        "task's; a match below F1 .3 counts as unsure, and unsure and mixed features are kept.",
    ]
    return lines, parts


def detector(found: Mapping[str, Any] | None) -> str:
    return "-" if found is None else f"{found['f1']:.2f}"
