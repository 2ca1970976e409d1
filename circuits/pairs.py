"""Pairs from files: JSON Lines (feature-circuits), JSON (auto-circuit), CSV (EAP-IG, PEAP), told by what is in them."""

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase

from circuits.examples import Examples
from circuits.pair_files import Record, read_records
from circuits.pair_set import Answer, Pair, Pairs, PairsError, Several, Side
from circuits.prompts import Prompt, continuations, tokenise, wants_bos

ROLES: Mapping[str, tuple[str, ...]] = {
    "clean": ("clean_prefix", "clean", "prompt", "text"),
    "patch": ("patch_prefix", "patch", "corrupt", "corrupted", "counterfactual", "counter"),
    "clean_answer": ("clean_answer", "answers", "correct_idx", "correct_token", "answer"),
    "patch_answer": ("patch_answer", "wrong_answers", "incorrect_idx", "wrong_token"),
}
"""what feature-circuits, auto-circuit, EAP-IG and PEAP call their columns; those in *_idx are token ids"""

Answers = Callable[[Mapping[str, Any]], tuple[list[str], list[str]]]
"""a row -> the right answers behind its clean prompt, and behind its patch prompt"""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reading:
    """How pairs are read."""

    bos: bool | None = None
    """a BOS token before prompts that do not begin with it; by default where the tokenizer has one"""
    unequal: Literal["error", "skip"] = "error"
    """pairs of different token length"""
    long_answers: Literal["error", "skip"] = "error"
    """pairs with an answer of several tokens"""
    columns: Mapping[str, str] = field(default_factory=dict)
    """which columns hold clean, patch, clean_answer and patch_answer, where the usual names do not tell"""

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.columns) - set(ROLES)):
            raise PairsError(f"columns: {', '.join(unknown)} is none of {', '.join(ROLES)}")


def load_pairs(
    file: Path | str,
    tokenizer: PreTrainedTokenizerBase | None,
    reading: Reading | None = None,
    *,
    counterfactuals: Path | str | None = None,
    answers: Answers | None = None,
    explain: Side = "patch",
    several: Several = "error",
    vocabulary: int | None = None,
) -> Examples:
    """`read_pairs` and then `Pairs.examples`, all positions together; what was left out is a warning in the log."""
    pairs = read_pairs(file, tokenizer, reading, counterfactuals=counterfactuals, answers=answers)
    if pairs.skipped:
        _log.warning("%s: left out %s", file, "; ".join(f"{n} with {why}" for why, n in pairs.skipped.items()))
    return pairs.examples(explain=explain, several=several, vocabulary=vocabulary)


