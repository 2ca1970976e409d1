"""Yes-or-no questions about chess positions that are read off bitboards, for all positions at once.

A predicate takes ChessPositions and gives bitboards, [rows] or [rows, groups], or booleans. "The mover" is the side
whose turn it is. `paper_...` repeats what the original implementation does where that is something else. Questions
that need attacks and legal moves are in boardgames.chess.tactics.
"""

import chess
import numpy as np
from jaxtyping import UInt64
from numpy.typing import NDArray

from boardgames.chess.positions import PLANES, ChessPositions

Bitboards = UInt64[np.ndarray, " rows"]
VALUES = (1, 3, 3, 5, 9)  # of a pawn, knight, bishop, rook, queen
MATERIAL = 8 * 1 + 2 * 3 + 2 * 3 + 2 * 5 + 9  # of a side at the start
_START = np.array([getattr(chess.Board(), plane) for plane in PLANES[:6]], np.uint64)
_WHITE_HALF = np.uint64(chess.BB_RANK_1 | chess.BB_RANK_2)
_START_PIECES = np.concatenate([_START & _WHITE_HALF, _START & ~_WHITE_HALF])
_LIGHT = np.uint64(chess.BB_LIGHT_SQUARES)


def mine(p: ChessPositions) -> Bitboards:
    """The mover's pieces."""
    return np.where(p.white_moves, p.board("white"), p.board("black"))


def yours(p: ChessPositions) -> Bitboards:
    """The pieces of the mover's opponent."""
    return np.where(p.white_moves, p.board("black"), p.board("white"))


def _by_colour(planes: UInt64[np.ndarray, "rows 8"]) -> UInt64[np.ndarray, "rows 12"]:
    """White's pawns to king, then Black's."""
    return np.concatenate([planes[:, :6] & planes[:, 6:7], planes[:, :6] & planes[:, 7:8]], axis=1)


def _mine_first(p: ChessPositions, boards: UInt64[np.ndarray, "rows 12"]) -> UInt64[np.ndarray, "rows 12"]:
    """White's six boards and Black's six, exchanged where Black moves."""
    return np.where(p.white_moves[:, None], boards, np.roll(boards, 6, axis=1))


def paper_pieces(p: ChessPositions) -> NDArray[np.uint64]:
    """Which piece stands on each square, by colour."""
    return _by_colour(p.facts[:, :8])


def pieces(p: ChessPositions) -> NDArray[np.uint64]:
    """Which piece stands on each square: the mover's (my) or the opponent's (your), of each kind."""
    return _mine_first(p, paper_pieces(p))


def paper_pieces_off_start(p: ChessPositions) -> NDArray[np.uint64]:
    """The pieces, by colour, without those on a square where a like piece stood at the start of the game."""
    return paper_pieces(p) & ~_START_PIECES


def pieces_off_start(p: ChessPositions) -> NDArray[np.uint64]:
    """The pieces without those on a square where a like piece stood at the start of the game."""
    return _mine_first(p, paper_pieces_off_start(p))


def paper_earlier_pieces(p: ChessPositions) -> NDArray[np.uint64]:
    """Which piece, by colour, stood on each square `plies_back` plies ago, 25 if not told; none before the game."""
    return _by_colour(p.earlier)


def earlier_pieces(p: ChessPositions) -> NDArray[np.uint64]:
    """Which piece of today's mover (my) or opponent (your) stood on each square `plies_back` (25) plies ago."""
    return _mine_first(p, paper_earlier_pieces(p))


def colours(p: ChessPositions) -> NDArray[np.uint64]:
    """Whether each square holds a piece of the mover, or of the opponent."""
    return np.stack([mine(p), yours(p)], axis=1)


def paper_colours(p: ChessPositions) -> NDArray[np.uint64]:
    """Whether each square holds a white piece, or a black one."""
    return np.stack([p.board("white"), p.board("black")], axis=1)


def empty(p: ChessPositions) -> Bitboards:
    """Whether a square is empty."""
    return ~(p.board("white") | p.board("black"))


def threatened(p: ChessPositions) -> Bitboards:
    """Squares that a piece of the opponent attacks, whatever stands on them; pinned pieces attack too."""
    return np.where(p.white_moves, p.board("attacked_by_black"), p.board("attacked_by_white"))


def paper_threatened(p: ChessPositions) -> Bitboards:
    """Squares that a black piece attacks, whoever moves."""
    return p.board("attacked_by_black")


