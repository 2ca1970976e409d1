"""A wiring as a transformers GPT-2 whose weights are set by hand, and the dictionaries that read it exactly.

Feature directions are a random orthonormal set at right angles to (1, 1, ..., 1), so that LayerNorm's mean is 0. Its
epsilon (a number of the model's config) is so large that it alone is the variance, and its weight is the root of that:
every norm is then the identity up to one part in 10^9, and what nothing reads changes nothing. The norms that a real
model has are thereby not tested here.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from circuit_truth.wiring import BLOCKS, HEADS, LENGTH, Wiring, position
from saes.architectures import ARCHITECTURES
from saes.dictionary import Dictionary
from saes.families import circuit_sites
from saes.sites import Site

WIDTH = 64
NEURONS = 24  # of each MLP
SHARPNESS = 20.0  # score of a match of two features of strength 1: the rest of the prompt gets e^-20 of the attention
EPSILON = 1e10
ANSWER, OTHER = 0, 1  # the tokens of the logit difference
THRESHOLD = 1e-3
"""above it a feature is active"""


@dataclass(frozen=True)
class Plant:
    """A planted model (float64) with the directions [F, D] of its features, in the order of `wiring.features`."""

    wiring: Wiring
    model: GPT2LMHeadModel
    directions: Float[Tensor, "f d"]

    def given(self) -> dict[Site, Dictionary]:
        """The true dictionaries: at every site the planted directions, read exactly, on above THRESHOLD."""
        return {site: self._dictionary(site) for site in circuit_sites(self.model)}

    def _dictionary(self, site: Site) -> Dictionary:
        kind = ARCHITECTURES["jumprelu"]
        dictionary = kind(kind.config_type(WIDTH, len(self.directions)), [site]).double().requires_grad_(False)
        dictionary.W_dec.copy_(self.directions)
        dictionary.W_enc.copy_(self.directions)
        dictionary.get_parameter("threshold").fill_(THRESHOLD)
        return dictionary.eval()


@torch.no_grad()
def plant(wiring: Wiring, strengths: Float[Tensor, "v attributes"], seed: int) -> Plant:
    """The model of a wiring. `strengths`: how much of every attribute each token of the vocabulary has."""
    names, random = wiring.features, torch.Generator().manual_seed(seed)
    if len(names) >= WIDTH or max(len(wiring.in_block(i)[1]) for i in range(BLOCKS)) > NEURONS:
        raise ValueError(f"{len(names)} features: a planted model has room for {WIDTH - 1}, and {NEURONS} neurons")
    start = torch.randn(WIDTH, len(names) + 1, generator=random, dtype=torch.float64)
    start[:, 0] = 1
    directions = torch.linalg.qr(start).Q[:, 1:].T.contiguous()
    of = dict(zip(names, directions, strict=True))
    config = GPT2Config(
        vocab_size=len(strengths), n_positions=LENGTH, n_embd=WIDTH, n_layer=BLOCKS, n_head=HEADS, n_inner=NEURONS,
        activation_function="relu", layer_norm_epsilon=EPSILON, tie_word_embeddings=False,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    model = GPT2LMHeadModel(config).double().eval().requires_grad_(False)
    for weight in model.parameters():
        weight.zero_()
    for name, weight in model.named_parameters():
        if ".ln_" in name and name.endswith("weight"):
            weight.fill_(EPSILON**0.5)
    model.get_parameter("transformer.wte.weight").copy_(strengths.double() @ directions[: len(wiring.attributes)])
    places = torch.stack([of[position(i)] for i in range(LENGTH)])
    model.get_parameter("transformer.wpe.weight").copy_(places)
    size = WIDTH // HEADS
    for head in wiring.heads:
        attention = f"transformer.h.{head.block}.attn"
        reads_in, writes_out = (model.get_parameter(f"{attention}.{name}.weight") for name in ("c_attn", "c_proj"))
        query, key, value = (s * WIDTH + head.number * size for s in range(3))
        for i, (asks, answers) in enumerate(head.matches):
            reads_in[:, query + i] = SHARPNESS * size**0.5 * of[asks]
            reads_in[:, key + i] = of[answers]
        for i, (reads, writes, gain) in enumerate(head.moves):
            reads_in[:, value + i] = of[reads]
            writes_out[head.number * size + i] = gain * of[writes]
    for block in range(BLOCKS):
        mlp = f"transformer.h.{block}.mlp"
        into, bias, out = (model.get_parameter(f"{mlp}.{n}") for n in ("c_fc.weight", "c_fc.bias", "c_proj.weight"))
        for i, neuron in enumerate(wiring.in_block(block)[1]):
            into[:, i] = torch.stack([weight * of[name] for name, weight in neuron.reads.items()]).sum(0)
            bias[i] = neuron.bias
            out[i] = torch.stack([weight * of[name] for name, weight in neuron.writes.items()]).sum(0)
    for name, weight in wiring.readout.items():
        model.get_parameter("lm_head.weight")[ANSWER if weight > 0 else OTHER] += abs(weight) * of[name]
    return Plant(wiring, model, directions)
