"""Pairs of prompts with their answers, and the examples, spans and splits that are made of them.

Discovery measures m(patch) - m(clean), so by default `answer` is the patch prompt's answer and `other` the clean
prompt's, as in feature-circuits: LogitDifference is then logit(patch answer) - logit(clean answer), which grows from
clean to patch, and a node that carries the behaviour has a positive effect. Faithfulness is the same for m and -m.
`explain="clean"` turns the two round, for metrics of one answer such as LogOdds. A single prompt has one answer, its
own, and a node that carries it has a negative effect: taking it away lowers the metric.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from jaxtyping import Int
from torch import Tensor

from circuits.examples import Examples
from circuits.prompts import Prompt
from circuits.spans import Rule, Schema, Span, SpanError, Unit
from saes.files import FileError

Side = Literal["clean", "patch"]
Answer = str | int
Several = Literal["error", "first", "mask"]


class PairsError(FileError):
    """A pair, or a file of pairs, that cannot be used as it is."""


@dataclass(frozen=True)
class Pair:
    """A prompt, its counterfactual if it has one, and the tokens that are right behind each of them."""

    where: str  # file and line, for messages
    row: Mapping[str, Any]  # as it stands in the file
    clean: Prompt
    patch: Prompt | None
    clean_answers: tuple[int, ...]
    patch_answers: tuple[int, ...]
    asked: tuple[tuple[Answer, ...], tuple[Answer, ...]] = ((), ())  # the same answers as the file has them
    patch_row: Mapping[str, Any] | None = None  # of the file of counterfactuals, if they have one

    @property
    def prompts(self) -> tuple[Prompt, ...]:
        return (self.clean,) if self.patch is None else (self.clean, self.patch)

    def key(self, seed: int) -> str:
        """A hash of the prompts and the seed alone; the same for a pair and its reverse."""
        content = sorted(prompt.text or repr(prompt.tokens) for prompt in self.prompts)
        return hashlib.sha256(repr((seed, content)).encode()).hexdigest()


@dataclass(frozen=True)
class Pairs:
    """What a file holds, with the number of pairs that were left out and why."""

    pairs: tuple[Pair, ...]
    skipped: Mapping[str, int] = field(default_factory=dict)
    vocabulary: int | None = None  # tokens of the tokenizer
    pad_id: int = 0
    header: Mapping[str, Any] = field(default_factory=dict)  # what the file says once
    source: str = "pairs"  # the file, for messages

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def clean(self) -> list[Prompt]:
        return [pair.clean for pair in self.pairs]

    @property
    def patch(self) -> list[Prompt]:
        """The counterfactual prompts; none where the prompts are single."""
        return [pair.patch for pair in self.pairs if pair.patch is not None]

    def having(self, **columns: Any) -> "Pairs":
        """The pairs whose columns in the file hold these values, such as case="plural" or split="eval"."""
        for pair in self.pairs:
            if missing := [name for name in columns if name not in pair.row]:
                raise PairsError(f"{pair.where}: no column {missing[0]!r}; there are: {', '.join(pair.row)}")
        return replace(self, pairs=tuple(p for p in self.pairs if columns.items() <= p.row.items()))

    def split(self, test: float = 0.2, seed: int = 0) -> "tuple[Pairs, Pairs]":
        """Train and test pairs: of the different prompts, the share `test` whose hash is smallest, and the rest.

        A pair, its copies and its reverse stay together. The order of the file does not matter; another seed is another
        split.
        """
        if not 0 <= test <= 1:
            raise PairsError(f"test is {test}: choose a share from 0 to 1")
        keys = [pair.key(seed) for pair in self.pairs]
        different = sorted(set(keys))
        chosen = set(different[: round(test * len(different))])
        sides = list(zip(self.pairs, (key in chosen for key in keys), strict=True))
        train, held = (tuple(pair for pair, side in sides if side == wanted) for wanted in (False, True))
        return replace(self, pairs=train), replace(self, pairs=held)

    def cut(self, rule: Rule, names: Sequence[str] | None = None) -> Schema:
        """Spans by a rule, which must put them at the same tokens of clean and patch prompts."""
        ids = next((p.where for p in self.pairs if p.clean.text is None), None)
        if ids is not None:
            raise SpanError(f"{ids}: rules cut texts, and this prompt is token ids")
        clean, patch = ([rule(prompt.text or "") for prompt in side] for side in (self.clean, self.patch))
        return self.schema(clean, patch, names=names, unit="characters")

    def schema(
        self,
        clean: Sequence[Sequence[Span]],
        patch: Sequence[Sequence[Span]] = (),
        *,
        names: Sequence[str] | None = None,
        unit: Unit = "tokens",
    ) -> Schema:
        """Spans of the clean prompts and, if told apart, of the patch prompts, which must stand at the same tokens."""
        where = [pair.where for pair in self.pairs]
        if not patch:
            return Schema.of(self.clean, clean, names=names, unit=unit, where=where)
        return Schema.of_pairs((self.clean, self.patch), (clean, patch), names=names, unit=unit, where=where)

    def examples(
        self,
        schema: Schema | None = None,
        *,
        explain: Side = "patch",
        several: Several = "error",
        vocabulary: int | None = None,
    ) -> Examples:
        """Tensors padded on the right, with spans as places if given; the metric is read at the last token.

        Field `answer` is the answer to the `explain` prompt (of single prompts: to the prompt), `other` that to the
        other one, where there is one. Where there are `several` right answers: refuse, take the first, or make masks
        `tokens` and `others`, bool [examples, vocabulary], for mask-mass; `vocabulary` is the width of the logits.
        """
        if not self.pairs:
            raise PairsError("there are no pairs to make examples of")
        lengths = torch.tensor([len(prompt) for prompt in self.clean])
        if schema is not None and schema.lengths.tolist() != lengths.tolist():
            raise PairsError(f"the schema is of {len(schema)} other prompts than these {len(self)}: lengths differ")
        return Examples(
            self._padded(self.clean),
            self._padded(self.patch) if self.patch else None,
            lengths - 1,
            self._fields(explain, several, vocabulary or self.vocabulary),
            lengths,
            None if schema is None else schema.places(int(lengths.max())),
        )

    def _padded(self, prompts: Sequence[Prompt]) -> Int[Tensor, "pairs length"]:
        rows = [torch.tensor(prompt.tokens) for prompt in prompts]
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=self.pad_id)

    def _fields(self, explain: Side, several: Several, vocabulary: int | None) -> dict[str, Tensor]:
        sides = {"clean": [p.clean_answers for p in self.pairs], "patch": [p.patch_answers for p in self.pairs]}
        if not any(sides["clean"]) and not any(sides["patch"]):
            return {}  # metrics such as KL need no answer
        first, second = ("patch", "clean") if explain == "patch" and self.patch else ("clean", "patch")
        named = {first: ("answer", "tokens")} | ({second: ("other", "others")} if any(sides[second]) else {})
        made: dict[str, Tensor] = {}
        for side, (one, many) in named.items():
            self._check_answers(sides[side], side, several)
            if several != "mask":
                made[one] = torch.tensor([tokens[0] for tokens in sides[side]])
                continue
            if vocabulary is None:
                raise PairsError("masks of answers are as wide as the model's logits: give `vocabulary`")
            made[many] = torch.zeros(len(self), vocabulary, dtype=torch.bool)
            for row, tokens in enumerate(sides[side]):
                made[many][row, list(tokens)] = True
        return made

    def _check_answers(self, answers: Sequence[tuple[int, ...]], side: str, several: Several) -> None:
        for pair, tokens in zip(self.pairs, answers, strict=True):
            if not tokens:
                other = "clean" if side == "patch" else "patch"
                raise PairsError(
                    f"{pair.where}: no answer to the {side} prompt; give it, or explain the {other} prompt's answer "
                    f"(explain={other!r})"
                )
            if len(tokens) > 1 and several == "error":
                raise PairsError(
                    f"{pair.where}: {len(tokens)} answers to the {side} prompt: choose several='first', or 'mask' for "
                    "a metric of all of them"
                )
