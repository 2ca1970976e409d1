"""Who plays the games of `kibitz games make`: chance, an engine, or a language model; until enough are different."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from tqdm import tqdm

from boardgames.chess.transcript import ChessGame
from boardgames.duplicates import Seen, game_hash
from boardgames.game_files import check_name, unique_othello
from boardgames.lm import OTHELLO_GPT
from boardgames.model_play import Illegal, chess_model_games, othello_model_games
from boardgames.othello.rules import random_games
from boardgames.othello.streams import stream
from boardgames.othello.transcript import OthelloGames
from boardgames.skipped import Skipped
from boardgames.token_files import Game
from saes.models import load_model

_BLOCK = 4096  # random games of Othello at a time
_TRIES = 1000  # games in a row that were all there before: no more are to be had


class GamesCommandError(ValueError):
    """Options that do not fit together, or games that cannot be had."""


@dataclass(frozen=True)
class MakeConfig:
    """Play games: at random, with an engine, or as a model would."""

    game: Game
    """which game"""
    out: Path
    """file to write: .npz for Othello, .csv.gz or .csv for chess"""
    by: Literal["random", "engine", "model"] = "random"
    """who plays: uniformly random legal moves, a UCI engine (chess), or a language model's samples"""
    count: int = 1000
    """how many different games"""
    seed: int = 0
    """the same seed gives the same games"""
    model: Path | None = None
    """folder of the language model; for Othello by default the one that ships"""
    engine: str = "stockfish"
    """name or path of the engine's program"""
    nodes: int = 2000
    """positions that the engine looks at for a move"""
    temperature: float | None = None
    """of a model's logits (by default 1), or in pawns of an engine's scores (0.5); 0 = the best move"""
    choices: int = 5
    """of how many best moves the engine draws"""
    illegal: Illegal | None = None
    """a model's illegal moves: never drawn (mask, for Othello only, and its default), or the game is cut or dropped"""
    plies: int = 100
    """longest game of chess, for random play and engines; 256 characters hold fewer moves"""

    def __post_init__(self) -> None:
        for name, least in (("count", 1), ("seed", 0), ("plies", 1), ("nodes", 1), ("choices", 1)):
            if getattr(self, name) < least:
                raise GamesCommandError(f"{name} is {getattr(self, name)}: choose {least} or more")
        if self.temperature is not None and not 0 <= self.temperature < math.inf:
            raise GamesCommandError(f"temperature is {self.temperature}: choose 0 or more")
        if self.game == "othello" and self.by == "engine":
            raise GamesCommandError("engines that speak UCI play chess; make games of Othello by random or model")
        if self.game == "chess" and self.by == "model" and self.model is None:
            raise GamesCommandError("no model of chess ships with Kibitz; name one with --model")
        if self.game == "chess" and self.illegal == "mask":
            raise GamesCommandError("illegal moves of chess are cut or dropped, not masked: a move is many characters")
        if self.by != "model" and (self.model is not None or self.illegal is not None):
            raise GamesCommandError("--model and --illegal are for games --by model")
        check_name(self.out, self.game)


def play_othello(config: MakeConfig, bar: tqdm, skipped: Skipped) -> Iterator[OthelloGames]:
    """As many different games as are asked for, in blocks; GamesCommandError once nothing new comes."""
    return _enough_othello(_othello_games(config, skipped), config.count, bar, skipped)


def play_chess(config: MakeConfig, bar: tqdm, skipped: Skipped) -> Iterator[ChessGame]:
    """The same, game by game."""
    return _enough_chess(_chess_games(config, skipped), config.count, bar, skipped)


def _othello_games(config: MakeConfig, skipped: Skipped) -> Iterator[OthelloGames]:
    """Games without end."""
    if config.by == "model":
        model = load_model(config.model or OTHELLO_GPT)
        temperature = 1.0 if config.temperature is None else config.temperature
        yield from othello_model_games(model, config.seed, temperature, config.illegal or "mask", skipped)
    rng = stream("make", config.seed)
    while True:
        yield OthelloGames.of_moves(random_games(_BLOCK, rng))


def _chess_games(config: MakeConfig, skipped: Skipped) -> Iterator[ChessGame]:
    """Games without end."""
    need_chess_rules()
    if config.by == "model":
        assert config.model is not None
        temperature = 1.0 if config.temperature is None else config.temperature
        model = load_model(config.model)
        return chess_model_games(model, config.seed, temperature, config.illegal or "cut", skipped)
    from boardgames.chess import play

    if config.by == "random":
        return play.random_games(config.seed, config.plies)
    temperature = 0.5 if config.temperature is None else config.temperature
    engine = play.Engine(config.engine, config.nodes, temperature, config.choices)
    return play.engine_games(engine, config.seed, config.plies)


def _enough_chess(games: Iterable[ChessGame], count: int, bar: tqdm, skipped: Skipped) -> Iterator[ChessGame]:
    """The first `count` different games; GamesCommandError once nothing new comes."""
    seen: set[int] = set()
    tried = 0
    for game in games:
        if (key := game_hash(game.transcript)) in seen:
            skipped.unwanted("duplicates", f"game {game.number}")
            if (tried := tried + 1) >= _TRIES:
                raise _same(len(seen), count)
            continue
        seen.add(key)
        tried = 0
        yield game
        bar.update()
        if len(seen) == count:
            return


def _enough_othello(blocks: Iterable[OthelloGames], count: int, bar: tqdm, skipped: Skipped) -> Iterator[OthelloGames]:
    """The same for games that come in blocks."""
    seen, got, tried = Seen(), 0, 0
    for block in blocks:
        for new in unique_othello([block], seen, skipped, "played"):
            tried = 0 if len(new) else tried + len(block)
            new = new[: count - got]
            got += len(new)
            yield new
            bar.update(len(new))
        if got == count:
            return
        if tried >= _TRIES:
            raise _same(got, count)


def _same(got: int, count: int) -> GamesCommandError:
    return GamesCommandError(
        f"the last {_TRIES} games had all been played before: {got} of {count} could be made; ask for fewer, or "
        "for a higher --temperature"
    )


def need_chess_rules() -> None:
    """The rules of chess are python-chess's, which is an extra."""
    if find_spec("chess") is None:
        raise GamesCommandError(
            "the rules of chess are python-chess's, which is not installed: pip install 'kibitz[chess]' "
            "(or import with --check none)"
        )
