"""Yes-or-no questions about a position, in words: columns of board properties, "mine c3", "not empty b4", "a or b".

The columns are those of boardgames' corrected properties. In Othello "mine" is the side that has just moved; chess
asks from the side to move ("my bishop c1"), as all of boardgames.chess does. The rules say what an answer depends on.
"""

import difflib
import re
from functools import cache
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool

from boardgames.game import BoardProperty
from boardgames.othello import properties as othello
from boardgames.othello.rules import CENTRE, square_index

Game = Literal["othello", "chess"]

_SQUARE = re.compile("[a-h][1-8]")
_OF_ITS_SQUARE = ("mine", "yours", "empty", "occupied", "black", "white", "flipped", "last move")
# chess answers that cannot be told apart by the pieces that they speak of
_CHESS_KINDS = {
    "kingside castling rights": "castling rights",
    "queenside castling rights": "castling rights",
    "can capture queen": "has queen",
    "knight fork": "fork",
    "piece count": "material",
}


class QuestionError(ValueError):
    """A question that names no column."""


@cache
def columns(game: Game) -> dict[str, tuple[BoardProperty, int]]:
    """Every column of a game by its name: the property that it belongs to, and its place there."""
    if game == "othello":
        known = othello.CORRECTED
    else:
        from boardgames.chess.properties import CORRECTED as known  # python-chess is an extra
    return {name: (asked, index) for asked in known.values() for index, name in enumerate(asked.columns)}


@cache
def facts(game: Game) -> dict[str, str]:
    """What each column about no square is about: "ply" for all buckets of it, "castling rights" for either side's."""
    known = columns(game).items()
    return {name: _CHESS_KINDS.get(asked.name, asked.name) for name, (asked, i) in known if not asked.squares[i]}


def parts(game: Game, question: str) -> list[tuple[str, bool]]:
    """The columns of a question, and what each must be for the answer to be yes; QuestionError for an unknown one."""
    found = []
    for words in question.split(" or "):
        name = words.strip().removeprefix("not ")
        if name not in columns(game):
            near = difflib.get_close_matches(name, columns(game), 3)
            hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else "; such as 'mine c3' or 'has queen'"
            raise QuestionError(f"{game} has no column {name!r}{hint}")
        found.append((name, not words.strip().startswith("not ")))
    return found


def answer(game: Game, question: str, positions: Any) -> Bool[np.ndarray, " rows"]:
    """The answer for every position: yes where any of the question's parts holds."""
    yes = np.zeros(len(positions.game), bool)
    for name, wanted in parts(game, question):
        asked, index = columns(game)[name]
        yes |= asked.column(positions, index) == wanted
    return yes


@cache
def depends(game: Game, question: str) -> frozenset[str]:
    """What can change the answer, by the rules: squares; for facts about no square, what they are about.

    Othello: an owner hangs on its square, legality and lines also on all squares of the eight rays. Chess: a piece
    hangs on its square, a fact such as castling rights on itself.
    """
    found: set[str] = set()
    for name, _ in parts(game, question):
        asked, index = columns(game)[name]
        square = asked.squares[index]
        if not square:
            found |= set(othello.SQUARES) if asked.name == "who moves" else {facts(game)[name]}
        elif game == "chess" or asked.name in _OF_ITS_SQUARE:
            found.add(square)
        else:
            found |= {square} | {other for other in othello.SQUARES if on_one_line(square, other)}
    return frozenset(found)


def on_one_line(first: str, second: str) -> bool:
    """Whether two different squares share a row, a column or a diagonal, so that one move can flip discs on both."""
    (row, col), (row_, col_) = divmod(square_index(first), 8), divmod(square_index(second), 8)
    return first != second and (row == row_ or col == col_ or abs(row - row_) == abs(col - col_))


def squares_of(game: Game, question: str) -> frozenset[str]:
    """The squares among what the answer depends on."""
    return frozenset(name for name in depends(game, question) if _SQUARE.fullmatch(name))


def owners_asked(*questions: str) -> list[str]:
    """The Othello squares whose owner the questions ask for, without the four that are always taken."""
    found = re.findall(r"\b(?:mine|yours) ([a-h][1-8])", " ".join(questions))
    return [square for square in dict.fromkeys(found) if square_index(square) not in CENTRE]


def with_owners_exchanged(question: str) -> str:
    """ "yours c3" for "mine c3" and the other way round; other questions as they are."""
    return re.sub(r"\b(mine|yours) ", lambda found: {"mine": "yours ", "yours": "mine "}[found[1]], question)


def spoken(question: str) -> str:
    """'owner of c3' for 'mine c3'; other questions as they are."""
    return re.sub(r"\b(?:mine|yours) ([a-h][1-8])", r"owner of \1", question)
