"""Othello as 64-bit bitboards, played and replayed for thousands of games at once.

Square s = 8 * row + col is bit s; row is the letter and col the digit of the Othello coordinate, the
order of OthelloGPT's data (Li et al. 2023). Black starts. A forced pass is not a move, but the side to
move is tracked through it.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import no_type_check

import numpy as np
from jaxtyping import Bool, Int8, Int64, UInt8, UInt64
from numpy.typing import NDArray

BLACK, WHITE = 1, -1
NO_MOVE = 255
MAX_PLIES = 60
START_BLACK = np.uint64(1 << 28 | 1 << 35)
START_WHITE = np.uint64(1 << 27 | 1 << 36)
CENTRE = (27, 28, 35, 36)
# (row step, col step), clockwise from "towards row a"; the order of the reference's line labels.
DIRECTIONS = ((-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1))

_ZERO = np.uint64(0)
_ONE = np.uint64(1)
_INNER_COLUMNS = np.uint64(0x7E7E_7E7E_7E7E_7E7E)
_CHUNK = 4096  # games per pass: a dozen uint64 temporaries of this length stay in the L2 cache

Bitboards = UInt64[np.ndarray, " games"]


class IllegalMoveError(ValueError):
    """A transcript holds a move that the rules forbid; names game, ply and square."""


def square_name(square: int) -> str:
    """'a1' for 0, 'c3' for 18, 'h8' for 63."""
    return "abcdefgh"[square // 8] + str(square % 8 + 1)


def square_index(name: str) -> int:
    """18 for 'c3'; the inverse of square_name."""
    if len(name) != 2 or name[0] not in "abcdefgh" or name[1] not in "12345678":
        raise ValueError(f"square {name!r}: expected a letter a-h and a digit 1-8, such as 'c3'")
    return 8 * "abcdefgh".index(name[0]) + int(name[1]) - 1


@no_type_check  # some ten thousand calls a block of games: the functions around it are checked
def _shift(boards: Bitboards, step: int) -> Bitboards:
    return boards << np.uint64(step) if step > 0 else boards >> np.uint64(-step)


@no_type_check
def _runs(start: Bitboards, through: Bitboards, step: int) -> Bitboards:
    """Unbroken runs of `through` that begin next to `start` in one direction (parallel prefix, up to six squares)."""
    run = through & _shift(start, step)
    run |= through & _shift(run, step)
    pairs = through & _shift(through, step)
    run |= pairs & _shift(run, 2 * step)
    run |= pairs & _shift(run, 2 * step)
    return run


@no_type_check
def _capturable(opponent: Bitboards, direction: tuple[int, int]) -> Bitboards:
    """Discs that a line in this direction can run through: edge columns end every line that changes column."""
    return opponent if direction[1] == 0 else opponent & _INNER_COLUMNS


def legal_moves(own: Bitboards, opponent: Bitboards) -> Bitboards:
    """Squares on which the side `own` may play, as one bitboard per game."""
    moves = np.zeros_like(own)
    for direction in DIRECTIONS:
        step = 8 * direction[0] + direction[1]
        moves |= _shift(_runs(own, _capturable(opponent, direction), step), step)
    return moves & ~(own | opponent)


def flips_by_direction(own: Bitboards, opponent: Bitboards, move: Bitboards) -> UInt64[np.ndarray, "8 games"]:
    """Discs turned over by playing the single bit `move`, separately for each of DIRECTIONS."""
    flips = np.empty((8, len(own)), np.uint64)
    for row, direction in zip(flips, DIRECTIONS, strict=True):
        step = 8 * direction[0] + direction[1]
        run = _runs(move, _capturable(opponent, direction), step)
        closed = (_shift(run, step) & own) != 0
        row[:] = np.where(closed, run, _ZERO)
    return flips


def flips(own: Bitboards, opponent: Bitboards, move: Bitboards) -> Bitboards:
    """All discs turned over by playing the single bit `move` (0 where no move is made)."""
    return np.bitwise_or.reduce(flips_by_direction(own, opponent, move), axis=0)


def pick_bit(boards: Bitboards, rank: NDArray[np.integer]) -> UInt8[np.ndarray, " games"]:
    """Index of the set bit with `rank` set bits below it; boards must have more than `rank` bits."""
    rest = boards.copy()
    rank = rank.astype(np.uint8)
    square = np.zeros(len(boards), np.uint8)
    for width in (32, 16, 8, 4, 2, 1):
        below = np.bitwise_count(rest & np.uint64((1 << width) - 1))
        upper = rank >= below
        rank -= np.where(upper, below, np.uint8(0))
        jump = np.where(upper, np.uint8(width), np.uint8(0))
        square += jump
        rest >>= jump.astype(np.uint64)
    return square


class Table:
    """Games in progress, one entry each: boards by colour, the side to move (0 = over), and its legal moves."""

    def __init__(self, games: int) -> None:
        self.black, self.white = np.full(games, START_BLACK), np.full(games, START_WHITE)
        self.side = np.full(games, BLACK, np.int8)
        self.legal = legal_moves(self.black, self.white)

    def sides(self) -> tuple[Bitboards, Bitboards]:
        """Discs of the side to move, and of the other."""
        black = self.side == BLACK
        return np.where(black, self.black, self.white), np.where(black, self.white, self.black)

    def play(self, move: Bitboards) -> Bitboards:
        """Play one bit in every game (0 leaves a game alone), take forced passes, return the discs turned over."""
        moved, black_moves = move != 0, self.side == BLACK
        own, opponent = self.sides()
        turned = flips(own, opponent, move)
        own, opponent = own | move | turned, opponent & ~turned
        self.black, self.white = np.where(black_moves, own, opponent), np.where(black_moves, opponent, own)

        reply = legal_moves(opponent, own)
        stuck = moved & (reply == 0)  # a forced pass, or the end
        if stuck.any():
            reply[stuck] = legal_moves(own[stuck], opponent[stuck])
        self.legal = np.where(moved, reply, self.legal)
        self.side = np.where(moved & ~stuck, -self.side, self.side).astype(np.int8)
        self.side[self.legal == 0] = 0
        return turned


def _chunks(games: int) -> list[slice]:
    return [slice(start, min(start + _CHUNK, games)) for start in range(0, games, _CHUNK)]


Shunned = Callable[[Bitboards, Bitboards], Bitboards]
"""(own, opponent) of the sides to move -> squares that they leave alone unless they have no other move"""


def unless_forced(legal: Bitboards, shunned: Bitboards) -> Bitboards:
    """The legal moves without the shunned squares; all of them where nothing else is legal."""
    rest = legal & ~shunned
    return np.where(rest != 0, rest, legal)


def random_games(count: int, rng: np.random.Generator, shunned: Shunned | None = None) -> UInt8[np.ndarray, "games 60"]:
    """Games in which every move is drawn uniformly from the legal ones; NO_MOVE after the end.

    With `shunned` from those that are left of them: no game is thrown away, so all else stays uniformly random.
    """
    moves = np.full((count, MAX_PLIES), NO_MOVE, np.uint8)
    for chunk in _chunks(count):
        table = Table(chunk.stop - chunk.start)
        for ply in range(MAX_PLIES):
            moves_left = table.legal
            if shunned is not None:
                moves_left = unless_forced(moves_left, shunned(*table.sides()))
            options = np.bitwise_count(moves_left)
            alive = options > 0
            square = pick_bit(moves_left, (rng.random(len(options)) * options).astype(np.uint8))
            moves[chunk, ply] = np.where(alive, square, np.uint8(NO_MOVE))
            table.play(np.where(alive, _ONE << (square & 63).astype(np.uint64), _ZERO))
    return moves


@dataclass(frozen=True)
class Replay:
    """What the rules say after every ply of every game; zeros after a game's last move.

    Boards are the position after the move of that ply.
    """

    moves: UInt8[np.ndarray, "games 60"]
    black: UInt64[np.ndarray, "games 60"]
    white: UInt64[np.ndarray, "games 60"]
    mover: Int8[np.ndarray, "games 60"]  # who made the move of this ply
    next_mover: Int8[np.ndarray, "games 60"]  # who moves next, passes taken into account; 0 = the game is over
    legal: UInt64[np.ndarray, "games 60"]  # the legal moves of next_mover
    flipped: UInt64[np.ndarray, "games 60"]  # discs turned over by the move of this ply

    @property
    def played(self) -> Bool[np.ndarray, "games 60"]:
        """True where a move was made."""
        return self.moves != NO_MOVE

    @property
    def mine(self) -> UInt64[np.ndarray, "games 60"]:
        """Discs of the side that has just moved."""
        return np.where(self.mover == WHITE, self.white, self.black)

    @property
    def yours(self) -> UInt64[np.ndarray, "games 60"]:
        """Discs of the opponent of the side that has just moved."""
        return np.where(self.mover == WHITE, self.black, self.white)

    def at(self, mask: Bool[np.ndarray, "games plies"]) -> "OthelloPositions":
        """The chosen positions, games in order and plies within them; every one must have been played."""
        game, ply = np.nonzero(mask)
        if not self.played[game, ply].all():
            row = int(np.argmin(self.played[game, ply]))
            raise ValueError(f"game {game[row]} has no ply {ply[row]}: choose among `played`")
        chosen = (getattr(self, f.name)[game, ply] for f in fields(self))
        return OthelloPositions(game, ply, *chosen)


@dataclass(frozen=True)
class OthelloPositions:
    """Positions of any games, one a row, with the fields of Replay."""

    game: Int64[np.ndarray, " rows"]
    ply: Int64[np.ndarray, " rows"]
    moves: UInt8[np.ndarray, " rows"]
    black: UInt64[np.ndarray, " rows"]
    white: UInt64[np.ndarray, " rows"]
    mover: Int8[np.ndarray, " rows"]
    next_mover: Int8[np.ndarray, " rows"]
    legal: UInt64[np.ndarray, " rows"]
    flipped: UInt64[np.ndarray, " rows"]

    def __getitem__(self, rows: slice | Bool[np.ndarray, " rows"]) -> "OthelloPositions":
        return OthelloPositions(*(getattr(self, f.name)[rows] for f in fields(self)))


def replay(moves: UInt8[np.ndarray, "games plies"]) -> Replay:
    """Replay transcripts of squares (NO_MOVE = none) and check every move.

    Raises IllegalMoveError, naming game, ply and square, at the first move that the rules forbid.
    """
    result, illegal = replay_while_legal(moves)
    if (illegal < MAX_PLIES).any():
        game = int(np.argmax(illegal < MAX_PLIES))
        raise IllegalMoveError(illegal_move(moves[game], game, int(illegal[game])))
    return result


def replay_while_legal(moves: UInt8[np.ndarray, "games plies"]) -> tuple[Replay, Int64[np.ndarray, " games"]]:
    """Replay every game up to its first illegal move; also the ply of that move (60 where all moves are legal)."""
    if moves.ndim != 2 or moves.shape[1] > MAX_PLIES or moves.dtype != np.uint8:
        raise ValueError(f"moves are {moves.dtype}{list(moves.shape)}: expected uint8 [games, at most {MAX_PLIES}]")
    games = len(moves)
    played = np.full((games, MAX_PLIES), NO_MOVE, np.uint8)
    played[:, : moves.shape[1]] = moves
    illegal = np.full(games, MAX_PLIES)
    boards = {name: np.zeros((games, MAX_PLIES), np.uint64) for name in ("black", "white", "legal", "flipped")}
    sides = {name: np.zeros((games, MAX_PLIES), np.int8) for name in ("mover", "next_mover")}
    for chunk in _chunks(games):
        table = Table(chunk.stop - chunk.start)
        ended = np.zeros(chunk.stop - chunk.start, bool)
        for ply in range(MAX_PLIES):
            square = played[chunk, ply]
            given = square != NO_MOVE
            move = (
                np.where(given & ~ended & (square < 64), _ONE << (square & 63).astype(np.uint64), _ZERO) & table.legal
            )
            moved = move != 0
            wrong = given & ~moved & (illegal[chunk] == MAX_PLIES)
            illegal[chunk][wrong] = ply
            played[chunk, ply] = np.where(moved, square, np.uint8(NO_MOVE))
            ended |= ~moved
            sides["mover"][chunk, ply] = np.where(moved, table.side, 0)
            boards["flipped"][chunk, ply] = table.play(move)
            sides["next_mover"][chunk, ply] = np.where(moved, table.side, 0)
            for name in ("black", "white", "legal"):
                boards[name][chunk, ply] = np.where(moved, getattr(table, name), _ZERO)
    return Replay(played, **boards, **sides), illegal


def illegal_move(moves: UInt8[np.ndarray, " plies"], game: int, ply: int) -> str:
    """What is wrong with the first illegal move of a game, which is at `ply`; `game` is what it is called."""
    where, square = f"game {game}, ply {ply}", int(moves[ply])
    if square > 63:
        return f"{where}: {square} is not a square (0-63, or {NO_MOVE} after the end of the game)"
    if (moves[:ply] == NO_MOVE).any():
        return f"{where}: {square_name(square)} follows an empty ply; passes are not stored"
    table = Table(1)
    for earlier in moves[:ply]:
        table.play(np.array([1 << int(earlier)], np.uint64))
    if table.side[0] == 0:
        return f"{where}: {square_name(square)} is played after the end of the game"
    side = "black" if table.side[0] == BLACK else "white"
    legal = [square_name(s) for s in range(64) if int(table.legal[0]) >> s & 1]
    return f"{where}: {square_name(square)} is not legal for {side}, who may play {', '.join(legal)}"
