"""One measurement: a task, a set of dictionaries, a judge, and how each method does on the balanced set.

Every measurement is a JSON file of its own; what is there is not measured again. A file of judgements stands beside it,
frozen before the balanced games are drawn, as in any run of SHIFT.
"""

from collections.abc import Callable, Iterable, Sequence, Set
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from boardgames.lm import load_othello_gpt
from boardgames.matching import Match, match_features
from boardgames.othello.rules import random_games
from boardgames.othello.streams import stream
from boardgames.report import Positions
from circuits.feature_acts import Dictionaries
from saes.families import find_site
from saes.files import read_json, write_json
from shift.agreement import quality
from shift.candidates import Candidate, chosen_features, sites_before
from shift.cards import Card, bare
from shift.causal_oracle import CausalOracle
from shift.concept_oracle import ConceptOracle, DependenceSets, rule_dependence
from shift.contest import Contest
from shift.judge import Judge, Opinion, run_judge, verdicts_on
from shift.judgements import Frozen, JudgementLog
from shift.labelled import labelled_board
from shift.methods import Method
from shift.preparing import Prepared, prepare
from shift.queue import singles
from shift.scoring import Outcome, open_contest, run_methods
from shift.specs import BoardTaskSpec
from shift.task import ShiftTask
from shift.tasks.board import board_task
from shift.tasks.concepts import board_concepts
from shift.tasks.questions import parts


@dataclass(frozen=True)
class StudySettings:
    """What every measurement has in common."""

    candidates: int = 60
    examples: int = 100
    steps: int = 10
    names: int = 300
    labelled: int = 2000
    seed: int = 0


@dataclass(frozen=True)
class World:
    """The model, and what names features: labelled positions that are no task's."""

    settings: StudySettings
    model_folder: Path | None = None

    @cached_property
    def model(self):
        return load_othello_gpt() if self.model_folder is None else load_othello_gpt(self.model_folder)

    @cached_property
    def positions(self) -> Positions:
        return Positions(random_games(self.settings.names, stream("circuit_names", self.settings.seed)))

    @cached_property
    def depends(self) -> DependenceSets:
        return rule_dependence(self.positions.replay.at(self.positions.mask))

    def about(self, question: str) -> frozenset[str]:
        """What a question depends on by the rules."""
        return frozenset().union(*(self.depends[name] for name, _ in parts("othello", question)))


@dataclass
class Names:
    """What features of one set of dictionaries match; found once for each feature."""

    world: World
    dictionaries: Dictionaries
    known: dict[tuple[str, int], Match | None] = field(default_factory=dict)

    def of(self, candidates: Sequence[Candidate]) -> dict[tuple[str, int], Match]:
        """The matches of some candidates; those that never fire have none."""
        fresh = [c for c in candidates if (c.site.name, c.feature) not in self.known]
        found = match_features(self.world.model, self.dictionaries, chosen_features(fresh), self.world.positions)
        self.known |= {(c.site.name, c.feature): found.get((c.site.name, c.feature)) for c in fresh}
        wanted = ((c.site.name, c.feature) for c in candidates)
        return {key: match for key in wanted if (match := self.known[key]) is not None}


@dataclass(frozen=True)
class Case:
    """A task on a set of dictionaries, prepared: what a judge would see."""

    world: World
    spec: BoardTaskSpec
    dictionaries: Dictionaries
    task: ShiftTask
    prepared: Prepared
    matches: dict[tuple[str, int], Match]

    @classmethod
    def of(cls, world: World, spec: BoardTaskSpec, names: Names) -> "Case":
        site, settings = find_site(world.model, spec.site), world.settings
        task = board_task(spec, site)
        upstream = sites_before(world.model, names.dictionaries, site)
        prepared = prepare(
            world.model,
            upstream,
            task,
            candidates=settings.candidates,
            examples=settings.examples,
            steps=settings.steps,
            progress=False,
        )
        return cls(world, spec, upstream, task, prepared, names.of(prepared.candidates))

    def concept_oracle(self) -> ConceptOracle:
        world, spec = self.world, self.spec
        return ConceptOracle(self.matches, world.depends, world.about(spec.intended), world.about(spec.spurious))

    def causal_oracle(self) -> CausalOracle:
        labelled = labelled_board(self.spec, self.world.settings.labelled)
        return CausalOracle(self.world.model, self.dictionaries, self.task.reading, labelled)

    def judged(self, judge: Judge, path: Path, cards: Callable = bare) -> Frozen:
        """Every candidate, in a fresh file that is frozen."""
        path.unlink(missing_ok=True)  # of a measurement that was interrupted
        log = JudgementLog(path, self.task.name)
        run_judge(judge, singles(self.prepared.candidates), log, cards)
        return log.freeze()

    def contest(self, frozen: Frozen, *, labelled: bool = True, raters: Iterable[str] | None = None) -> Contest:
        """The balanced set, opened."""
        settings = self.world.settings
        return open_contest(
            self.world.model,
            self.dictionaries,
            self.task,
            self.prepared,
            frozen,
            raters=raters,
            labelled=labelled_board(self.spec, settings.labelled) if labelled else None,
            concepts=board_concepts(self.world.model, self.spec)[1] if labelled else None,
            examples=settings.examples,
            steps=settings.steps,
            seed=settings.seed,
            progress=False,
        )

    def against_oracle(self, frozen: Frozen, judge: Judge) -> dict[str, float | None]:
        """Precision and recall of the judge against the concept oracle, plain and weighted by effect."""
        oracle = self.concept_oracle()
        if judge.name == oracle.name:
            return {}
        said = [
            j for i in singles(self.prepared.candidates) for j in verdicts_on(i, oracle(bare(i.group)), oracle.name)
        ]
        q = quality([*frozen.judgements, *said], judge.name, oracle.name)
        names = ("precision", "recall", "weighted_precision", "weighted_recall")
        return {name: _finite(getattr(q, name).value) for name in names}


