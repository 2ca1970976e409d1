"""What a SHIFT run is about, from its options or from its folder: a model, dictionaries, a task, a classifier.

task.json keeps everything that is needed to make the same task again, and digests of the weights, so that what is
scored is what was judged.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from boardgames.dictionaries import OTHELLO_DICTIONARIES
from boardgames.lm import SHIPPED
from circuits.feature_acts import Dictionaries
from kibitz.board_words import board_game
from kibitz.evaluate import ours_below
from saes.dictionary_set import DictionarySet
from saes.digests import weights_digest
from saes.families import find_site, site_width
from saes.files import read_json, read_tensors, sha256, write_tensors
from saes.models import load_model, load_tokenizer
from saes.sites import Site
from shift.candidates import Effects, sites_before
from shift.preparing import Prepared
from shift.run_folder import RunFolderError, read_queue, read_task
from shift.specs import BoardTaskSpec, SpecError
from shift.task import ShiftTask
from shift.tasks.board import board_task
from shift.tasks.own import load_classifier, load_probe
from shift.tasks.tables import text_head, text_task
from shift.tasks.text_specs import TextTaskSpec

Spec = BoardTaskSpec | TextTaskSpec


class ShiftError(ValueError):
    """Options that do not fit together, or a run folder that no longer fits its model."""


@dataclass(frozen=True)
class Source:
    """All that a problem is made of; task.json keeps it."""

    spec: Spec
    model: str | None = None
    """None: the game model that ships, or the classifier's own"""
    dictionaries: tuple[str, ...] = ()
    """none: those that ship"""
    probe: str | None = None
    """a file with a linear probe to repair, in place of one that is fitted"""
    classifier: str | None = None
    """a transformers sequence classifier to repair"""
    labels: tuple[str, ...] = ()
    """the classifier's names of no and yes"""

    def __post_init__(self) -> None:
        board = isinstance(self.spec, BoardTaskSpec)
        ours = isinstance(self.spec, BoardTaskSpec) and self.model is None and self.spec.game == "othello"
        if self.probe is not None and self.classifier is not None:
            raise ShiftError("a probe and a classifier are both given: choose one to repair")
        if board and self.classifier is not None:
            raise ShiftError("a sequence classifier reads texts: give a task of texts")
        if len(self.labels) not in (0, 2):
            raise ShiftError(f"labels are {list(self.labels)}: give the classifier's names of no and of yes")
        if not board and self.model is None and self.classifier is None:
            raise ShiftError("a task of texts needs a model (or a classifier): name it")
        if not self.dictionaries and not ours:
            raise ShiftError("dictionaries ship for the OthelloGPT alone: name folders of dictionaries for this model")

    @property
    def kind(self) -> str:
        """As task.json calls it."""
        if self.classifier is not None:
            return "classifier"
        return "board" if isinstance(self.spec, BoardTaskSpec) else "text"

    def to_json(self) -> dict[str, Any]:
        return {
            "spec": self.spec.to_json(),
            "model": self.model,
            "dictionaries": list(self.dictionaries),
            "probe": self.probe,
            "classifier": self.classifier,
            "labels": list(self.labels),
        }

    @classmethod
    def from_json(cls, said: Mapping[str, Any]) -> "Source":
        return cls(
            spec_of(said["spec"]),
            said["model"],
            tuple(said["dictionaries"]),
            said["probe"],
            said["classifier"],
            tuple(said["labels"]),
        )

    def open(self, device: str = "auto") -> "ShiftProblem":
        """Load everything, and draw the ambiguous examples."""
        if isinstance(self.spec, BoardTaskSpec):
            return self._board(self.spec, device)
        return self._texts(self.spec, device)

    def _board(self, spec: BoardTaskSpec, device: str) -> "ShiftProblem":
        model = load_model(self.model or str(SHIPPED[spec.game]), device=device)
        if board_game(model) != spec.game:
            raise ShiftError(f"{self.model}: plays no {spec.game}, and the task is one of {spec.game}")
        site = find_site(model, spec.site)
        task = board_task(spec, site)
        return ShiftProblem(self, model, self._dictionaries(model, site), task, self._probe(model, site))

    def _texts(self, spec: TextTaskSpec, device: str) -> "ShiftProblem":
        tokenizer = load_tokenizer(self.classifier or str(self.model))
        if self.classifier is None:
            model = load_model(str(self.model), device=device)
            site, head = find_site(model, spec.site), None
        else:
            names = (self.labels[0], self.labels[1]) if self.labels else None
            own = load_classifier(self.classifier, labels=names, device=device)
            model, site, head = own.model, own.site, own.head
            spec = replace(spec, site=site.name, pooled=False)  # what the classifier itself reads
        dictionaries = self._dictionaries(model, site)
        task = text_task(spec, site, tokenizer)
        head = head or self._probe(model, site) or text_head(spec, model, task)
        return ShiftProblem(replace(self, spec=spec), model, dictionaries, task, head, tokenizer)

    def _probe(self, model: PreTrainedModel, site: Site) -> nn.Module | None:
        return None if self.probe is None else load_probe(self.probe, site_width(model, site))

    def _dictionaries(self, model: PreTrainedModel, site: Site) -> Dictionaries:
        sources = self.dictionaries or (str(OTHELLO_DICTIONARIES),)
        folders = [str(folder) for source in sources for folder in ours_below(source) or [source]]
        found = sites_before(model, DictionarySet(folders, model=model), site)
        if not found:
            raise ShiftError(f"no dictionary at or before {site}, where the classifier reads: nothing could be judged")
        return found


