"""What `kibitz score` found: as a table and as JSON."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from boardgames.group_scores import GroupScore, Summary
from boardgames.labelled_corpus import LabelledCorpus
from kibitz.scored import FAITHFUL, Row, interval, markdown
from saes.files import write_json, write_tensors, write_text

_NOTE = (
    "Features and thresholds are chosen on the one half of the documents and scored on the other; in brackets 95 % of "
    "random weightings of the scored documents. The floor is the higher of what a feature that always fires reaches "
    "and what the same features reach on permuted labels."
)


@dataclass(frozen=True)
class ScoreResults:
    """Sets of features, the first of them dictionaries."""

    labels: str
    labelled: LabelledCorpus
    rows: tuple[Row, ...]

    @property
    def groups(self) -> list[str]:
        return list(self.labelled.scoring.groups)

    def shown(self, as_json: bool) -> str:
        """For the terminal."""
        return json.dumps(self.to_json(), indent=2, allow_nan=False) if as_json else self.table()

    def to_json(self) -> dict[str, Any]:
        halves = {"selection": self.labelled.selection, "scoring": self.labelled.scoring}
        return {
            "labels": self.labels,
            "tokens_read": self.labelled.tokens,
            **{
                f"{name}_{what}": number
                for name, rows in halves.items()
                for what, number in (("tokens", len(rows.labels.game)), ("documents", len(np.unique(rows.labels.game))))
            },
            "rows_missing": self.labelled.missing,
            "rows_behind": self.labelled.behind,
            "sets": [{**row.about(), "groups": row.groups()} for row in self.rows],
        }

    def table(self) -> str:
        """Markdown: for each group a row for each set of features, then a row for each concept."""
        parts = [f"{self.labels}: {self.labelled.said}.", _NOTE]
        for group in self.groups:
            parts += [f"## {group}", self._sets(group), self._concepts(group)]
        return "\n\n".join(parts)

    def _sets(self, group: str) -> str:
        header = ["features", "site", "F", *FAITHFUL, "coverage", "floor", "above floor", "reconstruction"]
        rows = []
        for row in self.rows:
            found = Summary.of(self._score(row, group))
            rows.append([*row.cells(), interval(found.coverage), f"{found.floor:.3f}", f"{found.normalised:.3f}"])
            rows[-1].append(interval(found.reconstruction))
        return markdown(header, rows)

    def _concepts(self, group: str) -> str:
        """The F1 of each set for each concept, with the feature of a dictionary."""
        header = ["concept", "base rate", "always fires", *(row.name for row in self.rows)]
        scores = [self._score(row, group) for row in self.rows]
        first, rate = scores[0], self._rates(group)
        rows = []
        for p, column in enumerate(first.columns):
            if not first.occurs[p]:
                rows.append([column, "never", *[""] * (len(header) - 2)])
                continue
            rows.append([column, f"{rate[p]:.4f}", f"{first.always_on_f1[p]:.3f}"])
            for score in scores:
                feature = f" by {score.feature[p]}" if score.feature[p] >= 0 else ""
                low, high = score.f1_bounds[p] if score.f1_bounds is not None else (score.f1[p],) * 2
                rows[-1].append(f"{score.f1[p]:.3f} [{low:.3f}, {high:.3f}]{feature}")
        return markdown(header, rows)

    def _rates(self, group: str) -> np.ndarray:
        """How often each concept of a group holds on the scored tokens."""
        rows = self.labelled.scoring
        start = sum(rows.groups[name] for name in self.groups[: self.groups.index(group)])
        return rows.labels.matrix[:, start : start + rows.groups[group]].mean(0)

    @staticmethod
    def _score(row: Row, group: str) -> GroupScore:
        assert row.scores is not None  # every set is scored
        return row.scores[group]

    def write(self, run: Path) -> None:
        """scores.json, table.md, and resamples.safetensors for paired differences."""
        write_json(run / "scores.json", self.to_json())
        write_text(run / "table.md", self.table() + "\n")
        samples = {
            f"{row.name}/{group}/{kind}": torch.from_numpy(np.ascontiguousarray(getattr(score, kind).samples))
            for row in self.rows
            for group, score in (row.scores or {}).items()
            for kind in ("coverage", "reconstruction")
        }
        write_tensors(run / "resamples.safetensors", samples)
