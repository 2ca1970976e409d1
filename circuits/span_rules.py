"""Rules that cut prompts into named spans: templates, words, sentences, chess moves; and plies of board games.

`Pairs.cut` applies a rule to the clean and the patch prompts and maps the spans to tokens.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from string import Formatter
from typing import Literal

import torch

from circuits.spans import Rule, Schema, Span, SpanError

AGREEMENT: Mapping[str, str] = {
    "simple": "The {subject}",
    "nounpp": "The {subject} {preposition} the {noun}",
    "within_rc": "The {head} that the {subject}",
}
"""templates of feature-circuits' data; `subject` is the noun that the verb agrees with, and that the pair changes"""

_SENTENCE_END = re.compile(r"[.!?…]+[\"'”’)\]]*(?=\s)")
_CHESS = re.compile(r"(?P<start>^;)|(?P<number>\s*\d+)(?:(?P<dot>\.)|$)|(?P<move>\s*[^\s.]+)")


def template(*patterns: str) -> Rule:
    """Spans of a template such as "The {subject} near the {place} {verb}": its fields, and its words by themselves.

    A field takes one word or more. A span of a fixed word has its name in lower case ("the"), a second one of the same
    name "the_2". Of several patterns the first that fits a text counts; one that fits in two ways is an error.
    """
    compiled = [_compiled(pattern) for pattern in patterns]

    def cut(text: str) -> list[Span]:
        for pattern, (names, short, long) in zip(patterns, compiled, strict=True):
            if (found := short.fullmatch(text)) is None:
                continue
            other = long.fullmatch(text)
            assert other is not None
            spans = [Span(name, *found.span(i)) for i, name in enumerate(names, 1)]
            for i, span in enumerate(spans, 1):
                if found.span(i) != other.span(i):
                    raise SpanError(
                        f"{text!r} fits the template {pattern!r} in two ways: {span.name!r} is {found[i]!r} or "
                        f"{other[i]!r}"
                    )
            return spans
        raise SpanError(f"{text!r} does not fit the template {' or '.join(map(repr, patterns))}")

    return cut


def words(texts: Sequence[str], patches: Sequence[str] = (), names: Sequence[str] | None = None) -> Rule:
    """A span for each word of texts that all have as many: by the names given, or by what the columns hold.

    A word that all texts share is called by itself, one that differs between a text and its patch in any pair
    `changed`, any other `word_3` by its number; a second of the same name gets `_2`.
    """
    table = [text.split() for text in texts]
    if not table:
        raise SpanError("no texts: there are no words to name")
    width = len(table[0]) if names is None else len(names)
    rows = [*table, *(text.split() for text in patches)]
    wrong = next((i for i, row in enumerate(rows) if len(row) != width), None)
    if wrong is not None:
        expected = "the first one" if names is None else f"the list of names ({', '.join(names)})"
        raise SpanError(f"{[*texts, *patches][wrong]!r} has {len(rows[wrong])} words, not {width} as {expected}")
    if names is None:
        changed = {i for a, b in zip(table, rows[len(table) :], strict=False) for i in range(width) if a[i] != b[i]}
        columns = [{row[i] for row in rows} for i in range(width)]
        plain = [_plain(next(iter(each))) if len(each) == 1 else f"word_{i}" for i, each in enumerate(columns, 1)]
        names = _numbered(["changed" if i in changed else name for i, name in enumerate(plain)])
    chosen = tuple(names)

    def cut(text: str) -> list[Span]:
        found = list(re.finditer(r"\S+", text))
        if len(found) != len(chosen):
            raise SpanError(f"{text!r} has {len(found)} words, not {len(chosen)}: {', '.join(chosen)}")
        return [Span(name, *each.span()) for name, each in zip(chosen, found, strict=True)]

    return cut


def sentences(text: str) -> list[Span]:
    """sentence_1, sentence_2, ...: cut where white space follows . ! ? or …, quotes and brackets included.

    It knows no abbreviations: "Mr. Smith" is cut in two.
    """
    ends = [found.end() for found in _SENTENCE_END.finditer(text) if text[found.end() :].strip()]
    return [
        Span(f"sentence_{i}", start, end)
        for i, (start, end) in enumerate(zip([0, *ends], [*ends, len(text)], strict=True), 1)
    ]


