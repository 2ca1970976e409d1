"""docs/results/boardgames.md: the tables, the comparisons and what holds, all from what was measured."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from boardgame_sweep.caveats import caveats, pilot_table
from boardgame_sweep.comparing import COMPARISONS, pairs
from boardgame_sweep.measuring import KINDS, paired
from boardgame_sweep.plan import LABELS, Game
from boardgames.bootstrap import mean
from kibitz.board_figures import draw_pareto
from kibitz.board_results import markdown

Scores = Mapping[str, Mapping[str, Any]]

# Karvonen et al. 2024: the best over each type's sweep, of the files behind the paper (Othello, layer 6, its coverage
# divided by 192) and of its figures (chess, layer 6); coverage, reconstruction, and for chess both for strategy
PAPER: dict[Game, dict[str, tuple[float, ...]]] = {
    "othello": {
        "standard": (0.403, 0.954),
        "gated": (0.519, 0.913),
        "p_anneal_original": (0.454, 0.953),
        "gated_p_anneal": (0.509, 0.883),
        "topk": (0.494, 0.870),
        "neurons": (0.549, 0.815),
        "random": (0.272, 0.082),
    },
    "chess": {
        "standard": (0.429, 0.837, 0.609, 0.659),
        "gated": (0.452, 0.804, 0.675, 0.643),
        "p_anneal_original": (0.477, 0.852, 0.651, 0.660),
        "gated_p_anneal": (0.451, 0.685, 0.675, 0.652),
        "topk": (0.464, 0.828, 0.689, 0.654),
        "neurons": (0.256, 0.561, 0.655, 0.574),
        "random": (0.110, 0.005, 0.439, 0.361),
    },
}
LEVEL_NAMES = {"low_level": "board", "strategy": "strategy"}


def levels(game: Game) -> tuple[str, ...]:
    return ("low_level", "strategy") if game == "chess" else ("low_level",)


def section(found: Mapping[str, Any], images: Path) -> str:
    """One game: its `facts`, `scale`, `pilot`, `trained` and `scores`."""
    facts, trained, scores = found["facts"], found["trained"], found["scores"]
    game: Game = facts["game"]
    for kind in KINDS:
        points = [
            (
                f"{LABELS[r['type']]}/{r['folder']}",
                scores[r["folder"]]["faithfulness"]["l0"],
                scores[r["folder"]]["faithfulness"]["loss_recovered"],
                scores[r["folder"]]["low_level"][kind]["score"],
            )
            for r in trained
        ]
        draw_pareto(points, kind, images / f"boardgames_{game}_{kind}.png")
    neurons = _best(scores, [n for n in scores if n.startswith("neurons")], "low_level", "coverage")
    parts = [
        f"## {game.capitalize()}",
        f"A model of {facts['layers']} layers of {facts['width']}, dictionaries at {facts['site']}; {facts['games']}. "
        f"{facts['limit']:.1%} of the columns of the board metric occur.",
        "### The best of each type, beside the paper",
        "In brackets: L0 of the dictionary that reaches the number. Held out: chosen on one split, scored on another. "
        "As the paper: its labels, denominators and choices, on our models; published: its own numbers, on its models "
        "of 8 layers of 512"
        + (", whose coverage of Othello is divided by 192 of which 128 can be true." if game == "othello" else "."),
        _best_table(game, trained, scores),
        "### Every dictionary",
        "Intervals: 95 % of 1,000 random weightings of the scoring games. The floor is the higher of a feature that "
        "always fires and of the best features for permuted labels; `above floor` is (coverage − floor) / (1 − floor).",
        _all_table(game, trained, scores),
        f"![Coverage](../img/boardgames_{game}_coverage.png)\n![Reconstruction](../img/boardgames_{game}_reconstruction.png)",
        "### Without a dictionary",
        _beside_table(game, scores),
        "### Compared in pairs, at equal L0",
        "The difference of two dictionaries that were steered to the same L0, with the same weights of the games. "
        "Where the two L0s came out more than 2 % apart, one of them is compared with the other type's neighbours "
        "above and below, interpolated on log L0; where there is none on one side, the pair is not counted below.",
        _pairs_table(game, trained, scores),
        "### What holds",
        *_verdicts(game, trained, scores, neurons),
        "### How far this goes",
        caveats(found["scale"], trained, scores, found["pilot"]),
        "### The pilot that chose the learning rates",
        "Variance explained and L0 after a short run at the middle L0; of the rates the one of highest variance less a "
        "tenth of the distance of log L0 from its target.",
        pilot_table(found["pilot"]),
    ]
    return "\n\n".join(parts)


def _best(scores: Scores, names: Sequence[str], level: str, kind: str) -> str:
    return max(names, key=lambda name: scores[name][level][kind]["score"])


def _best_table(game: Game, trained: Sequence[Mapping[str, Any]], scores: Scores) -> str:
    header = ["type"]
    for level in levels(game):
        for kind in KINDS:
            what = f"{LEVEL_NAMES[level]} {kind}"
            header += [f"{what}, held out", "as the paper", "published"]
    rows = []
    for name in dict.fromkeys(r["type"] for r in trained):
        folders = [r["folder"] for r in trained if r["type"] == name]
        rows.append([LABELS[name], *_bests(game, scores, folders, PAPER[game].get(name))])
    neurons = [n for n in scores if n.startswith("neurons")]
    rows.append(["MLP neurons, best block", *_bests(game, scores, neurons, PAPER[game]["neurons"])])
    untrained = [n for n in scores if n.startswith("random model/neurons")]
    rows.append(["MLP neurons of a random model", *_bests(game, scores, untrained, None)])
    return markdown(header, rows)


def _bests(game: Game, scores: Scores, names: Sequence[str], published: tuple[float, ...] | None) -> list[str]:
    cells = []
    for i, (level, kind) in enumerate((level, kind) for level in levels(game) for kind in KINDS):
        best = _best(scores, names, level, kind)
        faithful = scores[best].get("faithfulness")
        l0 = f" ({faithful['l0']:.0f})" if faithful else ""
        cells.append(f"{scores[best][level][kind]['score']:.3f}{l0}")
        cells.append(f"{max(scores[n]['paper'][level][kind] for n in names):.3f}")
        cells.append("" if published is None else f"{published[i]:.3f}")
    return cells


def _interval(score: Mapping[str, Any]) -> str:
    return f"{score['score']:.3f} [{score['low']:.3f}, {score['high']:.3f}]"


def _all_table(game: Game, trained: Sequence[Mapping[str, Any]], scores: Scores) -> str:
    header = ["dictionary", "rate", "L0", "variance", "loss recovered", "alive", "coverage", "above floor"]
    header += ["reconstruction", *(["strategy coverage", "strategy reconstruction"] if game == "chess" else [])]
    rows = []
    for r in trained:
        s = scores[r["folder"]]
        f, low = s["faithfulness"], s["low_level"]
        cells = [_name(r), f"{r['learning_rate']:g}", f"{f['l0']:.1f}"]
        cells += [f"{f['variance_explained']:.3f}", f"{f['loss_recovered']:.4f}", f"{f['alive']:.2f}"]
        cells += [_interval(low["coverage"]), f"{low['coverage_normalised']:.3f}", _interval(low["reconstruction"])]
        cells += [_interval(s["strategy"][kind]) for kind in KINDS] if game == "chess" else []
        rows.append(cells)
    return markdown(header, rows)


def _name(r: Mapping[str, Any]) -> str:
    return f"{LABELS[r['type']]}, {r['expansion']} D, L0 {r['target_l0']:g}, seed {r['seed']}"


def _beside_table(game: Game, scores: Scores) -> str:
    header = ["features", "coverage", "above floor", "reconstruction"]
    header += ["strategy coverage", "strategy reconstruction"] if game == "chess" else []
    names = [n for n, s in scores.items() if "faithfulness" not in s]
    rows = []
    for name in names:
        low = scores[name]["low_level"]
        cells = [name.replace("/", ": ")]
        cells += [_interval(low["coverage"]), f"{low['coverage_normalised']:.3f}", _interval(low["reconstruction"])]
        cells += [_interval(scores[name]["strategy"][kind]) for kind in KINDS] if game == "chess" else []
        rows.append(cells)
    always = ["always on"]
    first = scores[names[0]]
    for level in levels(game):
        floor = first[level]["floors"]["always_on"]
        always += [
            f"{floor:.3f}",
            *([""] if level == "low_level" else []),
            f"{first[level]['reconstruction_floor']:.3f}",
        ]
    return markdown(header, [always, *rows])


def _pairs_table(game: Game, trained: Sequence[Mapping[str, Any]], scores: Scores) -> str:
    header = ["pair", "L0 of each"] + [f"{LEVEL_NAMES[level]} {kind}" for level in levels(game) for kind in KINDS]
    rows = []
    for one, other, name in COMPARISONS:
        for pair in pairs(trained, scores, one, other):
            l0s = f"{pair.one.l0:.1f} / {pair.other.l0:.1f}"
            l0s += ", interpolated" if pair.interpolated else "" if pair.counted else ", not counted"
            found = [pair.difference(scores, level, kind) for level in levels(game) for kind in KINDS]
            shown = [f"{d.score:+.3f} [{d.bounds[0]:+.3f}, {d.bounds[1]:+.3f}]" for d in found]
            rows.append([f"{name}, {pair.record['expansion']} D, seed {pair.record['seed']}", l0s, *shown])
    return markdown(header, rows)


def _verdicts(game: Game, trained: Sequence[Mapping[str, Any]], scores: Scores, neurons: str) -> list[str]:
    """Plain sentences, counted from the intervals."""
    said = []
    for one, other, name in COMPARISONS:
        counted = [pair for pair in pairs(trained, scores, one, other) if pair.counted]
        if not counted:
            said.append(f"* **{name[0].upper()}{name[1:]}**: no pair came to the same L0.")
            continue
        parts = []
        for level in levels(game):
            for kind in KINDS:
                differences = [pair.difference(scores, level, kind) for pair in counted]
                higher = sum(d.bounds[0] > 0 for d in differences)
                lower = sum(d.bounds[1] < 0 for d in differences)
                both = mean(differences)
                low, high = both.bounds
                parts.append(
                    f"{LEVEL_NAMES[level]} {kind} {both.score:+.3f} [{low:+.3f}, {high:+.3f}] on the mean of pairs, "
                    f"higher in {higher} and lower in {lower}"
                )
        said.append(f"* **{name[0].upper()}{name[1:]}** ({len(counted)} pairs): " + "; ".join(parts) + ".")
    folders = [r["folder"] for r in trained]
    for level in levels(game):
        for kind in KINDS:
            best = _best(scores, folders, level, kind)
            rival = _best(scores, [n for n in scores if n.startswith("neurons")], level, kind)
            d = paired(scores[best], scores[rival], level, kind)
            low, high = d.bounds
            verdict = "beats" if low > 0 else "is beaten by" if high < 0 else "cannot be told from"
            probe = scores["linear probe"][level][kind]["score"]
            said.append(
                f"* **{LEVEL_NAMES[level].capitalize()} {kind}**: the best dictionary "
                f"({scores[best][level][kind]['score']:.3f}, {best}) {verdict} the best raw neurons of any block "
                f"({scores[rival][level][kind]['score']:.3f}, {rival}): difference {d.score:+.3f} [{low:+.3f}, "
                f"{high:+.3f}], the best of each chosen on the games that it is scored on. The probe reaches "
                f"{probe:.3f}."
            )
    return ["\n".join(said)]
