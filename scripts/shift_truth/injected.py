"""The planted rule as a study: dictionaries that fit the fine-tuned model, and what SHIFT does to the shortcut."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from boardgame_sweep.data import othello_parts
from boardgame_sweep.training import check_same
from transformers import PreTrainedModel

from boardgames.dictionaries import load_dictionaries
from boardgames.lm import OTHELLO_INJECTED, load_othello_gpt
from boardgames.othello.planted_rule import SHIPPED_RULE, PlantedRule
from boardgames.report import Positions
from kibitz.runs import plain
from saes.architectures import AffineDictionary
from saes.digests import weights_digest
from saes.evaluation import evaluate_all
from saes.families import find_site
from saes.files import read_json, write_json
from saes.samples import in_batches
from saes.sites import Site
from shift.tasks.injected import InjectedScale, injected_study, rule_games
from shift_truth.dictionaries import SetScale, train_sets

SITES = ("resid_0", "resid_1", "resid_2", "resid_3")
"""the metric is on the logits, so the last block counts too"""
STUDY = "study.json"
FITS = 0.9
"""variance explained from which dictionaries of the shipped model are good enough for a fine-tune of it"""


def study(
    scale: SetScale, run: Path, injected: InjectedScale | None = None, weights: Path = OTHELLO_INJECTED
) -> dict[str, Any]:
    """What the study found, with the fit of the dictionaries; each part is kept in `run` and made once.

    A study of other weights, sizes or dictionaries is refused (FileError).
    """
    file = run / STUDY
    check_same(run, study_identity(scale, injected, weights))
    if not file.exists():
        rule = SHIPPED_RULE
        masked, unmasked = (load_othello_gpt(weights / name) for name in ("masked", "unmasked"))
        for model in (masked, unmasked):
            model.requires_grad_(False)
        shipped = variance_explained(masked, _shipped(masked), rule)
        found: dict[str, Any] = {"shipped dictionaries": shipped}
        if min(shipped.values()) >= FITS:
            chosen = {"the shipped ones": _shipped(masked)}
        else:
            chosen = _own(masked, scale, run, rule)
        write_json(
            file,
            found
            | {
                name: {
                    "variance_explained": variance_explained(masked, dictionaries, rule),
                    **injected_study(masked, unmasked, dictionaries, rule, injected).to_json(),
                }
                for name, dictionaries in chosen.items()
            },
        )
    return read_json(file)


def study_identity(
    scale: SetScale, injected: InjectedScale | None = None, weights: Path = OTHELLO_INJECTED
) -> dict[str, Any]:
    """What the study depends on: both models, the dictionaries that ship, and sizes."""
    models = {name: load_othello_gpt(weights / name) for name in ("masked", "unmasked")}
    digests = {name: weights_digest(model) for name, model in models.items()}
    shipped = {site.name: weights_digest(d) for site, d in _shipped(models["masked"]).items()}
    return {
        **digests,
        "dictionaries": shipped,
        "scale": plain(scale),
        "injected": plain(injected or InjectedScale()),
        "rule": plain(SHIPPED_RULE),
    }


def _shipped(model: PreTrainedModel) -> dict[Site, AffineDictionary]:
    return load_dictionaries(model, sites=[find_site(model, name) for name in SITES])


def _own(
    model: PreTrainedModel, scale: SetScale, run: Path, rule: PlantedRule
) -> dict[str, Mapping[Site, AffineDictionary]]:
    """p-annealed sets of the first seed for the fine-tuned model, trained on games of the player with the rule."""
    own = replace(scale, training=replace(scale.training, seeds=scale.training.seeds[:1]))
    parts = othello_parts(-(-own.training.tokens // 58), own.split, rule=rule)
    sets = train_sets(model, own, run / "dictionaries", ("p_anneal",), SITES, parts)
    return {found.name: found.load(model) for found in sets}


@torch.no_grad()
def variance_explained(
    model: PreTrainedModel, dictionaries: Mapping[Site, AffineDictionary], rule: PlantedRule, games: int = 200
) -> dict[str, float]:
    """Of every site, on games of the player with the rule."""
    positions = Positions(rule_games(rule, games, "injected_names", 0))
    batches = list(in_batches(positions.tokens, torch.from_numpy(positions.mask), 64))
    found = evaluate_all(model, list(dictionaries.values()), batches)
    return {site.name: e.quality.variance_explained for site, e in zip(dictionaries, found, strict=True)}
