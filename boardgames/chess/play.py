"""Chess games that are played here: uniformly random legal moves, or a UCI engine's with temperature."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import chess
import chess.engine
import numpy as np

from boardgames.chess.transcript import ChessGame

PLIES = 100  # more than 256 characters can hold
_GAMES_FOLDERS = "/usr/games"  # where Debian puts engines, often not on the path of programs
_PATIENCE = 20.0  # seconds for one answer of an engine
_MATE = 10_000  # centipawns


class EngineError(ValueError):
    """An engine that is absent, dies, or does not answer as UCI has it."""


def random_games(seed: int, plies: int = PLIES, start: int = 0) -> Iterator[ChessGame]:
    """Games without end, up to `plies` moves drawn uniformly from the legal ones; game n follows from (seed, n)."""
    for number in count(start):
        rng = np.random.default_rng([seed, number])
        board, words = chess.Board(), []
        while len(words) < plies and (legal := list(board.generate_legal_moves())) and not _drawn(board):
            words.append(_word(board, legal[int(rng.integers(len(legal)))]))
        yield ChessGame(" ".join(words), result=_result(board), number=number)


@dataclass(frozen=True)
class Engine:
    """A UCI engine and how it plays."""

    command: str = "stockfish"
    """name or path of the program"""
    nodes: int = 2000
    """positions that it looks at for each move"""
    temperature: float = 0.5
    """in pawns: a move is drawn with odds exp(score / temperature); 0 = the best one"""
    choices: int = 5
    """of how many best moves it is drawn"""

    def __post_init__(self) -> None:
        for name in ("nodes", "choices"):
            if getattr(self, name) < 1:
                raise EngineError(f"{name} is {getattr(self, name)}: choose 1 or more")
        if not 0 <= self.temperature < float("inf"):
            raise EngineError(f"temperature is {self.temperature}: choose 0 or more")


def engine_games(engine: Engine, seed: int, plies: int = PLIES, start: int = 0) -> Iterator[ChessGame]:
    """Games without end of an engine against itself; the draws follow from (seed, game, ply).

    The engine is asked for one thread and a fixed number of nodes, and forgets what it learnt before each game, so
    that one that is deterministic under these conditions, as Stockfish is, plays the same games again.
    """
    with _open(engine) as player:
        for number in count(start):
            board, words = chess.Board(), []
            while len(words) < plies and not board.is_game_over():
                rng = np.random.default_rng([seed, number, len(words)])
                words.append(_word(board, _choose(player, engine, board, number, rng)))
            yield ChessGame(" ".join(words), result=_result(board), number=number)


def softmax(scores: Sequence[float], temperature: float) -> np.ndarray:
    """Odds exp(score / temperature) as probabilities; all on the first best one at temperature 0."""
    values = np.array(scores, float)
    if temperature == 0:
        return np.eye(len(values))[values.argmax()]
    odds = np.exp((values - values.max()) / temperature)
    return odds / odds.sum()


@contextmanager
def _open(engine: Engine) -> Iterator[chess.engine.SimpleEngine]:
    """The engine, running; every complaint of it is an EngineError, and it is ended whatever happens."""
    path = shutil.which(engine.command) or shutil.which(engine.command, path=_GAMES_FOLDERS)
    if path is None:
        raise EngineError(
            f"engine {engine.command!r}: no such program; install one that speaks UCI, such as Debian's package "
            "stockfish, or give its path with --engine"
        )
    try:
        with chess.engine.SimpleEngine.popen_uci([path], timeout=_PATIENCE) as player:
            if "Threads" in player.options:
                player.configure({"Threads": 1})
            if engine.temperature > 0 and engine.choices > 1 and "MultiPV" not in player.options:
                raise EngineError(
                    f"engine {engine.command!r}: has no option MultiPV, so only its best move is known; give "
                    "--temperature 0"
                )
            yield player
    except chess.engine.EngineTerminatedError as error:
        raise EngineError(f"engine {engine.command!r}: died ({error})") from None
    except chess.engine.EngineError as error:
        raise EngineError(f"engine {engine.command!r}: does not speak UCI as it should ({error})") from None
    except TimeoutError:
        raise EngineError(f"engine {engine.command!r}: gave no answer in {_PATIENCE:.0f} seconds") from None
    except OSError as error:
        raise EngineError(f"engine {Path(path)}: cannot be run ({error.strerror})") from None


def _choose(
    player: chess.engine.SimpleEngine, engine: Engine, board: chess.Board, game: int, rng: np.random.Generator
) -> chess.Move:
    """One move of the engine, drawn by the scores of its best ones."""
    limit, several = chess.engine.Limit(nodes=engine.nodes), engine.temperature > 0 and engine.choices > 1
    if not several:
        move = player.play(board, limit, game=game).move
        if move is None:
            raise EngineError(f"engine {engine.command!r}: game {game}, ply {board.ply()}: no move ({board.fen()})")
        return move
    lines = player.analyse(board, limit, multipv=engine.choices, game=game)
    found = {line["pv"][0]: line["score"] for line in lines if "pv" in line and line["pv"] and "score" in line}
    if not found:
        raise EngineError(f"engine {engine.command!r}: game {game}, ply {board.ply()}: no scored move ({board.fen()})")
    pawns = [score.pov(board.turn).score(mate_score=_MATE) / 100 for score in found.values()]
    return list(found)[int(rng.choice(len(found), p=softmax(pawns, engine.temperature)))]


def _word(board: chess.Board, move: chess.Move) -> str:
    """The move as a transcript has it; the board is after it."""
    number = f"{board.fullmove_number}." if board.turn == chess.WHITE else ""
    return number + board.san_and_push(move)


def _drawn(board: chess.Board) -> bool:
    """Draws that the rules declare on their own, besides stalemate; `is_game_over` would look for moves once more."""
    return board.is_insufficient_material() or board.is_seventyfive_moves() or board.is_fivefold_repetition()


def _result(board: chess.Board) -> str | None:
    result = board.result()
    return None if result == "*" else result
