"""What a set of games consists of: lengths, results, ratings, parts, and how many scored positions they share."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool, Int8, Integer

from boardgames.chess.transcript import CONTEXT as CHESS_CONTEXT
from boardgames.chess.transcript import START, VOCABULARY, ChessGame, encode, lengths
from boardgames.duplicates import Seen, game_hash
from boardgames.othello.rules import NO_MOVE, replay
from boardgames.othello.transcript import CONTEXT, OthelloGames, to_tokens
from boardgames.prefixes import ended, prefixes
from boardgames.splits import SHARES, Part, part_of

DOTS = 20  # that are scored in a game of chess, as in the paper
_DOT = VOCABULARY.index(".")


@dataclass(frozen=True)
class Spread:
    """Of one number a game."""

    games: int
    mean: float
    smallest: int
    median: float
    largest: int

    @classmethod
    def of(cls, values: Sequence[int] | np.ndarray) -> "Spread | None":
        """None if there are no values."""
        if not len(values):
            return None
        v = np.asarray(values)
        return cls(len(v), float(v.mean()), int(v.min()), float(np.median(v)), int(v.max()))


@dataclass(frozen=True)
class PartStats:
    """Of the different games of one part of the split; shares are of its scored positions, None if it has none."""

    games: int
    positions: int
    shared: float | None  # whose prefix occurs in another game, of whatever part
    earlier: float | None  # whose prefix occurs in a game of an earlier part
    first: float | None  # that no earlier part and no earlier game of this part has: what de-duplication keeps


@dataclass(frozen=True)
class GameStats:
    """Of a set of games; `plies`, `results` and so on count every game, `parts` only different ones."""

    game: str
    games: int
    unique: int
    plies: Spread | None
    characters: Spread | None  # of chess transcripts, without START
    results: dict[str, int]
    elo: Spread | None  # of both players
    passes: int | None  # games of Othello in which somebody had to pass
    shared: float | None  # of the scored positions of all different games, as in PartStats
    parts: dict[Part, PartStats] = field(default_factory=dict)


def chess_stats(games: Iterable[ChessGame]) -> GameStats:
    """Moves are not checked. Scored are the first 20 dots of the first 256 characters; 280 bytes a game are held."""
    seen, plies, characters, elo, results = Seen(), [], [], [], Counter()
    some: list[str] = []
    kept: list[tuple[Int8[np.ndarray, "games 256"], list[Part]]] = []
    for game in games:
        plies.append(game.transcript.count(" ") + 1)
        characters.append(len(game.transcript))
        elo += [rating for rating in (game.white_elo, game.black_elo) if rating is not None]
        results[game.result or "unknown"] += 1
        some.append(game.transcript)
        if len(some) == 4096:
            kept.append(_new_chess(some, seen))
            some = []
    kept.append(_new_chess(some, seen))
    tokens = np.concatenate([ids for ids, _ in kept])
    dots = tokens == _DOT
    scored = dots & (dots.cumsum(1) <= DOTS)
    shared, parts = _shares(tokens, scored, [part for _, each in kept for part in each])
    return GameStats(
        "chess",
        len(plies),
        len(seen),
        Spread.of(plies),
        Spread.of(characters),
        dict(results.most_common()),
        Spread.of(elo),
        None,
        shared,
        parts,
    )


def _new_chess(games: list[str], seen: Seen) -> tuple[Int8[np.ndarray, "games 256"], list[Part]]:
    """Ids, -1 behind the end, and parts of the games that are new."""
    new = seen.add(np.array([game_hash(game) for game in games], np.uint64))
    kept = [game.removeprefix(START) for game, is_new in zip(games, new, strict=True) if is_new]
    ids = encode(kept, CHESS_CONTEXT).astype(np.int8)
    return ended(ids, lengths(kept, CHESS_CONTEXT)), [part_of(game) for game in kept]


def othello_stats(blocks: Iterable[OthelloGames]) -> GameStats:
    """Every move is checked (IllegalMoveError). Scored are the first 59 plies; results are those of the board."""
    seen, plies, passes, results = Seen(), [], 0, Counter()
    kept: list[np.ndarray] = []
    for games in blocks:
        played = replay(games.moves)
        length = played.played.sum(1)
        plies.append(length)
        twice = (played.mover[:, 1:] == played.mover[:, :-1]) & played.played[:, 1:]
        passes += int(twice.any(1).sum())
        last = (np.arange(len(length)), np.maximum(length - 1, 0))
        discs = np.bitwise_count(played.black[last]).astype(int) - np.bitwise_count(played.white[last])
        names = np.array(["white won", "draw", "black won"], object)[np.sign(discs) + 1]
        names[(played.next_mover[last] != 0) | (length == 0)] = "unfinished"
        results.update(names.tolist())
        new = seen.add(np.array([game_hash(game.tobytes()) for game in games.moves], np.uint64))
        kept.append(games.moves[new])
    moves = np.concatenate(kept) if kept else np.full((0, 60), NO_MOVE, np.uint8)
    tokens = np.where(moves == NO_MOVE, -1, to_tokens(moves)).astype(np.int8)[:, :CONTEXT]
    shared, parts = _shares(tokens, tokens >= 0, [part_of(game.tobytes()) for game in moves])
    length = np.concatenate(plies) if plies else np.zeros(0, int)
    return GameStats(
        "othello",
        len(length),
        len(seen),
        Spread.of(length),
        None,
        dict(results.most_common()),
        None,
        passes,
        shared,
        parts,
    )


def _shares(
    tokens: Integer[np.ndarray, "games length"], scored: Bool[np.ndarray, "games length"], of: list[Part]
) -> tuple[float | None, dict[Part, PartStats]]:
    """Shares of the scored positions of all games, and of those of each part."""
    part = np.array(of, dtype=object)
    chosen = [part == name for name in SHARES]
    found = prefixes([tokens[games] for games in chosen])
    stats, alike, total = {}, 0, 0
    for name, games, where in zip(SHARES, chosen, found, strict=True):
        mask = scored[games] & where.exists
        count = int(mask.sum())
        stats[name] = PartStats(
            int(games.sum()), count, *(_share(m, mask) for m in (where.elsewhere, where.earlier, where.first))
        )
        alike, total = alike + int((where.elsewhere & mask).sum()), total + count
    return alike / total if total else None, stats


def _share(marked: Bool[np.ndarray, "games length"], mask: Bool[np.ndarray, "games length"]) -> float | None:
    return float(marked[mask].mean()) if mask.any() else None


def table(stats: GameStats) -> str:
    """Lines for a reader."""
    lines: list[tuple[str, Any]] = [("games", f"{stats.games} of {stats.game}, {stats.unique} different")]
    for name, spread in (("plies", stats.plies), ("characters", stats.characters), ("Elo", stats.elo)):
        if spread:
            of = f", {spread.games} known" if name == "Elo" else ""
            lines.append(
                (name, f"mean {spread.mean:.1f}, median {spread.median:g}, {spread.smallest}-{spread.largest}{of}")
            )
    counted = (f"{name} {count} ({_percent(count / stats.games)})" for name, count in stats.results.items())
    lines.append(("results", ", ".join(counted)))
    if stats.passes is not None and stats.games:
        lines.append(("forced passes", f"in {stats.passes} games ({_percent(stats.passes / stats.games)})"))
    lines.append(("shared prefix", f"{_percent(stats.shared)} of the scored positions of different games"))
    rows = [("part", "games", "positions", "in another game", "in an earlier part", "kept")]
    for name, p in stats.parts.items():
        rows.append((name, f"{p.games}", f"{p.positions}", _percent(p.shared), _percent(p.earlier), _percent(p.first)))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    shown = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
    return "\n".join([*(f"{name:<14} {said}" for name, said in lines), "", *shown])


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}%"