def read_pairs(
    file: Path | str,
    tokenizer: PreTrainedTokenizerBase | None,
    reading: Reading | None = None,
    *,
    counterfactuals: Path | str | None = None,
    answers: Answers | None = None,
) -> Pairs:
    """The pairs of a file; prompts and answers may be token ids, and if all are, no tokenizer is needed.

    `counterfactuals`: a second file whose prompts are the patch prompts, row by row (PEAP keeps them so). `answers`:
    the right answers behind the clean and the patch prompt of a row, where no column has them, such as `greater_than`.
    A FileError names the line, what was found, and the way out.
    """
    reading = reading or Reading()
    header, records = read_records(file)
    if reading.bos is None and isinstance(header.get("bos"), bool):
        reading = replace(reading, bos=header["bos"])
    columns = _columns(file, records[0], reading)
    reader = _Reader(tokenizer, reading)
    clean = reader.prompts(records, columns["clean"])
    patch = reader.counterparts(records, columns.get("patch"))
    beside: Sequence[Record | None] = [None] * len(records)
    if counterfactuals is not None:
        _, beside = read_records(counterfactuals)
        if len(beside) != len(records):
            raise PairsError(f"{counterfactuals}: {len(beside)} prompts, but {file} has {len(records)}")
        patch = list(reader.prompts(beside, _columns(counterfactuals, beside[0], reading)["clean"]))
    asked = [_answers(record, columns, answers) for record in records]
    tokens = reader.answers(clean, patch, asked)
    kept: list[Pair] = []
    skipped: Counter[str] = Counter()
    for record, other, ours, theirs, side, found in zip(records, beside, clean, patch, asked, tokens, strict=True):
        if theirs is not None and len(ours) != len(theirs):
            skipped["prompts of unequal length"] += 1
            if reading.unequal == "error":
                raise PairsError(
                    f"{record.where}: the clean prompt has {len(ours)} tokens and the patch prompt {len(theirs)}, and "
                    "a pair must have as many: mend it, or leave such pairs out (unequal='skip', on the command line "
                    "--unequal skip)"
                )
            continue
        long = [(a, ids) for a, ids in zip(side[0] + side[1], found[0] + found[1], strict=True) if len(ids) != 1]
        if long:
            skipped["answers of several tokens"] += 1
            if reading.long_answers == "error":
                raise PairsError(
                    f"{record.where}: {reader.described(*long[0])}, and an answer must be one: mend it, or leave such "
                    "pairs out (long_answers='skip', on the command line --long-answers skip)"
                )
            continue
        right, wrong = (tuple(ids[0] for ids in each) for each in found)
        reader.check(record, [*right, *wrong])
        given = (tuple(side[0]), tuple(side[1]))
        beside_row = None if other is None else other.row
        kept.append(Pair(record.where, record.row, ours, theirs, right, wrong, given, beside_row))
    if not kept:
        raise PairsError(f"{file}: no pair is left: {'; '.join(f'{n} with {why}' for why, n in skipped.items())}")
    return Pairs(tuple(kept), dict(skipped), reader.vocabulary, reader.pad_id, header, str(file))


