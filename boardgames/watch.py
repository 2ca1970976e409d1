"""Dictionaries scored while they train, the best of them kept: a callback of saes.training.train_stacks.

What is scored is what training would hand out if it ended here. No weight depends on it. The best so far stands in
files alone: a run that goes on from a checkpoint comes to the steps behind it again, finds the same scores, and leaves
or writes the same files.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from boardgames.scoreboard import Scoreboard
from saes.checkpoint import save_dictionary
from saes.files import read_json, write_json
from saes.recorder import Recorder
from saes.trainer import Trainer

INDEX = "best.json"
Metric = Literal["coverage", "reconstruction"]


class Watch:
    """Records coverage and reconstruction of every member, and keeps each member's best dictionary by one of them."""

    def __init__(
        self,
        board: Scoreboard | None,
        group: str,
        recorder: Recorder,
        *,
        folder: Path | None = None,
        metric: Metric = "coverage",
        members: Sequence[str] = ("0",),
    ) -> None:
        """`board`: with the sites of all trainers; None on ranks other than the first, which only take part.

        `group`: of its properties. `folder`: where the best are kept, as SITE/MEMBER with the names of `members`, and
        INDEX; None to keep none.
        """
        self._board, self._group, self._recorder = board, group, recorder
        self._folder, self._metric, self._members = folder, metric, members

    def __call__(self, step: int, trainers: Mapping[str, Trainer[Any]]) -> None:
        """After a step: score the dictionaries as finish() hands them out, which copies them."""
        for site, trainer in trainers.items():
            dictionaries = trainer.finish()  # by all ranks together; only the first gets any
            if self._board is None:
                continue
            for member, dictionary in enumerate(dictionaries):
                score = self._board.score(dictionary)[self._group]
                found = {"coverage": score.coverage.score, "reconstruction": score.reconstruction.score}
                which = {"member": member} if len(dictionaries) > 1 else {}
                self._recorder.record(step, {"site": site, **which, **found})
                if self._folder is not None:
                    self._keep(self._folder, f"{site}/{self._members[member]}", step, found, dictionary)

    def _keep(self, folder: Path, name: str, step: int, found: dict[str, float], dictionary: Any) -> None:
        known = best_so_far(folder)
        if name in known and found[self._metric] <= known[name][self._metric]:
            return
        save_dictionary(dictionary, folder / name)
        write_json(folder / INDEX, {**known, name: {"step": step, **found}})  # last: a kill before it repeats the step


def best_so_far(folder: Path) -> dict[str, dict[str, Any]]:
    """`step`, `coverage` and `reconstruction` of the dictionaries that a Watch has kept, by SITE/MEMBER."""
    return read_json(folder / INDEX) if (folder / INDEX).is_file() else {}
