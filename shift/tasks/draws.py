"""One labelled position from each of many games, drawn in blocks: random games of Othello, games of chess from a file.

No game and no board is drawn twice: neither within a set nor in two sets that share a `Drawn`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int, UInt64

from boardgames.duplicates import Seen, game_hash
from boardgames.othello.rules import random_games, replay
from boardgames.othello.streams import Use, stream
from boardgames.othello.transcript import CONTEXT, PAD, to_tokens
from boardgames.splits import part_of
from shift.specs import BoardTaskSpec
from shift.tasks.questions import Game, answer

Cell = tuple[bool, bool]  # (A, B)
CELLS: tuple[Cell, ...] = ((False, False), (False, True), (True, False), (True, True))

_SMALLEST, _LARGEST = 256, 8192  # random games drawn at a time
_FROM_FILE = 256  # games of chess replayed at a time
_BLOCKS_TO_JUDGE = 8
_SCARCEST = 1 / 25  # share of a cell that the first blocks must have filled
# shares of a file of chess games, by a hash of each game
_CHESS_SHARES: dict[Use, float] = {
    "shift_ambiguous": 0.3,
    "shift_balanced": 0.4,
    "shift_admission": 0.1,
    "shift_admission_balanced": 0.1,
    "shift_names": 0.1,
}


class DrawError(ValueError):
    """A spec of which too few examples exist."""


@dataclass(frozen=True)
class Examples:
    """One position a game: what a model reads up to it, and the answers to A and B there."""

    tokens: Int[np.ndarray, "examples length"]  # PAD behind the position
    position: Int[np.ndarray, " examples"]
    intended: Bool[np.ndarray, " examples"]
    spurious: Bool[np.ndarray, " examples"]
    game: UInt64[np.ndarray, " examples"]  # hash of the whole game
    board: UInt64[np.ndarray, " examples"]  # hash of the board and the side to move

    def __len__(self) -> int:
        return len(self.position)

    def __getitem__(self, rows: slice | Bool[np.ndarray, " examples"] | Int[np.ndarray, " chosen"]) -> "Examples":
        return Examples(*(getattr(self, f.name)[rows] for f in fields(self)))

    def in_cell(self, cell: Cell) -> Bool[np.ndarray, " examples"]:
        return (self.intended == cell[0]) & (self.spurious == cell[1])


class Drawn:
    """The games and boards that some sets already hold."""

    def __init__(self) -> None:
        self._games, self._boards = Seen(), Seen()

    def new(self, examples: Examples) -> Examples:
        """Those whose game and board nobody has drawn; afterwards they are drawn."""
        fresh = self._games.add(examples.game)
        fresh &= self._boards.add(examples.board)
        return examples[fresh]


@dataclass(frozen=True)
class Everywhere:
    """Every position that a model may read in some games: rows are game by game."""

    kind: Game
    tokens: Int[np.ndarray, "games length"]
    mask: Bool[np.ndarray, "games length"]
    positions: Any  # of the rows, as shift.tasks.questions asks them

    @property
    def game(self) -> Int[np.ndarray, " rows"]:
        """Which game a row is of, from 0."""
        return self.positions.game

    def answer(self, question: str) -> Bool[np.ndarray, " rows"]:
        return answer(self.kind, question, self.positions)

    def usable(self, spec: BoardTaskSpec) -> Bool[np.ndarray, " rows"]:
        """Where a task may read: its plies and filters."""
        return _usable(spec, self.positions)


def everywhere(spec: BoardTaskSpec, use: Use, games: int) -> Everywhere:
    """All positions of games of a stream, for any task of the same game, file, parts, token and seed.

    DrawError where a file has no games for it.
    """
    if spec.game == "othello":
        moves = random_games(games, stream(use, spec.seed))
        replayed = replay(moves)
        mask, tokens = replayed.played[:, :CONTEXT], to_tokens(moves[:, :CONTEXT])
        return Everywhere("othello", tokens, mask, replayed.at(mask))
    from boardgames.chess import positions, transcript

    some = _chess_games(spec.games, spec.parts, use)[:games]
    assert spec.token != "last move"  # the spec allows chess its own tokens only
    if not some:
        raise DrawError(f"{spec.name}: {spec.games} has no games for {use}; give more games")
    found, tokens = positions.positions(some, spec.token), transcript.encode(some)
    mask = np.zeros(tokens.shape, bool)
    mask[found.game, found.character] = True
    return Everywhere("chess", tokens, mask, found)


def draw(spec: BoardTaskSpec, use: Use, block: int, *key: int, games: int = _LARGEST) -> Examples | None:
    """The examples of one block of a stream's games; None when a file has no more. `key` makes it another stream.

    `games` are drawn of Othello at a time, and decide what is drawn, too.
    """
    rng = stream(use, spec.seed, block, *key)
    return _othello(spec, rng, games) if spec.game == "othello" else _chess(spec, use, block, rng, key)


def collect(spec: BoardTaskSpec, use: Use, cells: Mapping[Cell, int], drawn: Drawn, *key: int) -> Examples:
    """Exactly as many new examples of each cell as asked for, shuffled; DrawError where that would take too many."""
    found: dict[Cell, list[Examples]] = {cell: [] for cell in cells}
    block, games = 0, int(np.clip(2 * sum(cells.values()), _SMALLEST, _LARGEST))
    while short := {c: n for c, n in cells.items() if sum(map(len, found[c])) < n}:
        if block == _BLOCKS_TO_JUDGE and any(sum(map(len, found[c])) < n * _SCARCEST for c, n in short.items()):
            raise _too_few(
                spec, short, found, "are too rare in random games" if spec.game == "othello" else "are too rare"
            )
        examples = draw(spec, use, block, *key, games=games)
        block += 1
        if examples is None:
            raise _too_few(
                spec, short, found, f"are all that {spec.games} has for this set; give more games or ask less"
            )
        examples = drawn.new(examples)
        for cell in cells:
            found[cell].append(examples[examples.in_cell(cell)])
    whole = concatenate([concatenate(found[cell])[:n] for cell, n in cells.items()])
    return whole[stream(use, spec.seed, block, 1, *key).permutation(len(whole))]


def concatenate(some: list[Examples]) -> Examples:
    """One after the other."""
    return Examples(*(np.concatenate([getattr(e, f.name) for e in some]) for f in fields(Examples)))


def _too_few(
    spec: BoardTaskSpec, short: Mapping[Cell, int], found: Mapping[Cell, list[Examples]], why: str
) -> DrawError:
    (a, b), wanted = next(iter(short.items()))
    words = " and ".join(f"{q!r} {'yes' if yes else 'no'}" for q, yes in ((spec.intended, a), (spec.spurious, b)))
    return DrawError(f"{spec.name}: {sum(map(len, found[a, b]))} of {wanted} examples with {words} {why}")


def _pick(usable: Bool[np.ndarray, "games places"], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A random usable place of every game that has one: (games, places)."""
    place = (usable * rng.random(usable.shape)).argmax(1)
    rows = np.flatnonzero(usable.any(1))
    return rows, place[rows]