def chess_moves(detail: Literal["moves", "parts"] = "parts") -> Rule:
    """Spans of a transcript ";1.e4 e5 2.Nf3": `start`, then number_1, dot_1, white_1, black_1, number_2, ...

    A space belongs to what follows it; a transcript may end anywhere. `moves` takes number and dot into the move.
    """

    def parts(text: str) -> list[Span]:
        spans, turn, mover, here = [], 0, "white", 0
        for found in _CHESS.finditer(text):
            if found.start() > here:
                break  # what is no transcript stays in no span, which the schema will say
            here = found.end()
            if found["start"]:
                spans.append(Span("start", 0, 1))
            elif found["number"]:
                turn, mover = turn + 1, "white"
                spans.append(Span(f"number_{turn}", *found.span("number")))
                if found["dot"]:
                    spans.append(Span(f"dot_{turn}", *found.span("dot")))
            else:
                spans.append(Span(f"{mover}_{turn}", *found.span()))
                mover = "black"
        return spans

    def moves(text: str) -> list[Span]:
        joined: list[Span] = []
        for name, start, end in parts(text):
            move = re.sub("number|dot", "white", name)
            if joined and joined[-1].name == move:
                start = joined.pop().start
            joined.append(Span(move, start, end))
        return joined

    return parts if detail == "parts" else moves


def plies(lengths: Sequence[int], by: Literal["ply", "phase"] = "ply", opening: int = 20, bos: bool = False) -> Schema:
    """Spans of games with a token for every ply: ply_1, ply_2, ...; or `opening`, `middle` and `last`, the last move.

    `opening` is how many plies that is, the last move not counted. `bos`: every prompt begins with a BOS token.
    """
    if by == "ply":
        width = max(lengths, default=0) - bos
        rows = [[*range(bos), *(min(i + bos, n) for i in range(width)), n] for n in lengths]
        names = [f"ply_{i + 1}" for i in range(width)]
    else:
        names = ["opening", "middle", "last"]
        rows = [[*range(bos), int(bos), min(opening + bos, n - 1), n - 1, n] for n in lengths]
    starts = torch.tensor(rows, dtype=torch.long).reshape(len(lengths), len(names) + bos + 1)
    return Schema((*("bos",) * bos, *names), starts)


def _compiled(pattern: str) -> tuple[list[str], re.Pattern[str], re.Pattern[str]]:
    """The names of a template's spans, and what matches it with the shortest and with the longest fields."""
    names, short, long = [], "", ""
    try:
        pieces = list(Formatter().parse(pattern))
    except ValueError as error:
        raise SpanError(f"template {pattern!r}: {error}") from None
    if any(field is not None and not literal for literal, field, _, _ in pieces[1:]):
        raise SpanError(f"template {pattern!r}: two fields without anything between them fit in many ways")
    for literal, field, _, _ in pieces:
        for piece in re.findall(r"\s+|\S+", literal):
            part = r"\s+" if piece.isspace() else f"({re.escape(piece)})"
            names += [] if piece.isspace() else [_plain(piece)]
            short, long = short + part, long + part
        if field is not None:
            if not field:
                raise SpanError(f"template {pattern!r}: a field needs a name, such as {{subject}}")
            names.append(field)
            short, long = short + r"(\S+(?:\s+\S+)*?)", long + r"(\S+(?:\s+\S+)*)"
    if not names:
        raise SpanError("a template needs a word or a field")
    return _numbered(names), re.compile(rf"\s*{short}\s*"), re.compile(rf"\s*{long}\s*")


def _plain(word: str) -> str:
    """The word in lower case, without punctuation if there is anything else."""
    return re.sub(r"\W", "", word).lower() or word


def _numbered(names: Sequence[str]) -> list[str]:
    """The names, with _2, _3 behind those that came before."""
    seen: Counter[str] = Counter()
    made = []
    for name in names:
        seen[name] += 1
        made.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    return made
