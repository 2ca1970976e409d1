"""Positions of Othello and chess as cards draw them: boards as text and in plain values, and planes for heat-maps.

In Othello "mine" is the side that has just moved; chess asks from the side to move, as boardgames does.
"""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from boardgames.chess.transcript import VOCABULARY
from boardgames.game import unpack
from boardgames.labelled import At
from boardgames.othello.properties import SQUARES, by_last_mover, last_move
from boardgames.othello.rules import BLACK, CENTRE
from boardgames.othello.transcript import SQUARE_OF_TOKEN
from boardgames.report import Positions
from shift.card_facts import heat_maps
from shift.cards import Kind, Showing

MINE, YOURS, EMPTY = "mine", "yours", "empty"
_SIGN = {MINE: "X", YOURS: "O", EMPTY: "."}
CHESS_SQUARES = tuple(f"{file}{rank}" for rank in range(1, 9) for file in "abcdefgh")
_PIECES = {"pawns": "p", "knights": "n", "bishops": "b", "rooks": "r", "queens": "q", "kings": "k"}


class OthelloBoards:
    """Every ply of some games."""

    kind: Kind = "othello"

    def __init__(self, positions: Positions) -> None:
        self.tokens, self.mask = positions.tokens, torch.from_numpy(positions.mask)
        self._at = at = positions.replay.at(positions.mask)
        mine, yours = by_last_mover(at)
        self._contents = (unpack(mine) + 2 * unpack(yours)).astype(np.uint8)
        self._planes = {MINE: mine, YOURS: yours, EMPTY: ~(mine | yours), "last move": last_move(at)}
        self._planes |= {"flipped": at.flipped, "legal next": at.legal}

    def showing(self, row: int, activations: Float[Tensor, " positions"]) -> Showing:
        last = int(self._at.moves[row])
        names = (EMPTY, MINE, YOURS)
        squares = {s: names[c] for s, c in zip(SQUARES, self._contents[row].tolist(), strict=True)}
        flips = np.flatnonzero(unpack(self._at.flipped[row : row + 1])[0]).tolist()
        side = "Black" if self._at.mover[row] == BLACK else "White"
        drawn = {
            "board": "".join(_SIGN[content] for content in squares.values()),
            "last": last,
            "flips": flips,
            "caption": f"move {int(self._at.ply[row]) + 1}, by {side}",
        }
        return Showing(float(activations[row]), draw_othello(squares, last), squares, drawn)

    def same(self, row: int) -> Hashable:
        return self._contents[row].tobytes(), int(self._at.moves[row])

    def heat(self, activations: Float[Tensor, "positions chosen"]) -> list[dict[str, tuple[float | None, ...]]]:
        return heat_maps(activations, self._planes)

    def spell(self, token: int) -> str:
        square = self.square_of(token)
        return "" if square is None else SQUARES[square]

    def square_of(self, token: int) -> int | None:
        square = int(SQUARE_OF_TOKEN[token])
        return square if square < 64 and square not in CENTRE else None


class ChessBoards:
    """Positions of chess games; by default the space behind every move."""

    kind: Kind = "chess"

    def __init__(self, games: Sequence[str], at: At = "moves") -> None:
        from boardgames.chess.positions import positions  # python-chess is an extra
        from boardgames.chess.transcript import encode

        self._at = found = positions(games, at)
        self.tokens = torch.from_numpy(encode(games))
        self.mask = torch.zeros(self.tokens.shape, dtype=torch.bool)
        self.mask[found.game, found.character] = True
        self._boards = _letters(found)
        self._planes = _chess_planes(found)

    def showing(self, row: int, activations: Float[Tensor, " positions"]) -> Showing:
        board, turn = "".join(self._boards[row]), "White" if self._at.white_moves[row] else "Black"
        last = int(self._at.board("last_move")[row]).bit_length() - 1
        mine = str.isupper if turn == "White" else str.islower
        squares = {
            name: "empty" if sign == "." else f"{'my' if mine(sign) else 'their'} {sign.lower()}"
            for name, sign in zip(CHESS_SQUARES, board, strict=True)
        }
        text = f"{turn} to move\n{draw_chess(board, last)}"
        drawn = {
            "board": board,
            "last": last,
            "flips": [],
            "turn": turn.lower(),
            "caption": f"after {int(self._at.ply[row])} plies, {turn} to move",
        }
        return Showing(float(activations[row]), text, squares, drawn)

    def same(self, row: int) -> Hashable:
        return self._boards[row].tobytes(), bool(self._at.white_moves[row])

    def heat(self, activations: Float[Tensor, "positions chosen"]) -> list[dict[str, tuple[float | None, ...]]]:
        return heat_maps(activations, self._planes)

    def spell(self, token: int) -> str:
        return VOCABULARY[token]

    def square_of(self, token: int) -> int | None:
        return None


def _letters(found: Any) -> np.ndarray:
    """[rows, 64] letters as in FEN, a1 first; "." for an empty square."""
    boards = np.full((len(found), 64), ".")
    white, black = unpack(found.board("white")), unpack(found.board("black"))
    for plane, sign in _PIECES.items():
        there = unpack(found.board(plane))
        boards[there & white] = sign.upper()
        boards[there & black] = sign
    return boards


def _chess_planes(found: Any) -> Mapping[str, np.ndarray]:
    sides: dict[str, np.ndarray] = {
        "my": np.where(found.white_moves, found.board("white"), found.board("black")),
        "their": np.where(found.white_moves, found.board("black"), found.board("white")),
    }
    planes = {f"{side} {kind[:-1]}": found.board(kind) & own for side, own in sides.items() for kind in _PIECES}
    return {**planes, "empty": ~(sides["my"] | sides["their"]), "last move": found.board("last_move")}


def draw_othello(squares: Mapping[str, str], last: int) -> str:
    """The board as text, a row for each letter: X mine (just moved), O yours, . empty, the last move in brackets."""
    return _drawn([_SIGN[squares[name]] for name in SQUARES], last, "abcdefgh", "12345678", range(8))


def draw_chess(board: str, last: int) -> str:
    """The board as text, White below: letters as in FEN, the last move in brackets. `board` begins with a1."""
    return _drawn(list(board), last, "12345678", "abcdefgh", range(7, -1, -1))


def _drawn(signs: Sequence[str], last: int, rows: str, columns: str, order: Sequence[int]) -> str:
    lines = ["   " + "  ".join(columns)]
    for row in order:
        cells = [f"[{signs[s]}]" if s == last else f" {signs[s]} " for s in range(8 * row, 8 * row + 8)]
        lines.append(f"{rows[row]} {''.join(cells)}")
    return "\n".join(lines)
