"""A tiny float64 GPT-2 with random dictionaries at every site, and pairs of prompts."""

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from circuits.examples import Examples
from saes.architectures import ReLUConfig, ReLUDictionary
from saes.families import circuit_sites


def small_model(seed: int = 0) -> GPT2LMHeadModel:
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=23, n_positions=8, n_embd=16, n_layer=2, n_head=2, initializer_range=0.4,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    return GPT2LMHeadModel(config).double().eval().requires_grad_(False)


def linear_model() -> GPT2LMHeadModel:
    """No norms, no activation function, uniform attention: the logits are affine in every site."""
    model = small_model(1)
    model.transformer.ln_f = torch.nn.Identity()
    for block in model.transformer.h:
        block.ln_1, block.ln_2 = torch.nn.Identity(), torch.nn.Identity()  # two: sites are found by module
        block.mlp.act = torch.nn.Identity()
        block.attn.c_attn.weight[:, :32] = 0
        block.attn.c_attn.bias[:32] = 0
    return model


def dictionaries_for(model, features: int = 24):
    made = {}
    for i, site in enumerate(circuit_sites(model)):
        dictionary = ReLUDictionary(ReLUConfig(16, features), [site], seed=i).double()
        dictionary.b_dec.data.normal_(generator=torch.Generator().manual_seed(i)).mul_(0.1)
        made[site] = dictionary.requires_grad_(False)
    return made


def pairs(count: int = 3, length: int = 5, seed: int = 0) -> Examples:
    generator = torch.Generator().manual_seed(seed)
    clean = torch.randint(23, (count, length), generator=generator)
    patch = clean.clone()
    patch[:, 1] = (clean[:, 1] + 5) % 23
    fields = {"answer": torch.arange(count) % 23, "other": (torch.arange(count) + 7) % 23}
    return Examples(clean, patch, torch.full((count,), length - 1), fields)
