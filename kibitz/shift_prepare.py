"""`kibitz shift prepare`: fit a classifier where two properties agree, rank what it leans on, lay it out for judges."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro

from boardgames.matching import Match
from kibitz.runs import check_replaceable, run_folder
from kibitz.shift_problem import ShiftError, ShiftProblem, Source, Spec, read_spec, save_prepared
from kibitz.shift_shown import Sample
from shift.append_log import read_lines
from shift.candidates import Candidate, Effects
from shift.cards import card_json
from shift.grouping import ambiguous_activations, group_by_activation
from shift.preparing import Prepared, prepare
from shift.queue import Item, QueueConfig, queue, without_effect
from shift.run_folder import judgements_path, write_card, write_queue, write_task
from shift.specs import BoardTaskSpec
from shift.tasks.known_texts import bias_in_bios, gap_coreference, gap_gender, madlibs
from shift.tasks.questions import owners_asked
from shift.tasks.text_specs import TextTaskSpec

Known = Literal["bias-in-bios", "bias-in-bios-gemma", "madlibs", "gap-gender", "gap-coreference"]
_MORE_CONTROLS = 4  # features without effect that are looked at, for each that is wanted: some never fire


@dataclass(frozen=True)
class PrepareConfig:
    """Fit a classifier where A and B agree, rank the features it leans on, and lay them out to be judged.

    For example: kibitz shift prepare --intended "mine c3" --spurious "mine f5"
    """

    dictionaries: tyro.conf.Positional[tuple[str, ...]] = ()
    """folders of dictionaries, with others below them, or addresses on the hub; by default those that ship"""
    model: str | None = None
    """a folder, a GGUF file or a name on the hub; by default the game model that ships"""
    task: Path | None = None
    """a task in JSON, of a board (docs/shift.md) or of texts (docs/shift_text.md)"""
    known: Known | None = None
    """a task of texts that is known: bias-in-bios (from the hub; for Pythia-70m-deduped or, -gemma, Gemma-2-2B),
    madlibs or gap-* (give --table)"""
    table: str | None = None
    """of a known task: its table, where it is not on the hub"""
    intended: str = ""
    """of a board: A, what the classifier should use, such as "mine c3": c3 belongs to the side that has just moved"""
    spurious: str = ""
    """of a board: B, which agrees with A wherever the classifier is trained"""
    filters: tuple[str, ...] | None = None
    """of a board: what must hold where it is read; by default that squares whose owner is asked for are occupied"""
    site: str | None = None
    """where the classifier reads; by default resid_2 on boards, and what a known task says (docs/shift_text.md)"""
    probe: Path | None = None
    """your own linear probe on the task's site, a safetensors file with weight and bias; by default one is fitted"""
    classifier: str | None = None
    """your own sequence classifier of texts, a folder or a name on the hub: it is repaired as it is"""
    labels: tuple[str, ...] = ()
    """the classifier's names of no and yes, if it has more than two"""
    candidates: int = 60
    """features to judge, those with the largest effects of either sign"""
    examples: int = 100
    """prompts that effects are averaged over"""
    steps: int = 10
    """of integrated gradients"""
    alike: float = 0.9
    """features whose activations have this cosine are judged together"""
    repeats: float = 0.1
    """items shown a second time, for each item: does the judge agree with himself?"""
    controls: float = 0.1
    """features without effect, for each item: does the judge trim what does not matter?"""
    blind: bool = False
    """hide the matched property and the effect from whoever judges"""
    names: int = 300
    """games, or texts, on which features are shown, and of games named; none of them is the task's"""
    games: tuple[Path, ...] = ()
    """files of those games (see `kibitz games`); by default uniformly random ones"""
    device: str = "auto"
    seed: int | None = None
    """of the task, if no file describes it, and of all that is drawn; by default 0, or what a known task says"""
    out: Path = Path("runs/shift")
    """folder for the run; an earlier run there is replaced when this one is complete"""
    replace: bool = False
    """replace an earlier run even if it was judged: its judgements are lost"""

    def __post_init__(self) -> None:
        given = [self.task is not None, self.known is not None, bool(self.intended or self.spurious)]
        if sum(given) != 1:
            raise ShiftError(
                'say what the task is: --task FILE, or --known madlibs, or --intended "mine c3" --spurious "mine f5"'
            )
        if given[2] and not (self.intended and self.spurious):
            raise ShiftError("give both --intended and --spurious")
        self._check_options(board=given[2])
        for name, least in (("candidates", 1), ("examples", 2), ("steps", 1), ("names", 2)):
            if getattr(self, name) < least:
                raise ShiftError(f"{name} is {getattr(self, name)}: choose {least} or more")
        if self.draws < 0:
            raise ShiftError(f"seed is {self.seed}: choose 0 or more")

    def _check_options(self, board: bool) -> None:
        """ShiftError for an option that says nothing about the task that was asked for."""
        if self.table is None and self.known is not None and not self.known.startswith("bias-in-bios"):
            raise ShiftError(f"{self.known} needs its file: give --table")
        if self.table is not None and self.known is None:
            raise ShiftError("--table is the table of a known task: give --known")
        if self.filters is not None and not board:
            raise ShiftError("--filters are of a board: give --intended and --spurious, or write them into the task")
        if self.site is not None and self.task is not None:
            raise ShiftError(f"--site: where the classifier reads is said in {self.task}")
        if self.site is not None and self.classifier is not None:
            raise ShiftError("--site: a classifier of your own reads its last residual site")

    @property
    def draws(self) -> int:
        """The seed of all that is drawn beside the task."""
        return 0 if self.seed is None else self.seed

    def spec(self) -> Spec:
        """The task that is asked for; SpecError if it is none."""
        if self.task is not None:
            return read_spec(self.task)
        if self.known is not None:
            spec = known_task(self.known, self.table)
            site, seed = self.site or spec.site, spec.seed if self.seed is None else self.seed
            return replace(spec, site=site, seed=seed)
        filters = self.filters
        if filters is None:
            filters = tuple(f"occupied {square}" for square in owners_asked(self.intended, self.spurious))
        return BoardTaskSpec(self.intended, self.spurious, filters, site=self.site or "resid_2", seed=self.draws)

    def source(self) -> Source:
        """All that the run is made of."""
        probe = None if self.probe is None else str(self.probe)
        return Source(self.spec(), self.model, self.dictionaries, probe, self.classifier, self.labels)