def legal(p: ChessPositions) -> Bitboards:
    """Squares that a legal move of the mover goes to."""
    return p.board("legal")


def paper_legal(p: ChessPositions) -> Bitboards:
    """Squares that a legal move of White goes to: none where Black moves."""
    return np.where(p.white_moves, p.board("legal"), np.uint64(0))


def pseudo_legal(p: ChessPositions) -> Bitboards:
    """Squares that a move of the mover goes to, also if it leaves the king in check."""
    return p.board("pseudo_legal")


def last_move(p: ChessPositions) -> Bitboards:
    """The square that the opponent's last move went to; a castling king's square."""
    return p.board("last_move")


def last_own_move(p: ChessPositions) -> Bitboards:
    """The square that the mover's own last move went to, whatever stands there now."""
    return p.board("last_own_move")


def has_queen(p: ChessPositions) -> NDArray[np.bool_]:
    """The mover has a queen."""
    return (mine(p) & p.board("queens")) != 0


def bishop_pair(p: ChessPositions) -> NDArray[np.bool_]:
    """The mover has a bishop on light squares and one on dark squares."""
    bishops = mine(p) & p.board("bishops")
    return ((bishops & _LIGHT) != 0) & ((bishops & ~_LIGHT) != 0)


def paper_bishop_pair(p: ChessPositions) -> NDArray[np.bool_]:
    """The mover has two bishops or more, on whatever squares."""
    return np.bitwise_count(mine(p) & p.board("bishops")) >= 2


def can_capture_queen(p: ChessPositions) -> NDArray[np.bool_]:
    """The mover has a legal move that captures a queen."""
    return (p.board("legal") & yours(p) & p.board("queens")) != 0


def paper_can_capture_queen(p: ChessPositions) -> NDArray[np.bool_]:
    """The mover can capture the opponent's queen that is nearest to h8, rank before file; no other is looked at."""
    queens = yours(p) & p.board("queens")
    for width in (1, 2, 4, 8, 16, 32):
        queens |= queens >> np.uint64(width)  # all bits below the highest
    return (p.board("legal") & (queens ^ (queens >> np.uint64(1)))) != 0


def _rights(p: ChessPositions, files: int) -> NDArray[np.bool_]:
    rank = np.where(p.white_moves, np.uint64(chess.BB_RANK_1), np.uint64(chess.BB_RANK_8))
    return (p.board("castling") & rank & np.uint64(files)) != 0


def castling_rights(p: ChessPositions) -> NDArray[np.bool_]:
    """The mover may still castle on some side, now or later: its king and that rook have not moved."""
    return _rights(p, chess.BB_FILE_A | chess.BB_FILE_H)


def kingside_rights(p: ChessPositions) -> NDArray[np.bool_]:
    """The mover may still castle on the king's side."""
    return _rights(p, chess.BB_FILE_H)


def queenside_rights(p: ChessPositions) -> NDArray[np.bool_]:
    """The mover may still castle on the queen's side."""
    return _rights(p, chess.BB_FILE_A)


def _number(values: NDArray[np.integer], last: int) -> NDArray[np.bool_]:
    return values[:, None] == np.arange(last + 1)


def _material(p: ChessPositions) -> NDArray[np.integer]:
    own = mine(p)
    counts = [np.bitwise_count(own & p.board(plane)).astype(np.int64) for plane in PLANES[:5]]
    return sum(value * count for value, count in zip(VALUES, counts, strict=True))  # type: ignore[return-value]


def paper_material(p: ChessPositions) -> NDArray[np.bool_]:
    """The value of the mover's pieces, 0 to 39; no column is true above 39."""
    return _number(_material(p), MATERIAL)


def material(p: ChessPositions) -> NDArray[np.bool_]:
    """The value of the mover's pieces (pawn 1, knight and bishop 3, rook 5, queen 9); more than 39 is one column."""
    return _number(np.minimum(_material(p), MATERIAL + 1), MATERIAL + 1)


def piece_count(p: ChessPositions) -> NDArray[np.bool_]:
    """How many pieces the mover has besides its king, pawns included."""
    return _number(np.bitwise_count(mine(p) & ~p.board("kings")).astype(np.int64), 15)


def white_moves(p: ChessPositions) -> NDArray[np.bool_]:
    """White is to move."""
    return p.white_moves