def greater_than(row: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """The answers of EAP-IG's greater-than: years behind `label` if clean; up to it if the year is corrupted to 01."""
    try:
        label = int(row["label"])
    except (KeyError, ValueError):
        raise PairsError(
            f"greater-than needs a column `label` with a number from 2 to 98, not in {dict(row)}"
        ) from None
    return [f"{year:02}" for year in range(label + 1, 100)], [f"{year:02}" for year in range(label + 1)]


class _Reader:
    """Prompts and answers of records as tokens."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase | None, reading: Reading) -> None:
        if tokenizer is None and reading.bos:
            raise PairsError(
                "a BOS token was asked for, and without a tokenizer there is none: put its id into the prompts"
            )
        self.tokenizer = tokenizer
        self.bos = wants_bos(tokenizer, reading.bos) if tokenizer is not None else False
        self.vocabulary = None if tokenizer is None else len(tokenizer)
        self.pad_id = getattr(tokenizer, "pad_token_id", None) or 0

    def prompts(self, records: Sequence[Record], column: str) -> list[Prompt]:
        values = [record.row.get(column) for record in records]
        for record, value in zip(records, values, strict=True):
            if not (_is_ids(value) or isinstance(value, str)) or not value:
                raise PairsError(f"{record.where}: {column} is {value!r}, not a text or a list of token ids")
        texts = [value for value in values if isinstance(value, str)]
        if texts and self.tokenizer is None:
            raise PairsError(f"{records[0].where}: {column} is text, which needs a tokenizer")
        read = iter(tokenise(texts, self.tokenizer, self.bos) if self.tokenizer is not None else ())
        bos_id = getattr(self.tokenizer, "bos_token_id", None)
        prompts = [
            next(read) if isinstance(value, str) else Prompt(tuple(value or ()), bos=bool(value) and value[0] == bos_id)
            for value in values
        ]
        for record, prompt in zip(records, prompts, strict=True):
            self.check(record, prompt.tokens)
            if not len(prompt):
                raise PairsError(f"{record.where}: {column} has no token")
        return prompts

    def counterparts(self, records: Sequence[Record], column: str | None) -> Sequence[Prompt | None]:
        """The patch prompts, or None for each where no record has one."""
        if column is None or not any(record.row.get(column) for record in records):
            return [None] * len(records)
        return self.prompts(records, column)

    def answers(
        self,
        clean: Sequence[Prompt],
        patch: Sequence[Prompt | None],
        asked: Sequence[tuple[list[Answer], list[Answer]]],
    ) -> list[tuple[list[tuple[int, ...]], list[tuple[int, ...]]]]:
        """The tokens of every answer behind its prompt; ids are what they are."""
        texts = [
            (ours if side == 0 or theirs is None else theirs, answer)
            for ours, theirs, sides in zip(clean, patch, asked, strict=True)
            for side in (0, 1)
            for answer in sides[side]
            if isinstance(answer, str)
        ]
        if texts and self.tokenizer is None:
            raise PairsError(f"the answer {texts[0][1]!r} is text, which needs a tokenizer")
        read = iter(
            continuations([p for p, _ in texts], [a for _, a in texts], self.tokenizer, self.bos)
            if self.tokenizer is not None
            else ()
        )
        tokens = [[[(a,) if isinstance(a, int) else next(read) for a in each] for each in sides] for sides in asked]
        return [(right, wrong) for right, wrong in tokens]

    def described(self, answer: Answer, tokens: tuple[int, ...]) -> str:
        assert self.tokenizer is not None
        pieces = ", ".join(map(repr, self.tokenizer.convert_ids_to_tokens(list(tokens))))
        return f"the answer {answer!r} is {len(tokens)} tokens ({pieces or 'none'})"

    def check(self, record: Record, tokens: Sequence[int]) -> None:
        """PairsError for ids that the tokenizer does not have, such as those of another model's."""
        wrong = [t for t in tokens if t < 0 or (self.vocabulary is not None and t >= self.vocabulary)]
        if wrong:
            raise PairsError(
                f"{record.where}: token id {wrong[0]} is outside the vocabulary of {self.vocabulary} tokens; are the "
                "ids another tokenizer's?"
            )


def _columns(file: Path | str, record: Record, reading: Reading) -> dict[str, str]:
    """Role -> the column that has it; the clean prompts are a must."""
    found = dict(reading.columns)
    for role, column in found.items():
        if column not in record.row:
            raise PairsError(f"{file}: no column {column!r} for {role}; there are: {', '.join(record.row)}")
    for role, names in ROLES.items():
        there = [name for name in names if name in record.row]
        if role not in found and len(there) > 1:
            raise PairsError(
                f"{file}: columns {' and '.join(there)} could both hold {role}: say which (columns={{{role!r}: ...}})"
            )
        if there:
            found.setdefault(role, there[0])
    if "clean" not in found:
        raise PairsError(
            f"{file}: no column for the prompts ({', '.join(ROLES['clean'])}); there are: {', '.join(record.row)}"
        )
    return found


def _answers(record: Record, columns: Mapping[str, str], given: Answers | None) -> tuple[list[Answer], list[Answer]]:
    """What is right behind the clean and behind the patch prompt of a row."""
    if given is not None:
        right, wrong = given(record.row)
        return list(right), list(wrong)
    sides: list[list[Answer]] = []
    for role in ("clean_answer", "patch_answer"):
        column = columns.get(role)
        value = None if column is None else record.row.get(column)
        values = value if isinstance(value, list) else [] if value is None or value == "" else [value]
        if column is not None and column.endswith("_idx"):
            values = [int(v) if isinstance(v, str) and v.strip().isdecimal() else v for v in values]
            wrong_kind = [v for v in values if not isinstance(v, int)]
        else:
            wrong_kind = [v for v in values if not isinstance(v, str | int)]
        if wrong_kind or any(isinstance(v, bool) for v in values):
            raise PairsError(f"{record.where}: {column} is {value!r}, not an answer (a text) or its token id")
        sides.append(values)
    return sides[0], sides[1]


def _is_ids(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, int) for each in value)
