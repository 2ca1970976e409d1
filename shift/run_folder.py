"""The files of a SHIFT run folder: what is judged, what is shown of it, and, after the freeze, how it came out.

    task.json            name, intended and spurious in words, kind, game, blind, site; further entries are free
    queue.json           what is judged, in order, with roles: a rater must not see it before the freeze
    cards/<item>.json    what is shown of each item
    judgements.jsonl     see docs/judgements.md
    outcome.json         written by `kibitz shift score`, after the freeze

docs/judging_page.md has the fields. Names of items are file names, so they are checked before a path is made of one.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from saes.files import FileError, read_json, write_json
from saes.sites import Site
from shift.candidates import Candidate
from shift.queue import Item
from shift.verdicts import ROLES

KINDS = ("board", "text", "classifier")
GAMES = ("othello", "chess")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


class RunFolderError(ValueError):
    """A file of a run folder that is missing, damaged, or does not say what it should."""


def task_path(run: Path) -> Path:
    return run / "task.json"


def queue_path(run: Path) -> Path:
    return run / "queue.json"


def card_path(run: Path, item: str) -> Path:
    """RunFolderError for a name that is no plain word, so that none leads out of the folder."""
    if not _NAME.fullmatch(item):
        raise RunFolderError(f"item {item!r}: a name is letters, digits, - and _, 64 at most")
    return run / "cards" / f"{item}.json"


def judgements_path(run: Path) -> Path:
    return run / "judgements.jsonl"


def outcome_path(run: Path) -> Path:
    return run / "outcome.json"


def write_task(run: Path, task: Mapping[str, Any]) -> None:
    write_json(task_path(run), _checked_task(task_path(run), dict(task)))


def read_task(run: Path) -> dict[str, Any]:
    """With every further entry that was written; game and blind are there always."""
    return _checked_task(task_path(run), _read(task_path(run)))


def write_queue(run: Path, items: Sequence[Item]) -> None:
    value = [
        {
            "name": item.name,
            "role": item.role,
            "features": [{"site": c.site.name, "feature": c.feature, "effect": c.effect} for c in item.group],
        }
        for item in items
    ]
    _items(queue_path(run), {"items": value}, {})  # what could not be read again is not written
    write_json(queue_path(run), {"items": value})


def read_queue(run: Path, sites: Iterable[Site] = ()) -> list[Item]:
    """The items in order. `sites` are the model's; a site that is not among them has a name and no module."""
    return _items(queue_path(run), _read(queue_path(run)), {site.name: site for site in sites})


def write_card(run: Path, item: str, card: Mapping[str, Any]) -> None:
    """`card` as docs/cards.md has it."""
    write_json(card_path(run, item), dict(card))


def read_card(run: Path, item: str) -> dict[str, Any]:
    path = card_path(run, item)
    card = _read(path)
    _need(path, isinstance(card.get("features"), list) and card["features"], "names no features")
    _need(path, isinstance(card.get("showings"), dict), "has no showings")
    return card


def write_outcome(run: Path, outcome: Mapping[str, Any]) -> None:
    write_json(outcome_path(run), _checked_outcome(outcome_path(run), dict(outcome)))


def read_outcome(run: Path) -> dict[str, Any]:
    """RunFolderError if there is none yet."""
    return _checked_outcome(outcome_path(run), _read(outcome_path(run)))


def _read(path: Path) -> dict[str, Any]:
    try:
        value = read_json(path)
    except FileError as error:
        raise RunFolderError(str(error)) from None
    _need(path, isinstance(value, dict), "is no JSON object")
    return value


def _need(path: Path, holds: object, otherwise: str) -> None:
    if not holds:
        raise RunFolderError(f"{path}: {otherwise}")


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _checked_task(path: Path, task: dict[str, Any]) -> dict[str, Any]:
    task = {"game": None, "blind": False, **task}
    for name in ("name", "intended", "spurious", "site"):
        _need(path, _text(task.get(name)), f"{name} is {task.get(name)!r}; give it in words")
    _need(path, task.get("kind") in KINDS, f"kind is {task.get('kind')!r}: choose one of {', '.join(KINDS)}")
    _need(path, task["game"] in (None, *GAMES), f"game is {task['game']!r}: choose one of {', '.join(GAMES)} or null")
    _need(path, isinstance(task["blind"], bool), f"blind is {task['blind']!r}: choose true or false")
    return task


def _items(path: Path, value: dict[str, Any], sites: Mapping[str, Site]) -> list[Item]:
    items = value.get("items")
    _need(path, isinstance(items, list) and items, "has no items")
    found: list[Item] = []
    for number, item in enumerate(items or [], 1):
        where = f"item {number}"
        _need(path, isinstance(item, dict), f"{where} is no JSON object")
        name, role, features = item.get("name"), item.get("role"), item.get("features")
        _need(path, isinstance(name, str) and _NAME.fullmatch(name), f"{where} has the name {name!r}: no plain word")
        _need(path, role in ROLES, f"{where} has the role {role!r}: choose one of {', '.join(ROLES)}")
        _need(path, isinstance(features, list) and features, f"{where} names no features")
        found.append(Item(name, tuple(_candidate(path, where, f, sites) for f in features), role))
    names = [item.name for item in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    _need(path, not twice, f"names two items {', '.join(twice)}")
    return found


def _candidate(path: Path, where: str, feature: Any, sites: Mapping[str, Site]) -> Candidate:
    _need(path, isinstance(feature, dict), f"{where}: a feature is no JSON object")
    site, number, effect = feature.get("site"), feature.get("feature"), feature.get("effect")
    _need(path, _text(site), f"{where}: a feature's site is {site!r}")
    _need(path, type(number) is int and number >= 0, f"{where}: the feature is {number!r}; it is a number from 0")
    _need(path, _number(effect), f"{where}: the effect is {effect!r}, which is no number")
    return Candidate(sites.get(site, Site(site, "")), number, float(effect))


def _checked_outcome(path: Path, outcome: dict[str, Any]) -> dict[str, Any]:
    rows = outcome.get("rows")
    _need(path, isinstance(rows, list) and rows, "has no rows")
    for number, row in enumerate(rows or [], 1):
        _need(path, isinstance(row, dict) and _text(row.get("name")), f"row {number} has no name")
        _need(path, _number(row.get("worst_group")), f"row {row['name']!r} has no worst_group")
        cells = row.get("cells")
        square = isinstance(cells, list) and [len(c) if isinstance(c, list) else 0 for c in cells] == [2, 2]
        _need(
            path, square and all(_number(v) for c in cells or [] for v in c), f"row {row['name']!r} has no four cells"
        )
    return outcome
