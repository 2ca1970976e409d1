"""dictionary_learning's trainers, replicated step for step with the parts of Kibitz (saprmarks/dictionary_learning).

For comparing with published runs only. What is defective there is reproduced here and nowhere else: p_end that is not
reached, a learning rate of 0 at step 0, an unbounded gradient of f^p, AuxK normalised though the main loss is not,
Matryoshka errors divided by the number of groups twice, JumpReLU's step taken on features instead of pre-activations.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from saes.architectures import (
    AffineDictionary,
    BatchTopKConfig,
    BatchTopKDictionary,
    GatedConfig,
    GatedDictionary,
    JumpReLUConfig,
    JumpReLUDictionary,
    MatryoshkaConfig,
    MatryoshkaDictionary,
    ReLUConfig,
    ReLUDictionary,
    TopKConfig,
    TopKDictionary,
)
from saes.dead_features import AuxK
from saes.objective import SparseReconstruction
from saes.p_annealing import PAnneal, PAnnealConfig
from saes.penalties import L0, L0Config, Lp, LpConfig, Penalty
from saes.sites import Site
from saes.trainer import TrainConfig, Trainer

DL = "dictionary_learning"


@dataclass(frozen=True)
class DictionaryLearning:
    """Settings of one of its trainers, by the names of its constructor's arguments."""

    trainer: str
    """the class, such as PAnnealTrainer"""
    arguments: Mapping[str, Any]
    dead_after: int = 10_000_000
    """inputs; fixed in the original's code"""

    def build(self, site: Site) -> Trainer[AffineDictionary]:
        """A trainer at its first step; load the original's initial weights into it to follow a particular run."""
        try:
            recipe = RECIPES[self.trainer]
        except KeyError:
            raise ValueError(f"no replication of {self.trainer!r}; there are {', '.join(RECIPES)}") from None
        dictionary, penalty, parts, options = recipe(self, site)
        a = self.arguments
        steps, decay_start = a["steps"], a.get("decay_start")
        config = TrainConfig(
            steps=steps,
            learning_rate=a["lr"],
            warmup=a["warmup_steps"] / steps,
            decay=0.0 if decay_start is None else (steps - decay_start) / steps,
            normalise="none",
            schedule=DL,
            **{"clip": None, "first_bias": "zero", **options},
        )
        objective = SparseReconstruction(penalty, parts, weigh_by_decoder=self.trainer == APRIL)
        return Trainer(dictionary, objective, config)

    def shape(self, **more: Any) -> dict[str, Any]:
        return {"width": self.arguments["activation_dim"], "features": self.arguments["dict_size"], **more}


Recipe = tuple[AffineDictionary, Penalty | None, list[AuxK], dict[str, Any]]
APRIL = "StandardTrainerAprilUpdate"


def _l1(s: DictionaryLearning) -> Lp:
    warmup = s.arguments["sparsity_warmup_steps"] or 0
    return Lp(LpConfig(s.arguments["l1_penalty"], warmup=warmup, schedule=DL))


def _annealed(s: DictionaryLearning) -> PAnneal:
    a = s.arguments
    return PAnneal(
        PAnnealConfig(
            coefficient=a["initial_sparsity_penalty"],
            p_start=a["p_start"],
            p_end=a["p_end"],
            start=a["anneal_start"],
            end=a["steps"] if a.get("anneal_end") is None else a["anneal_end"],
            updates=a["n_sparsity_updates"],
            queue=a["sparsity_queue_length"],
            warmup=a["sparsity_warmup_steps"] or 0,
            bound=0.0,
            function=a["sparsity_function"],
            schedule=DL,
        )
    )


def _standard(s: DictionaryLearning, site: Site) -> Recipe:
    return ReLUDictionary(ReLUConfig(**s.shape()), [site]), _l1(s), [], {}


def _april(s: DictionaryLearning, site: Site) -> Recipe:
    return ReLUDictionary(ReLUConfig(**s.shape(unit_norm=False)), [site]), _l1(s), [], {"clip": 1.0}


