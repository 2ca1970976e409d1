"""What a text task is, declared: a table of texts, the column that should be learned, what agrees with it in training.

docs/shift_text.md describes tables and entries. A spec is plain JSON; which rows stand in which set follows from it.
"""

import dataclasses
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from shift.specs import SpecError, check_entries

Head = Literal["optimum", "paper"]
SAME = "same"
Values = str | tuple[str, ...]
"""one value of a table, or several that mean the same"""

_PAIRS = ("label_values", "attribute_values")
_COUNTS = ("train", "test", "cell")


@dataclass(frozen=True)
class TextTaskSpec:
    """A classifier of texts, trained where a label and a spurious attribute agree; SpecError for what cannot be."""

    path: str
    """a file (.csv, .tsv, .jsonl, .json, .parquet), a folder of `datasets`, or a name on the hub"""
    text: str = "text"
    """column of the texts"""
    label: str = "label"
    """column of the intended property"""
    label_values: tuple[Values, Values] = ("0", "1")
    """what stands in it for no and for yes, one value or several each; rows with anything else are left out"""
    attribute: str = ""
    """column of the spurious attribute"""
    attribute_values: tuple[Values, Values] = ("0", "1")
    """what stands in it for no and for yes, in the same way"""
    attribute_words: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    """in place of a column: words that tell no, and words that tell yes; texts with both or neither are left out"""
    intended: str = ""
    """the label in words; by default the column's name"""
    spurious: str = ""
    """the attribute in words; by default the column's name"""
    at: str = ""
    """column with the character at which a word begins: the text is read up to the end of this word, else whole"""
    balanced: str | None = SAME
    """"same": rows of this table that the ambiguous sets leave over; or another table with the same columns; or null,
    where there is none and nothing can be scored"""
    split: str = "train"
    """the part of a data set of `datasets`"""
    test_split: str | None = None
    """the part that both test sets come from; by default all sets come from `split`"""
    subset: str | None = None
    """the configuration of a data set on the hub"""
    revision: str | None = None
    """the version of a data set on the hub: give a commit, so that it stays the same"""
    site: str = "resid_1"
    """activations that the classifier reads"""
    pooled: bool = True
    """whether it reads their mean over the text, or the last token's"""
    bos: bool | None = None
    """whether a beginning-of-text token stands first, which is no part of the text; by default as the tokenizer does"""
    max_length: int = 128
    """tokens of a text; longer ones lose their end, or with `at` their beginning"""
    train: int | None = 2000
    """ambiguous texts for the classifier, half of each label; null: as many as there are, which needs `test_split`"""
    test: int | None = 500
    """ambiguous texts kept aside"""
    cell: int | None = 250
    """balanced texts in each of the four cells, for test and again for train"""
    labelled: int = 0
    """texts with both properties known that stand in no set, for the baselines that use some labels; for them an eighth
    of the table is kept aside"""
    seed: int = 0
    as_published: bool = False
    """choose rows as Marks et al.'s notebook does: the first of each kind in the file's order, shuffled by Python's
    random with the seed. Training (and test) rows of the ambiguous and the balanced set are then partly the same"""
    head: Head = "optimum"
    """how the classifier is fitted (shift.tasks.tables.text_head): to the optimum, or as in the paper"""
    head_rate: float = 1e-2
    """learning rate of the paper's head"""
    head_batch: int = 128
    """batch size of the paper's head"""

    def __post_init__(self) -> None:
        self._check_choices()
        self._check_numbers()
        self._check_attribute()

    @property
    def titles(self) -> tuple[str, str]:
        """The intended and the spurious property in words."""
        return self.intended or self.label, self.spurious or self.attribute or "the attribute"

    def to_json(self) -> dict[str, Any]:
        """Plain values, which from_json reads."""
        values = asdict(self)
        for name in (*_PAIRS, "attribute_words"):
            values[name] = [each if isinstance(each, str) else list(each) for each in values[name]]
        return values

    @classmethod
    def from_json(cls, values: Any) -> "TextTaskSpec":
        """A spec from plain values; SpecError names an entry that is unknown, missing or of the wrong kind."""
        check_entries(cls, values)
        for name, value in values.items():
            _check_kind(name, value)
        lists = {
            name: tuple(each if isinstance(each, str) else tuple(each) for each in value)
            for name, value in values.items()
            if isinstance(value, list | tuple)
        }
        return cls(**{**values, **lists})

    def _check_choices(self) -> None:
        for name in ("path", "text", "label", "split", "site"):
            if not getattr(self, name):
                raise SpecError(f"{name} is empty")
        for name in _PAIRS:
            no, yes = map(plain_values, getattr(self, name))
            if not no or not yes or no & yes:
                raise SpecError(f"{name} are {list(getattr(self, name))}: no and yes must differ")

    def _check_numbers(self) -> None:
        for name in _COUNTS:
            count = getattr(self, name)
            if count is None and self.test_split is None:
                raise SpecError(f"{name} is null: as many as there are need a test_split, or else give a number")
            if count is not None and count < 2:
                raise SpecError(f"{name} is {count}: choose at least 2")
            if count is not None and count % 2 and name != "cell":
                raise SpecError(f"{name} is {count}: choose an even number, half of each label")
        for name, least in (("max_length", 2), ("head_batch", 1), ("seed", 0), ("labelled", 0)):
            if getattr(self, name) < least:
                raise SpecError(f"{name} is {getattr(self, name)}: choose {least} or more")
        if self.labelled and self.as_published:
            raise SpecError("labelled texts are kept out of all sets, and as_published puts every row in one")
        if self.labelled and self.balanced is None:
            raise SpecError("labelled texts come from the balanced table, and balanced is null")
        if self.head_rate <= 0:
            raise SpecError(f"head_rate is {self.head_rate}: choose a number above 0")

    def _check_attribute(self) -> None:
        no, yes = self.attribute_words
        if bool(no) != bool(yes):
            raise SpecError("attribute_words: give words for no and words for yes")
        if common := sorted({w.casefold() for w in no} & {w.casefold() for w in yes}):
            raise SpecError(f"attribute_words: {common[0]!r} stands in both lists")
        if not all(w.strip() for w in (*no, *yes)):
            raise SpecError("attribute_words: a word is empty")
        if no and self.attribute:
            raise SpecError("attribute and attribute_words are both given: choose one")
        if self.balanced is not None and not no and not self.attribute:
            raise SpecError("give the column of the attribute, or attribute_words, or set balanced to null")
        if self.attribute and self.attribute == self.label:
            raise SpecError(f"attribute and label are both the column {self.label!r}")


