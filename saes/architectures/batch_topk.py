"""BatchTopK sparse autoencoder (Bussmann et al. 2024, arXiv:2412.06410): the k x B largest features of a whole batch.

Outside of training rows do not compete: features above a threshold are kept, a moving average of the smallest
activation that training kept. It is measured from the first step on, so that inference is never silently dense.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from saes.architectures.affine import Encoded
from saes.architectures.topk import CompetingDictionary, TopKConfig, smallest_positive
from saes.entries import Entries
from saes.preactivations import PreActivations


@dataclass(frozen=True)
class BatchTopKConfig(TopKConfig):
    """k is the mean number of features of a row."""


class BatchTopKDictionary(CompetingDictionary):
    architecture = "batch_topk"
    config_type = BatchTopKConfig

    def activate(self, pre: Float[Tensor, "*batch f"]) -> Float[Tensor, "*batch f"]:
        threshold = self.threshold.clamp_min(0)[..., None]
        return pre * (pre > self.over_rows(threshold))

    def encode_chosen(self, x: Float[Tensor, "*batch d"], index: Tensor) -> Float[Tensor, "*batch chosen"]:
        rows, bias = self.W_enc[index], self.b_enc[index]
        pre = x @ rows.T + (bias - rows @ self.b_dec if self.config.center else bias)
        return pre * (pre > self.threshold.clamp_min(0))

    def training_pass(self, pre: PreActivations) -> Encoded:
        features = pre.batch_top(self.ks)
        return Encoded(features, features)

    def smallest_kept(self, features: Entries) -> Float[Tensor, " member"]:
        smallest = features.layout.ranks.smallest(smallest_positive(features).amin(1), over_rows=True)
        return torch.where(smallest.isinf(), 0.0, smallest)