def _p_anneal(s: DictionaryLearning, site: Site) -> Recipe:
    return ReLUDictionary(ReLUConfig(**s.shape()), [site]), _annealed(s), [], {}


def _gated(s: DictionaryLearning, site: Site) -> Recipe:
    return GatedDictionary(GatedConfig(**s.shape()), [site]), _l1(s), [], {"betas": (0.0, 0.999)}


def _gated_anneal(s: DictionaryLearning, site: Site) -> Recipe:
    return GatedDictionary(GatedConfig(**s.shape()), [site]), _annealed(s), [], {"betas": (0.0, 0.999)}


def _competing(s: DictionaryLearning) -> tuple[dict[str, Any], list[AuxK], dict[str, Any]]:
    a = s.arguments
    shape = s.shape(k=a["k"], threshold_decay=a["threshold_beta"], threshold_start=a["threshold_start_step"] + 1)
    parts = [AuxK(alpha=a["auxk_alpha"], dead_after=s.dead_after, normalise=True)]
    return shape, parts, {"clip": 1.0, "first_bias": "geometric_median"}


def _top_k(s: DictionaryLearning, site: Site) -> Recipe:
    shape, parts, options = _competing(s)
    return TopKDictionary(TopKConfig(**shape), [site]), None, parts, options


def _batch_top_k(s: DictionaryLearning, site: Site) -> Recipe:
    shape, parts, options = _competing(s)
    return BatchTopKDictionary(BatchTopKConfig(**shape), [site]), None, parts, options


def _matryoshka(s: DictionaryLearning, site: Site) -> Recipe:
    shape, parts, options = _competing(s)
    fractions = tuple(s.arguments["group_fractions"])
    weights = s.arguments.get("group_weights") or [1 / len(fractions)] * len(fractions)
    config = MatryoshkaConfig(
        **shape, group_fractions=fractions, group_weights=tuple(w / len(fractions) for w in weights)
    )
    return MatryoshkaDictionary(config, [site]), None, parts, options


def _jumprelu(s: DictionaryLearning, site: Site) -> Recipe:
    a = s.arguments
    config = JumpReLUConfig(**s.shape(center=False), bandwidth=a["bandwidth"], first_threshold=0.001, step_on="feature")
    penalty = L0(L0Config(a["sparsity_penalty"], a["target_l0"], a["sparsity_warmup_steps"] or 0, DL))
    return JumpReLUDictionary(config, [site]), penalty, [], {"clip": 1.0, "betas": (0.0, 0.999)}


RECIPES = {
    "StandardTrainer": _standard,
    APRIL: _april,
    "PAnnealTrainer": _p_anneal,
    "GatedSAETrainer": _gated,
    "GatedAnnealTrainer": _gated_anneal,
    "TopKTrainer": _top_k,
    "BatchTopKTrainer": _batch_top_k,
    "MatryoshkaBatchTopKTrainer": _matryoshka,
    "JumpReluTrainer": _jumprelu,
}

_NAMES = {
    "W_enc": ("encoder.weight", "W_enc"),
    "b_enc": ("encoder.bias", "b_enc"),
    "W_dec": ("decoder.weight", "W_dec"),
    "b_dec": ("bias", "decoder_bias", "b_dec"),
    "b_gate": ("gate_bias",),
    "r_mag": ("r_mag",),
    "b_mag": ("mag_bias",),
    "threshold": ("threshold",),
}
_TRANSPOSED = {"W_enc": "W_enc", "W_dec": "decoder.weight"}  # stored as [D, F] under these of its names


def parameters_of(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Its state dict under the names and in the layout of Kibitz."""
    found = {}
    for ours, theirs in _NAMES.items():
        for name in theirs:
            if name in tensors:
                found[ours] = tensors[name].T.contiguous() if _TRANSPOSED.get(ours) == name else tensors[name]
    return found
