"""The games that boards are scored on: two splits, and which of their positions count.

A position whose tokens up to it begin an earlier game, of the language model's part, the dictionaries', the selection
or the same split, is not scored again: it would be choosing and scoring on one and the same thing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from boardgames.game_files import find_game, read_chess, read_othello
from boardgames.labelled import At, Game, Groups, LabelledGames, label_chess, label_othello
from boardgames.othello.rules import MAX_PLIES, random_games
from boardgames.othello.streams import stream
from boardgames.othello.transcript import CONTEXT, GamesError, to_tokens, unique_games
from boardgames.prefixes import ended, first_seen
from boardgames.skipped import Skipped
from boardgames.splits import Part, split

_BEFORE: tuple[Part, ...] = ("language_model", "dictionary")


@dataclass(frozen=True)
class BoardGames:
    selection: LabelledGames
    scoring: LabelledGames
    said: str
    """what they are, in one line"""


@dataclass(frozen=True)
class Splits:
    """Games before they are labelled: uint8 [games, 60] of Othello, or transcripts of chess."""

    selection: Any
    scoring: Any
    before: tuple[Any, ...]
    """what models and dictionaries were trained on, as far as it is known"""
    source: str
    left_out: str = ""
    """how many games of the files, and why; "" for none"""


def open_games(game: Game, files: Sequence[Path], count: int, *, parts: bool = True, seed: int = 0) -> Splits:
    """`count` games each to choose features on and to score on, from files, or random ones of Othello."""
    if not files:
        if game == "chess":
            raise GamesError(
                "chess needs --games: files of real games, or those of `kibitz games make --game chess --by model`"
            )
        moves = unique_games(random_games(2 * count, stream("board", seed)))
        return Splits(moves[:count], moves[count:], (), "uniformly random games")
    source, skipped = ", ".join(path.name for path in files), Skipped()
    games, left_out = read_all(game, files, skipped), skipped.sentence()
    if not parts:
        order = np.random.default_rng([seed, len(games)]).permutation(len(games))
        if len(games) < 2 * count:
            raise GamesError(
                f"{source}: {len(games)} different games; two splits of {count} were asked for (--split)"
                + _without(left_out)
            )
        return Splits(_pick(games, order[:count]), _pick(games, order[count : 2 * count]), (), source, left_out)
    by_part = split(games)
    chosen = {}
    for part in ("selection", "scoring"):
        there = len(by_part[part])
        if there < count:
            raise GamesError(
                f"{source}: {there} of {len(games)} different games are for {part}, and {count} were asked for: choose "
                f"a smaller --split, or --no-parts for games that no model or dictionary was trained on"
                + _without(left_out)
            )
        order = np.random.default_rng([seed, there]).permutation(there)[:count]
        chosen[part] = _pick(by_part[part], np.sort(order))
    before = tuple(by_part[part] for part in _BEFORE if len(by_part[part]))
    return Splits(chosen["selection"], chosen["scoring"], before, source, left_out)


def read_all(game: Game, files: Sequence[Path], skipped: Skipped) -> Any:
    """The different games of all files; `skipped` counts the broken ones.

    One with an illegal move is not among these: it is named when it is labelled.
    """
    for path in files:
        try:
            found = find_game(path)
        except GamesError:
            if not path.is_file():
                raise
            continue  # it does not show: the model says, and the reader complains
        if found != game:
            raise GamesError(f"{path}: games of {found}, and the model plays {game}")
    if game == "othello":
        blocks = [block.moves for path in files for block in read_othello(path, skipped)]
        return unique_games(np.concatenate(blocks)) if blocks else np.empty((0, MAX_PLIES), np.uint8)
    return list(dict.fromkeys(each.transcript for path in files for each in read_chess(path, skipped)))


def label_splits(splits: Splits, game: Game, groups: Groups, at: At = "dots", *, fresh: bool = True) -> BoardGames:
    """Labels of both splits. `fresh`: leave out positions that an earlier game holds too, as the module says."""
    keep: list[Any] = [None, None]
    if fresh:
        rows = [_prefix_tokens(game, games) for games in (*splits.before, splits.selection, splits.scoring)]
        keep = first_seen(rows)[-2:]
    if game == "othello":
        selection, scoring = (
            label_othello(games, groups, kept)
            for games, kept in zip((splits.selection, splits.scoring), keep, strict=True)
        )
    else:
        selection, scoring = (
            label_chess(games, groups, at, kept)
            for games, kept in zip((splits.selection, splits.scoring), keep, strict=True)
        )
    said = (
        f"{splits.source}: {len(selection.labels.matrix)} positions of {len(selection.tokens)} games to choose on, "
        f"{len(scoring.labels.matrix)} of {len(scoring.tokens)} to score on" + _without(splits.left_out)
    )
    return BoardGames(selection, scoring, said)


def _without(left_out: str) -> str:
    return f"; left out: {left_out}" if left_out else ""


def _prefix_tokens(game: Game, games: Any) -> Int[np.ndarray, "games length"]:
    """Tokens, -1 behind the end of each game."""
    if game == "othello":
        tokens = to_tokens(games[:, :CONTEXT])
        return np.where(tokens == 0, -1, tokens)
    from boardgames.chess.transcript import encode, lengths

    return ended(encode(games), lengths(games))


def _pick(games: Any, index: Bool[np.ndarray, " n"] | Int[np.ndarray, " n"]) -> Any:
    return games[index] if isinstance(games, np.ndarray) else [games[i] for i in index]
