"""Positions of chess games: each transcript is replayed once, and only what is scored is looked at.

A character belongs to the board after as many moves as there are spaces up to and including it: in ";1.e4 e5 2.Nf3"
the characters ";1.e4" to the starting position, " e5" to the board after e4, " 2.Nf3" to the board after e5 (Karvonen
et al. 2024). The rules are python-chess's; what a property needs is read off its board once, as bitboards and bits.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import chess
import numpy as np
from chess import Board
from jaxtyping import Bool, Int, UInt64

from boardgames.chess import tactics
from boardgames.chess.transcript import CONTEXT, START, TranscriptError

At = Literal["dots", "moves", "characters"]
DOTS = 20  # the paper scores the first 20 dots of a game
PLIES_BACK = 25

_NUMBERED = re.compile(r"(\d+)\.(.+)")

PLANES = ("pawns", "knights", "bishops", "rooks", "queens", "kings", "white", "black")
"""bitboards of the pieces: one per kind, and one per colour"""
BOARDS = ("attacked_by_white", "attacked_by_black", "legal", "pseudo_legal", "castling", "last_move", "last_own_move")
"""more bitboards: squares attacked, destinations of the mover, rooks with castling rights, where moves ended"""
FLAGS = (
    "check",
    "stalemate",
    "can_check",
    "pin",
    "fork",
    "paper_fork",
    "knight_fork",
    "paper_knight_fork",
    "en_passant",
    "ambiguous",
    "paper_ambiguous",
    "mate_threat",
    "mate_in_one",
    "connected_rooks",
    "claim_draw",
)
"""answers of boardgames.chess.tactics"""
_FIELDS = PLANES + BOARDS + FLAGS
_FIELD = {name: index for index, name in enumerate(_FIELDS)}


class IllegalMoveError(TranscriptError):
    """A transcript with a move that the rules forbid or that is no move; names game, ply and text."""


@dataclass(frozen=True)
class ChessPositions:
    """Rows of positions: whose turn it is, and the bitboards and flags that properties are read from.

    `character` is the place in the transcript, START included, of the character that a row belongs to: the row of its
    activation. `earlier` are the PLANES of the same game some plies before; empty boards before the game.
    """

    game: Int[np.ndarray, " rows"]
    ply: Int[np.ndarray, " rows"]  # moves made so far
    character: Int[np.ndarray, " rows"]
    white_moves: Bool[np.ndarray, " rows"]
    facts: UInt64[np.ndarray, "rows facts"]
    earlier: UInt64[np.ndarray, "rows 8"]

    def __getitem__(self, rows: slice | Int[np.ndarray, " chosen"] | Bool[np.ndarray, " rows"]) -> "ChessPositions":
        return ChessPositions(
            self.game[rows],
            self.ply[rows],
            self.character[rows],
            self.white_moves[rows],
            self.facts[rows],
            self.earlier[rows],
        )

    def __len__(self) -> int:
        return len(self.game)

    def board(self, name: str) -> UInt64[np.ndarray, " rows"]:
        """One of PLANES or BOARDS."""
        return self.facts[:, _FIELD[name]]

    def flag(self, name: str) -> Bool[np.ndarray, " rows"]:
        """One of FLAGS."""
        return self.facts[:, _FIELD[name]] != 0


def find_positions(text: str, at: At, context: int = CONTEXT, dots: int = DOTS) -> list[tuple[int, int]]:
    """(character, ply) of every scored position in the first `context` characters of one transcript.

    `text` begins with START. "dots": the first `dots` dots, each before a move of White. "moves": the space after each
    move, where the model first knows that the move is complete. "characters": all of them.
    """
    text = text[:context]
    if at == "dots":
        places = [place for place, character in enumerate(text) if character == "."][:dots]
    elif at == "moves":
        places = [place for place, character in enumerate(text) if character == " "]
    else:
        places = list(range(len(text)))
    return [(place, text.count(" ", 0, place + 1)) for place in places]


def replay(text: str, game: int, context: int = CONTEXT) -> Iterator[Board]:
    """The starting position, and the same board after every complete move within the first `context` characters.

    Raises IllegalMoveError, naming `game`, the ply and the text, at the first word that is not a legal move.
    """
    board = Board()
    yield board
    words = text[len(START) : context].split(" ")
    # the last word may be half a move, also where the transcript was cut before it came here
    cut = len(text) >= context and text[context : context + 1] != " "
    for ply, word in enumerate(words[:-1] if cut or not words[-1] else words):
        move = word
        if ply % 2 == 0:
            numbered = _NUMBERED.fullmatch(word)
            if not numbered or int(numbered[1]) != ply // 2 + 1:
                raise _wrong(game, ply, word, f"expected White's move {ply // 2 + 1}, such as '{ply // 2 + 1}.e4'")
            move = numbered[2]
        try:
            parsed = board.parse_san(move)
        except chess.IllegalMoveError:
            raise _wrong(game, ply, word, f"not legal in {board.fen()}") from None
        except chess.AmbiguousMoveError:
            raise _wrong(game, ply, word, f"more than one piece can make it in {board.fen()}") from None
        except chess.InvalidMoveError:
            raise _wrong(game, ply, word, "expected a move in SAN, such as 'Nf3'") from None
        if not parsed:
            raise _wrong(game, ply, word, "a null move is no move of a game")
        board.push(parsed)
        yield board


def _wrong(game: int, ply: int, word: str, reason: str) -> IllegalMoveError:
    return IllegalMoveError(f"game {game}, ply {ply}: {word!r}: {reason}")


def positions(
    games: Iterable[str], at: At = "dots", context: int = CONTEXT, dots: int = DOTS, plies_back: int = PLIES_BACK
) -> ChessPositions:
    """The scored positions of all games, in order. A game without any (no dot, say) gives no rows.

    Every complete move in the first `context` characters is checked: raises IllegalMoveError.
    """
    table = _Table()
    for game, transcript in enumerate(games):
        text = transcript if transcript.startswith(START) else START + transcript
        places = find_positions(text, at, context, dots)
        scored = {ply for _, ply in places}
        planes: list[tuple[int, ...]] = []
        rows: dict[int, int] = {}
        occupied: list[int] = []
        for ply, board in enumerate(replay(text, game, context)):
            planes.append(_planes(board))
            occupied.append(board.occupied)
            if ply in scored:
                past = planes[ply - plies_back] if ply >= plies_back else (0,) * len(PLANES)
                rows[ply] = table.add(board, occupied, past)
        for character, ply in places:
            table.place(rows[ply], game, ply, character)
    return table.positions()


def of_boards(boards: Sequence[Board]) -> ChessPositions:
    """Boards that belong to no transcript: row n is game n, at ply and character 0."""
    table = _Table()
    for game, board in enumerate(boards):
        table.place(table.add(board, [board.occupied], (0,) * len(PLANES)), game, 0, 0)
    return table.positions()


def _planes(board: Board) -> tuple[int, ...]:
    white, black = board.occupied_co[chess.WHITE], board.occupied_co[chess.BLACK]
    return (board.pawns, board.knights, board.bishops, board.rooks, board.queens, board.kings, white, black)


def _facts(board: Board, occupied: Sequence[int]) -> tuple[int, ...]:
    """The values of _FIELDS for one board; legal moves are generated once."""
    legal, attacks, squares = list(board.generate_legal_moves()), tactics.attacks_of(board), chess.BB_SQUARES
    destinations = chess.BB_EMPTY
    for move in legal:
        destinations |= squares[move.to_square]
    checks, in_check, moves = tactics.checking_moves(board, attacks), board.is_check(), board.move_stack
    ambiguous = tactics.has_ambiguous_move(board, legal)
    return (
        *_planes(board),
        tactics.attacked_by(board, attacks, chess.WHITE),
        tactics.attacked_by(board, attacks, chess.BLACK),
        destinations,
        tactics.pseudo_legal(board, attacks),
        board.clean_castling_rights(),
        squares[moves[-1].to_square] if moves else 0,
        squares[moves[-2].to_square] if len(moves) > 1 else 0,
        in_check,
        not legal and not in_check,
        bool(checks),
        tactics.has_pin(board),
        tactics.has_fork(board, attacks),
        tactics.paper_has_fork(board, attacks),
        tactics.has_knight_fork(board, attacks),
        tactics.paper_has_knight_fork(board, attacks),
        board.ep_square is not None and board.has_legal_en_passant(),
        ambiguous,
        ambiguous or tactics.paper_has_ambiguous_move(board, legal),
        tactics.has_mate_threat(board, attacks),
        tactics.has_mate_in_one(board, checks),
        tactics.has_connected_rooks(board, attacks),
        tactics.can_claim_draw(board, occupied),
    )


class _Table:
    """Positions collected one board at a time; several characters may share one board."""

    def __init__(self) -> None:
        self.facts: list[tuple[int, ...]] = []
        self.earlier: list[tuple[int, ...]] = []
        self.white_moves: list[bool] = []
        self.rows: list[tuple[int, int, int, int]] = []

    def add(self, board: Board, occupied: Sequence[int], earlier: tuple[int, ...]) -> int:
        """Look at one board; returns its number."""
        self.facts.append(_facts(board, occupied))
        self.earlier.append(earlier)
        self.white_moves.append(board.turn)
        return len(self.facts) - 1

    def place(self, board: int, game: int, ply: int, character: int) -> None:
        """One row that belongs to a board."""
        self.rows.append((board, game, ply, character))

    def positions(self) -> ChessPositions:
        board, game, ply, character = np.array(self.rows, np.int64).reshape(-1, 4).T
        facts = np.array(self.facts, np.uint64).reshape(-1, len(_FIELDS))
        earlier = np.array(self.earlier, np.uint64).reshape(-1, len(PLANES))
        white: Any = np.array(self.white_moves, bool)
        return ChessPositions(game.copy(), ply.copy(), character.copy(), white[board], facts[board], earlier[board])
