"""`kibitz train --board-every`: how well dictionaries know the board while they train, on games kept apart."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from boardgames.labelled import LOW_LEVEL, groups_of
from boardgames.lm import game_of
from boardgames.othello.rules import MAX_PLIES, NO_MOVE
from boardgames.othello.transcript import CONTEXT, from_tokens
from boardgames.scoreboard import Scoreboard
from boardgames.watch import Watch, best_so_far
from kibitz.board_games import Splits, label_splits
from kibitz.material import Material, ModelMaterial
from saes.recorder import Recorder, Silent

GROUP = LOW_LEVEL["othello"]
FOLDER = "best"  # in a run's folder
_LEAST_GAMES = 20  # of a half: a label needs its true positives from ten


class WatchError(ValueError):
    """Boards that cannot be scored in this run."""


@dataclass(frozen=True)
class WatchOptions:
    """How often boards are scored, and what is kept."""

    board_every: int = 0
    """with games as the corpus: steps between scores of the board, on the games of --held-out-tokens; 0: never"""
    keep_best: Literal["coverage", "reconstruction", "none"] = "coverage"
    """with --board-every: keep each dictionary as it was at the step where it scored best, in the run's best/"""

    def __post_init__(self) -> None:
        if self.board_every < 0:
            raise ValueError(f"board_every is {self.board_every}: choose 1 or more, or 0 for never")

    def watch(self, material: Material, run: Path, members: Sequence[str], recorder: Recorder | None) -> Watch | None:
        """None where nothing is watched. `recorder`: None on ranks other than the first."""
        if not self.board_every:
            return None
        if recorder is None:
            return Watch(None, GROUP, Silent())
        folder = None if self.keep_best == "none" else run / FOLDER
        metric = "coverage" if self.keep_best == "none" else self.keep_best
        return Watch(_board(material), GROUP, recorder, folder=folder, metric=metric, members=members)

    def said(self, run: Path) -> str:
        """A line for each dictionary that was kept; nothing where none was."""
        best = best_so_far(run / FOLDER)
        lines = [
            f"{name}: step {kept['step']}, coverage {kept['coverage']:.3f}, reconstruction {kept['reconstruction']:.3f}"
            for name, kept in sorted(best.items())
        ]
        return "\n".join([f"Best by {self.keep_best}, in {FOLDER}/:", *lines]) if lines else ""


def _board(material: Material) -> Scoreboard:
    """Half of the games that are kept apart to choose on, half to score on; no resamples."""
    if not isinstance(material, ModelMaterial) or game_of(material.model.config.vocab_size) != "othello":
        raise WatchError("--board-every scores boards of Othello, and the model does not play it; leave it out")
    count = len(material.held_out) // 2
    if count < _LEAST_GAMES:
        raise WatchError(
            f"--board-every needs {2 * _LEAST_GAMES} games kept apart, and there are {len(material.held_out)}: give "
            "a larger --held-out-tokens, or more games"
        )
    moves = np.full((2 * count, MAX_PLIES), NO_MOVE, np.uint8)
    moves[:, :CONTEXT] = from_tokens(material.held_out[: 2 * count].numpy())
    groups = {GROUP: groups_of("othello")[GROUP]}
    games = label_splits(Splits(moves[:count], moves[count:], (), "games kept apart"), "othello", groups)
    return Scoreboard(material.model, list(material.widths), games.selection, games.scoring, resampled=0)
