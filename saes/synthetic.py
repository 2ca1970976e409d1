"""Planted dictionaries: activations made of known atoms, so that what training finds can be held against the truth.

x = sum_i f_i atom_i + offset, with sparse f_i >= 0. On the `easy` setting atoms fire independently and equally often;
the hard ones take that away: `correlated` pairs, a `hierarchical` tree whose children fire only with their parent (the
setting of feature absorption, Chanin et al. 2024, arXiv:2409.14507), and `unequal` frequencies.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from saes.architectures import AffineDictionary
from saes.sites import Site
from saes.streams import Activations
from saes.training import batch_for

Setting = Literal["easy", "correlated", "hierarchical", "unequal"]
RECOVERED = 0.9  # cosine above which an atom counts as recovered


@dataclass(frozen=True)
class PlantedConfig:
    """What is planted; the last three fields matter to one setting each."""

    setting: Setting = "easy"
    atoms: int = 48
    """A"""
    widths: tuple[int, ...] = (32,)
    """D of each site; with several (transcoders, crosscoders) an atom has a direction of its own at every site"""
    l0: float = 3.0
    """mean number of atoms in a row"""
    spread: float = 0.5
    """an atom that fires has a strength between 1 - spread and 1 + spread, uniformly"""
    offset: float = 0.3
    """added to every coordinate"""
    seed: int = 0
    correlation: float = 0.7
    """between the firings of the two atoms of a pair (correlated)"""
    children: int = 3
    """of each parent, at most one of which fires, in three of four firings of the parent (hierarchical)"""
    ratio: float = 30.0
    """of the highest frequency to the lowest; they are log-spaced (unequal)"""

    def __post_init__(self) -> None:
        if self.atoms < 1 or min(self.widths, default=0) < 1:
            raise ValueError(f"a planted dictionary needs atoms and widths, not {self.atoms} and {self.widths}")
        if not 0 <= self.spread <= 1 or not 0 <= self.correlation <= 1 or self.ratio < 1 or self.seed < 0:
            raise ValueError("spread and correlation lie between 0 and 1, ratio is at least 1, seed at least 0")
        group = {"correlated": 2, "hierarchical": 1 + self.children}.get(self.setting, 1)
        if group < 1 or self.atoms % group:
            raise ValueError(f"{self.atoms} atoms cannot be split into groups of {group} ({self.setting})")
        if not 0 < self.l0 <= self.atoms or self.frequencies.max() > 1:
            raise ValueError(f"{self.atoms} {self.setting} atoms cannot fire {self.l0} at a time: plant more")

    @property
    def frequencies(self) -> Float[np.ndarray, " atom"]:
        """Share of the rows in which each atom fires."""
        shares = np.ones(self.atoms)
        if self.setting == "unequal":
            shares = np.geomspace(self.ratio, 1.0, self.atoms)
        if self.setting == "hierarchical":
            shares = np.where(self.is_parent, 1.0, CHILD / self.children)
        return shares * (self.l0 / shares.sum())

    @property
    def is_parent(self) -> Bool[np.ndarray, " atom"]:
        """Every group of 1 + children atoms starts with the parent."""
        return np.arange(self.atoms) % (1 + self.children) == 0


CHILD = 0.75  # share of a parent's firings in which one of its children fires


def _independent(c: PlantedConfig, rows: int, random: np.random.Generator) -> Bool[np.ndarray, "row atom"]:
    return random.random((rows, c.atoms)) < c.frequencies


def _correlated(c: PlantedConfig, rows: int, random: np.random.Generator) -> Bool[np.ndarray, "row atom"]:
    """The second of a pair copies the first with a probability that is then exactly their correlation."""
    on = _independent(c, rows, random)
    copies = random.random((rows, c.atoms // 2)) < c.correlation
    on[:, 1::2] = np.where(copies, on[:, ::2], on[:, 1::2])
    return on


def _hierarchical(c: PlantedConfig, rows: int, random: np.random.Generator) -> Bool[np.ndarray, "row atom"]:
    groups = c.atoms // (1 + c.children)
    parent = random.random((rows, groups)) < c.frequencies[0]
    # 0 .. children - 1: that child; above: the parent alone
    which = np.floor(random.random((rows, groups)) * c.children / CHILD)
    child = parent[..., None] & (which[..., None] == np.arange(c.children))
    return np.concatenate([parent[..., None], child], axis=-1).reshape(rows, c.atoms)


FIRING: dict[Setting, Callable[[PlantedConfig, int, np.random.Generator], Bool[np.ndarray, "row atom"]]] = {
    "easy": _independent,
    "correlated": _correlated,
    "hierarchical": _hierarchical,
    "unequal": _independent,
}
_ATOMS, _TRAINING, _SAMPLE, _HELD_OUT = range(4)  # independent random streams of one seed


@dataclass(frozen=True)
class Drawn:
    """Rows with their truth."""

    activations: Activations
    features: Float[Tensor, "row atom"]


class Planted:
    """An endless stream of batches of planted activations; batch n is a pure function of the config and n."""

    def __init__(self, config: PlantedConfig, batch_size: int = 512) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}: choose 1 or more")
        self.config, self.batch_size = config, batch_size
        names = ["planted"] if len(config.widths) == 1 else [f"planted_{i}" for i in range(len(config.widths))]
        self.sites = tuple(Site(name, name) for name in names)
        random = self._random(_ATOMS, 0)
        self._atoms: dict[Site, Float[Tensor, "atom d"]] = {}
        for site, width in zip(self.sites, config.widths, strict=True):
            rows = torch.from_numpy(random.standard_normal((config.atoms, width), dtype=np.float32))
            self._atoms[site] = rows / rows.norm(dim=1, keepdim=True)

    def atoms(self, sites: tuple[Site, ...] | None = None) -> Float[Tensor, "atom d"]:
        """The true directions, of several sites side by side; of norm 1 at each site."""
        return torch.cat([self._atoms[site] for site in sites or self.sites], dim=1)

    def batches(self, start: int = 0) -> Iterator[Activations]:
        """Batches number start, start + 1, ... without end."""
        while True:
            yield self.draw(start).activations
            start += 1

    def sample(self) -> Activations:
        """Rows for initial means and norms."""
        return self._draw(_SAMPLE, 0, 4096).activations

    def draw(self, number: int) -> Drawn:
        """Batch `number` of the stream, with its truth."""
        return self._draw(_TRAINING, number, self.batch_size)

    def held_out(self, rows: int = 8192, number: int = 0) -> Drawn:
        """Rows that are in no batch of the stream."""
        return self._draw(_HELD_OUT, number, rows)

    def _random(self, purpose: int, number: int) -> np.random.Generator:
        return np.random.default_rng([self.config.seed, purpose, number])

    def _draw(self, purpose: int, number: int, rows: int) -> Drawn:
        c, random = self.config, self._random(purpose, number)
        on = FIRING[c.setting](c, rows, random)
        strength = 1 + c.spread * (2 * random.random(on.shape, dtype=np.float32) - 1)
        features = torch.from_numpy(np.where(on, strength, 0.0).astype(np.float32))
        return Drawn({site: features @ atoms + c.offset for site, atoms in self._atoms.items()}, features)


@dataclass(frozen=True)
class Recovery:
    """A dictionary against the truth, on held-out rows; each atom is matched to a feature of its own."""

    cosine: float
    """mean over atoms of the matched |cosine| (mean max cosine similarity); 0 for an atom without a feature"""
    recovered: float
    """share of atoms with a matched cosine above 0.9"""
    f1: float
    """mean over atoms of the F1 of the matched feature's firing for the atom's"""
    l0: float
    l0_true: float
    variance_explained: float
    alive: float
    """share of features that fire"""
    absorption: float | None
    """hierarchical: share of the rows with a parent and a child in which the parent's feature is silent, ..."""
    missed_alone: float | None
    """... and the same of the rows with the parent alone: without absorption the two are equal"""


