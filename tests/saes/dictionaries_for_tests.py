"""Tiny dictionaries of every architecture, entries in both layouts, and a stream of made-up activations."""

from collections.abc import Iterator

import torch

from saes.architectures import ARCHITECTURES, AffineDictionary, transcoder
from saes.architectures.affine import Encoded
from saes.dictionary import Dictionary, IdentityDictionary
from saes.entries import Active, Dense, Entries
from saes.objective import SparseReconstruction
from saes.penalties import L0, L0Config, Lp, LpConfig
from saes.sites import Site
from saes.streams import Activations

SITE = Site("resid_0", "transformer.h.0")
OTHER = Site("mlp_0", "transformer.h.0.mlp")
WIDTHS = (5, 7)  # of a crosscoder's two sites

OPTIONS = {
    "topk": {"k": 4},
    "batch_topk": {"k": 4},
    "matryoshka": {"k": 4, "group_fractions": (0.2, 0.3, 0.5)},
    "crosscoder": {"widths": WIDTHS},
    "jumprelu": {"bandwidth": 0.3, "first_threshold": 0.1},
}
SAES = [name for name in ARCHITECTURES if name != "crosscoder"]
# every architecture as an SAE, from one site to another, and the latter with a skip term
VARIANTS = [*ARCHITECTURES, *(f"{name} {kind}" for name in SAES for kind in ("transcoder", "skip"))]


def fresh(name: str, *, width: int = 12, features: int = 20, seed: int = 0, **options: object) -> AffineDictionary:
    """One of VARIANTS as training starts from it; a transcoder reads 9 numbers."""
    architecture, _, kind = name.partition(" ")
    kinds = ARCHITECTURES[architecture]
    options = {**OPTIONS.get(architecture, {}), **options}
    if kind:
        return transcoder(
            kinds, SITE, OTHER, width_in=9, width=width, features=features, skip=kind == "skip", seed=seed, **options
        )
    sites = [SITE, OTHER] if architecture == "crosscoder" else [SITE]
    return kinds(kinds.config_type(width=width, features=features, **options), sites, seed=seed)


def random_dictionary(name: str = "relu", width: int = 12, features: int = 20, seed: int = 0) -> Dictionary:
    """One of VARIANTS (or "identity") in float64, frozen, with every parameter random and every threshold set."""
    if name == "identity":
        return IdentityDictionary(SITE, width).double()
    dictionary = fresh(name, width=width, features=features).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in dictionary.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
        for buffer in dictionary.buffers():
            buffer.copy_(torch.rand(buffer.shape, generator=generator, dtype=torch.float64))
    return dictionary.requires_grad_(False)


def rows(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def dense_entries(f: torch.Tensor) -> Entries:
    """f is [B, F] or [N, B, F]."""
    f = f if f.dim() == 3 else f[None]
    return Entries(f, Dense(*f.shape))


def active_entries(f: torch.Tensor) -> Entries:
    """The non-zero ones of f [B, F] or [N, B, F] alone; a gradient goes back to f."""
    f = f if f.dim() == 3 else f[None]
    n, b, width = f.shape
    member, row, column = f.detach().nonzero(as_tuple=True)
    counts = torch.bincount(member * b + row, minlength=n * b)
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
    return Entries(f[member, row, column], Active(n, b, width, starts, (member * width + column).int()))


LAYOUTS = {"dense": dense_entries, "active": active_entries}


def encoded(f: torch.Tensor, layout: str = "dense") -> Encoded:
    entries = LAYOUTS[layout](f)
    return Encoded(entries, entries)


def objective_for(name: str, parts: tuple = (), step: str = "auto", penalty: object = None) -> SparseReconstruction:
    """What an architecture is usually trained on."""
    architecture = name.partition(" ")[0]
    if penalty is None and architecture == "jumprelu":
        penalty = L0(L0Config(coefficient=0.1, warmup=5))
    elif penalty is None and architecture in ("relu", "gated", "crosscoder"):
        penalty = Lp(LpConfig(coefficient=0.1, warmup=5))
    return SparseReconstruction(penalty, parts, weigh_by_decoder=architecture == "crosscoder", step=step)


class Stream:
    """An ActivationStream of correlated random rows, batch n a function of n alone."""

    def __init__(self, widths: dict[Site, int], batch: int = 32, atoms: int = 10, seed: int = 0) -> None:
        self._batch, self._seed = batch, seed
        random = torch.Generator().manual_seed(1000 + seed)
        self._atoms = {site: torch.randn(atoms, width, generator=random) for site, width in widths.items()}

    def _draw(self, number: int, rows: int) -> Activations:
        random = torch.Generator().manual_seed(7919 * self._seed + number)
        atoms = len(next(iter(self._atoms.values())))
        on = torch.rand(rows, atoms, generator=random) < 0.15
        z = on * (0.5 + torch.rand(rows, atoms, generator=random))
        return {site: z @ rows_of + 0.2 for site, rows_of in self._atoms.items()}

    def batches(self, start: int = 0) -> Iterator[Activations]:
        while True:
            yield self._draw(start, self._batch)
            start += 1

    def sample(self) -> Activations:
        return self._draw(10**6, 256)