def _usable(spec: BoardTaskSpec, positions: Any) -> Bool[np.ndarray, " rows"]:
    usable = (spec.plies[0] <= positions.ply) & (positions.ply <= spec.plies[1])
    for question in spec.filters:
        usable &= answer(spec.game, question, positions)
    return usable


def _answers(spec: BoardTaskSpec, positions: Any) -> tuple[Bool[np.ndarray, " rows"], Bool[np.ndarray, " rows"]]:
    """(A, B)"""
    return answer(spec.game, spec.intended, positions), answer(spec.game, spec.spurious, positions)


def _hashes(table: np.ndarray) -> UInt64[np.ndarray, " rows"]:
    return np.array([game_hash(row.tobytes()) for row in table], np.uint64)


def _othello(spec: BoardTaskSpec, rng: np.random.Generator, count: int) -> Examples:
    moves = random_games(count, rng)
    games = replay(moves)
    asked = games.played & (np.arange(moves.shape[1]) <= spec.plies[1])
    usable = np.zeros(asked.shape, bool)
    usable[asked] = _usable(spec, games.at(asked))
    rows, ply = _pick(usable, rng)
    chosen = np.zeros_like(usable)
    chosen[rows, ply] = True
    at = games.at(chosen)
    tokens = to_tokens(moves[rows, : spec.plies[1] + 1])
    tokens = np.where(np.arange(tokens.shape[1]) <= ply[:, None], tokens, PAD)
    boards = np.stack([at.black, at.white, *(side.astype(np.uint64) for side in (at.mover, at.next_mover))], axis=1)
    return Examples(tokens, ply, *_answers(spec, at), _hashes(moves[rows]), _hashes(boards))


@lru_cache(maxsize=4)
def _chess_games(path: str, parts: tuple[str, ...], use: Use) -> tuple[str, ...]:
    """The different games of a file that belong to some parts of it and to one use."""
    from boardgames.chess.transcript import read_transcripts

    return chess_games_for(use, (g for g in dict.fromkeys(read_transcripts(Path(path))) if part_of(g) in parts))


def chess_games_for(use: Use, transcripts: Iterable[str]) -> tuple[str, ...]:
    """Those that belong to one use by their hash, whatever file they stand in: no other use ever draws them."""
    below, share = 0.0, 0.0
    for name, share in _CHESS_SHARES.items():
        if name == use:
            break
        below += share
    return tuple(g for g in transcripts if below <= game_hash(f"shift {g}") / 2**64 < below + share)


def _chess(
    spec: BoardTaskSpec, use: Use, block: int, rng: np.random.Generator, key: tuple[int, ...]
) -> Examples | None:
    """The next games of the file in an order that the stream decides."""
    from boardgames.chess import positions as chess
    from boardgames.chess import transcript

    games = _chess_games(spec.games, spec.parts, use)
    order = stream(use, spec.seed, 0, 2, *key).permutation(len(games))
    some = [games[i] for i in order[block * _FROM_FILE : (block + 1) * _FROM_FILE]]
    if not some:
        return None
    assert spec.token != "last move"  # the spec allows chess its own tokens only
    found = chess.positions(some, spec.token)
    row_of = np.full((len(some), transcript.CONTEXT), -1)
    row_of[found.game, found.character] = np.arange(len(found))
    usable = np.zeros(row_of.shape, bool)
    usable[found.game, found.character] = _usable(spec, found)
    rows, place = _pick(usable, rng)
    at = found[row_of[rows, place]]
    tokens = transcript.encode([some[row] for row in rows])
    tokens = np.where(np.arange(tokens.shape[1]) <= place[:, None], tokens, transcript.PAD)
    state = [*(at.board(name) for name in (*chess.PLANES, "castling")), at.white_moves.astype(np.uint64)]
    texts = np.array([game_hash(some[row]) for row in rows], np.uint64)
    return Examples(tokens, place, *_answers(spec, at), texts, _hashes(np.stack(state, axis=1)))
