"""PGN files and Lichess dumps as transcripts, one game at a time, at the speed of regular expressions.

Only the main line is kept: comments (with their clocks and evaluations), NAGs, glyphs such as "!?" and variations go.
No board is set up here; `boardgames.chess.legal` checks the moves. A file may be packed (.gz, .bz2, .zst).
"""

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from boardgames.chess.transcript import RESULTS, ChessGame, TranscriptError, as_elo
from boardgames.lines import LinesError, open_lines
from boardgames.skipped import Skipped

_TAG = re.compile(r'\s*\[(\w+)\s+"(.*)"\s*\]\s*$')
_COMMENT = re.compile(r"\{[^}]*\}")  # has a literal to look for first, so it is faster than _ASIDE
_ASIDE = re.compile(r"\{[^}]*\}|;[^\n]*")
_NAG = re.compile(r"\$\d+")
_VARIATION = re.compile(r"\([^()]*\)")
_NUMBER = re.compile(r"\d+\.+")
_PROMOTION = re.compile(r"([a-h][18])=?([NBRQnbrq])(?=[+#]*$)")
_PLAIN = re.compile(r"(?:[NBRQK][a-h]?[1-8]?x?[a-h][1-8]|[a-h](?:x[a-h])?[1-8](?:=[NBRQ])?|O-O(?:-O)?)[+#]?")
_SAN = re.compile(r"(?:[NBRQK]?[a-h]?[1-8]?[x-]?[a-h][1-8](?:=[NBRQ])?|O-O(?:-O)?)[+#]?")  # also with too much said
_ENDS = (*RESULTS, "*")
_STANDARD = ("", "standard", "chess", "normal")
_LONGEST = 1 << 20  # characters: no game is longer, so a comment that never ends cannot fill the memory

Progress = Callable[[int], object]


def read_pgn(path: Path | str, skipped: Skipped, progress: Progress | None = None) -> Iterator[ChessGame]:
    """The games of a file in order; those from a set-up position, of variants, without moves or broken are `skipped`.

    Raises TranscriptError for a file that cannot be read, BrokenGameError for a broken game where `skipped` is strict.
    """
    try:
        with open_lines(path, progress, errors="replace") as lines:
            for number, (tags, movetext) in enumerate(_split(lines)):
                where = f"{path}: game {number}"
                if tags.get("FEN") or tags.get("SetUp") == "1":
                    skipped.unwanted("from a set-up position", where)
                    continue
                if (variant := tags.get("Variant", "")).lower() not in _STANDARD:
                    skipped.unwanted("of a variant", f"{where}, {variant}")
                    continue
                try:
                    transcript, end = transcribe(movetext)
                except TranscriptError as error:
                    skipped.broken(f"{where}{_tagged(tags)}: {error}")
                    continue
                if not transcript:
                    skipped.unwanted("without a move", where)
                    continue
                result = tags.get("Result", end)
                date = tags.get("UTCDate") or tags.get("Date")
                yield ChessGame(
                    transcript,
                    as_elo(tags.get("WhiteElo")),
                    as_elo(tags.get("BlackElo")),
                    result if result in RESULTS else None,
                    date if date and date != "????.??.??" else None,
                    number,
                )
    except LinesError as error:
        raise TranscriptError(str(error)) from None


def transcribe(movetext: str) -> tuple[str, str]:
    """The main line as "1.e4 e5 2.Nf3" and how it ended ("" if that is not said); TranscriptError if it is no PGN."""
    text = _NAG.sub(" ", (_ASIDE if ";" in movetext else _COMMENT).sub(" ", movetext))
    while "(" in text and (shorter := _VARIATION.sub(" ", text)) != text:
        text = shorter
    for wrong in "{}()[]":
        if wrong in text:
            raise TranscriptError(f"{wrong!r} without its other half in {_excerpt(text, wrong)!r}")
    words: list[str] = []
    for word in _NUMBER.sub(" ", text).split():
        if word in _ENDS:
            return " ".join(words), word
        if word == "e.p.":
            continue
        move = word if _PLAIN.fullmatch(word) else _spelled(word)
        if not _SAN.fullmatch(move):
            raise TranscriptError(f"ply {len(words)}: {word!r} is no move in SAN")
        words.append(move if len(words) % 2 else f"{len(words) // 2 + 1}.{move}")
    return " ".join(words), ""


def _spelled(word: str) -> str:
    """A move as transcripts spell it: "O-O" for "0-0", "e8=Q" for "e8Q" and "e8=q", no glyphs."""
    word = word.rstrip("!?").removesuffix("e.p.").replace("++", "+")
    if word.startswith("0-0"):
        return word.replace("0", "O")
    if _PROMOTION.search(word):
        return _PROMOTION.sub(lambda found: f"{found[1]}={found[2].upper()}", word)
    return word


def _split(lines: Iterable[str]) -> Iterator[tuple[dict[str, str], str]]:
    """Tags and moves of each game. A tag inside a comment is no tag, but `[Event` after an empty line always is."""
    tags: dict[str, str] = {}
    moves: list[str] = []
    length, comment, empty = 0, False, True
    for line in lines:
        bare = line.strip()
        if line.startswith("%"):  # for other programs
            continue
        if line.startswith("["):
            tag = _TAG.match(line)
            if tag and (not comment or (empty and tag[1] == "Event")):
                if moves:
                    yield tags, "".join(moves)
                    tags, moves, length, comment = {}, [], 0, False
                elif tag[1] in tags and tag[1] == "Event":  # the game before has tags only
                    yield tags, ""
                    tags = {}
                tags[tag[1]] = tag[2]
                empty = False
                continue
        if bare:
            if length < _LONGEST:
                moves.append(line)
                length += len(line)
            if "{" in line or "}" in line:
                comment = line.rfind("{") > line.rfind("}")
        elif moves and not comment and not tags and moves[-1].split()[-1] in _ENDS:
            yield tags, "".join(moves)  # games without any tags, parted by empty lines
            moves, length = [], 0
        empty = not bare
    if tags or moves:
        yield tags, "".join(moves)


def _tagged(tags: dict[str, str]) -> str:
    return f" ({tags.get('White', '?')} - {tags.get('Black', '?')})" if "White" in tags or "Black" in tags else ""


def _excerpt(text: str, around: str) -> str:
    place = text.index(around)
    return " ".join(text[max(place - 20, 0) : place + 20].split())
