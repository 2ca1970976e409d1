"""The section of docs/results/circuits.md about Othello, written of the measured numbers."""

from collections.abc import Mapping
from typing import Any

from circuit_truth.othello import USUAL

Row = Mapping[str, Any]
_KEYS = ("method", "nodes", "f1_from", "composites")
_NUMBERS = {
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
    "auroc": "AUROC",
    "chance f1": "chance F1",
    "all f1": "F1 of naming all",
    "ceiling f1": "ceiling F1",
}


def section(result: Mapping[str, Any]) -> list[str]:
    """Markdown; `result` holds `scale`, `seed` and what circuit_truth.othello.measure found."""
    scale, found = result["scale"], result["found"]
    squares, flips, usual = found["squares"], found["flips"], _row(found["table"], {})
    rules = _row(found["table"], {"truth": "rules"})
    return [
        "## Othello: do circuits name the squares that the rules make causal?",
        "",
        f"{len(found['behaviours'])} behaviours of the OthelloGPT that ships: a square that is legal through one "
        f"line, drawn from all squares and lines; {scale['pairs']} pairs each ({found['pairs']} in all). In the "
        "patch game one earlier move is another and the square is not legal, with the same side to move. Pairs "
        f"count where the log-odds of playing it fall by {scale['least_fall']:g} nats or more (mean "
        f"{squares['fall']:.1f}).",
        "",
        f"On the two boards of a pair {squares['differing']:.1f} squares differ besides the target, of which "
        f"{squares['causal']:.2f} are causal by the rules: they belong to a smallest set of squares whose new "
        "content closes the line. What the rules make causal the model need not use. So every differing square is "
        f"flipped in the board that a linear probe reads at {flips['site']}, at the last position, and counts as "
        f"used where the log-odds fall further than for 95 % of {flips['controls']} flips of squares on no line "
        f"through the target ({flips['threshold']:.2f} nats; probes, site and threshold from other games): "
        f"{squares['causal used']:.0%} of the causal squares are used, {squares['others used']:.0%} of the others; "
        f"of {squares['causal unreadable']:.0%} the probe does not see the old content. Where a causal square is not "
        "used, it counts neither way.",
        "",
        f"Features are named by the board property that each matches best on {scale['name_games']} random games, if "
        "its F1 reaches a threshold. A circuit of n nodes is those of largest mean absolute effect on a behaviour's "
        f"pairs (integrated gradients, {scale['steps']} steps, features and errors of all 13 sites, positions "
        "summed). A square is named if a node that moves in this pair names it; its score is the sum of their "
        "absolute effects. Composite features (lines, legality) name the squares that their property depends on, on "
        "one of the two boards; `others` leaves out those about the target itself, whose legality is what is to be "
        "explained, `none` all of them. The ceiling names every causal square that any feature which moves in the "
        "pair can name, and nothing else; chance names as many squares as the circuit, at random among those that "
        "differ. All numbers are means over pairs and then behaviours, with 95 % bootstrap intervals over "
        "behaviours.",
        "",
        *_table(found["table"], {"nodes": scale["sizes"]}, "all"),
        "",
        "How features are named (circuits of " + str(USUAL[1]) + " nodes):",
        "",
        *_table(found["table"], {"f1_from": scale["thresholds"], "composites": ("none", "others", "all")}, "all"),
        "",
        f"Methods, on the {scale['exact']} behaviours whose nodes were patched exactly, too:",
        "",
        *_table(found["table"], {"method": ("attribution", "ig", "exact")}, "exact too"),
        "",
        f"With all causal squares of the rules as truth, used or not, F1 is {_said(rules['f1'])} and AUROC "
        f"{_said(rules['auroc'])}.",
        "",
        "Where the absolute effect of the usual circuit lies: " + _masses(usual) + ".",
        "",
        "Faithfulness of the circuits on other pairs of the same behaviours (errors count as nodes; kept and removed "
        "beside):",
        "",
        *_faithfulness(found["faithfulness"]),
        "",
        "What it says: " + _reading(usual, found),
    ]


def _row(table: list[Row], changed: Mapping[str, Any], group: str = "all") -> Row:
    wanted = {**dict(zip(_KEYS, USUAL, strict=True)), "truth": "used", "group": group, **changed}
    return next(row for row in table if all(row[key] == value for key, value in wanted.items()))


def _table(table: list[Row], over: Mapping[str, Any], group: str) -> list[str]:
    """One line for every combination of the values in `over`."""
    settings: list[dict[str, Any]] = [{}]
    for key, values in over.items():
        settings = [{**setting, key: value} for setting in settings for value in values]
    heads = {"nodes": "nodes", "f1_from": "named from F1", "composites": "composites", "method": "method"}
    lines = ["| " + " | ".join([*(heads[key] for key in over), *_NUMBERS.values()]) + " |"]
    lines.append("|" + "---|" * (len(over) + len(_NUMBERS)))
    for setting in settings:
        row = _row(table, setting, group)
        lines.append("| " + " | ".join([*map(str, setting.values()), *(_said(row[n]) for n in _NUMBERS)]) + " |")
    return lines


def _said(number: list[float | None]) -> str:
    value, low, high = number
    if value is None:
        return "none"
    return f"{value:.2f}" if low is None or high is None else f"{value:.2f} [{low:.2f}, {high:.2f}]"


def _masses(row: Row) -> str:
    errors, unnamed, elsewhere = (row[name][0] for name in ("error mass", "unnamed mass", "elsewhere mass"))
    rest = 1 - errors - unnamed - elsewhere
    return (
        f"{errors:.0%} in error nodes, {unnamed:.0%} in features without a name (F1 below {USUAL[2]}), "
        f"{elsewhere:.0%} in features named after squares that do not differ, after the target, or after no square, "
        f"{rest:.0%} in features that name differing squares. Of that last part {_said(row['causal share'])} is on "
        f"causal squares, which are {_said(row['differing share'])} of the differing ones"
    )


def _faithfulness(found: Mapping[str, Mapping[str, list[float | None]]]) -> list[str]:
    columns = list(next(iter(found.values())))
    lines = ["| nodes | " + " | ".join(columns) + " |", "|" + "---|" * (1 + len(columns))]
    return lines + [
        f"| {size} | " + " | ".join(_said(numbers[c]) for c in columns) + " |" for size, numbers in found.items()
    ]


def _reading(usual: Row, found: Mapping[str, Any]) -> str:
    """Sentences that the numbers decide."""
    above = usual["f1"][0] - usual["all f1"][0]
    apart = usual["f1"][1] is not None and usual["f1"][1] > usual["all f1"][2]
    chance = usual["f1"][0] - usual["chance f1"][0]
    room = usual["ceiling f1"][0] - usual["f1"][0]
    exact, ig = (_row(found["table"], {"method": m}, "exact too") for m in ("exact", "ig"))
    better = exact["auroc"][0] - ig["auroc"][0]
    compared = "better than" if better > 0.02 else "worse than" if better < -0.02 else "as well as"
    return (
        f"the circuits name causal squares {'better' if above > 0 else 'no better'} than naming every differing "
        f"square (F1 {above:+.2f}; the intervals {'are apart' if apart else 'overlap'}) and "
        f"{chance:+.2f} against chance; {room:.2f} of F1 is left to what the same "
        "dictionaries could name. Exact patching ranks squares "
        f"{compared} integrated gradients do (AUROC {better:+.2f})."
    )
