"""Sets of features with their scores, as `kibitz board` and `kibitz score` list them: what stands beside a dictionary,
and cells of tables."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tqdm import tqdm
from transformers import PreTrainedModel

from boardgames.bootstrap import Interval
from boardgames.group_scores import GroupScore
from boardgames.scoreboard import Scoreboard
from saes.architectures import AffineDictionary
from saes.evaluation import evaluate_all
from saes.samples import TokenBatch
from saes.sites import Site

FAITHFUL = ("L0", "variance", "loss recovered")


@dataclass(frozen=True)
class Faithfulness:
    """On all tokens of the rows, whether they are scored or not."""

    tokens: int
    l0: float
    variance_explained: float
    loss_recovered: float

    @property
    def cells(self) -> list[str]:
        return [f"{self.l0:.1f}", f"{self.variance_explained:.3f}", f"{self.loss_recovered:.4f}"]


@dataclass(frozen=True)
class Row:
    """One set of features: a dictionary, or what stands beside it."""

    name: str
    site: str
    features: int
    faithful: Faithfulness | None = None
    scores: Mapping[str, GroupScore] | None = None

    def about(self) -> dict[str, Any]:
        """All but the scores, as JSON."""
        faithful = None if self.faithful is None else asdict(self.faithful)
        return {"name": self.name, "site": self.site, "features": self.features or None, "faithfulness": faithful}

    def groups(self) -> dict[str, Any]:
        """The scores of every group, and of its properties that occur, as JSON."""
        return {name: {**score.to_json(), "best": score.best()} for name, score in (self.scores or {}).items()}

    def cells(self) -> list[str]:
        """Of the columns "features", "site", "F" and FAITHFUL."""
        return [self.name, self.site, str(self.features or ""), *(self.faithful.cells if self.faithful else [""] * 3)]


def beside(
    board: Scoreboard, site: Site, neurons: Site | None, dictionaries: Sequence[tuple[int, float]]
) -> list[tuple[str, int, dict[str, GroupScore]]]:
    """What needs no dictionary, with as many features as the widest dictionary there and the L0 of the middle one.

    `dictionaries`: features of each, and its L0 on the scored positions. (name, features, scores); the linear probe,
    last, has no features.
    """
    features = max(count for count, _ in dictionaries)
    l0s = sorted(l0 for _, l0 in dictionaries)
    found = board.baselines(site, neurons, features, l0s[len(l0s) // 2])
    sets = [(f"{name} at {site.name}", features, scores) for name, scores in found.items()]
    return [*sets, (f"linear probe at {site.name}", 0, board.probe(site))]


def measure(
    model: PreTrainedModel, dictionaries: Mapping[str, AffineDictionary], batches: Iterable[TokenBatch], tokens: int
) -> dict[str, Faithfulness]:
    """How faithful and sparse the dictionaries are on all counted tokens; about so many, for the progress bar."""
    with tqdm(total=2 * tokens, desc="loss", unit="token", unit_scale=True) as bar:
        found = evaluate_all(model, list(dictionaries.values()), batches, progress=bar.update)
    return {
        name: Faithfulness(e.quality.tokens, e.quality.l0, e.quality.variance_explained, e.quality.loss_recovered)
        for name, e in zip(dictionaries, found, strict=True)
    }


def interval(score: Interval) -> str:
    """0.531 [0.524, 0.537]."""
    low, high = score.bounds
    return f"{score.score:.3f} [{low:.3f}, {high:.3f}]"


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """A table whose columns line up in plain text too."""
    widths = [max(len(cells[i]) for cells in (header, *rows)) for i in range(len(header))]
    line = "| " + " | ".join(cell.ljust(w) for cell, w in zip(header, widths, strict=True)) + " |"
    rule = "|" + "|".join("-" * (w + 2) for w in widths) + "|"
    body = [
        "| "
        + " | ".join(c.rjust(w) if i else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        + " |"
        for row in rows
    ]
    return "\n".join([line, rule, *body])
