"""Features that have stopped firing, and three ways to bring them back that any architecture can use.

AuxK (Gao et al. 2024, section 2.4) lets dead features explain what the others leave over; a penalty on their
pre-activations (as in Anthropic's January 2025 update) pulls them towards firing; resampling (Bricken et al. 2023)
points them at inputs that are reconstructed badly.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saes.architectures.affine import SHARED, AffineDictionary
from saes.architectures.jumprelu import JumpReLUDictionary
from saes.entries import Entries
from saes.optim import UnitNormAdam
from saes.preactivations import PreActivations
from saes.ranks import Ranks
from saes.sparse_step import decode_features


@dataclass(frozen=True)
class Forward:
    """One batch on its way through a stack of dictionaries, as parts of an objective see it."""

    dictionary: AffineDictionary
    inputs: Float[Tensor, "batch d_in"]
    pre: PreActivations
    features: Entries
    residual: Float[Tensor, "member batch d"]
    """reconstruction - target, without a gradient"""
    idle: Int[Tensor, "member feature"]
    """inputs seen since each feature last fired, this batch included"""

    @property
    def ranks(self) -> Ranks:
        return self.dictionary.ranks

    @property
    def rows(self) -> int:
        """Rows of the batch, those of all ranks together."""
        return len(self.inputs) * self.ranks.data_size


@runtime_checkable
class Part(Protocol):
    """Something added to an objective."""

    @property
    def name(self) -> str: ...

    def __call__(self, forward: Forward, step: int) -> Float[Tensor, " member"] | None:
        """What is added to the loss; pure. None adds nothing."""
        ...

    def after_step(self, forward: Forward, optimizer: UnitNormAdam, step: int) -> None:
        """Once per optimiser step; weights and optimiser state may be changed here and nowhere else."""
        ...


@dataclass(frozen=True)
class AuxK:
    """alpha * mean_b ||residual - what the k most active dead features decode to||^2, with the residual held fixed."""

    alpha: float = 1 / 32
    dead_after: int = 10_000_000
    """inputs without firing that make a feature dead"""
    k: int | None = None
    """number of dead features a row may use; None is half the width, as in the paper"""
    normalise: bool = False
    """divide by the variance of the residual, as dictionary_learning does though its main loss is not divided;
    the balance between the two then depends on the scale of the activations"""
    name: str = "auxk"

    def __call__(self, forward: Forward, step: int) -> Float[Tensor, " member"] | None:
        dead, ranks = forward.idle >= self.dead_after, forward.ranks
        # a feature cannot have been idle for longer than training lasts: no look at the device before that
        if (step + 1) * forward.rows < self.dead_after:
            return None
        any_dead = ranks.any_feature(dead.any(1))
        if dead.device.type == "cpu" and not any_dead.any():
            return None
        k = self.k or forward.dictionary.width // 2
        features = forward.pre.top_among(k, dead)
        missing = -forward.residual
        left = (missing - decode_features(features, forward.dictionary.W_dec)).square().sum(-1).mean(-1)
        left = ranks.mean_rows(left)
        if self.normalise:
            centred = missing - ranks.mean_rows(missing.mean(1, keepdim=True))
            left = (left / ranks.mean_rows(centred.square().sum(-1).mean(-1))).nan_to_num(0.0)
        return self.alpha * torch.where(any_dead, left, 0.0)

    def after_step(self, forward: Forward, optimizer: UnitNormAdam, step: int) -> None:
        """Works through the loss alone."""


@dataclass(frozen=True)
class DeadPreActivation:
    """coefficient * mean_b sum over dead features of ReLU(threshold - pre-activation) * decoder norm."""

    coefficient: float = 3e-6
    dead_after: int = 10_000_000
    name: str = "dead_pre_activation"

    def __call__(self, forward: Forward, step: int) -> Float[Tensor, " member"] | None:
        if (step + 1) * forward.rows < self.dead_after:
            return None
        d = forward.dictionary
        dead = forward.idle >= self.dead_after
        # dead features are few: their columns alone are encoded again, unless the host had to wait for their number
        any_member = slice(None) if dead.is_cuda else dead.any(0).nonzero()[:, 0]
        bias = d.encoder_bias() + getattr(d, "b_gate", 0.0)  # of a Gated dictionary: it decides on firing
        pre = (d.W_enc[:, any_member] @ forward.inputs.T + bias[:, any_member, None]).mT
        threshold = (
            d.threshold[:, any_member].detach() if isinstance(d, JumpReLUDictionary) else pre.new_zeros(len(pre), 1)
        )
        short = (threshold[:, None] - pre).relu() * (d.decoder_norms().detach() * dead)[:, any_member][:, None]
        total = forward.ranks.sum_features(short.sum((1, 2)))
        return self.coefficient * forward.ranks.mean_rows(total / len(forward.inputs))

    def after_step(self, forward: Forward, optimizer: UnitNormAdam, step: int) -> None:
        """Works through the loss alone."""


@dataclass(frozen=True)
class Resample:
    """Every `every` steps dead features are pointed at inputs drawn in proportion to their squared loss.

    The decoder row becomes the (centred, normalised) input, the encoder row the same times `encoder_scale` of the mean
    norm of the living encoder rows, biases and thresholds zero, and the optimiser forgets them.
    """

    every: int = 5000
    until: int | None = None
    """no resampling from this step on; the end of training should not meet fresh features"""
    dead_after: int = 1_000_000
    encoder_scale: float = 0.2
    seed: int = 0
    name: str = "resample"

    def __call__(self, forward: Forward, step: int) -> None:
        return None

    @torch.no_grad()
    def after_step(self, forward: Forward, optimizer: UnitNormAdam, step: int) -> None:
        if (step + 1) % self.every or (self.until is not None and step >= self.until):
            return
        d = forward.dictionary
        ranks = forward.ranks
        dead = ranks.all_features(forward.idle >= self.dead_after, axis=1)
        if not bool(dead.any()):
            return
        inputs, residual = ranks.all_rows(forward.inputs), ranks.all_rows(forward.residual.transpose(0, 1))
        for member, lost in enumerate(dead):
            if bool(lost.any()) and not bool(lost.all()):
                own = self._resample(d, optimizer, inputs, residual[:, member], member, lost, step)
                forward.idle[member, own] = 0

    def _resample(
        self,
        d: AffineDictionary,
        optimizer: UnitNormAdam,
        inputs: Float[Tensor, "batch d_in"],
        residual: Float[Tensor, "batch d"],
        member: int,
        lost: Bool[Tensor, " feature"],
        step: int,
    ) -> Int[Tensor, " dead"]:
        """Point this rank's share of the lost features somewhere, and say which; the rows are those of all ranks."""
        # the same for every member, so that it is resampled as it would be alone
        random = torch.Generator(inputs.device).manual_seed(hash((self.seed, step)) & 0x7FFFFFFF)
        loss = residual.square().sum(-1)
        drawn = torch.multinomial(loss.square() + 1e-30, int(lost.sum()), replacement=True, generator=random)
        mine = d.ranks.part(torch.arange(len(lost), device=lost.device), axis=0)
        chosen, living = drawn[(lost.cumsum(0) - 1)[mine][lost[mine]]], ~lost[mine]
        rows = (~living).nonzero()[:, 0]
        centre = d.b_dec[member] if d.config.center else 0
        points = inputs[chosen] - centre
        points = points / points.norm(dim=1, keepdim=True).clamp_min(1e-12)
        targets = points if d.width == d.width_in else -residual[chosen]
        targets = targets / targets.norm(dim=1, keepdim=True).clamp_min(1e-12)
        sums = [weights[member, living].norm(dim=1).sum() for weights in (d.W_enc, d.W_dec)]
        norm_enc, norm_dec = (d.ranks.sum_features(each) / (~lost).sum() for each in sums)
        d.W_enc[member, rows] = points * norm_enc * self.encoder_scale
        d.W_dec[member, rows] = targets * norm_dec
        reset = [d.W_enc, d.W_dec]
        for name, parameter in d.named_parameters():
            if name not in ("W_enc", "W_dec", *SHARED):
                if name != "threshold":
                    parameter[member, rows] = 0.0
                reset.append(parameter)
        optimizer.forget(reset, member, rows)
        return rows
