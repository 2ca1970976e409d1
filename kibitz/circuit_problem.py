"""What a circuit is to explain: a model, its dictionaries, examples that find it and others that measure it, a metric.

Examples are pairs (or single prompts) from a file, docs/spans.md, or games of Othello: a square that is legal through
one line, against games that differ in one earlier move and where it is not.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch
import tyro
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from boardgames.dictionaries import OTHELLO_DICTIONARIES
from boardgames.lm import OTHELLO_GPT, BoardGame
from boardgames.othello.counterfactuals import counterfactuals
from boardgames.othello.rules import square_index, square_name
from boardgames.othello.streams import stream
from boardgames.othello.transcript import SQUARE_OF_TOKEN, GamesError
from circuits.end_points import EndPoints, Name, end_points
from circuits.examples import Examples
from circuits.feature_acts import Dictionaries
from circuits.held_out import unseen
from circuits.metrics import METRICS, Metric, with_reference
from circuits.pair_set import Pairs
from circuits.pairs import Reading, read_pairs
from circuits.span_files import given_spans
from circuits.span_rules import sentences, words
from circuits.spans import Schema
from kibitz.board_words import board_game, board_tokenizer
from kibitz.chain.circuit import as_examples
from kibitz.evaluate import ours_below
from saes.dictionary_set import DictionarySet
from saes.families import circuit_sites
from saes.models import ModelError, load_model, load_tokenizer

MetricName = Literal["logit", "logit-difference", "log-probability", "log-odds", "mask-mass", "kl"]
Cut = Literal["all", "each", "spans", "words", "sentences"]
LINES: Mapping[str, tuple[int, int]] = {
    "up": (-1, 0),
    "up-right": (-1, 1),
    "right": (0, 1),
    "down-right": (1, 1),
    "down": (1, 0),
    "down-left": (1, -1),
    "left": (0, -1),
    "up-left": (-1, -1),
}


class ProblemError(ValueError):
    """Options that do not fit together."""


@dataclass(frozen=True)
class ProblemOptions:
    """A model, dictionaries and examples."""

    dictionaries: tyro.conf.Positional[tuple[str, ...]] = ()
    """folders of dictionaries, with others below them, or addresses on the hub; by default those that ship"""
    model: str | None = None
    """a folder, a GGUF file or a name on the hub; by default the OthelloGPT that ships"""
    pairs: Path | None = None
    """clean and patch prompts, or single prompts: JSON Lines, JSON or CSV"""
    square: str | None = None
    """of Othello: explain why this square is legal, such as b4"""
    line: str | None = None
    """of Othello: the one line through which it is: up, up-right, right, ..."""
    first_ply: int = 3
    last_ply: int = 9
    """of Othello: the square is asked for after this many moves or fewer"""
    count: int = 100
    """pairs at most"""
    test: float = 0.3
    """share of the pairs that measure the circuit and do not find it"""
    places: Cut = "all"
    """what is one node: a feature at all positions together, at each, or at spans (the file's own, words, sentences)"""
    metric: MetricName | None = None
    """what is explained; by default logit-difference of pairs with answers, log-odds of a square, log-probability of
    single prompts"""
    explain: Literal["patch", "clean"] = "patch"
    """whose answer is `answer` in pairs"""
    to: Name | None = None
    """where nodes are moved: the patch prompt (default of pairs), their mean (default of single prompts), zero, or
    another prompt"""
    bos: bool | None = None
    """a BOS token before every prompt; by default where the tokenizer has one"""
    unequal: Literal["error", "skip"] = "error"
    """pairs of different token length"""
    long_answers: Literal["error", "skip"] = "error"
    """pairs with an answer of several tokens"""
    budget: float | None = None
    """GiB of dictionaries that may be in memory at once; by default all"""
    model_dtype: Literal["float32", "float64", "bfloat16"] = "float32"
    device: str = "auto"
    seed: int = 0
    """of games, of the split, and of what is drawn"""

    def __post_init__(self) -> None:
        if (self.pairs is None) == (self.square is None):
            raise ProblemError("say what to explain: --pairs FILE, or for Othello --square b4 --line down")
        if self.square is not None and self.line not in LINES:
            raise ProblemError(f"line is {self.line}: choose one of {', '.join(LINES)}")
        if self.square is not None and self.places not in ("all", "each"):
            raise ProblemError(f"places is {self.places}: games have places all or each")
        if self.square is not None and self.metric not in (None, "logit", "log-probability", "log-odds", "kl"):
            raise ProblemError(f"metric is {self.metric}: a square has log-odds, log-probability, logit or kl")
        if not 0 < self.test < 1:
            raise ProblemError(f"test is {self.test}: choose a share between 0 and 1")
        for name, least in (("count", 2), ("seed", 0), ("first_ply", 1), ("last_ply", 1)):
            if getattr(self, name) < least:
                raise ProblemError(f"{name} is {getattr(self, name)}: choose {least} or more")

    def sources(self) -> tuple[str, ...]:
        """The dictionaries' folders."""
        if self.dictionaries:
            return self.dictionaries
        if self.model is not None:
            raise ProblemError("a model other than the one that ships needs dictionaries: name their folders")
        return (str(OTHELLO_DICTIONARIES),)

    def open(self) -> "Problem":
        """Load everything; nothing is written."""
        model = load_model(self.model or str(OTHELLO_GPT), dtype=self.model_dtype, device=self.device)
        model.requires_grad_(False)
        dictionaries = open_dictionaries(model, self.sources(), self.budget)
        explained = self.explained(model)
        ends = end_points(explained.to_name, model, dictionaries, explained.finding.batches(32), self.seed)
        return Problem(**vars(explained), model=model, dictionaries=dictionaries, to=ends)

    def explained(self, model: PreTrainedModel) -> "Explained":
        """The examples and the metric."""
        finding, testing, said, shown = self._examples(model)
        metric = self.metric or ("log-odds" if self.square else _usual_metric(finding))
        if metric == "kl":
            finding, testing = with_reference(model, finding), with_reference(model, testing)
        for field_name in _NEEDS[metric]:
            if field_name not in finding.fields:
                raise ProblemError(
                    f"metric {metric} needs answers, and {said} has no {field_name}; choose another --metric"
                )
        to = self.to or ("patch" if finding.patch is not None else "mean")
        if to == "patch" and finding.patch is None:
            raise ProblemError("these prompts have no counterfactuals: choose --to mean, zero or resample")
        game = board_game(model)
        return Explained(finding, testing, METRICS[metric](), metric, to, said, shown, game)

    def _examples(self, model: PreTrainedModel) -> "tuple[Examples, Examples, str, Words]":
        if self.pairs is None:
            return self._games(model)
        tokenizer = self._tokenizer(model)
        pairs = read_pairs(
            self.pairs, tokenizer, Reading(bos=self.bos, unequal=self.unequal, long_answers=self.long_answers)
        )
        pairs = replace(pairs, pairs=pairs.pairs[: self.count])
        train, test = pairs.split(self.test, self.seed)
        if not len(train) or not len(test):
            raise ProblemError(
                f"{self.pairs}: {len(pairs)} pairs are too few to split; add some, or choose another --test"
            )
        schema = _schema(pairs, self.places)
        finding, testing = (self._made(part, pairs, schema, model.config.vocab_size) for part in (train, test))
        for tokens in (t for part in (finding, testing) for t in (part.clean, part.patch) if t is not None):
            if int(tokens.max()) >= model.config.vocab_size:
                raise ProblemError(f"{self.pairs}: a prompt holds text that the model has no token for")
        left = "".join(f"; left out {n} with {why}" for why, n in pairs.skipped.items())
        return finding, testing, f"{self.pairs.name}{left}", partial(_text, tokenizer)

    def _tokenizer(self, model: PreTrainedModel) -> PreTrainedTokenizerBase:
        """The one beside the model; board models have none, and their moves are written as text."""
        try:
            return load_tokenizer(self.model or str(OTHELLO_GPT))
        except ModelError:
            game = board_game(model)
            if game is None:
                raise
            return board_tokenizer(game)

    def _made(self, part: Pairs, whole: Pairs, schema: Schema | None, vocabulary: int) -> Examples:
        number = {id(pair): i for i, pair in enumerate(whole.pairs)}
        own = None if schema is None else schema.take(torch.tensor([number[id(pair)] for pair in part.pairs]))
        several: Literal["mask", "error"] = "mask" if self.metric == "mask-mass" else "error"
        made = part.examples(own, explain=self.explain, several=several, vocabulary=vocabulary)
        return made.by_position() if self.places == "each" else made

    def _games(self, model: PreTrainedModel) -> "tuple[Examples, Examples, str, Words]":
        assert self.square is not None and self.line is not None
        if model.config.vocab_size != len(SQUARE_OF_TOKEN):
            raise GamesError(f"{self.model}: is no model of Othello; give --pairs")
        drawn = counterfactuals(
            self.count, square_index(self.square), LINES[self.line], stream("circuit", self.seed),
            first_ply=self.first_ply, last_ply=self.last_ply,
        )  # fmt: skip
        every = as_examples(drawn)
        if self.places == "each":
            every = every.by_position()
        held = max(1, round(self.test * len(every)))
        finding = every.take(torch.arange(len(every) - held))
        testing = unseen(every.take(torch.arange(len(every) - held, len(every))), finding)
        said = f"{self.square} is legal through the line {self.line} alone"
        return finding, testing, said, _squares


Words = Callable[[torch.Tensor], list[str]]


@dataclass(frozen=True)
class Explained:
    """What a circuit is to explain, and on which examples it is found and measured."""

    finding: Examples
    testing: Examples
    metric: Metric
    metric_name: str
    to_name: Name
    said: str
    words: Words = field(repr=False)
    """tokens of a prompt as people read them"""
    game: BoardGame | None
    """what the model plays, if it is a board model"""


@dataclass(frozen=True)
class Problem(Explained):
    """All that finding and measuring a feature circuit needs."""

    model: PreTrainedModel
    dictionaries: Dictionaries
    to: EndPoints


_NEEDS = {
    "logit": ["answer"],
    "logit-difference": ["answer", "other"],
    "log-probability": ["answer"],
    "log-odds": ["answer"],
    "mask-mass": ["tokens"],
    "kl": [],
}


def open_dictionaries(model: PreTrainedModel, sources: tuple[str, ...], budget: float | None = None) -> Dictionaries:
    """Dictionaries by their sites, in forward order, read when they are needed; ProblemError for sites of no circuit.

    A source is an address on the hub, a folder of another tool, or a folder with ours anywhere below it.
    `budget`: GiB of weights that may be in memory at once.
    """
    folders = [str(folder) for source in sources for folder in ours_below(source) or [source]]
    found = DictionarySet(folders, model=model, budget_bytes=None if budget is None else int(budget * 2**30))
    order = circuit_sites(model)
    strange = [site.name for site in found if site not in order]
    if strange:
        raise ProblemError(f"dictionary at {strange[0]}: circuits have embed, attn_i, mlp_i and resid_i")
    if order[-1] not in found:
        raise ProblemError(f"no dictionary at {order[-1]}: a circuit needs one there, where all paths end")
    return found


def _usual_metric(examples: Examples) -> MetricName:
    return "logit-difference" if "other" in examples.fields else "log-probability"


def _schema(pairs: Pairs, places: Cut) -> Schema | None:
    if places in ("all", "each"):
        return None
    if places == "spans":
        return given_spans(pairs)
    if places == "sentences":
        return pairs.cut(sentences)
    texts, patches = ([prompt.text or "" for prompt in side] for side in (pairs.clean, pairs.patch))
    return pairs.cut(words(texts, patches))


def _text(tokenizer: PreTrainedTokenizerBase, tokens: torch.Tensor) -> list[str]:
    return [str(tokenizer.decode([token])) for token in tokens.tolist()]


def _squares(tokens: torch.Tensor) -> list[str]:
    return [square_name(int(SQUARE_OF_TOKEN[token])) for token in tokens.tolist()]