def plain(value: Any) -> str:
    """How a value of a table is compared: text without case; 1, 1.0 and "1" are equal, and so are true and "TRUE"."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip().casefold()


def plain_values(values: Values) -> frozenset[str]:
    """All values that mean the same, as they are compared."""
    return frozenset(map(plain, [values] if isinstance(values, str) else values))


def _check_kind(name: str, value: Any) -> None:
    """SpecError unless a plain value is of the kind that the entry has."""

    def texts(values: Any) -> bool:
        return isinstance(values, list | tuple) and all(type(v) is str for v in values)

    if name in _PAIRS:
        good = isinstance(value, list | tuple) and len(value) == 2 and all(type(v) is str or texts(v) for v in value)
        expected = "two texts, for no and for yes, or a list of texts for each"
    elif name == "head":
        good, expected = value in get_args(Head), " or ".join(get_args(Head))
    elif name == "attribute_words":
        good = isinstance(value, list | tuple) and len(value) == 2 and all(texts(words) for words in value)
        expected = "two lists of words, for no and for yes"
    else:
        kind = next(f.type for f in dataclasses.fields(TextTaskSpec) if f.name == name)
        kinds: dict[Any, tuple[tuple[type, ...], str]] = {
            bool: ((bool,), "true or false"),
            bool | None: ((bool, type(None)), "true, false or null"),
            int: ((int,), "a whole number"),
            int | None: ((int, type(None)), "a whole number or null"),
            float: ((float, int), "a number"),
            str | None: ((str, type(None)), "a text or null"),
        }
        allowed, expected = kinds.get(kind, ((str,), "a text"))
        good = type(value) in allowed
    if not good:
        raise SpecError(f"entry {name!r} is {value!r}: expected {expected}")