@dataclass(frozen=True)
class ShiftProblem:
    """A task on a model whose dictionaries are open."""

    source: Source
    model: PreTrainedModel
    dictionaries: Dictionaries
    """of the sites up to the one that is read"""
    task: ShiftTask
    head: nn.Module | None = None
    """a classifier that was given; None for one that is fitted"""
    tokenizer: PreTrainedTokenizerBase | None = None
    """of a task of texts"""

    def digests(self) -> dict[str, Any]:
        """Of all weights that the outcome hangs on, and of the file of games."""
        return {
            "model": weights_digest(self.model),
            "dictionaries": {site.name: weights_digest(d) for site, d in self.dictionaries.items()},
            "head": None if self.head is None else weights_digest(self.head),
            "games": sha256(Path(self.games)) if self.games else None,
        }

    @property
    def games(self) -> str:
        """The file that a task's games are taken from; "" where they are drawn, and for texts."""
        spec = self.source.spec
        return spec.games if isinstance(spec, BoardTaskSpec) else ""


def spec_of(values: Any) -> Spec:
    """A task of a board or of texts, which names a table; SpecError for neither."""
    if isinstance(values, Mapping) and "path" in values:
        return TextTaskSpec.from_json(values)
    return BoardTaskSpec.from_json(values)


def read_spec(path: Path) -> Spec:
    """The one task of a file; SpecError names the file."""
    values = read_json(path)
    if isinstance(values, list):
        if len(values) != 1:
            raise SpecError(f"{path}: holds {len(values)} tasks; a run is about one")
        (values,) = values
    try:
        return spec_of(values)
    except SpecError as error:
        raise SpecError(f"{path}: {error}") from None


def reopen(run: Path, device: str = "auto") -> ShiftProblem:
    """The problem of a run folder; ShiftError if the weights are others than those that were prepared."""
    said = read_task(run)
    try:
        source, digests = Source.from_json(said), said["digests"]
    except KeyError as missing:
        raise RunFolderError(f"{run / 'task.json'}: has no entry {missing}; prepare the run again") from None
    problem = source.open(device)
    if problem.task.name != said["name"]:
        raise ShiftError(
            f"{run}: was prepared for {said['name']!r}, and its files now make {problem.task.name!r}; prepare it again"
        )
    for name, then, now in _pairs(digests, problem.digests()):
        if then != now:
            raise ShiftError(f"{name}: not what {run} was prepared with; prepare it again")
    return problem


def _pairs(then: Mapping[str, Any], now: Mapping[str, Any]) -> Sequence[tuple[str, str | None, str | None]]:
    before, after = then["dictionaries"], now["dictionaries"]
    sites = [(f"dictionary at {s}", before.get(s), after.get(s)) for s in sorted({*before, *after})]
    names = {"model": "the model", "head": "the classifier that was given", "games": "the file of games"}
    return [*((words, then.get(name), now[name]) for name, words in names.items()), *sites]


def save_prepared(run: Path, prepared: Prepared) -> None:
    """head.safetensors, for a linear head, and effects.safetensors: every feature's effect on the margin."""
    if isinstance(prepared.head, nn.Linear):
        write_tensors(run / "head.safetensors", dict(prepared.head.state_dict()))
    effects = prepared.effects
    tensors = {f"features/{site.name}": values.contiguous() for site, values in effects.features.items()}
    errors = {f"error/{site.name}": torch.tensor(value, dtype=torch.float64) for site, value in effects.errors.items()}
    write_tensors(run / "effects.safetensors", {**tensors, **errors})


def load_prepared(run: Path, problem: ShiftProblem) -> Prepared:
    """What was prepared, with the candidates of the queue."""
    stored, sites = read_tensors(run / "effects.safetensors"), list(problem.dictionaries)
    effects = Effects(
        {site: stored[f"features/{site.name}"] for site in sites},
        {site: float(stored[f"error/{site.name}"]) for site in sites},
    )
    items = read_queue(run, sites)
    candidates = [c for item in items if item.role == "candidate" for c in item.group]
    head = problem.head or _fitted(read_tensors(run / "head.safetensors"))
    return Prepared(head, effects, candidates, float(read_task(run)["ambiguous_accuracy"]))


def _fitted(weights: Mapping[str, torch.Tensor]) -> nn.Linear:
    head = nn.Linear(weights["weight"].shape[1], 1, dtype=weights["weight"].dtype)
    head.load_state_dict(dict(weights))
    return head.requires_grad_(False)
