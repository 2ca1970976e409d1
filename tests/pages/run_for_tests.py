"""A SHIFT run folder with six cards, made by hand, and its server in a thread."""

import http.client
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI

from boardgames.matching import Match
from boardgames.othello.properties import SQUARES
from kibitz.pages.guard import Keys
from kibitz.pages.judge_server import judge_app
from kibitz.pages.judging import Judging
from kibitz.pages.serving import listen
from shift.board_cards import draw_othello
from shift.card_facts import Facts, Histogram, LogitEffects, Neighbour
from shift.cards import Card, Showing, card_json
from shift.judgements import Frozen, is_frozen
from shift.queue import Group, Item
from shift.run_folder import judgements_path, write_card, write_outcome, write_queue, write_task
from tests.shift.judging_for_tests import candidate

PROPERTY, BESIDE, SEALED, ROLES = "xproperty c3", "xneighbour f5", "xsealed", ("candidate", "repeat", "control")
"""words that stand nowhere else, so that it can be searched for them"""
ITEMS = (
    Item("1", (candidate(3, -2.0), candidate(4, -1.5, site=1)), "candidate"),
    Item("2", (candidate(7, -1.25),), "candidate"),
    Item("3", (candidate(9, 0.0),), "control"),
    Item("4", (candidate(11, 0.75),), "candidate"),
    Item("5", (candidate(12, -0.5),), "candidate"),
    Item("6", (candidate(7, -1.25),), "repeat"),
)
ROW = {"cells": [[0.9, 0.8], [0.7, 0.95]], "worst_group_low": 0.6, "worst_group_high": 0.8}
OUTCOME = {
    "rows": [
        {**ROW, "name": f"{SEALED} before", "worst_group": 0.275, "intended_accuracy": 0.6, "spurious_accuracy": 0.9},
        {**ROW, "name": f"{SEALED} after", "worst_group": 0.725, "intended_accuracy": 0.8, "spurious_accuracy": 0.6},
    ],
    "judge": {"precision": 0.125, "recall": 0.25, "reference": "concept oracle"},
    "judges": {
        "abe": {"precision": 0.125, "recall": 0.25, "reference": "concept oracle"},
        "ann": {"precision": 0.625, "recall": 0.875, "reference": "concept oracle"},
    },
    "leave_one_out": [
        {"name": "only sites before it", "worst_group": 0.6},
        {"name": "all but resid_0/7", "worst_group": 0.4},
    ],
    "side_effects": {
        "cross-entropy, nats per token": [2.2206425, 2.8669233],
        "legal-move rate": [0.98838, 0.76343],
        "games": 200,
    },
}


def make_card(group: Group) -> Card:
    """Two positions of Othello, and something in every fact."""
    squares = {name: ("mine", "yours", "empty")[i % 3] for i, name in enumerate(SQUARES)}
    board = "".join("XO."[i % 3] for i in range(64))
    drawn = {"board": board, "last": 3, "flips": [0], "caption": "move 20, by Black"}
    showing = Showing(group[0].feature / 2, draw_othello(squares, 3), squares, drawn)
    ramp = tuple(i / 64 for i in range(64))
    facts = Facts(
        1000,
        Histogram((0.0, 1.0, 2.0), (5, 3)),
        {"mine": ramp, "yours": (None, *ramp[1:])},
        LogitEffects((("f5", 1.5),), (("d6", -2.0),), (None, *ramp[1:])),
        (Neighbour(99, 0.5, BESIDE),),
    )
    match = Match(PROPERTY, "c3", 0.9, 0.8, 0.7, 0, 0.1)
    random = (replace(showing, activation=0.0), showing)
    return Card(group, (showing,), random, 0.125, match, (replace(showing, quantile=0.5),), facts, "othello")


def make_run(folder: Path, *, blind: bool = False, name: str = "a task") -> Path:
    words = {"intended": "owner of c3", "spurious": "owner of f5"}
    write_task(folder, {"name": name, **words, "kind": "board", "game": "othello", "blind": blind, "site": "resid_1"})
    write_queue(folder, ITEMS)
    for item in ITEMS:
        write_card(folder, item.name, {**card_json(make_card(item.group)), "role": item.role})  # as a careless writer
    return folder


def scored(run: Path) -> dict[str, Any]:
    """The outcome of the run's judgements; of none, where they are not frozen."""
    path = judgements_path(run)
    return {**OUTCOME, "frozen": Frozen.read(path).sha256 if is_frozen(path) else None}


def scorer(run: Path) -> Callable[[], None]:
    """Writes the outcome, as `kibitz shift score` would."""
    return lambda: write_outcome(run, scored(run))


def serving(judging: Judging) -> AbstractContextManager[Keys]:
    return serving_app(lambda keys: judge_app(judging, keys))


@contextmanager
def serving_app(make: Callable[[Keys], FastAPI]) -> Iterator[Keys]:
    with listen(0) as socket:
        keys = Keys(socket.getsockname()[1])
        server = uvicorn.Server(uvicorn.Config(make(keys), log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [socket]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield keys
        finally:
            server.should_exit = True
            thread.join()


def raw(keys: Keys, path: str, method: str = "GET", body: str = "", **headers: str) -> tuple[int, str]:
    """Status and text of a request whose path goes out as it is; the headers of a page of ours unless told."""
    given: dict[str, Any] = {
        "Host": f"127.0.0.1:{keys.port}",
        "Cookie": f"{keys.cookie}={keys.token}",
        "X-Kibitz-Key": keys.writing,
        "Content-Type": "application/json",
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    connection = http.client.HTTPConnection("127.0.0.1", keys.port, timeout=10)
    try:
        connection.putrequest(method, path, skip_host=True)
        for name, value in given.items():
            if value:
                connection.putheader(name, value)
        if body:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body.encode() if body else None)
        answer = connection.getresponse()
        return answer.status, answer.read().decode("utf-8", "replace")
    finally:
        connection.close()
