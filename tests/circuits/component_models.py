"""Small float64 models of five families whose heads are nodes, and pairs of prompts for them."""

import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Olmo2Config,
    Olmo2ForCausalLM,
)

from circuits.examples import Examples
from tests.circuits.small import small_model

KINDS = ("gpt2", "neox parallel", "neox serial", "llama grouped", "gemma2 grouped")
_SHAPE = {"vocab_size": 23, "hidden_size": 16, "num_hidden_layers": 2, "bos_token_id": 0, "eos_token_id": 0}


class PlainRMSNorm(torch.nn.Module):
    """As Llama's, in the model's own dtype: the original goes through float32, where differences drown."""

    def __init__(self, weight):
        super().__init__()
        self.weight = weight

    def forward(self, x):
        return x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * self.weight


def _grouped(kind, layers):
    shape = {**_SHAPE, "num_hidden_layers": layers, "num_attention_heads": 4, "num_key_value_heads": 2}
    shape |= {"intermediate_size": 24, "pad_token_id": 0, "initializer_range": 0.4}
    if kind == "llama grouped":
        return LlamaForCausalLM(LlamaConfig(**shape, head_dim=6))
    if kind == "olmo2 grouped":
        return Olmo2ForCausalLM(Olmo2Config(**shape))
    capped = {"attn_logit_softcapping": 1.5 if kind.endswith("capped") else None, "final_logit_softcapping": None}
    model = Gemma2ForCausalLM(Gemma2Config(**shape, **capped, head_dim=6, query_pre_attn_scalar=6))
    model.config._attn_implementation = "sdpa"  # its own takes the softmax in float32; this knows no caps
    return model


def component_model(kind, layers=2):
    torch.manual_seed(3)
    if kind == "gpt2":
        model = small_model()
    elif kind.startswith("neox"):
        shape = {**_SHAPE, "num_hidden_layers": layers, "num_attention_heads": 2, "intermediate_size": 32}
        config = GPTNeoXConfig(**shape, use_parallel_residual=kind.endswith("parallel"), initializer_range=0.4)
        model = GPTNeoXForCausalLM(config).double()
    else:
        model = _grouped(kind, layers).double()
        for path, module in list(model.named_modules()):
            if path.endswith("norm"):
                offset = 1.0 if kind.startswith("gemma") else 0.0  # Gemma's norms multiply by 1 + weight
                model.set_submodule(path, PlainRMSNorm(torch.nn.Parameter(module.weight.data + offset)))
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:  # biases and scales that are not trivial
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name)))
            parameter.data += 0.2 * noise.double()
    return model.eval().requires_grad_(False)


def uneven(count=3, length=6, seed=0):
    """Pairs of 4 to `length` tokens, padded; the metric is read at the last one."""
    generator = torch.Generator().manual_seed(seed)
    clean = torch.randint(23, (count, length), generator=generator)
    patch = torch.randint(23, (count, length), generator=generator)
    patch[:, 0] = clean[:, 0]
    lengths = length - torch.arange(count) % 3
    fields = {"answer": torch.arange(count) % 23, "other": (torch.arange(count) + 7) % 23}
    return Examples(clean, patch, lengths - 1, fields, lengths)
