"""SHIFT on real text with a small language model: is a sentence bad, where all bad ones are about one group of people?

    python scripts/shift_text.py --model stories260K --table bias_madlibs_77k.csv

Trains TopK dictionaries on texts of the table that stand in no set, prepares, lets the word judge trim what fires on
identity terms, freezes, and scores every method. Writes docs/results/shift_text.json and shift_text.md; seeds that
stand in the run's folder are not measured again, and a folder whose seeds are of another recipe is refused.
"""

import itertools
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from boardgame_sweep.training import IDENTITY, check_same
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from circuits.intervals import interval
from kibitz.runs import plain
from kibitz.scored import markdown
from saes.buffer import ActivationBuffer
from saes.dictionary import Dictionary
from saes.digests import weights_digest
from saes.evaluation import evaluate
from saes.families import find_site, site_width
from saes.files import FileError, read_json, sha256, write_json, write_text
from saes.models import load_model, load_tokenizer
from saes.recipes import Member, trainer_for
from saes.sites import Site
from saes.trainer import TrainConfig
from saes.training import train
from shift.baselines import ALL
from shift.preparing import prepare
from shift.scoring import judge_all, open_contest, run_methods
from shift.tasks.known_texts import madlibs
from shift.tasks.prompts import text_start, tokenise
from shift.tasks.tables import labelled_text, naming_rows, text_task
from shift.tasks.text_specs import TextTaskSpec
from shift.trim import Cells
from shift.word_judge import WordJudge

RESAMPLES = 1000
ELSEWHERE = ("table", "model", "run", "out")
"""entries of the recipe that say where things are"""


@dataclass(frozen=True)
class Recipe:
    table: Path
    """bias_madlibs_77k.csv of conversationai/unintended-ml-bias-analysis"""
    model: str
    """a folder, a GGUF file or a name on the hub; the document's numbers are of stories260K (karpathy/tinyllamas)"""
    site: str = "resid_2"
    """what the classifier reads, as a mean over the text"""
    dictionaries: tuple[str, ...] = ("embed", "resid_1", "resid_2")
    """sites with a dictionary"""
    expansion: int = 8
    k: int = 8
    training: TrainConfig = field(default_factory=lambda: TrainConfig(steps=800, learning_rate=3e-3))
    batch_size: int = 512
    texts: int = 6000
    """texts that dictionaries learn from"""
    candidates: int = 100
    labelled: int = 1000
    """texts that stand in no set, for the baselines that use labels"""
    seeds: int = 3
    """of which rows are drawn, and where dictionaries start"""
    run: Path = Path("runs/shift_text")
    out: Path = Path("docs/results/shift_text")


def main(recipe: Recipe) -> None:
    model, tokenizer = load_model(recipe.model, device="cpu"), load_tokenizer(recipe.model)
    check_recipe(recipe, model)
    found = []
    for seed in range(recipe.seeds):
        file = recipe.run / str(seed) / "result.json"
        if not file.exists():
            write_json(file, _seed(recipe, model, tokenizer, seed))
        found.append(read_json(file))
    rows = [_row(of_method) for of_method in by_method(found)]
    result = {
        "model": Path(recipe.model).name,
        "table": recipe.table.name,
        "recipe": {k: v for k, v in asdict(recipe).items() if k not in ELSEWHERE},
        "seeds": [{k: v for k, v in run.items() if k != "rows"} for run in found],
        "rows": rows,
    }
    write_json(recipe.out.with_suffix(".json"), result)
    write_text(recipe.out.with_suffix(".md"), _document(result))
    print(recipe.out.with_suffix(".md").read_text())


def check_recipe(recipe: Recipe, model: PreTrainedModel) -> None:
    """FileError unless the seeds of the run's folder, if any, were measured with this recipe, model and table."""
    if not (recipe.run / IDENTITY).exists() and any(recipe.run.glob("*/result.json")):
        raise FileError(f"{recipe.run}: does not say how its seeds were measured; choose another --run or delete it")
    settings = {k: v for k, v in asdict(recipe).items() if k not in (*ELSEWHERE, "seeds")}
    check_same(recipe.run, {**plain(settings), "model": weights_digest(model), "table": sha256(recipe.table)})


