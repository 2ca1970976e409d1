"""SHIFT from the classifier to the outcome, with its baselines: what a run reports."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from torch import nn
from transformers import PreTrainedModel

from circuits.feature_acts import Dictionaries
from shift.candidates import Candidate, Effects, chosen_features, margin_effects, sites_before
from shift.judge import Judge
from shift.judgements import Frozen, JudgementLog
from shift.probe import fit_head, predict, readout
from shift.task import ShiftTask
from shift.trim import Cells, mean_features, random_features, score, trimming_edits


@dataclass(frozen=True)
class Prepared:
    """All that a judge may see: the classifier and what it leans on."""

    head: nn.Linear
    effects: Effects
    candidates: list[Candidate]
    ambiguous_accuracy: float


@dataclass(frozen=True)
class Outcome:
    """Cells of every variant, in the order of a table; `skyline` and `oracle` have seen the balanced labels."""

    before: Cells
    after: Cells
    retrained: Cells
    random: list[Cells]
    skyline: Cells
    oracle: Cells
    trimmed: int
    error_share: float


def prepare(
    model: PreTrainedModel,
    dictionaries: Dictionaries,
    task: ShiftTask,
    *,
    candidates: int = 60,
    examples: int = 100,
    steps: int = 10,
    progress: bool = True,
) -> Prepared:
    """Train the head on the ambiguous set and rank the features of all sites up to its own."""
    data = task.train
    head = fit_head(readout(model, task.site, data.tokens, data.position), data.label)
    answers = predict(head, readout(model, task.site, task.test.tokens, task.test.position))
    effects = margin_effects(
        model,
        sites_before(model, dictionaries, task.site),
        head,
        task.site,
        data.tokens[:examples],
        data.position[:examples],
        data.label[:examples],
        steps=steps,
        progress=progress,
    )
    return Prepared(head, effects, effects.strongest(candidates), float((answers == task.test.label).float().mean()))


def judge_all(prepared: Prepared, judge: Judge, path: Path, task: ShiftTask) -> Frozen:
    """Have every candidate judged and freeze the verdicts."""
    log = JudgementLog(path, task.name)
    for candidate in prepared.candidates:
        log.add(judge(candidate))
    return log.freeze()


def outcome(
    model: PreTrainedModel,
    dictionaries: Dictionaries,
    task: ShiftTask,
    prepared: Prepared,
    frozen: Frozen,
    *,
    random_draws: int = 3,
    examples: int = 100,
    steps: int = 10,
    ablation: Literal["zero", "mean"] = "zero",
    seed: int = 0,
    progress: bool = True,
) -> Outcome:
    """Open the balanced set and score the classifier before and after trimming, retrained, and against baselines.

    Trimmed features are set to zero, as in the paper, or to their mean over the ambiguous prompts.
    """
    data = task.balanced.open(frozen, "scoring")
    upstream = sites_before(model, dictionaries, task.site)
    trimmed = frozen.trimmed()
    count = sum(len(index) for index in trimmed.values())
    values = mean_features(model, upstream, task.train) if ablation == "mean" else None
    edits = trimming_edits(upstream, trimmed, values)
    refit = fit_head(readout(model, task.site, task.train.tokens, task.train.position, edits), task.train.label)
    rng = np.random.default_rng(seed)
    draws = [
        trimming_edits(upstream, random_features(trimmed, prepared.effects.features, rng), values)
        for _ in range(random_draws)
    ]
    spread = slice(None, None, max(1, len(data.train.tokens) // examples))  # the cells lie one after the other
    spurious = margin_effects(
        model,
        upstream,
        prepared.head,
        task.site,
        data.train.tokens[spread],
        data.train.position[spread],
        data.train.spurious[spread],
        steps=steps,
        progress=progress,
    )
    best = chosen_features(spurious.most_relied_on(count))
    skyline = trimming_edits(upstream, {s.name: index.tolist() for s, index in best.items()}, values)
    oracle = fit_head(readout(model, task.site, data.train.tokens, data.train.position), data.train.intended)
    return Outcome(
        before=score(model, prepared.head, task.site, data.test),
        after=score(model, prepared.head, task.site, data.test, edits),
        retrained=score(model, refit, task.site, data.test, edits),
        random=[score(model, prepared.head, task.site, data.test, draw) for draw in draws],
        skyline=score(model, prepared.head, task.site, data.test, skyline),
        oracle=score(model, oracle, task.site, data.test),
        trimmed=count,
        error_share=prepared.effects.error_share(),
    )