def match(
    decoder: Float[Tensor, "feature d"], atoms: Float[Tensor, "atom d"]
) -> tuple[Float[Tensor, " atom"], Float[Tensor, "atom feature"]]:
    """|cosine| of each atom with its feature in the best one-to-one matching, and that matching as 0 and 1."""
    decoder, atoms = (t / t.norm(dim=1, keepdim=True).clamp_min(1e-12) for t in (decoder, atoms))
    cosines = (atoms @ decoder.T).abs()
    matching = torch.zeros_like(cosines)
    matching[tuple(torch.from_numpy(i) for i in linear_sum_assignment(cosines.numpy(), maximize=True))] = 1
    return (cosines * matching).sum(1), matching


@torch.no_grad()
def recovery(dictionary: AffineDictionary, planted: Planted, rows: int = 8192) -> Recovery:
    """How much of the planted truth a finished dictionary has found."""
    drawn = planted.held_out(rows)
    batch = batch_for(dictionary, drawn.activations)
    cosines, matching = match(dictionary.W_dec, planted.atoms(dictionary.writes))
    features = dictionary.encode(batch.inputs)
    left = (dictionary.reconstruct(batch.inputs) - batch.targets).square().sum()
    fires = features != 0
    truth, found = drawn.features > 0, (fires.float() @ matching.T) > 0
    both = (truth & found).sum(0).float()
    f1 = 2 * both / (truth.sum(0) + found.sum(0)).clamp_min(1)
    absorption, alone = None, None
    if planted.config.setting == "hierarchical":
        absorption, alone = _parents_missed(planted.config, truth, found)
    return Recovery(
        cosine=float(cosines.mean()),
        recovered=float((cosines > RECOVERED).float().mean()),
        f1=float(f1.mean()),
        l0=float(fires.sum(1).float().mean()),
        l0_true=float(truth.sum(1).float().mean()),
        variance_explained=1 - float(left / (batch.targets - batch.targets.mean(0)).square().sum()),
        alive=float(fires.any(0).float().mean()),
        absorption=absorption,
        missed_alone=alone,
    )


def _parents_missed(
    config: PlantedConfig, truth: Bool[Tensor, "row atom"], found: Bool[Tensor, "row atom"]
) -> tuple[float, float]:
    """Share of a parent's firings that its feature misses: beside a child, and alone."""
    groups = truth.unflatten(1, (-1, 1 + config.children))
    parent, child = groups[..., 0], groups[..., 1:].any(-1)
    silent = parent & ~found[:, torch.from_numpy(config.is_parent)]
    beside, alone = parent & child, parent & ~child
    return tuple(float((silent & which).sum() / which.sum().clamp_min(1)) for which in (beside, alone))  # type: ignore[return-value]
