"""What `kibitz board` found: as a table, as JSON and as figures."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from boardgames.game_scoreboard import Drawn
from boardgames.group_scores import Summary, strategy_mean
from boardgames.labelled import LOW_LEVEL, Game
from kibitz.board_figures import draw_features, draw_heat_maps, draw_pareto, draw_squares
from kibitz.scored import FAITHFUL, Row, interval, markdown
from saes.files import write_json, write_tensors, write_text

STRATEGY = "strategy"


@dataclass(frozen=True)
class BoardRow(Row):
    """A set of features that is scored on a game."""

    paper: Mapping[str, Mapping[str, Any]] | None = None
    drawn: Drawn | None = None
    """of the low-level group"""

    def low_level(self, game: Game) -> Summary:
        """The paper's low-level metric."""
        assert self.scores is not None
        return Summary.of(self.scores[LOW_LEVEL[game]])

    def paper_strategy(self, game: Game) -> dict[str, float] | None:
        """The original's mean over the 14 properties, of coverage and reconstruction; None for Othello."""
        if game == "othello" or self.paper is None:
            return None
        from boardgames.chess.properties import STRATEGY as NAMES

        kinds = ("coverage", "reconstruction")
        return {kind: float(np.mean([self.paper[name][kind] for name in NAMES])) for kind in kinds}

    def strategy(self, game: Game) -> Summary | None:
        """The mean over the 14 properties of the paper's strategy score; None for Othello, which has none."""
        if game == "othello" or self.scores is None:
            return None
        from boardgames.chess.properties import STRATEGY as NAMES

        return strategy_mean(self.scores, NAMES)


@dataclass(frozen=True)
class BoardResults:
    game: Game
    said: str
    mode: str
    labels: str
    rows: tuple[BoardRow, ...]

    def shown(self, as_json: bool) -> str:
        """For the terminal."""
        return json.dumps(self.to_json(), indent=2, allow_nan=False) if as_json else self.table()

    def to_json(self) -> dict[str, Any]:
        return {
            "game": self.game,
            "games": self.said,
            "mode": self.mode,
            "labels": self.labels,
            "sets": [self._row(row) for row in self.rows],
        }

    def _row(self, row: BoardRow) -> dict[str, Any]:
        if row.paper is not None:
            strategy = row.paper_strategy(self.game)
            return {**row.about(), **({STRATEGY: strategy} if strategy else {}), "paper": row.paper}
        assert row.scores is not None
        strategy = row.strategy(self.game)
        return {
            **row.about(),
            **({STRATEGY: strategy.to_json()} if strategy else {}),
            "groups": row.groups(),
        }

    def table(self) -> str:
        """Markdown: one row a set of features; intervals over games."""
        return self._paper_table() if self.mode == "paper" else self._held_out_table()

    def _held_out_table(self) -> str:
        strategy = self.game == "chess"
        header = ["features", "site", "F", *FAITHFUL]
        header += ["coverage", "above floor", "reconstruction"]
        header += ["strategy coverage", "strategy reconstruction"] if strategy else []
        rows = []
        for row in self.rows:
            low, high = row.low_level(self.game), row.strategy(self.game)
            cells = [*row.cells(), interval(low.coverage), f"{low.normalised:.3f}", interval(low.reconstruction)]
            cells += [interval(high.coverage), interval(high.reconstruction)] if high else []
            rows.append(cells)
        first = self.rows[0].low_level(self.game)
        limit = self.rows[0].scores[LOW_LEVEL[self.game]].limit if self.rows[0].scores else 1.0
        note = (
            f"{self.said}. Labels: {self.labels}. Of the properties {limit:.1%} occur, the others are left out. A "
            f"feature that always fires covers {first.always_on:.3f} and reconstructs "
            f"{first.reconstruction_floor:.3f}. Brackets: 95 % of random weightings of the games."
        )
        return markdown(header, rows) + f"\n\n{note}"

    def _paper_table(self) -> str:
        header = ["features", "site", "F", *FAITHFUL]
        main = LOW_LEVEL[self.game]
        header += ["coverage", "reconstruction", "reconstruction, last"]
        header += ["strategy coverage", "strategy reconstruction"] if self.game == "chess" else []
        rows = []
        for row in self.rows:
            assert row.paper is not None
            cells = row.cells()
            cells += [f"{row.paper[main][key]:.3f}" for key in ("coverage", "reconstruction", "reconstruction_last")]
            if strategy := row.paper_strategy(self.game):
                cells += [f"{value:.3f}" for value in strategy.values()]
            rows.append(cells)
        denominator = (self.rows[0].paper or {})[main]["denominator"]
        note = (
            f"{self.said}. As the original computes it: in-sample, coverage divided by {denominator} (docs/metrics.md)."
        )
        return markdown(header, rows) + f"\n\n{note}"

    def write(self, run: Path, *, figures: bool = True) -> None:
        """board.json, table.md, resamples.safetensors (for paired differences) and figures."""
        write_json(run / "board.json", self.to_json())
        write_text(run / "table.md", self.table() + "\n")
        if self.mode == "paper":
            return
        write_tensors(run / "resamples.safetensors", self._resamples())
        if figures:
            self._draw(run)

    def _resamples(self) -> dict[str, Any]:
        import torch

        found = {}
        for row in self.rows:
            parts = {"low_level": row.low_level(self.game), STRATEGY: row.strategy(self.game)}
            for level, summary in parts.items():
                if summary is not None:
                    for kind in ("coverage", "reconstruction"):
                        samples = np.ascontiguousarray(getattr(summary, kind).samples)
                        found[f"{row.name}:{level}:{kind}"] = torch.from_numpy(samples)
        return found

    def _draw(self, run: Path) -> None:
        dictionaries = [row for row in self.rows if row.faithful is not None]
        for kind in ("coverage", "reconstruction") if len(dictionaries) > 1 else ():
            points = [
                (row.name, row.faithful.l0, row.faithful.loss_recovered, getattr(row.low_level(self.game), kind).score)
                for row in dictionaries
                if row.faithful is not None
            ]
            draw_pareto(points, kind, run / f"pareto_{kind}.png")
        for row in self.rows:
            if row.drawn is not None and row.drawn.best and row.scores is not None:
                name, low = row.name.replace("/", "_"), row.scores[LOW_LEVEL[self.game]]
                draw_heat_maps(low, self.game, run / f"{name}_f1.png", row.name)
                draw_features(row.drawn.best, self.game, run / f"{name}_features.png", row.name)
                draw_squares(low, row.drawn.squares, self.game, run / f"{name}_squares.png", row.name)