class NoisyJudge:
    """A judge made worse at random: so much of what it trims is missed, and so much else trimmed with it.

    `recall`: share of its trims that stay. `precision`: of all trims, the share that are its own; the others are drawn
    from the candidates that it does not trim, as far as there are any.
    """

    def __init__(
        self,
        trims: Set[tuple[str, int]],
        candidates: Sequence[Candidate],
        recall: float,
        precision: float,
        seed: int,
    ) -> None:
        self.name = f"recall {recall:g}, precision {precision:g}"
        rng = np.random.default_rng(seed)
        every = [(c.site.name, c.feature) for c in candidates]
        right, rest = [k for k in every if k in trims], [k for k in every if k not in trims]
        kept = [right[i] for i in rng.permutation(len(right))[: round(recall * len(right))]]
        wrong = min(round(len(kept) * (1 - precision) / precision), len(rest))
        self._trims = {*kept, *(rest[i] for i in rng.permutation(len(rest))[:wrong])}

    def __call__(self, card: Card) -> Opinion:
        return Opinion("trim" if card.key in self._trims else "keep", "by lot")


def outcome_json(case: Case, found: Outcome, frozen: Frozen, judge: Judge) -> dict[str, Any]:
    """Plain values of one measurement."""
    verdicts = [j.verdict for j in frozen.judgements]
    effects = {(j.site, j.feature): abs(j.effect) for j in frozen.judgements}
    total = sum(effects.values()) or 1.0
    return {
        "task": case.spec.to_json(),
        "judge": judge.name,
        "ambiguous_accuracy": case.prepared.ambiguous_accuracy,
        "error_share": found.error_share,
        "candidates": len(case.prepared.candidates),
        "trimmed": found.count,
        "verdicts": {v: verdicts.count(v) for v in sorted(set(verdicts))},
        "effect_of_verdicts": {
            v: sum(abs(j.effect) for j in frozen.judgements if j.verdict == v) / total for v in sorted(set(verdicts))
        },
        "quality": case.against_oracle(frozen, judge),
        "rows": {
            row.name: {
                "title": row.title,
                "labels": row.labels,
                "worst_group": row.worst_group,
                "intended": float(np.mean([r.intended_accuracy for r in row.runs])),
                "spurious": float(np.mean([r.spurious_accuracy for r in row.runs])),
                "cells": np.mean([r.accuracy for r in row.runs], axis=0).tolist(),
            }
            for row in found.rows
        },
    }


def measure(case: Case, judge: Judge, methods: Sequence[Method], path: Path, cards: Callable = bare) -> dict[str, Any]:
    """One judge on one case; written to `path` (.json), the judgements beside it."""
    frozen = case.judged(judge, path.with_suffix(".judgements.jsonl"), cards)
    contest = case.contest(frozen, labelled=any(m.labels == "labelled" for m in methods))
    written = outcome_json(case, run_methods(contest, methods), frozen, judge)
    write_json(path, written)
    return written


def run_jobs(job: Callable[[Any], None], arguments: Sequence[Any], workers: int, said: str) -> None:
    """Every job once, in so many processes of one thread each; the first error ends it."""
    if workers <= 1 or len(arguments) <= 1:
        for argument in tqdm(arguments, desc=said):
            job(argument)
        return
    with ProcessPoolExecutor(workers, get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for _ in tqdm(pool.map(job, arguments), desc=said, total=len(arguments)):
            pass


def smaller(spec: BoardTaskSpec, train: int, cell: int) -> BoardTaskSpec:
    """The same task with fewer games: half of the balanced ones are for baselines that break the rules."""
    return replace(spec, train=train, test=train // 4, cell=cell)


def _finite(value: float) -> float | None:
    return None if value != value else value


def read_all(folder: Path) -> list[dict[str, Any]]:
    """All measurements of a folder, by name."""
    return [read_json(path) | {"file": path.stem} for path in sorted(folder.glob("*.json"))]
