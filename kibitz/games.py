"""`kibitz games make | import | stats`: sets of games for language models, dictionaries and their scores.

docs/games.md says what is read, what is left out and how games are split.
"""

import math
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tqdm import tqdm

from boardgames.chess.transcript import ChessGame
from boardgames.duplicates import Seen, game_hash
from boardgames.game_files import (
    check_name,
    find_game,
    only_legal_othello,
    only_spelled,
    read_chess,
    read_othello,
    unique_chess,
    unique_othello,
    write_chess,
    write_othello,
)
from boardgames.game_stats import chess_stats, othello_stats, table
from boardgames.lm import OTHELLO_GPT
from boardgames.model_play import Illegal, chess_model_games, othello_model_games
from boardgames.othello.rules import random_games
from boardgames.othello.streams import stream
from boardgames.othello.transcript import OthelloGames
from boardgames.skipped import Skipped
from boardgames.token_files import Game
from saes.files import write_json
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


@dataclass(frozen=True)
class ImportConfig:
    """Read games of any format, leave out broken and repeated ones, and write them as one file."""

    files: tyro.conf.Positional[tuple[Path, ...]]
    """.pgn .csv .txt (also .gz .bz2 .zst), .wtb .npz .npy"""
    out: Path
    """file to write: .npz for Othello, .csv.gz or .csv for chess"""
    game: Game | None = None
    """which game, where the files do not show it"""
    check: Literal["all", "context", "none"] = "all"
    """moves of chess that the rules are asked about: all, those in the first 256 characters, or none"""
    strict: bool = False
    """a broken game is an error, not left out"""

    def __post_init__(self) -> None:
        if not self.files:
            raise GamesCommandError("no file to import; name one or more")
        if self.game is not None:
            check_name(self.out, self.game)


@dataclass(frozen=True)
class StatsConfig:
    """Count a set of games: lengths, results, ratings, parts of the split, and positions that games share."""

    files: tyro.conf.Positional[tuple[Path, ...]]
    """as for import; several are one set"""
    game: Game | None = None
    """which game, where the files do not show it"""
    json: Path | None = None
    """file to write the numbers to as well"""

    def __post_init__(self) -> None:
        if not self.files:
            raise GamesCommandError("no file to count; name one or more")


@dataclass(frozen=True)
class GamesConfig:
    """Games to train and score on: make them, import them, count them."""

    what: Annotated[
        Annotated[MakeConfig, tyro.conf.subcommand("make")]
        | Annotated[ImportConfig, tyro.conf.subcommand("import")]
        | Annotated[StatsConfig, tyro.conf.subcommand("stats")],
        tyro.conf.arg(name=""),
    ]


def run_games(config: GamesConfig) -> str:
    """The sentence or table to print."""
    what = config.what
    if isinstance(what, MakeConfig):
        return make_games(what)
    return import_games(what) if isinstance(what, ImportConfig) else count_games(what)


def make_games(config: MakeConfig) -> str:
    """Play until there are enough different games, and write them."""
    skipped = Skipped()
    with _untouched(config.out), tqdm(total=config.count, desc="games", unit="game") as bar:
        if config.game == "othello":
            played = _enough_othello(_othello_games(config, skipped), config.count, bar, skipped)
            written = write_othello(config.out, played)
        else:
            written = write_chess(config.out, _enough_chess(_chess_games(config, skipped), config.count, bar, skipped))
    return _summary(config.out, written, skipped)


def import_games(config: ImportConfig) -> str:
    """Read, check, de-duplicate across the files, and write."""
    game, skipped, seen = _game_of(config.files, config.game), Skipped(config.strict), Seen()
    check_name(config.out, game)
    with _untouched(config.out), _bytes_bar(config.files, "import") as bar:
        if game == "othello":
            blocks = (unique_othello(_legal_othello(f, skipped, bar), seen, skipped, str(f)) for f in config.files)
            written = write_othello(config.out, chain.from_iterable(blocks))
        else:
            games = (unique_chess(_legal_chess(f, config, skipped, bar), seen, skipped, str(f)) for f in config.files)
            written = write_chess(config.out, chain.from_iterable(games))
    return _summary(config.out, written, skipped)


def _legal_othello(path: Path, skipped: Skipped, bar: Callable[[int], object]) -> Iterator[OthelloGames]:
    return only_legal_othello(read_othello(path, skipped, bar), skipped, str(path))


def _legal_chess(
    path: Path, config: ImportConfig, skipped: Skipped, bar: Callable[[int], object]
) -> Iterator[ChessGame]:
    games = only_spelled(read_chess(path, skipped, bar), skipped, str(path))
    if config.check == "none":
        return games
    _need_chess_rules()
    from boardgames.chess.legal import only_legal

    return only_legal(games, config.check, skipped, str(path))


def count_games(config: StatsConfig) -> str:
    """The table; what is broken is counted beside it."""
    game, skipped = _game_of(config.files, config.game), Skipped()
    with _bytes_bar(config.files, "stats") as bar:
        if game == "othello":
            stats = othello_stats(chain.from_iterable(_legal_othello(f, skipped, bar) for f in config.files))
        else:
            games = (only_spelled(read_chess(f, skipped, bar), skipped, str(f)) for f in config.files)
            stats = chess_stats(chain.from_iterable(games))
    if config.json is not None:
        write_json(config.json, asdict(stats) | {"left_out": dict(skipped.counts)})
    return table(stats) + (f"\n\nleft out: {skipped.sentence()}" if skipped.counts else "")


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
    _need_chess_rules()
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


def _game_of(files: tuple[Path, ...], given: Game | None) -> Game:
    """The one game that all files are of."""
    for path in files:
        if not path.is_file():
            raise GamesCommandError(f"{path}: no such file")
    found: dict[Path, Game] = {path: given or find_game(path) for path in files}
    for path, game in found.items():
        if game != found[files[0]]:
            raise GamesCommandError(f"{files[0]} holds {found[files[0]]}, but {path} {game}: one game at a time")
    return found[files[0]]


def _need_chess_rules() -> None:
    """The rules of chess are python-chess's, which is an extra."""
    if find_spec("chess") is None:
        raise GamesCommandError(
            "the rules of chess are python-chess's, which is not installed: pip install 'kibitz[chess]' "
            "(or import with --check none)"
        )


@contextmanager
def _untouched(out: Path) -> Iterator[None]:
    """Ctrl-C leaves the file as it was, and the message says so."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"interrupted; {out} is as it was before") from None


@contextmanager
def _bytes_bar(files: tuple[Path, ...], name: str) -> Iterator[Callable[[int], object]]:
    """A progress bar over the bytes of all files."""
    total = sum(path.stat().st_size for path in files)
    with tqdm(total=total, desc=name, unit="B", unit_scale=True, file=sys.stderr) as bar:
        yield bar.update


def _summary(out: Path, written: int, skipped: Skipped) -> str:
    left = f"; left out: {skipped.sentence()}" if skipped.counts else ""
    return f"{out}: {written} games{left}"
