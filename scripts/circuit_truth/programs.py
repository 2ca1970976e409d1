"""Seven programs to plant, each with random features, strengths and distractors, and the pairs of prompts that test it.

Every program is a behaviour with one kind of difficulty for a method:

* chain: token -> MLP -> MLP -> logit; the counterfactual takes the token's attribute away;
* and: two attributes, of which the clean prompt lacks one: the gate is closed, its slope at the clean prompt is 0;
* or: the clean prompt has both attributes, each of which is enough; alone neither can be missed, its slope is 0;
* inhibition: the counterfactual adds an attribute that closes a gate, and one that speaks for the other answer;
* backup: a neuron steps in when the attribute of the first goes missing (in half of the pairs its own goes, too);
* previous: a head copies an attribute from the token before, an MLP joins it with one of the last token;
* induction: a previous-token head, and a head that finds the token behind the last token's earlier occurrence: the
  counterfactual changes what the last token asks for (q), the earlier tokens (k), or what stands behind them (v).

Distractors: attributes that come with the cause, neurons and heads that read anything, the causes among it, and write
what nothing on the way to the metric reads.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuit_truth.plants import ANSWER, OTHER, Plant, plant
from circuit_truth.wiring import BLOCKS, LENGTH, Head, Neuron, Wiring, previous
from circuits.examples import Examples

ATTRIBUTES = 12
TOKENS = 512
CAUSAL, IDLE = 0.4, 0.2  # how often a token has an attribute that the program reads, and another one
COPIED = 0.6  # how often the first two distractors are what the causes are
DISTRACTING_NEURONS = 4  # of each block
CHANGED = 3  # tokens that differ in a pair though they do not matter

Wanted = Mapping[str, bool]
Slots = Mapping[int, Wanted]  # position -> what the token there has to have


@dataclass(frozen=True)
class Kind:
    """A program without its random parts. A case is what clean and patch prompt have to be; all get equal shares."""

    causes: tuple[str, ...]
    wiring: Callable[[np.random.Generator], tuple[list[Neuron], list[Head], Mapping[str, float]]]
    cases: tuple[tuple[Slots, Slots], ...]
    elsewhere: Wanted
    """of the tokens that have no part in the program"""
    shown_by_patch: bool = False
    """the behaviour is there in the patch prompt, not in the clean one"""


@dataclass(frozen=True)
class Instance:
    """A planted program with its examples, and prompts of the same kind to train dictionaries on."""

    kind: str
    plant: Plant
    pairs: Examples
    shown: Examples
    """single prompts that show the behaviour, for means and zeros"""
    training: Int[Tensor, "prompts length"]


LAST = LENGTH - 1


def _chain(random: np.random.Generator) -> tuple[list[Neuron], list[Head], Mapping[str, float]]:
    return [Neuron(0, {"a": _w(random)}, -0.2, {"b": _w(random)}), _relay(random, "b", "c")], [], {"c": _w(random)}


def _and(random: np.random.Generator) -> tuple[list[Neuron], list[Head], Mapping[str, float]]:
    gate = Neuron(0, {"a": 1.0, "b": 1.0}, -1.3, {"both": 2 * _w(random)})
    return [gate, _relay(random, "both", "c")], [], {"c": _w(random)}


def _or(random: np.random.Generator) -> tuple[list[Neuron], list[Head], Mapping[str, float]]:
    gain, reads = 2 * _w(random), {"a": 1.0, "b": 1.0}
    rising, falling = Neuron(0, reads, -0.2, {"any": gain}), Neuron(0, reads, -0.7, {"any": -gain})
    return [rising, falling, _relay(random, "any", "c")], [], {"c": _w(random)}


def _inhibition(random: np.random.Generator) -> tuple[list[Neuron], list[Head], Mapping[str, float]]:
    neurons = [
        Neuron(0, {"a": 1.0, "h": -1.6}, -0.1, {"open": _w(random)}),
        Neuron(0, {"h": _w(random)}, -0.2, {"against": _w(random)}),
        _relay(random, "open", "c"),
    ]
    return neurons, [], {"c": _w(random), "against": -0.5 * _w(random)}


def _backup(random: np.random.Generator) -> tuple[list[Neuron], list[Head], Mapping[str, float]]:
    neurons = [
        Neuron(0, {"a": 1.0}, -0.2, {"first": _w(random)}),
        Neuron(0, {"b": 1.0, "a": -1.5}, -0.1, {"second": 0.6 * _w(random)}),
        Neuron(1, {"first": 1.0, "second": 1.0}, -0.1, {"c": _w(random)}),
    ]
    return neurons, [], {"c": _w(random)}


def _previous(random: np.random.Generator) -> tuple[list[Neuron], list[Head], Mapping[str, float]]:
    gate = Neuron(1, {"a before": 1.0, "b": 1.0}, -1.3, {"c": 2 * _w(random)})
    return [gate], [Head(0, 0, previous(), (("a", "a before", 1.0),))], {"c": _w(random)}


def _induction(random: np.random.Generator) -> tuple[list[Neuron], list[Head], Mapping[str, float]]:
    before = Head(0, 0, previous(), (("k1", "k1 before", 1.0), ("k2", "k2 before", 1.0)))
    finds = (("k1", "k1 before"), ("k2", "k2 before"))
    moves = (("v1", "found v1", _w(random)), ("v2", "found v2", _w(random)))
    return [], [before, Head(1, 0, finds, moves)], {"found v1": _w(random), "found v2": -_w(random)}


def _has(causes: tuple[str, ...], *present: str) -> Wanted:
    """These and no other causes."""
    return {cause: cause in present for cause in causes}


def _last(causes: tuple[str, ...], clean: str, patch: str) -> tuple[Slots, Slots]:
    """A pair that differs at the last token; causes are letters."""
    return {LAST: _has(causes, *clean)}, {LAST: _has(causes, *patch)}


def _induction_cases() -> tuple[tuple[Slots, Slots], ...]:
    causes = ("k1", "k2", "v1", "v2")

    def prompt(*order: str) -> Slots:
        return {at: _has(causes, name) for at, name in zip((1, 2, 4, 5, LAST), order, strict=True)}

    clean = prompt("k1", "v1", "k2", "v2", "k1")
    asked = prompt("k1", "v1", "k2", "v2", "k2")
    earlier = prompt("k2", "v1", "k1", "v2", "k1")
    behind = prompt("k1", "v2", "k2", "v1", "k1")
    return (clean, asked), (clean, earlier), (clean, behind)


_AB: tuple[str, ...] = ("a", "b")
_BEFORE = {LAST - 1: {"a": True}, LAST: {"b": True}}
KINDS: dict[str, Kind] = {
    "chain": Kind(("a",), _chain, (_last(("a",), "a", ""),), {}),
    "and": Kind(_AB, _and, (_last(_AB, "a", "ab"), _last(_AB, "b", "ab")), {}, shown_by_patch=True),
    "or": Kind(_AB, _or, (_last(_AB, "ab", ""),), {}),
    "inhibition": Kind(("a", "h"), _inhibition, (_last(("a", "h"), "a", "ah"),), {}),
    "backup": Kind(_AB, _backup, (_last(_AB, "ab", "b"), _last(_AB, "ab", "")), {}),
    "previous": Kind(
        _AB,
        _previous,
        ((_BEFORE, {**_BEFORE, LAST - 1: {"a": False}}), (_BEFORE, {**_BEFORE, LAST: {"b": False}})),
        {},
    ),
    "induction": Kind(
        ("k1", "k2", "v1", "v2"), _induction, _induction_cases(), _has(("k1", "k2", "v1", "v2"))
    ),
}  # fmt: skip


def _w(random: np.random.Generator) -> float:
    return float(random.uniform(0.8, 1.25))


def _relay(random: np.random.Generator, reads: str, writes: str) -> Neuron:
    return Neuron(1, {reads: 1.0}, -0.1, {writes: _w(random)})


def instance(name: str, seed: int, pairs: int = 24, training: int = 2048) -> Instance:
    """A program with random parts of its own; `pairs` and `training` prompts are rounded to the number of cases."""
    kind, random = KINDS[name], np.random.default_rng([seed, list(KINDS).index(name)])
    idle = tuple(f"idle {i}" for i in range(ATTRIBUTES - len(kind.causes)))
    neurons, heads, readout = kind.wiring(random)
    attributes = (*kind.causes, *idle)
    known = Wiring(attributes, tuple(neurons), tuple(heads), readout)
    more_neurons, more_heads = _distractors(random, known)
    wiring = Wiring(attributes, (*neurons, *more_neurons), (*heads, *more_heads), readout)
    vocabulary = _vocabulary(random, kind, attributes)
    clean, patch = _pairs(random, kind, attributes, vocabulary, pairs)
    more = torch.cat(_pairs(random, kind, attributes, vocabulary, training // 4))
    anything = torch.from_numpy(random.integers(len(vocabulary), size=(training // 2, LENGTH)))
    shown = patch if kind.shown_by_patch else clean
    return Instance(
        name,
        plant(wiring, vocabulary, int(random.integers(2**31))),
        _examples(clean, patch),
        _examples(shown, None),
        torch.cat([more, anything]),
    )


def _examples(clean: Tensor, patch: Tensor | None) -> Examples:
    fields = {"answer": torch.full((len(clean),), ANSWER), "other": torch.full((len(clean),), OTHER)}
    return Examples(clean, patch, torch.full((len(clean),), LAST), fields)


def _vocabulary(random: np.random.Generator, kind: Kind, attributes: tuple[str, ...]) -> Float[Tensor, "v a"]:
    """Attributes of every token, each of strength .8 to 1.2; the first two idle ones mostly copy the causes."""
    causes = len(kind.causes)
    often = np.where(np.arange(len(attributes)) < causes, CAUSAL, IDLE)
    has = random.random((TOKENS, len(attributes))) < often
    for i in range(2):
        copied = random.random(TOKENS) < COPIED
        has[:, causes + i] = np.where(copied, has[:, i % causes], has[:, causes + i])
    return torch.from_numpy(has * random.uniform(0.8, 1.2, has.shape))


def _pairs(
    random: np.random.Generator, kind: Kind, attributes: tuple[str, ...], vocabulary: Tensor, count: int
) -> tuple[Int[Tensor, "count length"], Int[Tensor, "count length"]]:
    """Clean and patch prompts, as many of every case; a few tokens that do not matter differ, too."""
    has = vocabulary.numpy() > 0

    def token(wanted: Wanted) -> int:
        fit = np.ones(len(has), dtype=bool)
        for name, value in wanted.items():
            fit &= has[:, attributes.index(name)] == value
        return int(random.choice(fit.nonzero()[0]))

    rows: tuple[list[list[int]], list[list[int]]] = [], []
    for number in range(count):
        slots, other = kind.cases[number % len(kind.cases)]
        clean = [token(slots.get(i, kind.elsewhere)) for i in range(LENGTH)]
        patch = [token(other[i]) if other.get(i) != slots.get(i) else clean[i] for i in range(LENGTH)]
        free = [i for i in range(LENGTH) if i not in slots]
        for i in random.choice(free, min(CHANGED, len(free)), replace=False):
            patch[i] = token(kind.elsewhere)
        for kept, row in zip(rows, (clean, patch), strict=True):
            kept.append(row)
    return torch.tensor(rows[0]), torch.tensor(rows[1])


def _distractors(random: np.random.Generator, known: Wiring) -> tuple[list[Neuron], list[Head]]:
    """Neurons and heads that read features of the program and each other's, and write what the readout never sees."""
    attributes, neurons, heads = list(known.attributes), [], []
    seen = [*attributes]
    for block in range(BLOCKS):
        matches = previous() if block == 0 else ()
        for number, pattern in ((2, matches), (3, ())):
            moves = tuple(
                (str(read), f"copied {block}.{number}.{i}", 2.0)
                for i, read in enumerate(random.choice(seen, 2, replace=False))
            )
            heads.append(Head(block, number, pattern, moves))
        own_heads, own_neurons = known.in_block(block)
        copied = [written for head in (*own_heads, *heads) if head.block == block for _, written, _ in head.moves]
        seen += copied
        for i in range(DISTRACTING_NEURONS):
            # the first reads a cause; weights may be negative
            reads = {str(name): float(random.choice([-1, 1, 1]) * _w(random)) for name in random.choice(seen, 2, False)}
            if i == 0:
                reads = {attributes[0]: _w(random), **{k: v for k, v in reads.items() if k != attributes[0]}}
            neurons.append(Neuron(block, reads, -0.1, {f"idle neuron {block}.{i}": _w(random)}))
        seen += [name for n in (*own_neurons, *neurons) if n.block == block for name in n.writes]
    return neurons, heads
