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
from boardgames.token_files import Game
from boardgames.watch import Watch, best_so_far
from kibitz.board_games import Splits, label_splits, open_games
from kibitz.material import Material, ModelMaterial
from saes.files import FileError
from saes.recorder import Recorder, Silent

FOLDER = "best"  # in a run's folder
_LEAST_GAMES = 20  # of a half: a label needs its true positives from ten


class WatchError(ValueError):
    """Boards that cannot be scored in this run."""


@dataclass(frozen=True)
class WatchOptions:
    """How often boards are scored, and what is kept."""

    board_every: int = 0
    """steps between scores of the board, on the games of --held-out-tokens where games are the corpus; 0: never"""
    board_games: tuple[Path, ...] = ()
    """with --board-every: files of games to score on instead, of Othello or chess, whatever the corpus is"""
    board_split: int = 200
    """of --board-games: games each to choose features with and to score on"""
    keep_best: Literal["coverage", "reconstruction", "none"] = "coverage"
    """with --board-every: keep each dictionary as it was at the step where it scored best, in the run's best/"""

    def __post_init__(self) -> None:
        if self.board_every < 0:
            raise ValueError(f"board_every is {self.board_every}: choose 1 or more, or 0 for never")
        if self.board_games and not self.board_every:
            raise ValueError("--board-games are scored every so many steps: give --board-every")
        if self.board_split < _LEAST_GAMES:
            raise ValueError(f"board_split is {self.board_split}: choose {_LEAST_GAMES} or more")

    def watch(self, material: Material, run: Path, members: Sequence[str], recorder: Recorder | None) -> Watch | None:
        """None where nothing is watched. `recorder`: None on ranks other than the first."""
        if not self.board_every:
            return None
        game = _game_of(material)
        if recorder is None:
            return Watch(None, LOW_LEVEL[game], Silent())
        folder = None if self.keep_best == "none" else run / FOLDER
        metric = "coverage" if self.keep_best == "none" else self.keep_best
        splits = _of_files(self, game) if self.board_games else _kept_apart(material)
        board = _board(material, game, splits)
        return Watch(board, LOW_LEVEL[game], recorder, folder=folder, metric=metric, members=members)

    def said(self, run: Path) -> str:
        """A line for each dictionary that was kept; nothing where none was."""
        best = best_so_far(run / FOLDER)
        lines = [
            f"{name}: step {kept['step']}, coverage {kept['coverage']:.3f}, reconstruction {kept['reconstruction']:.3f}"
            for name, kept in sorted(best.items())
        ]
        return "\n".join([f"Best by {self.keep_best}, in {FOLDER}/:", *lines]) if lines else ""


def _game_of(material: Material) -> Game:
    """What the model plays; WatchError where there is no model, or one of no game."""
    if not isinstance(material, ModelMaterial):
        raise WatchError("--board-every runs the model on games, and these activations come from disk; leave it out")
    try:
        return game_of(material.model.config.vocab_size)
    except FileError:
        raise WatchError("--board-every scores boards, and the model plays neither Othello nor chess") from None


def _of_files(options: WatchOptions, game: Game) -> Splits:
    return open_games(game, options.board_games, options.board_split, parts=False)


def _kept_apart(material: Material) -> Splits:
    """Half of the games that are kept apart to choose on, half to score on."""
    assert isinstance(material, ModelMaterial)
    if _game_of(material) != "othello":
        raise WatchError("--board-every needs games of chess to score on: name files with --board-games")
    count = len(material.held_out) // 2
    if count < _LEAST_GAMES:
        raise WatchError(
            f"--board-every needs {2 * _LEAST_GAMES} games kept apart, and there are {len(material.held_out)}: give "
            "a larger --held-out-tokens, or more games"
        )
    moves = np.full((2 * count, MAX_PLIES), NO_MOVE, np.uint8)
    moves[:, :CONTEXT] = from_tokens(material.held_out[: 2 * count].numpy())
    return Splits(moves[:count], moves[count:], (), "games kept apart")


def _board(material: Material, game: Game, splits: Splits) -> Scoreboard:
    """Of the board's own properties, without resamples."""
    assert isinstance(material, ModelMaterial)
    group = LOW_LEVEL[game]
    games = label_splits(splits, game, {group: groups_of(game)[group]})
    return Scoreboard(material.model, list(material.widths), games.selection, games.scoring, resampled=0)