def by_method(found: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """The rows of each method, one for each seed that has it."""
    names = dict.fromkeys(row["name"] for run in found for row in run["rows"])
    return [[row for run in found for row in run["rows"] if row["name"] == name] for name in names]


def _seed(recipe: Recipe, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, seed: int) -> dict[str, Any]:
    """Everything for one draw of rows."""
    spec = replace(madlibs(str(recipe.table), recipe.site, labelled=recipe.labelled), seed=seed)
    task = text_task(spec, find_site(model, recipe.site), tokenizer)
    texts = naming_rows(spec, recipe.texts)
    dictionaries, quality = _dictionaries(recipe, model, tokenizer, spec, texts, seed)
    prepared = prepare(model, dictionaries, task, candidates=recipe.candidates)
    shutil.rmtree(recipe.run / str(seed), ignore_errors=True)
    judge = WordJudge(model, dictionaries, prepared.candidates, spec, tokenizer, texts[:2000])
    frozen = judge_all(prepared, judge, recipe.run / str(seed) / "judgements.jsonl", task)
    labelled = labelled_text(spec, tokenizer)
    contest = open_contest(model, dictionaries, task, prepared, frozen, labelled=labelled, seed=seed, progress=False)
    result = run_methods(contest, ALL)
    return {
        "task": task.name,
        "ambiguous_accuracy": prepared.ambiguous_accuracy,
        "error_share": result.error_share,
        "trimmed": {name: len(index) for name, index in result.trimmed.items()},
        "dictionaries": quality,
        "rows": [
            {
                "name": r.name,
                "title": r.title,
                "labels": r.labels,
                "runs": [
                    {
                        "accuracy": c.accuracy.tolist(),
                        "examples": c.examples.tolist(),
                        "spurious": c.spurious_accuracy,
                    }
                    for c in r.runs
                ],
            }
            for r in result.rows
        ],
    }


def _dictionaries(
    recipe: Recipe,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    spec: TextTaskSpec,
    texts: Sequence[str],
    seed: int,
) -> tuple[Mapping[Site, Dictionary], dict[str, Any]]:
    """TopK dictionaries of the sites, and how good they are on texts kept aside."""
    sites = [find_site(model, name) for name in recipe.dictionaries]
    tokens, position = tokenise(spec, tokenizer, texts)
    at = torch.arange(tokens.shape[1])
    mask = (at >= text_start(spec, tokenizer)) & (at <= position[:, None])
    aside = len(texts) // 10
    buffer = ActivationBuffer(
        model, sites, tokens[aside:], mask[aside:], batch_size=recipe.batch_size, rows_per_refill=1024, seed=seed
    )
    trainers = {}
    for site in sites:
        width = site_width(model, site)
        trainers[site] = trainer_for(
            "topk",
            [Member(k=recipe.k, seed=seed)],
            recipe.training,
            [site],
            width=width,
            features=recipe.expansion * width,
        )
    made = train(trainers, buffer)
    quality = {s.name: asdict(evaluate(model, d, tokens[:aside], mask[:aside])) for s, d in made.items()}
    return made, quality


def _row(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One method over the seeds: means over seeds and runs; the interval resamples seeds, and examples within cells."""
    rng = np.random.default_rng(0)
    runs = [[Cells(np.array(c["accuracy"]), c["spurious"], np.array(c["examples"])) for c in r["runs"]] for r in rows]
    drawn = np.stack([np.mean([_resampled(c, rng) for c in cells], 0) for cells in runs])
    picked = rng.integers(len(rows), size=(len(rows), RESAMPLES))
    means = drawn[picked, np.arange(RESAMPLES)].mean(0)
    cells = [c for each in runs for c in each]
    worst = float(np.mean([np.mean([c.worst_group for c in each]) for each in runs]))
    return {
        **{name: rows[0][name] for name in ("name", "title", "labels")},
        "seeds": len(rows),
        "worst_group": asdict(interval(worst, means)),
        "intended": float(np.mean([c.intended_accuracy for c in cells])),
        "spurious": float(np.mean([c.spurious_accuracy for c in cells])),
        "cells": np.mean([c.accuracy for c in cells], 0).tolist(),
    }


def _resampled(cells: Cells, rng: np.random.Generator) -> np.ndarray:
    """The worst group in each resample of the examples within cells."""
    drawn = rng.binomial(cells.examples, cells.accuracy, (RESAMPLES, 2, 2)) / cells.examples
    return drawn.min((1, 2))


def _document(result: Mapping[str, Any]) -> str:
    seeds, recipe = result["seeds"], result["recipe"]
    cells = list(itertools.product((0, 1), (0, 1)))
    table = markdown(
        ["method", "labels", "worst group", "bad", "identity", "cells 00 01 10 11"],
        [
            [
                row["title"] + ("" if row["seeds"] == len(seeds) else f" ({row['seeds']} of the seeds)"),
                row["labels"],
                "{value:.3f} [{low:.3f}, {high:.3f}]".format(**row["worst_group"]),
                f"{row['intended']:.3f}",
                f"{row['spurious']:.3f}",
                " ".join(f"{row['cells'][a][b]:.2f}" for a, b in cells),
            ]
            for row in result["rows"]
        ],
    )
    sites = markdown(
        ["dictionary", "L0", "variance explained", "alive", "trimmed"],
        [
            [
                name,
                *(
                    f"{np.mean([s['dictionaries'][name][k] for s in seeds]):.3g}"
                    for k in ("l0", "variance_explained", "alive")
                ),
                f"{np.mean([s['trimmed'].get(name, 0) for s in seeds]):.1f}",
            ]
            for name in recipe["dictionaries"]
        ],
    )
    group = {row["name"]: row["worst_group"]["value"] for row in result["rows"]}
    closed = {
        name: (value - group["original"]) / (group["oracle"] - group["original"]) for name, value in group.items()
    }
    return f"""# SHIFT on text

Written by `python scripts/shift_text.py --model {result["model"]} --table {result["table"]}`; all numbers are in
shift_text.json beside this file.

The classifier should tell whether a sentence such as "Joe is a kind muslim" is bad. Where it is trained, all bad ones
name a sexuality or gender identity and all others a religion (shift/tasks/known_texts.py says why these). It reads the
mean of {recipe["site"]} of {result["model"]} over the text and is right on
{np.mean([s["ambiguous_accuracy"] for s in seeds]):.1%} of ambiguous texts that it was not fitted on. Of the
{recipe["candidates"]} features with the largest effect the word judge trims those that fire at least twice as strongly
on the words of one list as on those of the other and on the rest of the text. Rows and dictionaries are drawn anew
for each seed ({len(seeds)} in all); {np.mean([s["error_share"] for s in seeds]):.0%} of the absolute effect is in
error nodes.

SHIFT closes {closed["shift"]:.0%} of the gap from the original's worst group to the oracle's; with the features set to
their mean {closed["shift_mean"]:.0%}, with the head fitted again {closed["shift_retrained"]:.0%}. Deleting the words of
the two lists, which are all there is to this cue, closes {closed["words_deleted"]:.0%}; with {recipe["labelled"]}
labelled texts that stand in no set LEACE closes {closed["leace"]:.0%}, last-layer retraining
{closed["last_layer"]:.0%}.

{table}

Worst group: the least accuracy of the four cells, mean over seeds, with a 95 % bootstrap interval over seeds and over
examples within cells. Bad, identity: accuracy at the intended and at the spurious property. Cells: not bad and
religion, not bad and sexuality, bad and religion, bad and sexuality.

{sites}

TopK dictionaries, k = {recipe["k"]}, {recipe["expansion"]} features for each dimension, learned from
{recipe["texts"]} texts of the table that stand in no set of the task.
"""


if __name__ == "__main__":
    try:
        main(tyro.cli(Recipe))
    except FileError as error:
        raise SystemExit(str(error)) from None
