"""What a dictionary is trained on: an objective computes, and moves its own state only in observe()."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saes.architectures.affine import AffineDictionary, Encoded
from saes.architectures.matryoshka import MatryoshkaConfig
from saes.dead_features import Forward, Part
from saes.measured import Measured
from saes.optim import UnitNormAdam
from saes.penalties import Numbers, Penalty
from saes.preactivations import dense_way
from saes.sparse_step import active_way, available, decode_features, on_gpu, squared_error

ACTIVE_BELOW = 0.2  # share of active features below which the sparse step is faster (docs/performance.md)
MEASURE_EVERY = 10  # steps between measurements of that share


@dataclass(frozen=True)
class Batch:
    """Rows to train on: what the dictionary reads and what it has to write (the same tensor for an SAE)."""

    inputs: Float[Tensor, "batch d_in"]
    targets: Float[Tensor, "batch d_out"]

    def scaled(self, scale_in: Tensor, scale_out: Tensor) -> "Batch":
        """The batch in units of the two scales; the caller's tensors are left alone."""
        inputs = self.inputs / scale_in
        return Batch(inputs, inputs if self.targets is self.inputs else self.targets / scale_out)


class Loss(NamedTuple):
    """One evaluation of an objective on a stack of N dictionaries."""

    total: Float[Tensor, " member"]
    terms: dict[str, Float[Tensor, " member"]]
    encoded: Encoded
    """detached"""
    forward: Forward


@runtime_checkable
class Reconstruction(Protocol):
    """How an architecture's features have to reconstruct."""

    def __call__(
        self, d: AffineDictionary, encoded: Encoded, batch: Batch
    ) -> tuple[dict[str, Float[Tensor, " member"]], Float[Tensor, "member batch d"]]:
        """Loss terms, and the full reconstruction - target without a gradient."""
        ...