def known_task(name: Known, table: str | None) -> TextTaskSpec:
    """A task of texts by its name; `table`: its file, or by default the hub's for Bias in Bios."""
    match name:
        case "bias-in-bios" | "bias-in-bios-gemma":
            return bias_in_bios("gemma" if name.endswith("gemma") else "pythia", table or "LabHC/bias_in_bios")
        case "madlibs":
            return madlibs(table or "")
        case "gap-gender":
            return gap_gender(table or "")
        case "gap-coreference":
            return gap_coreference(table or "")


def check_unjudged(run: Path) -> None:
    """ShiftError if somebody has judged the run: what he said would be lost with it."""
    path = judgements_path(run)
    if path.exists():
        count = sum(line.value.get("kind") == "judgement" for line in read_lines(path).whole)
        raise ShiftError(
            f"{run}: holds judgements ({count} so far), which would be lost; choose another --out, or give --replace"
        )


def run_prepare(config: PrepareConfig) -> str:
    """The table to print; the folder appears, or is replaced, only when all is done."""
    check_replaceable(config.out)
    if not config.replace:
        check_unjudged(config.out)
    problem = config.source().open(config.device)
    with run_folder(config.out, config, config.draws, {}) as run:
        prepared = prepare(
            problem.model,
            problem.dictionaries,
            problem.task,
            head=problem.head,
            candidates=config.candidates,
            examples=config.examples,
            steps=config.steps,
        )
        save_prepared(run, prepared)
        sample = Sample(problem, config.names, config.games, config.draws)
        items, matches = lay_out(problem, prepared, sample, config, run)
        write_task(run, _task(config, problem, prepared))
        if not config.replace:
            check_unjudged(config.out)  # judged since
    return _said(config, problem, prepared, items, matches)


