"""What every architecture shares: an affine encoder, an affine decoder, and a way to stack dictionaries of one shape.

pre = W_enc (x - b_dec) + b_enc, features = activation(pre), reconstruction = features W_dec + b_dec [+ x W_skip].
A stack of N dictionaries is the same module with a leading member axis on every parameter.
"""

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from saes.dictionary import Dictionary
from saes.entries import Entries
from saes.initialise import Normalise, scale_of
from saes.ranks import ALONE, Ranks
from saes.sites import Site, SiteError

if TYPE_CHECKING:
    from saes.preactivations import PreActivations


SHARED = ("b_dec", "W_skip")  # parameters that do not belong to single features


@dataclass(frozen=True)
class Shape:
    """What every architecture's config holds."""

    width: int
    """D, the width of what it writes (a crosscoder: of all its sites together)"""
    features: int
    """F"""
    width_in: int | None = None
    """width of what it reads, if that is another tensor (a transcoder)"""
    center: bool = True
    """subtract b_dec from the input; only for dictionaries that read what they write"""
    skip: bool = False
    """add x W_skip to the reconstruction (Paulo et al. 2025)"""
    unit_norm: bool = True
    """hold decoder rows at norm 1 in training"""

    def __post_init__(self) -> None:
        if self.width < 1 or self.features < 1 or (self.width_in is not None and self.width_in < 1):
            raise ValueError(
                f"a dictionary needs width and features of at least 1, not {self.width} and {self.features}"
            )
        if self.center and (self.skip or self.width_in not in (None, self.width)):
            raise ValueError("a transcoder does not read what it writes: give center=False")


class Encoded(NamedTuple):
    """One batch, encoded for training."""

    features: Entries
    """what is decoded"""
    penalised: Entries
    """what a penalty on magnitudes acts on"""
    firing: Entries | None = None
    """1 where a feature is on, with a straight-through gradient, for penalties on L0"""

    def detach(self) -> "Encoded":
        return Encoded(*(None if part is None else part.detach() for part in self))  # type: ignore[arg-type]


