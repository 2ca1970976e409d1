"""Games of one split as a model reads them: tokens, the positions that are scored, and what is true of each.

Labels come in groups of properties that are scored together: for Othello the board (mine and yours on 64 squares), for
chess the pieces that have left their starting squares (both the paper's low-level metric), and one group for every
other property; the 14 of the paper's strategy score are among those of chess.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, UInt8

from boardgames.game import BoardProperty, label
from boardgames.labelled_rows import LabelledRows
from boardgames.othello import properties as othello_properties
from boardgames.othello.rules import replay
from boardgames.othello.transcript import CONTEXT as OTHELLO_CONTEXT
from boardgames.othello.transcript import PAD, to_tokens

Game = Literal["othello", "chess"]
LabelSet = Literal["corrected", "by_next", "paper"]
At = Literal["dots", "moves", "characters"]
Groups = Mapping[str, Sequence[BoardProperty]]

OTHELLO_GROUPS = ("empty", "legal", "flipped", "last move")
LOW_LEVEL: dict[Game, str] = {"othello": "board", "chess": "pieces off start"}


class LabelledError(ValueError):
    """Games or properties that cannot be labelled."""


@dataclass(frozen=True)
class LabelledGames(LabelledRows):
    """Each row is a game."""

    game: Game


def groups_of(game: Game, labels: LabelSet = "corrected", more: Sequence[str] = ()) -> dict[str, list[BoardProperty]]:
    """The groups that are scored by default, and more properties by their names."""
    if game == "othello":
        known = othello_properties.SETS[labels]
        chosen = {"board": [known["mine"], known["yours"]]}
        names: Sequence[str] = OTHELLO_GROUPS if labels != "paper" else ("legal",)
    else:
        from boardgames.chess import properties as chess_properties  # python-chess is an extra

        if labels not in chess_properties.SETS:
            raise LabelledError(f"labels is {labels}: chess has {' and '.join(chess_properties.SETS)}")
        known = chess_properties.SETS[labels]
        chosen = {LOW_LEVEL["chess"]: [known["pieces off start"]]}
        names = chess_properties.STRATEGY
    for name in dict.fromkeys([*names, *more]):
        if name not in known:
            raise LabelledError(f"no property of {game} is called {name!r}; there are {', '.join(known)}")
        chosen.setdefault(name, [known[name]])
    return chosen


def _columns(groups: Groups) -> dict[str, int]:
    return {name: sum(len(p.columns) for p in properties) for name, properties in groups.items()}


def label_othello(
    moves: UInt8[np.ndarray, "games 60"], groups: Groups, keep: Bool[np.ndarray, "games length"] | None = None
) -> LabelledGames:
    """Every ply of the first 59, or those of them that `keep` allows."""
    games = replay(moves)
    played = games.played[:, :OTHELLO_CONTEXT]
    mask = played if keep is None else played & keep[:, :OTHELLO_CONTEXT]
    tokens = torch.from_numpy(to_tokens(moves[:, :OTHELLO_CONTEXT]))
    labels = label(games.at(mask), [p for properties in groups.values() for p in properties])
    return LabelledGames(tokens, tokens != PAD, torch.from_numpy(mask), labels, _columns(groups), "othello")


def label_chess(
    transcripts: Sequence[str], groups: Groups, at: At = "dots", keep: Bool[np.ndarray, "games length"] | None = None
) -> LabelledGames:
    """The first 20 dots of each game, the space behind every move, or all of its first 256 characters."""
    from boardgames.chess import positions as chess_positions
    from boardgames.chess.transcript import CONTEXT, encode, lengths

    found = chess_positions.positions(transcripts, at)
    if keep is not None:
        found = found[keep[found.game, found.character]]
    tokens = torch.from_numpy(encode(transcripts))
    mask = torch.zeros(tokens.shape, dtype=torch.bool)
    mask[found.game, found.character] = True
    played = torch.arange(CONTEXT) < torch.from_numpy(lengths(transcripts))[:, None]
    labels = label(found, [p for properties in groups.values() for p in properties])
    return LabelledGames(tokens, played, mask, labels, _columns(groups), "chess")