def lay_out(
    problem: ShiftProblem, prepared: Prepared, sample: Sample, config: PrepareConfig, run: Path
) -> tuple[list[Item], Mapping[tuple[str, int], Match]]:
    """Write the queue and the cards; returns the items, and what their features match."""
    if not prepared.candidates:
        raise ShiftError("no feature has any effect on the classifier: nothing could be judged")
    acts = ambiguous_activations(
        problem.model, problem.dictionaries, prepared.candidates, problem.task.reading, problem.task.train
    )
    groups = group_by_activation(prepared.candidates, acts, config.alike)
    wanted = round(config.controls * len(groups))
    controls = sample.firing(_idle(prepared.effects, prepared.candidates[-1].effect, wanted, config.draws))
    share = min(config.controls, len(controls) / len(groups))
    items = queue(groups, controls, QueueConfig(repeats=config.repeats, controls=share, seed=config.draws))
    judged = [*prepared.candidates, *(item.group[0] for item in items if item.role == "control")]
    matches = sample.matches(judged)
    cards = sample.cards(judged, matches)
    write_queue(run, items)
    for item in items:
        write_card(run, item.name, card_json(cards(item.group)))
    return items, matches


def _idle(effects: Effects, least: float, wanted: int, seed: int) -> list[Candidate]:
    """Some features without effect, so many that enough of them fire somewhere."""
    every = without_effect(effects, least)
    count = min(len(every), _MORE_CONTROLS * wanted)
    return [every[i] for i in np.random.default_rng(seed).choice(len(every), count, replace=False)] if count else []


def _task(config: PrepareConfig, problem: ShiftProblem, prepared: Prepared) -> dict[str, Any]:
    task, source = problem.task, problem.source
    return {
        "name": task.name,
        "intended": task.intended,
        "spurious": task.spurious,
        "kind": source.kind,
        "game": source.spec.game if isinstance(source.spec, BoardTaskSpec) else None,
        "blind": config.blind,
        "site": task.site.name,
        **source.to_json(),
        "digests": problem.digests(),
        "ambiguous_accuracy": prepared.ambiguous_accuracy,
        "error_share": prepared.effects.error_share(),
        "examples": config.examples,
        "steps": config.steps,
        "names": config.names,
        "games": [str(path) for path in config.games],
        "seed": config.draws,
    }


def _said(
    config: PrepareConfig,
    problem: ShiftProblem,
    prepared: Prepared,
    items: Sequence[Item],
    matches: Mapping[tuple[str, int], Match],
    top: int = 12,
) -> str:
    task = problem.task
    lines = [
        f"{task.intended}, where it agrees with {task.spurious}: the classifier at {task.site} is right on "
        f"{prepared.ambiguous_accuracy:.1%} of new examples on which they agree",
        f"{len(prepared.candidates)} features to judge in {len(items)} items; "
        f"{prepared.effects.error_share():.0%} of the effect is in errors, which nobody can trim",
    ]
    if not config.blind:
        lines.append(f"{'effect':>12s}  {'feature':16s}best match")
        for c in prepared.candidates[:top]:
            match = matches.get((c.site.name, c.feature))
            said = "" if match is None else f"{match.column} (F1 {match.f1:.2f})"
            lines.append(f"{c.effect:+12.4g}  {f'{c.site.name}/{c.feature}':16s}{said}")
    lines.append(f"Run: {config.out}; judge it: kibitz shift judge {config.out}")
    return "\n".join(lines)