class AffineDictionary(Dictionary):
    """Parameters: W_enc [F, D_in], b_enc [F], W_dec [F, D], b_dec [D], with skip W_skip [D_in, D]."""

    architecture: ClassVar[str]
    config_type: ClassVar[type[Shape]]
    encoder_scale: ClassVar[float] = 1.0
    """norm of the first encoder rows, as a share of the decoder's"""
    ranks: Ranks = ALONE
    """in training by several processes, which of the features these are; else all of them"""

    def __init__(self, config: Shape, reads: Sequence[Site], writes: Sequence[Site] | None = None, seed: int = 0):
        super().__init__(reads, reads if writes is None else writes)
        if config.center and self.reads != self.writes:
            raise SiteError(f"a dictionary from {self.reads} to {self.writes} cannot subtract b_dec: give center=False")
        self.config = config
        self.member_configs = [config]
        random = torch.Generator().manual_seed(seed)
        rows = torch.randn(config.features, config.width, generator=random)
        self.W_dec = nn.Parameter(rows / rows.norm(dim=1, keepdim=True))
        if self.width_in == config.width:
            rows = self.W_dec.detach()  # tied at the start
        else:
            rows = torch.randn(config.features, self.width_in, generator=random)
            rows /= rows.norm(dim=1, keepdim=True)
        self.W_enc = nn.Parameter(rows * self._first_scale())
        self.b_enc = nn.Parameter(torch.zeros(config.features))
        self.b_dec = nn.Parameter(torch.zeros(config.width))
        if config.skip:
            self.W_skip = nn.Parameter(torch.zeros(self.width_in, config.width))

    def _first_scale(self) -> float:
        return self.encoder_scale

    @property
    def width_in(self) -> int:
        return self.config.width_in or self.config.width

    @property
    def members(self) -> int | None:
        """N of a stack, None of a single dictionary."""
        return len(self.W_dec) if self.W_dec.dim() == 3 else None

    @property
    def features(self) -> int:
        return self.config.features

    @property
    def width(self) -> int:
        return self.config.width

    def pre_activation(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch f"]:
        return x @ self.W_enc.mT + self.over_rows(self.encoder_bias())

    def encoder_bias(self) -> Float[Tensor, "*member f"]:
        """What is added to W_enc x; W (x - b) + b_enc = W x + (b_enc - W b): the same without a pass over x."""
        if not self.config.center:
            return self.b_enc
        return self.b_enc - (self.W_enc @ self.encoder_center()[..., None])[..., 0]

    def encoder_center(self) -> Float[Tensor, "*member d"]:
        """b_dec as the encoder sees it, whose gradient each feature rank has a part of."""
        return self.ranks.to_features(self.b_dec)

    def over_rows(self, v: Float[Tensor, "*member n"]) -> Tensor:
        """A parameter made to broadcast over the rows of a batch."""
        return v if self.members is None else v[:, None, :]

    def encode_chosen(
        self, x: Float[Tensor, "*batch d"], index: Int[Tensor, " chosen"]
    ) -> Float[Tensor, "*batch chosen"]:
        return self.encode(x)[..., index]

    def bypass(self, x: Float[Tensor, "*batch d_in"]) -> Tensor | None:
        return x @ self.W_skip if self.config.skip else None

    def encoder_rows(self, index: Tensor) -> Float[Tensor, "chosen d"]:
        return self.W_enc[index]

    def activation_slope(self, pre: Float[Tensor, "*batch f"]) -> Float[Tensor, "*batch f"]:
        return (self.activate(pre) != 0).to(pre)

    def decoder_norms(self) -> Float[Tensor, "*member f"]:
        """Norm of each decoder row."""
        return self.W_dec.norm(dim=-1)

    def training_pass(self, pre: "PreActivations") -> Encoded:
        """Encode a batch for training; unlike encode, features may compete across the batch."""
        raise NotImplementedError

    def observe(self, features: Entries, step: int) -> None:
        """Once per optimiser step: the only place where buffers (an inference threshold) move."""

    @torch.no_grad()
    def constrain(self) -> None:
        """After every optimiser step: put parameters back where they have to be (the optimiser keeps unit rows)."""

    def scale_of(self, x: Float[Tensor, "sample d"], normalise: Normalise) -> Float[Tensor, ""]:
        """What x is divided by in training."""
        return torch.tensor(scale_of(x, normalise), dtype=x.dtype, device=x.device)

    @torch.no_grad()
    def fold_scale(self, scale_in: Tensor, scale_out: Tensor) -> None:
        """Turn a dictionary from x / scale_in to y / scale_out into one from x to y, exactly; features x scale_in."""
        for threshold in self.in_feature_units():
            threshold *= scale_in
        self.b_dec *= scale_out
        for weight in (self.W_dec, *([self.W_skip] if self.config.skip else [])):
            weight *= scale_out / scale_in

    def in_feature_units(self) -> list[Tensor]:
        """Biases and thresholds that are compared with pre-activations."""
        return [self.b_enc]

    def check_width(self, width: int) -> None:
        if width != self.width_in:
            raise SiteError(f"site {self.reads[0]}: activations have width {width}, the dictionary {self.width_in}")


A = TypeVar("A", bound=AffineDictionary)


def stack(dictionaries: Sequence[A]) -> A:
    """One module of N dictionaries of one type and shape, with copies of their parameters; k may differ."""
    first = dictionaries[0]
    for other in dictionaries[1:]:
        shared = [{**asdict(d.config), "k": None} for d in (first, other)]
        sites = [(d.reads, d.writes) for d in (first, other)]
        if type(other) is not type(first) or shared[0] != shared[1] or sites[0] != sites[1]:
            raise ValueError(
                f"only dictionaries of one architecture, configuration (but for k) and site can be stacked, not "
                f"{first.config} and {other.config}"
            )
    whole = copy.deepcopy(first)
    whole.member_configs = [d.config for d in dictionaries]
    for module_name in ("_parameters", "_buffers"):
        for name, t in getattr(whole, module_name).items():
            if t is None:
                continue
            together = torch.stack([getattr(d, name).detach() for d in dictionaries])
            setattr(whole, name, nn.Parameter(together, t.requires_grad) if isinstance(t, nn.Parameter) else together)
    return whole


def split(whole: A, ranks: Ranks) -> A:
    """The features of one rank of a stack, in place; ValueError if they cannot be shared out evenly."""
    if whole.features % ranks.feature_size:
        raise ValueError(f"{whole.features} features cannot be shared out evenly among {ranks.feature_size} ranks")
    whole.ranks = ranks
    for name, t in whole._parameters.items():
        if t is not None and name not in SHARED:
            whole._parameters[name] = nn.Parameter(ranks.part(t.detach()), t.requires_grad)
    return whole


def join_parts(own: A) -> list[A]:
    """The dictionaries of a stack whose features are split over ranks: whole on rank 0, none elsewhere."""
    ranks, together = own.ranks, copy.copy(own)
    together.ranks = ALONE
    if ranks.feature_size > 1:
        parts = {name: t for name, t in own._parameters.items() if t is not None}
        whole = {name: t.detach().cpu() if name in SHARED else ranks.whole(t.detach()) for name, t in parts.items()}
        together._parameters = {
            name: nn.Parameter(whole[name], parts[name].requires_grad) if name in whole else None
            for name in own._parameters
        }
        together._buffers = {name: t if t is None else t.cpu() for name, t in own._buffers.items()}
    return unstack(together) if ranks.leads else []


def unstack(whole: A) -> list[A]:
    """The N dictionaries of a stack; a single dictionary is its own only member."""
    if whole.members is None:
        return [whole]
    singles = []
    for n, config in enumerate(whole.member_configs):
        single = copy.copy(whole)
        single.config, single.member_configs = config, [config]
        single._parameters = {
            k: None if t is None else nn.Parameter(t[n].detach().clone(), t.requires_grad)
            for k, t in whole._parameters.items()
        }
        single._buffers = {k: t[n].clone() for k, t in whole._buffers.items() if t is not None}
        singles.append(single)
    return singles
