"""How far the results of one game go: learning rates that were tried, what lies below floors, what was not varied."""

from collections.abc import Mapping, Sequence
from typing import Any

from boardgame_sweep.plan import LABELS
from kibitz.scored import markdown


def pilot_table(pilot: Sequence[Mapping[str, Any]]) -> str:
    """Variance explained in the pilot at every learning rate, and the rate that was chosen by merit."""
    rates = sorted({row["learning_rate"] for row in pilot})
    rows = []
    for stack in dict.fromkeys(row["stack"] for row in pilot):
        tried = {row["learning_rate"]: row for row in pilot if row["stack"] == stack}
        cells = [f"{tried[rate]['variance_explained']:.3f} at L0 {tried[rate]['l0']:.0f}" for rate in rates]
        rows.append([LABELS[stack.rpartition("_x")[0]], *cells, f"{chosen_rates(pilot)[stack]:g}"])
    return markdown(["type", *(f"rate {rate:g}" for rate in rates), "chosen"], rows)


def chosen_rates(pilot: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The rate of best merit of every stack; of equals the first."""
    best: dict[str, Mapping[str, Any]] = {}
    for row in pilot:
        if row["stack"] not in best or row["merit"] > best[row["stack"]]["merit"]:
            best[row["stack"]] = row
    return {stack: row["learning_rate"] for stack, row in best.items()}


def caveats(
    scale: Mapping[str, Any],
    trained: Sequence[Mapping[str, Any]],
    scores: Mapping[str, Mapping[str, Any]],
    pilot: Sequence[Mapping[str, Any]],
) -> str:
    """Plain sentences, counted from what was trained and scored."""
    chosen, rates = chosen_rates(pilot), sorted({row["learning_rate"] for row in pilot})
    largest = sum(rate == rates[-1] for rate in chosen.values())
    tokens = scale["steps"] * scale["batch_size"] / 1e6
    below = [r["folder"] for r in trained if scores[r["folder"]]["low_level"]["coverage_normalised"] <= 0]
    off = [r for r in trained if abs(scores[r["folder"]]["faithfulness"]["l0"] / r["target_l0"] - 1) > 0.05]
    said = [
        f"Every dictionary saw {tokens:.1f} million tokens, the paper's saw 300 million: compared is how types "
        "fare early in training. A type that is slow at first is not shown to be worse in the end.",
        f"{largest} of {len(chosen)} types chose the largest learning rate tried ({rates[-1]:g}): short runs want "
        "large steps, and a larger rate might serve some of them better still."
        if largest
        else f"No type chose the largest learning rate tried ({rates[-1]:g}).",
        f"{len(below)} of {len(trained)} dictionaries have a board coverage that is not above the floors: by this "
        "number alone they know nothing of the board.",
        f"{len(off)} of {len(trained)} dictionaries are more than 5 % off the L0 that they were steered to."
        if off
        else f"All {len(trained)} dictionaries are within 5 % of the L0 that they were steered to.",
        "Where the best of several is named, it was picked on the games that it is scored on, which flatters it a "
        "little; the comparisons in pairs pick nothing.",
        "One language model of each game: another model may order the types differently.",
    ]
    if len({r["seed"] for r in trained}) == 1:
        said.append("One seed: the intervals speak of other games, not of other first weights.")
    return "\n".join(f"* {sentence}" for sentence in said)
