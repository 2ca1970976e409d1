"""`kibitz games make | import | stats`: sets of games for language models, dictionaries and their scores.

docs/games.md says what is read, what is left out and how games are split.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tqdm import tqdm

from boardgames.chess.transcript import ChessGame
from boardgames.duplicates import Seen
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
from boardgames.othello.transcript import OthelloGames
from boardgames.skipped import Skipped
from boardgames.token_files import Game
from kibitz.players import GamesCommandError, MakeConfig, need_chess_rules, play_chess, play_othello
from saes.files import write_json


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
            written = write_othello(config.out, play_othello(config, bar, skipped))
        else:
            written = write_chess(config.out, play_chess(config, bar, skipped))
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
    need_chess_rules()
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
