"""One rater's work on one SHIFT run, without a page: what is shown, what is said, the freeze, and the outcome.

Verdicts are read from the file again for every answer, since other raters and windows may write it, too. Roles stay
here; what a rater gets of a card is `shift.cards.shown_json`.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from threading import Lock, Thread
from typing import Any, Literal

from kibitz.pages.serving import PageError, SealedError, UnknownError
from shift.cards import shown_json
from shift.judge import Opinion, verdicts_on
from shift.judgements import Frozen, JudgementLog, is_frozen
from shift.queue import Item, reliability, to_judge
from shift.run_folder import judgements_path, outcome_path, read_card, read_outcome, read_queue, read_task
from shift.verdicts import Judgement

_TASK = ("name", "intended", "spurious", "kind", "game")


class Judging:
    """RunFolderError if a file of the run is broken: all that a rater sees is read at once.

    `score` makes outcome.json once the judgements are frozen; None where somebody else does that.
    """

    def __init__(
        self, run: Path, rater: str, *, blind: bool | None = None, score: Callable[[], None] | None = None
    ) -> None:
        if not rater.strip():
            raise PageError("the rater has no name: give --rater")
        task = read_task(run)
        self.run, self.rater = run, rater.strip()
        self.blind: bool = task["blind"] if blind is None else blind
        self._task = {name: task[name] for name in _TASK}
        self._items = {item.name: item for item in read_queue(run)}
        self._cards = {name: shown_json(read_card(run, name), self.blind) for name in self._items}
        self._check_cards()
        self._score, self._scoring, self._failure = score, "idle", ""
        self._lock = Lock()

    def state(self) -> dict[str, Any]:
        """All that the page shows but cards and the outcome."""
        frozen, judgements, notes = self._read()
        left = {item.name for item in to_judge(list(self._items.values()), judgements, self.rater)}
        slots = {j.slot: j for j in judgements}
        return {
            "task": {**self._task, "blind": self.blind},
            "rater": self.rater,
            "frozen": frozen,
            "notes": list(notes),
            "items": [self._state(item, slots, item.name in left) for item in self._items.values()],
            "unjudged": len(left),
            "others": {
                name: len({(j.role, j.item) for j in judgements if j.rater == name})
                for name in sorted({j.rater for j in judgements} - {self.rater})
            },
            "scoring": {"possible": self._score is not None, "state": self._scoring, "error": self._failure},
        }

    def card(self, item: str) -> Mapping[str, Any]:
        """UnknownError for an item that is not in the queue."""
        self._item(item)
        return self._cards[item]

    def judge(self, item: str, opinion: Opinion, seconds: float, before: str | None) -> None:
        """Write one verdict for each member. `before`: the verdict that the page showed as standing; PageError if
        another one stands by now."""
        judged = self._item(item)
        with self._lock:
            now = self._verdict_on(judged)
            if now != before:
                said = "was taken back" if now is None else f"was judged {now!r}"
                raise PageError(f"this card {said} elsewhere in the meantime: look again, then judge")
            self._log().add(*verdicts_on(judged, opinion, self.rater, seconds))

    def undo(self) -> dict[str, Any]:
        """Take back this rater's last verdict: the name of the item, and what goes back into its draft."""
        with self._lock:
            taken = self._log().undo(self.rater)[0]
        return {name: getattr(taken, name) for name in ("item", "reason", "confidence", "seconds")}

    def freeze(self, unjudged: int) -> None:
        """Close the file. `unjudged` is how many the page said are left; PageError if that is not so any more."""
        with self._lock:
            left = self.state()["unjudged"]
            if left != unjudged:
                raise PageError(f"{left} cards are not judged by now, and not {unjudged}: look again, then freeze")
            self._log().freeze()

    def outcome(self) -> dict[str, Any]:
        """How it came out, and how reliable the rater was; SealedError before the freeze, whatever the folder holds."""
        if not is_frozen(self._path):
            raise SealedError("the outcome is sealed until the judgements are frozen")
        frozen = Frozen.read(self._path)
        said = Counter(j.verdict for j in frozen.judgements if j.rater == self.rater and j.role == "candidate")
        return {
            "outcome": self._scored(frozen),
            "reliability": asdict(reliability(frozen.judgements, self.rater)),
            "verdicts": dict(said),
            "sha256": frozen.sha256,
        }

    def start_scoring(self) -> None:
        """Have the outcome made, in a thread; `state` says how it goes. PageError where nobody can make it."""
        if self._score is None:
            raise PageError("this page cannot score: run `kibitz shift score`")
        if not is_frozen(self._path):
            raise SealedError("scores need frozen judgements")
        with self._lock:
            if self._scoring == "running":
                return
            self._scoring, self._failure = "running", ""
        Thread(target=self._run_score, args=(self._score,), daemon=True).start()

    def _run_score(self, score: Callable[[], None]) -> None:
        state: Literal["done", "failed"] = "failed"
        try:
            score()
            if read_outcome(self.run).get("frozen") != Frozen.read(self._path).sha256:
                raise PageError(f"{outcome_path(self.run)}: is not of the judgements that were frozen here")
            state = "done"
        except Exception as error:  # nobody else would see it: it is in a thread of its own
            self._failure = str(error) or type(error).__name__
        self._scoring = state

    def _scored(self, frozen: Frozen) -> dict[str, Any] | None:
        """The outcome of these judgements; None if there is none, or one of others, such as earlier ones."""
        if not outcome_path(self.run).exists():
            return None
        found = read_outcome(self.run)
        return found if found.get("frozen") == frozen.sha256 else None

    @property
    def _path(self) -> Path:
        return judgements_path(self.run)

    def _log(self) -> JudgementLog:
        return JudgementLog(self._path, self._task["name"])

    def _read(self) -> tuple[bool, tuple[Judgement, ...], tuple[str, ...]]:
        if is_frozen(self._path):
            frozen = Frozen.read(self._path)
            if frozen.task != self._task["name"]:
                raise PageError(f"{self._path}: holds task {frozen.task!r}, not {self._task['name']!r}")
            return True, frozen.judgements, frozen.notes
        log = self._log()
        return False, log.standing(), log.notes()

    def _item(self, name: str) -> Item:
        if name not in self._items:
            raise UnknownError(f"no item is called {name!r}")
        return self._items[name]

    def _state(self, item: Item, slots: Mapping[Any, Judgement], left: bool) -> dict[str, Any]:
        leader = item.group[0]
        said = None if left else slots[self.rater, item.role, leader.site.name, leader.feature]
        return {
            "name": item.name,
            "verdict": said and said.verdict,
            "confidence": said and said.confidence,
            "reason": said.reason if said else "",
            "seconds": said and said.seconds,
        }

    def _verdict_on(self, item: Item) -> str | None:
        states = {state["name"]: state["verdict"] for state in self.state()["items"]}
        return states[item.name]

    def _check_cards(self) -> None:
        for name, item in self._items.items():
            shown = [(f["site"], f["feature"]) for f in self._cards[name]["features"]]
            if shown != [(c.site.name, c.feature) for c in item.group]:
                raise PageError(f"{self.run}: the card of item {name} shows other features than the queue names")
