"""A dataset schema: named spans of tokens, the same names in every example, so that places align (Haklay et al. 2025).

Spans stand in one order and cover every token; in a given example any of them may be empty, and examples may differ in
length. A BOS token is a span of its own. Spans are given in tokens, or in characters of the text and mapped to tokens.
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from itertools import accumulate, pairwise
from typing import Literal, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from circuits.places import Places
from circuits.prompts import Prompt

BOS = "bos"
Unit = Literal["tokens", "characters"]
Rule = Callable[[str], "list[Span]"]
"""a text -> its spans in characters, with everything but white space in one"""


class SpanError(ValueError):
    """Spans that do not fit their names, each other, or their prompt."""


class Span(NamedTuple):
    """A name and where it stands: from `start` up to, and without, `end`."""

    name: str
    start: int
    end: int


@dataclass(frozen=True)
class Schema:
    """Span i of an example runs from starts[i] up to starts[i + 1]; the last column is the example's length."""

    names: tuple[str, ...]
    starts: Int[Tensor, "examples spans_plus_1"]

    def __post_init__(self) -> None:
        if len(set(self.names)) != len(self.names):
            twice = sorted({name for name in self.names if self.names.count(name) > 1})
            raise SpanError(f"a schema has each span once: {', '.join(map(repr, twice))} is named twice")
        if self.starts.shape[1] != len(self.names) + 1:
            raise SpanError(
                f"{len(self.names)} spans need {len(self.names) + 1} columns (a start each, then the length), "
                f"not {self.starts.shape[1]}"
            )
        for example, column in (self.starts.diff(dim=1) < 0).nonzero().tolist():
            start, then = self.starts[example, column : column + 2].tolist()
            after = f"span {self.names[column + 1]!r} starts" if column + 1 < len(self.names) else "the prompt ends"
            raise SpanError(
                f"example {example}: span {self.names[column]!r} starts at token {start}, but {after} at {then}"
            )
        for example in self.starts[:, 0].nonzero().flatten().tolist():
            raise SpanError(
                f"example {example}: the first span {self.names[0]!r} starts at token {int(self.starts[example, 0])}, "
                "and those before it are in no span"
            )

    @classmethod
    def of(
        cls,
        prompts: Sequence[Prompt],
        spans: Sequence[Sequence[Span]],
        *,
        names: Sequence[str] | None = None,
        unit: Unit = "tokens",
        where: Sequence[str] | None = None,
    ) -> "Schema":
        """The schema of prompts whose spans, those that are not empty, are listed in their order.

        `names` is the order of all spans, by default the one that the examples imply. A BOS token gets the span `bos`;
        token numbers may count it or not (they end at the prompt's last token either way), characters never do.
        `where` is what messages call the prompts.
        """
        if len(prompts) != len(spans):
            raise SpanError(f"{len(spans)} lists of spans for {len(prompts)} prompts")
        where = [f"example {i}" for i in range(len(prompts))] if where is None else where
        fitted = [_fitted(w, p, s, unit) for w, p, s in zip(where, prompts, spans, strict=True)]
        if names is None:
            order = merged_order([[span.name for span in each] for each in fitted])
        else:
            order = (BOS, *names) if any(p.bos for p in prompts) and BOS not in names else tuple(names)
        starts = [_starts(w, each, order, len(p)) for w, p, each in zip(where, prompts, fitted, strict=True)]
        return cls(order, torch.tensor(starts, dtype=torch.long).reshape(len(starts), len(order) + 1))

    @classmethod
    def of_pairs(
        cls,
        prompts: tuple[Sequence[Prompt], Sequence[Prompt]],
        spans: tuple[Sequence[Sequence[Span]], Sequence[Sequence[Span]]],
        *,
        names: Sequence[str] | None = None,
        unit: Unit = "tokens",
        where: Sequence[str],
    ) -> "Schema":
        """The schema of clean and patch prompts, SpanError unless their spans stand at the same tokens."""
        labels = [f"{w}, {side} prompt" for side in ("clean", "patch") for w in where]
        both = cls.of([*prompts[0], *prompts[1]], [*spans[0], *spans[1]], names=names, unit=unit, where=labels)
        clean, patch = both.starts.chunk(2)
        for i in (clean != patch).any(1).nonzero().flatten().tolist():
            bounds = zip(both.names, pairwise(clean[i].tolist()), pairwise(patch[i].tolist()), strict=True)
            name, ours, theirs = next(each for each in bounds if each[1] != each[2])
            raise SpanError(
                f"{where[i]}: span {name!r} is tokens {ours[0]} to {ours[1]} of the clean prompt "
                f"and {theirs[0]} to {theirs[1]} of the patch prompt"
            )
        return cls(both.names, clean)

    def __len__(self) -> int:
        """How many examples there are."""
        return len(self.starts)

    @property
    def lengths(self) -> Int[Tensor, " examples"]:
        """How many tokens each example has."""
        return self.starts[:, -1]

    def places(self, length: int | None = None) -> Places:
        """The spans as places of prompts padded to `length` tokens, by default to the longest."""
        longest = int(self.lengths.max()) if len(self) else 0
        if length is not None and length < longest:
            raise SpanError(f"prompts of {length} tokens cannot hold spans up to token {longest}")
        return Places.spans(self.names, self.starts, longest if length is None else length)

    def spans(self, example: int) -> list[Span]:
        """The spans of an example in tokens, without the empty ones."""
        bounds = pairwise(self.starts[example].tolist())
        return [Span(name, start, end) for name, (start, end) in zip(self.names, bounds, strict=True) if start < end]

    def take(self, examples: Int[Tensor, " chosen"]) -> "Schema":
        """The spans of some examples, repeats allowed."""
        return Schema(self.names, self.starts[examples])


