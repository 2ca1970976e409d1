"""What a board task is, declared: the intended property A, the spurious property B, where the classifier reads, sizes.

A spec is plain JSON and decides every game and label, so that a task is shared by its spec. Properties are questions in
the words of shift.tasks.questions: the owner of c3 is "mine c3" under the filter "occupied c3".
"""

import difflib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from boardgames.othello.transcript import CONTEXT
from boardgames.splits import Part
from saes.files import read_json, write_json
from shift.tasks.questions import Game, QuestionError, depends, on_one_line, parts, spoken, squares_of

Token = Literal["last move", "dots", "moves"]
TOKENS: dict[Game, tuple[Token, ...]] = {"othello": ("last move",), "chess": ("dots", "moves")}


class SpecError(ValueError):
    """A spec that describes no task, with the reason."""


@dataclass(frozen=True)
class BoardTaskSpec:
    """One task on a board game; SpecError if A and B could not be told apart or nothing could be drawn."""

    intended: str
    """A, what the classifier should learn: a question such as "mine c3" ("mine" = the side that has just moved)"""
    spurious: str
    """B, which agrees with A wherever the classifier is trained"""
    filters: tuple[str, ...] = ()
    """questions that all must be answered with yes where it reads, such as "occupied c3" or "not legal b4\""""
    game: Game = "othello"
    plies: tuple[int, int] = (9, 51)
    """first and last ply at which it reads: Othello counts the moves before the last one, chess the moves made"""
    token: Token = "last move"
    """Othello's last move; chess's "dots", before a move of White, or "moves", the space behind any move"""
    site: str = "resid_1"
    """activations that it reads"""
    train: int = 4000
    """ambiguous games for the classifier"""
    test: int = 1000
    """ambiguous games kept aside"""
    cell: int = 1000
    """balanced games in each of the four cells, for test and again for train"""
    seed: int = 0
    shared_line: bool = False
    """allow squares of A and B on one line, where one move can flip both; the classifier may then use either"""
    games: str = ""
    """chess: the file that games are taken from; Othello's are random"""
    parts: tuple[Part, ...] = ("scoring",)
    """chess: parts of the file (boardgames.splits); neither model nor dictionaries may have been trained on them"""

    def __post_init__(self) -> None:
        self._check_questions()
        self._check_numbers()
        self._check_games()

    @property
    def name(self) -> str:
        """Both properties, the site, the seed, and a digest of all the rest: different specs have different names."""
        digest = hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()
        title = f"{spoken(self.intended)} against {spoken(self.spurious)}"
        return f"{title} at {self.site}, seed {self.seed} ({digest[:12]})"

    def swapped(self) -> "BoardTaskSpec":
        """The same positions with A and B exchanged: a built-in control."""
        return replace(self, intended=self.spurious, spurious=self.intended)

    def to_json(self) -> dict[str, Any]:
        """Plain values, which from_json reads."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_json(cls, values: Any) -> "BoardTaskSpec":
        """A spec from plain values; SpecError names an entry that is unknown, missing or of the wrong kind."""
        check_entries(cls, values)
        for name, value in values.items():
            _check_kind(name, value)
        _check_choices(values)
        entries: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**entries)

    def _check_questions(self) -> None:
        _check_choices(self.to_json())
        for name, question in (("intended", self.intended), ("spurious", self.spurious), *self._filters()):
            try:
                parts(self.game, question)
            except QuestionError as error:
                raise SpecError(f"{name}: {error}") from None
        common = depends(self.game, self.intended) & depends(self.game, self.spurious)
        if common:
            raise SpecError(
                f"{self.intended!r} and {self.spurious!r} both depend on {', '.join(sorted(common)[:4])}: "
                "they cannot be told apart; choose properties of different squares"
            )
        if self.game == "chess":
            if any(name == "check" for name, _ in parts("chess", self.intended)):
                raise SpecError("intended: 'check' stands in the transcript (+ and #); choose what has to be tracked")
            return
        one_each = [squares_of("othello", q) for q in (self.intended, self.spurious)]
        if all(len(s) == 1 for s in one_each) and not self.shared_line:
            (first,), (second,) = one_each
            if on_one_line(first, second):
                raise SpecError(f"{first} and {second} share a line: one can flip with the other; or set shared_line")

    def _filters(self) -> list[tuple[str, str]]:
        return [(f"filters[{i}]", question) for i, question in enumerate(self.filters)]

    def _check_numbers(self) -> None:
        for name in ("train", "test", "cell"):
            if getattr(self, name) < 2:
                raise SpecError(f"{name} is {getattr(self, name)}: choose at least 2")
        if (self.train + self.test) % 2:
            raise SpecError(f"train {self.train} and test {self.test}: choose an even sum, half of each label")
        if self.seed < 0:
            raise SpecError(f"seed is {self.seed}: choose 0 or more")
        if not 0 <= self.plies[0] <= self.plies[1]:
            raise SpecError(f"plies are {list(self.plies)}: expected the first and the last, such as [9, 51]")
        if self.game == "othello" and self.plies[1] >= CONTEXT:
            raise SpecError(f"plies are {list(self.plies)}: Othello models read plies 0 to {CONTEXT - 1}")

    def _check_games(self) -> None:
        if self.token not in TOKENS[self.game]:
            raise SpecError(f"token is {self.token!r}: for {self.game} choose {' or '.join(TOKENS[self.game])}")
        if self.game == "chess" and not self.games:
            raise SpecError("games: chess needs a file of games")
        if self.game == "othello" and self.games:
            raise SpecError(f"games is {self.games!r}: Othello tasks draw random games; leave it out")
        if not self.parts:
            raise SpecError(f"parts: choose one or more of {', '.join(get_args(Part))}")


def check_entries(cls: type[Any], values: Any) -> None:
    """SpecError unless plain values are a table with entries that the spec class knows, none missing."""
    if not isinstance(values, Mapping):
        raise SpecError(f"a spec is a table of entries, not {values!r}")
    known = {f.name: f for f in fields(cls)}
    for name in values:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, 1)
            raise SpecError(f"entry {name!r}: {f'did you mean {near[0]!r}?' if near else f'known are {list(known)}'}")
    missing = [name for name, f in known.items() if f.default is MISSING and name not in values]
    if missing:
        raise SpecError(f"entry {missing[0]!r} is missing")


def read_specs(path: Path | str) -> list[BoardTaskSpec]:
    """The specs of a JSON file, which holds one or a list of them; SpecError names the file and the place."""
    found = read_json(path)
    specs = []
    for number, values in enumerate(found if isinstance(found, list) else [found]):
        try:
            specs.append(BoardTaskSpec.from_json(values))
        except SpecError as error:
            raise SpecError(f"{path}: task {number}: {error}") from None
    if not specs:
        raise SpecError(f"{path}: holds no task")
    return specs


def write_specs(path: Path | str, specs: list[BoardTaskSpec]) -> None:
    """Write specs as read_specs reads them."""
    write_json(path, [spec.to_json() for spec in specs])


def _check_kind(name: str, value: Any) -> None:
    """SpecError unless a plain value is of the kind that the entry has."""
    if name in ("filters", "parts", "plies"):
        kind: type = int if name == "plies" else str
        good = isinstance(value, list | tuple) and all(type(v) is kind for v in value)
        good &= name != "plies" or len(value) == 2
        expected = "two whole numbers, the first ply and the last" if name == "plies" else "a list of texts"
    else:
        kinds: dict[str, tuple[type, str]] = {"shared_line": (bool, "true or false")}
        kinds |= dict.fromkeys(("train", "test", "cell", "seed"), (int, "a whole number"))
        kind, expected = kinds.get(name, (str, "a text"))
        good = type(value) is kind
    if not good:
        raise SpecError(f"entry {name!r} is {value!r}: expected {expected}")


def _check_choices(values: Mapping[str, Any]) -> None:
    """SpecError unless words that are chosen from a few are among them."""
    for name, choices in (("game", get_args(Game)), ("token", get_args(Token)), ("parts", get_args(Part))):
        given = values.get(name, ())
        for value in [given] if isinstance(given, str) else given:
            if value not in choices:
                raise SpecError(f"{name} is {value!r}: choose {' or '.join(choices)}")