def plain(d: AffineDictionary, encoded: Encoded, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
    """mean_b ||reconstruction - target||^2."""
    error, residual = squared_error(encoded.features, d.W_dec, d.b_dec, batch.targets, d.bypass(batch.inputs))
    return {"error": error}, residual


def gated(d: AffineDictionary, encoded: Encoded, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
    """Also the error of the gate's magnitudes through a frozen copy of the decoder (Gated SAE, equation 8)."""
    terms, residual = plain(d, encoded, batch)
    bypass = d.bypass(batch.inputs)
    frozen = d.W_dec.detach(), d.b_dec.detach(), batch.targets, None if bypass is None else bypass.detach()
    return {**terms, "gate_error": squared_error(encoded.penalised, *frozen)[0]}, residual


def nested(d: AffineDictionary, encoded: Encoded, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
    """The weighted mean over prefixes of the features of each prefix's error (Matryoshka SAE, equation 3)."""
    assert isinstance(d.config, MatryoshkaConfig)
    bypass = d.bypass(batch.inputs)
    residual = d.over_rows(d.b_dec) - batch.targets + (0 if bypass is None else bypass)
    error, begin = torch.zeros(()), 0
    for end, weight in zip(_own_prefixes(d), d.config.weights, strict=True):
        residual = residual + decode_features(encoded.features.between(begin, end), d.W_dec, begin, end)
        error = error + weight * d.ranks.mean_rows(residual.square().sum(-1).mean(-1))
        begin = end
    return {"error": error}, residual.detach()


def _own_prefixes(d: AffineDictionary) -> list[int]:
    """Where the prefixes end among this rank's features."""
    assert isinstance(d.config, MatryoshkaConfig)
    own = d.W_dec.shape[1]
    return [min(max(end - own * d.ranks.feature_rank, 0), own) for end in d.config.prefixes]


RECONSTRUCTIONS: dict[str, Reconstruction] = {"gated": gated, "matryoshka": nested}


@runtime_checkable
class Objective(Protocol):
    """A loss with its moving parts."""

    def __call__(self, dictionary: AffineDictionary, batch: Batch, step: int) -> Loss:
        """Pure: evaluate it as often as you like."""
        ...

    def observe(self, dictionary: AffineDictionary, loss: Loss, step: int) -> None:
        """Once per optimiser step; the only place where state moves."""
        ...

    def after_step(self, loss: Loss, optimizer: UnitNormAdam, step: int) -> None:
        """Once per optimiser step; the only place where weights move besides the optimiser (resampling)."""
        ...

    def numbers(self) -> Numbers:
        """What a log shows of the state."""
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


class SparseReconstruction:
    """Reconstruction error, a penalty on the features if the architecture needs one, and parts such as AuxK."""

    def __init__(
        self,
        penalty: Penalty | None = None,
        parts: Sequence[Part] = (),
        *,
        weigh_by_decoder: bool = False,
        step: Literal["auto", "dense", "active"] = "auto",
    ) -> None:
        """`weigh_by_decoder`: the penalty sees magnitude x decoder norm (April update; crosscoders: summed over sites).

        `step`: through the active features only (saes.sparse_step), through all of them, or whichever is faster at
        the density that was last measured. Both are exact.
        """
        self.penalty, self.parts, self._weigh, self._step = penalty, tuple(parts), weigh_by_decoder, step
        self.idle: Int[Tensor, "member feature"] | None = None
        self.density = 1.0
        self._measured = Measured()

    def __call__(self, dictionary: AffineDictionary, batch: Batch, step: int) -> Loss:
        if self._through_active(dictionary, batch):
            pre = active_way(dictionary, batch.inputs, self._measured.capacity)
        else:
            pre = dense_way(dictionary, batch.inputs)
        encoded = dictionary.training_pass(pre)
        self._measured.watch(encoded.features.layout)
        terms, residual = RECONSTRUCTIONS.get(dictionary.architecture, plain)(dictionary, encoded, batch)
        if self.penalty is not None:
            seen = encoded
            if self._weigh:
                weighed = encoded.penalised.values * encoded.penalised.per_feature(dictionary.decoder_norms())
                seen = encoded._replace(penalised=encoded.penalised.with_values(weighed))
            terms["penalty"] = self.penalty(seen, step)
        forward = Forward(dictionary, batch.inputs, pre, encoded.features.detach(), residual, self._idle_after(encoded))
        for part in self.parts:
            added = part(forward, step)
            if added is not None:
                terms[part.name] = added
        return Loss(torch.stack(list(terms.values())).sum(0), terms, encoded.detach(), forward)

    def observe(self, dictionary: AffineDictionary, loss: Loss, step: int) -> None:
        if self.penalty is not None:
            self.penalty.observe(loss.encoded, step)
        dictionary.observe(loss.encoded.features, step)
        self.idle = loss.forward.idle if self.parts else None
        if step % MEASURE_EVERY == 0 and self._step != "dense":
            self._measure(loss)

    def after_step(self, loss: Loss, optimizer: UnitNormAdam, step: int) -> None:
        for part in self.parts:
            part.after_step(loss.forward, optimizer, step)

    def numbers(self) -> Numbers:
        self._measured.check()
        return {} if self.penalty is None else self.penalty.numbers()

    def state_dict(self) -> dict[str, Any]:
        penalty = {} if self.penalty is None else self.penalty.state_dict()
        measured = self._measured.state_dict()
        return {"penalty": penalty, "idle": self.idle, "density": self.density, "measured": measured}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if self.penalty is not None:
            self.penalty.load_state_dict(state["penalty"])
        self.idle, self.density = state["idle"], state["density"]
        self._measured.load_state_dict(state["measured"])

    def _through_active(self, dictionary: AffineDictionary, batch: Batch) -> bool:
        if self._step != "auto":
            return self._step == "active"
        device = batch.inputs.device
        if on_gpu(device) and dictionary.architecture == "topk":
            return available(device)  # no row has more than k, whatever was measured
        return available(device) and self.density < ACTIVE_BELOW

    def _measure(self, loss: Loss) -> None:
        if on_gpu(loss.forward.inputs.device):
            self._measured.measure(loss.encoded.features, loss.forward.pre)
            self.density = 1.0 if self._measured.density is None else self._measured.density
        elif self._step == "auto":
            features = loss.encoded.features
            self.density = float(features.l0().max()) / loss.forward.dictionary.features

    @torch.no_grad()
    def _idle_after(self, encoded: Encoded) -> Int[Tensor, "member feature"]:
        """Inputs since each feature fired, once this batch has been seen."""
        layout = encoded.features.layout
        if not self.parts:
            return torch.zeros(layout.members, layout.features, dtype=torch.int64)
        before = 0 if self.idle is None else self.idle
        fired = encoded.features.fired()
        seen = layout.batch * layout.ranks.data_size
        return torch.where(fired, torch.zeros_like(fired, dtype=torch.int64), before + seen)
