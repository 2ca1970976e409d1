"""`kibitz shift freeze` and `score`: close the judging, and only then open the balanced set and measure."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tyro

from kibitz.shift_judges import Arbiter
from kibitz.shift_outcome import judged_json, left_out_json, row_json, rows_json, side_effects_json
from kibitz.shift_problem import ShiftError, ShiftProblem, load_prepared, reopen
from shift.baselines import ALL
from shift.baselines.scr_tpp import scr_tpp
from shift.judgements import Frozen, JudgementLog
from shift.labelled import Labelled, labelled_board
from shift.methods import CORE
from shift.run_folder import judgements_path, outcome_path, read_task, write_outcome
from shift.scoring import Ablation, Outcome, open_contest, run_methods
from shift.specs import BoardTaskSpec
from shift.tasks.concepts import board_concepts
from shift.tasks.tables import labelled_text
from shift.verdicts import Policy


@dataclass(frozen=True)
class FreezeConfig:
    """Close the judging: no verdict can be added, and the balanced set may be opened."""

    run: tyro.conf.Positional[Path]
    """a folder of `kibitz shift prepare`"""


@dataclass(frozen=True)
class ScoreConfig:
    """Open the balanced set and score the repaired classifier beside all baselines."""

    run: tyro.conf.Positional[Path]
    """a folder of `kibitz shift prepare` whose judgements are frozen"""
    ablation: Ablation = "zero"
    """what trimmed features are set to: zero, or their mean over the ambiguous prompts"""
    unsure: str = "keep"
    """how `unsure` counts: keep, trim or abstain"""
    mixed: str = "keep"
    """how `mixed` counts: keep, trim or abstain"""
    raters: str = "majority"
    """of several raters: majority, any or all have to trim"""
    by: tuple[str, ...] = ()
    """raters whose verdicts count; by default all of them"""
    labelled: int = 4000
    """labelled prompts that are not the task's, for the baselines that use some (of texts as many as the task keeps
    aside); 0 leaves these out"""
    quick: bool = False
    """only SHIFT, random features, the feature skyline and the oracle"""
    leave_one_out: int = 10
    """judgements that are taken back one by one, the strongest; 0: none, and no sites either"""
    device: str = "auto"
    seed: int = 0


def run_freeze(config: FreezeConfig) -> str:
    """The sentence to print."""
    task = read_task(config.run)
    log = JudgementLog(judgements_path(config.run), task["name"])
    if not log.standing():
        raise ShiftError(f"{config.run}: nothing has been judged yet; run kibitz shift judge {config.run}")
    frozen = log.freeze()
    return (
        f"{len({j.key for j in frozen.judgements if j.role == 'candidate'})} features are judged, and the judgements "
        f"frozen (sha256 {frozen.sha256[:12]}); score them: kibitz shift score {config.run}"
    )


def run_score(config: ScoreConfig) -> str:
    """The table to print; outcome.json is written when all is measured."""
    frozen = Frozen.read(judgements_path(config.run))  # before anything is loaded: a run that is not frozen ends here
    policy = Policy(config.unsure, config.mixed, config.raters)  # type: ignore[arg-type]  # Policy checks its words
    problem = reopen(config.run, config.device)
    said, spec = read_task(config.run), problem.source.spec
    board = spec if isinstance(spec, BoardTaskSpec) else None
    contest = open_contest(
        problem.model,
        problem.dictionaries,
        problem.task,
        load_prepared(config.run, problem),
        frozen,
        policy=policy,
        raters=config.by or None,
        labelled=labelled_prompts(problem, config.labelled),
        concepts=board_concepts(problem.model, board)[1] if board and config.labelled and not config.quick else None,
        ablation=config.ablation,
        examples=said["examples"],
        steps=said["steps"],
        seed=config.seed,
        reason=f"scoring: {', '.join(f'{name} {value}' for name, value in settings(config).items())}",
    )
    found = run_methods(contest, CORE if config.quick else ALL)
    arbiter = Arbiter(problem, config.run)
    written = {"frozen": frozen.sha256, "settings": settings(config)}
    written |= rows_json(found, contest, frozen) | judged_json(frozen, arbiter, policy)
    if not config.quick and contest.task.site in contest.dictionaries:
        scores = scr_tpp(contest)
        written["scr_tpp"] = {**asdict(scores), "scr": scores.scr}
    if config.leave_one_out:
        written["leave_one_out"] = left_out_json(contest, frozen, config.leave_one_out)
    if problem.source.kind != "classifier":  # its next-token layer means nothing
        written["side_effects"] = side_effects_json(contest, arbiter.sample)
    write_outcome(config.run, written)
    return "\n".join([*table(found), *judge_lines(written), f"Written: {outcome_path(config.run)}"])


def labelled_prompts(problem: ShiftProblem, count: int) -> Labelled | None:
    """Of a board as many as asked for, of texts those that the task keeps aside; None if none are asked for."""
    spec = problem.source.spec
    if not count:
        return None
    if isinstance(spec, BoardTaskSpec):
        return labelled_board(spec, count)
    assert problem.tokenizer is not None
    return labelled_text(spec, problem.tokenizer)


def settings(config: ScoreConfig) -> dict[str, Any]:
    """What an outcome depends on besides its run; outcome.json and the log of unsealings keep it."""
    return {name: value for name, value in asdict(config).items() if name not in ("run", "device")}


def table(found: Outcome) -> list[str]:
    """Rows as text: worst group with its interval, accuracy at both properties, the four cells."""
    wide = max(len(row.title) for row in found.rows)
    lines = [f"{'':{wide}s}{'worst group':>20s}{'intended':>10s}{'spurious':>10s}   cells"]
    for row in found.rows:
        values = row_json(row, 0)
        cells = "  ".join(f"{v:.2f}" for line in values["cells"] for v in line)
        bounds = f" [{values['worst_group_low']:.2f}, {values['worst_group_high']:.2f}]"
        lines.append(
            f"{row.title:{wide}s}{f'{row.worst_group:.2f}' + bounds:>20s}{values['intended_accuracy']:>10.2f}"
            f"{values['spurious_accuracy']:>10.2f}   {cells}"
        )
    closed = found.gap_closed("shift")
    lines.append(
        f"{found.count} features ablated; {found.error_share:.0%} of the effect is in errors; SHIFT without retraining "
        f"closes {closed:.0%} of the gap to the oracle"
    )
    return lines


def judge_lines(written: Mapping[str, Any]) -> list[str]:
    """Precision and recall of each judge, and agreement, as sentences."""
    lines = []
    for rater, q in written["judges"].items():
        numbers = {name: "undefined" if q[name] is None else f"{q[name]:.2f}" for name in ("precision", "recall")}
        lines.append(
            f"{rater}: precision {numbers['precision']}, recall {numbers['recall']} against the {q['reference']}"
        )
    lines += [
        f"{pair}: Cohen's kappa {'undefined' if k is None else f'{k:.2f}'}" for pair, k in written["kappa"].items()
    ]
    return lines
