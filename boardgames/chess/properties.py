"""Board properties of chess, and the two sets of them (Karvonen et al. 2024, appendix).

`CORRECTED` asks from the side of the mover ("my", "your") and is right at every character; `PAPER` repeats the original
implementation exactly, where a published number is to be compared. docs/boards.md draws every property and says where
the two differ. Columns per square are in python-chess's order: a1, b1, ... h8.
"""

from collections.abc import Callable, Sequence
from typing import Any

import chess
import numpy as np
from numpy.typing import NDArray

from boardgames.chess import predicates as ask
from boardgames.chess import tactics
from boardgames.chess.positions import ChessPositions
from boardgames.game import BoardProperty

Answers = Callable[[ChessPositions], NDArray[Any]]
SQUARES = tuple(chess.SQUARE_NAMES)
KINDS = ("pawn", "knight", "bishop", "rook", "queen", "king")


def _flag(name: str, description: str) -> Callable[[ChessPositions], NDArray[np.bool_]]:
    """A predicate that boardgames.chess.tactics has answered on the board."""

    def answer(p: ChessPositions) -> NDArray[np.bool_]:
        return p.flag(name)

    answer.__doc__ = description
    return answer


def _pieces(name: str, colours: tuple[str, str], suffix: str, answers: Answers) -> BoardProperty:
    groups = [f"{colour} {kind}{suffix}" for colour in colours for kind in KINDS]
    return BoardProperty.per_square(name, groups, SQUARES, answers)


def _squares(name: str, answers: Answers) -> BoardProperty:
    return BoardProperty.per_square(name, [name], SQUARES, answers)


def _fact(name: str, answers: Answers) -> BoardProperty:
    return BoardProperty.of_board(name, [name], answers)


def _numbers(name: str, last: int, answers: Answers, beyond: bool = False) -> BoardProperty:
    columns = [f"{name} {n}" for n in range(last + 1)] + [f"{name} more than {last}"] * beyond
    return BoardProperty.of_board(name, columns, answers)


_MY_YOUR, _WHITE_BLACK = ("my", "your"), ("white", "black")
OFF_START = _pieces("pieces off start", _MY_YOUR, " off start", ask.pieces_off_start)
PAPER_OFF_START = _pieces("pieces off start", _WHITE_BLACK, " off start", ask.paper_pieces_off_start)

# the same in both sets
_SHARED = {
    p.name: p
    for p in (
        _squares("empty", ask.empty),
        _squares("pseudo-legal", ask.pseudo_legal),
        _squares("last move", ask.last_move),
        _squares("last own move", ask.last_own_move),
        _fact("check", _flag("check", "The mover is in check.")),
        _fact("can check next", _flag("can_check", "The mover has a legal move that gives check.")),
        _fact("has queen", ask.has_queen),
        _fact("castling rights", ask.castling_rights),
        _fact("kingside castling rights", ask.kingside_rights),
        _fact("queenside castling rights", ask.queenside_rights),
        _fact("pin", _flag("pin", tactics.has_pin.__doc__ or "")),
        _fact("legal en passant", _flag("en_passant", "The mover may capture en passant.")),
        _fact("connected rooks", _flag("connected_rooks", tactics.has_connected_rooks.__doc__ or "")),
        _fact("can claim draw", _flag("claim_draw", (tactics.can_claim_draw.__doc__ or "").split("\n")[0])),
        _fact("stalemate", _flag("stalemate", "The mover has no legal move and is not in check.")),
        _fact("white moves", ask.white_moves),
        _numbers("piece count", 15, ask.piece_count),
    )
}


def _set(properties: Sequence[BoardProperty]) -> dict[str, BoardProperty]:
    return {p.name: p for p in properties} | _SHARED


CORRECTED = _set(
    (
        _pieces("pieces", _MY_YOUR, "", ask.pieces),
        OFF_START,
        _pieces("pieces earlier", _MY_YOUR, " earlier", ask.earlier_pieces),
        BoardProperty.per_square("colours", ("mine", "yours"), SQUARES, ask.colours),
        _squares("threatened", ask.threatened),
        _squares("legal", ask.legal),
        _fact("bishop pair", ask.bishop_pair),
        _fact("can capture queen", ask.can_capture_queen),
        _fact("fork", _flag("fork", tactics.has_fork.__doc__ or "")),
        _fact("knight fork", _flag("knight_fork", tactics.has_knight_fork.__doc__ or "")),
        _fact("ambiguous move", _flag("ambiguous", tactics.has_ambiguous_move.__doc__ or "")),
        _fact("mate threat", _flag("mate_threat", tactics.has_mate_threat.__doc__ or "")),
        _numbers("material", ask.MATERIAL, ask.material, beyond=True),
    )
)
PAPER = _set(
    (
        _pieces("pieces", _WHITE_BLACK, "", ask.paper_pieces),
        PAPER_OFF_START,
        _pieces("pieces earlier", _WHITE_BLACK, " earlier", ask.paper_earlier_pieces),
        BoardProperty.per_square("colours", _WHITE_BLACK, SQUARES, ask.paper_colours),
        _squares("threatened", ask.paper_threatened),
        _squares("legal", ask.paper_legal),
        _fact("bishop pair", ask.paper_bishop_pair),
        _fact("can capture queen", ask.paper_can_capture_queen),
        _fact("fork", _flag("paper_fork", tactics.paper_has_fork.__doc__ or "")),
        _fact("knight fork", _flag("paper_knight_fork", tactics.paper_has_knight_fork.__doc__ or "")),
        _fact("ambiguous move", _flag("paper_ambiguous", tactics.paper_has_ambiguous_move.__doc__ or "")),
        _fact("mate threat", _flag("mate_in_one", "As the original: the mover, not the opponent, has a mate in one.")),
        _numbers("material", ask.MATERIAL, ask.paper_material),
    )
)
SETS = {"corrected": CORRECTED, "paper": PAPER}

STRATEGY = (
    "threatened",
    "legal",
    "check",
    "can check next",
    "has queen",
    "bishop pair",
    "can capture queen",
    "castling rights",
    "kingside castling rights",
    "queenside castling rights",
    "fork",
    "pin",
    "legal en passant",
    "ambiguous move",
)
"""the 14 properties of the paper's mean over strategy; its low-level metric is "pieces off start" alone"""