def merged_order(orders: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """One order of all names that keeps each of the given ones."""
    graph: TopologicalSorter[str] = TopologicalSorter()
    for order in dict.fromkeys(map(tuple, orders)):  # mostly the same few
        if len(set(order)) < len(order):
            twice = next(name for name in order if order.count(name) > 1)
            raise SpanError(f"span {twice!r} stands twice in {', '.join(order)}")
        for name in order[:1]:
            graph.add(name)
        for first, then in pairwise(order):
            graph.add(then, first)
    try:
        return tuple(graph.static_order())
    except CycleError as error:
        raise SpanError(f"no order of spans fits all examples: {' before '.join(map(repr, error.args[1]))}") from None


def _fitted(where: str, prompt: Prompt, spans: Sequence[Span], unit: Unit) -> list[Span]:
    """The spans in tokens, in the order of the list, BOS included; checked against the prompt."""
    if unit == "characters":
        given = _of_characters(where, prompt, spans)
    else:
        given = list(spans)
        uncounted = prompt.bos and bool(given) and given[0].start == 0 and given[-1].end == len(prompt) - 1
        if uncounted and given[0].name != BOS:
            given = [Span(name, start + 1, end + 1) for name, start, end in given]
    if prompt.bos and not (given and given[0].name == BOS):
        given = [Span(BOS, 0, 1), *given]
    _check_cover(where, given, len(prompt), "token", lambda start, end: False)
    return given


def _of_characters(where: str, prompt: Prompt, spans: Sequence[Span]) -> list[Span]:
    """Each token belongs to the span that has its characters, a space by itself to the span behind it.

    So the space in " dog" does not matter; a token that has visible characters of two spans is an error.
    """
    text, offsets = prompt.text, prompt.offsets
    if text is None or offsets is None:
        raise SpanError(
            f"{where}: spans in characters need a text and a tokenizer that tells the characters of a token "
            "(a fast one): give them in tokens"
        )
    front = offsets[0][1] if prompt.bos else 0
    given = [span for span in spans if span.name != BOS]
    _check_cover(where, given, len(text), "character", lambda start, end: not text[max(start, front) : end].strip())
    ends, counts = [span.end for span in given], [0] * len(given)
    for token, (start, end) in enumerate(offsets[prompt.bos :], start=int(prompt.bos)):
        seen = [c for c in range(start, end) if not text[c].isspace()]
        first = seen[0] if seen else start + len(text[start:]) - len(text[start:].lstrip())
        owner = min(bisect_right(ends, first), len(given) - 1)
        if seen and seen[-1] >= ends[owner]:
            raise SpanError(
                f"{where}: token {token}, {text[start:end]!r}, is partly in span {given[owner].name!r}, "
                f"which ends at character {ends[owner]}, and partly in {given[owner + 1].name!r}"
            )
        counts[owner] += 1
    bounds = pairwise(accumulate(counts, initial=int(prompt.bos)))
    return [Span(span.name, start, end) for span, (start, end) in zip(given, bounds, strict=True)]


def _check_cover(where: str, spans: Sequence[Span], length: int, unit: str, blank: Callable[[int, int], bool]) -> None:
    """SpanError unless the spans follow each other from 0 to `length`, with nothing but `blank` between them."""
    for first, then in pairwise(spans):
        if then.start < first.start:
            raise SpanError(
                f"{where}: span {then.name!r} starts at {unit} {then.start}, but stands behind {first.name!r}, "
                f"which starts at {first.start}"
            )
    here, before = 0, None
    for name, start, end in [*spans, Span("", length, length)]:
        if not 0 <= start <= end:
            raise SpanError(f"{where}: span {name!r} runs from {unit} {start} to {end}")
        if end > length:
            raise SpanError(f"{where}: span {name!r} ends at {unit} {end}, but the prompt has {length}")
        if before is not None and start < here:
            raise SpanError(
                f"{where}: span {name!r} starts at {unit} {start}, inside {before.name!r}, which ends at {before.end}"
            )
        if start > here and not blank(here, start):
            between = f"behind {before.name!r}" if before is not None else "at the beginning"
            raise SpanError(f"{where}: {unit}s {here} to {start}, {between}, are in no span")
        here, before = end, Span(name, start, end)


def _starts(where: str, spans: Sequence[Span], names: Sequence[str], length: int) -> list[int]:
    """Where each named span starts, those that are missing where the next one does; then the length."""
    number, places = {name: i for i, name in enumerate(names)}, []
    for span in spans:
        if span.name not in number:
            raise SpanError(f"{where}: span {span.name!r} is none of {', '.join(names)}")
        places.append(number[span.name])
    for (i, first), (j, then) in pairwise(zip(places, spans, strict=True)):
        if i == j:
            raise SpanError(f"{where}: span {then.name!r} stands there twice")
        if i > j:
            raise SpanError(
                f"{where}: span {then.name!r} (token {then.start}) stands behind {first.name!r} "
                f"(token {first.start}), but the order is {', '.join(names)}"
            )
    starts, end = [length] * (len(names) + 1), length
    given = dict(zip(places, spans, strict=True))
    for i in reversed(range(len(names))):
        starts[i] = end = given[i].start if i in given else end
    return starts
