"""What scripts/shift_ground_truth.py measures, one job for each file of results; jobs run in processes of their own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from boardgames.dictionaries import load_dictionaries
from saes.files import read_json, write_json
from shift.baselines import ALL
from shift.board_cards import OthelloBoards
from shift.cards import bare
from shift.concept_oracle import ConceptOracle, outside_share
from shift.feature_cards import FeatureCards
from shift.heuristics import OneSquare, StrongestHalf
from shift.leave_one_out import leave_one_judgement_out, leave_one_site_out, readout_site_only, upstream_only
from shift.methods import CORE, Method
from shift.specs import BoardTaskSpec
from shift.tasks.readability import token_readability
from shift.trim import Cells
from shift_truth.dictionaries import DictionarySet
from shift_truth.study import Case, Names, NoisyJudge, StudySettings, World, measure, smaller

COMPARED = ("original", "shift", "shift_retrained", "oracle")
PLAIN = ("original", "shift", "shift_mean", "shift_retrained", "oracle")
RECALLS, PRECISIONS = (1.0, 0.75, 0.5, 0.25), (1.0, 0.5, 0.25)


@dataclass(frozen=True)
class Sizes:
    """How large the tasks of each part are, and what is measured on them."""

    settings: StudySettings
    quick: StudySettings
    """where many sets of dictionaries are compared"""
    train: int
    cell: int
    quick_train: int
    quick_cell: int
    compared_tasks: int
    whole_pairs: int
    """pairs on which every method is run; it is on all other families"""
    noisy_tasks: int
    left_out_tasks: int
    left_out_judgements: int


SIZES = {
    "small": Sizes(
        settings=StudySettings(candidates=50, examples=30, steps=4, labelled=1000),
        quick=StudySettings(candidates=40, examples=40, steps=4, labelled=600),
        train=4000,
        cell=200,
        quick_train=4000,
        quick_cell=200,
        compared_tasks=6,
        whole_pairs=20,
        noisy_tasks=4,
        left_out_tasks=2,
        left_out_judgements=10,
    ),
    "paper": Sizes(
        settings=StudySettings(candidates=100, labelled=4000),
        quick=StudySettings(candidates=100),
        train=4000,
        cell=1000,
        quick_train=4000,
        quick_cell=1000,
        compared_tasks=100,
        whole_pairs=100,
        noisy_tasks=20,
        left_out_tasks=10,
        left_out_judgements=50,
    ),
}


@dataclass(frozen=True)
class Job:
    """One part of the study for one task (or one set of dictionaries)."""

    part: str
    run: Path
    sizes: Sizes
    specs: tuple[BoardTaskSpec, ...]
    folder: Path | None = None
    """of the set of dictionaries; the one that ships if None"""
    whole: bool = False
    """whether every method is run"""

    def file(self, spec: BoardTaskSpec, judge: str) -> Path:
        """Where the measurement goes; the tasks of a part are told apart by what they ask and their seed."""
        words = f"{spec.intended} {spec.spurious} {spec.seed}".replace(" ", "-")
        folder = "shipped" if self.folder is None else f"{self.folder.parent.name}_{self.folder.name}"
        return self.run / self.part / folder / f"{words}.{judge}.json"


@lru_cache(maxsize=2)
def _world(settings: StudySettings) -> World:
    return World(settings)


@lru_cache(maxsize=2)
def _names(settings: StudySettings, folder: Path | None) -> Names:
    world = _world(settings)
    if folder is None:
        return Names(world, load_dictionaries(world.model))
    return Names(world, DictionarySet(folder, read_json(folder / "record.json")).load(world.model))


def _methods(names: Sequence[str]) -> list[Method]:
    return [m for m in CORE if m.name in names]


def battery(job: Job) -> None:
    """Four judges and the same candidates judged for the opposite task; where the job says so, every method.

    Every method is run on what the causal oracle trims: it has the labelled prompts that some of them use.
    """
    (spec,) = job.specs
    sizes = job.sizes
    done = job.file(spec, "case")
    if done.exists():
        return
    world, names = _world(sizes.settings), _names(sizes.settings, job.folder)
    case = Case.of(world, smaller(spec, sizes.train, sizes.cell), names)
    few = _methods(PLAIN)
    measure(case, case.concept_oracle(), _methods((*PLAIN, "random")), job.file(spec, "concept"))
    measure(case, case.causal_oracle(), ALL if job.whole else CORE, job.file(spec, "causal"))
    candidates = case.prepared.candidates
    measure(case, StrongestHalf(candidates), few, job.file(spec, "strongest-half"))
    cards = FeatureCards(
        world.model, case.dictionaries, candidates, OthelloBoards(world.positions), seed=world.settings.seed
    )
    measure(case, OneSquare(), few, job.file(spec, "one-square"), cards)
    about = world.about(spec.intended), world.about(spec.spurious)
    if not about[0] <= about[1]:
        turned = ConceptOracle(case.matches, world.depends, about[1], about[0])
        turned.name = "concept oracle, roles exchanged"
        measure(case, turned, few, job.file(spec, "turned"))
    write_json(
        done,
        {
            "task": spec.to_json(),
            "outside": outside_share(candidates, case.matches, world.depends, *about),
            "readability": token_readability(spec).best,
        },
    )


def compare(job: Job) -> None:
    """Many tasks on one set of dictionaries, judged by the concept oracle and by the causal one."""
    sizes = job.sizes
    for spec in job.specs:
        if job.file(spec, "causal").exists():  # the last of the two
            continue
        small = smaller(spec, sizes.quick_train, sizes.quick_cell)
        case = Case.of(_world(sizes.quick), small, _names(sizes.quick, job.folder))
        measure(case, case.concept_oracle(), _methods(COMPARED), job.file(spec, "concept"))
        measure(case, case.causal_oracle(), _methods(COMPARED), job.file(spec, "causal"))


def noise(job: Job) -> None:
    """The causal oracle made worse, by recall and by precision."""
    (spec,) = job.specs
    sizes = job.sizes
    todo = [(r, p) for r in RECALLS for p in PRECISIONS if not job.file(spec, f"recall-{r:g}-precision-{p:g}").exists()]
    if not todo:
        return
    case = Case.of(
        _world(sizes.settings), smaller(spec, sizes.train, sizes.quick_cell), _names(sizes.settings, job.folder)
    )
    oracle, candidates = case.causal_oracle(), case.prepared.candidates
    trims = {(c.site.name, c.feature) for c in candidates if oracle(bare((c,))).verdict == "trim"}
    for recall, precision in todo:
        judge = NoisyJudge(trims, candidates, recall, precision, spec.seed)
        measure(case, judge, _methods(PLAIN), job.file(spec, f"recall-{recall:g}-precision-{precision:g}"))


def left_out(job: Job) -> None:
    """What each site and each of the strongest judgements is worth, of what the causal oracle trims."""
    (spec,) = job.specs
    path, sizes = job.file(spec, "causal"), job.sizes
    if path.exists():
        return
    case = Case.of(_world(sizes.settings), smaller(spec, sizes.train, sizes.cell), _names(sizes.settings, job.folder))
    frozen = case.judged(case.causal_oracle(), path.with_suffix(".judgements.jsonl"))
    contest = case.contest(frozen, labelled=False)
    rows: list[tuple[str, Cells]] = [
        ("nothing", contest.scored()),
        ("all that was judged irrelevant", contest.scored(edits=contest.edits(contest.trimmed))),
        ("only at the site that is read", readout_site_only(contest)),
        ("only at sites before it", upstream_only(contest)),
    ]
    parts = [*leave_one_site_out(contest), *leave_one_judgement_out(contest, frozen, sizes.left_out_judgements)]
    names = {f"{site}/{f}": match.column for (site, f), match in case.matches.items()}
    rows += [(f"all but {_named(left.part.name, names)}", left.cells) for left in parts]
    numbers = [
        {"name": name, "worst_group": c.worst_group, "intended": c.intended_accuracy, "spurious": c.spurious_accuracy}
        for name, c in rows
    ]
    write_json(path, {"task": case.spec.to_json(), "rows": numbers})


def _named(part: str, names: Mapping[str, str]) -> str:
    """With what the feature matches."""
    return f"{part} ({names[part]})" if part in names else part


PARTS = {"battery": battery, "dictionaries": compare, "noise": noise, "left_out": left_out}
