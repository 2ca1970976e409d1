"""Tiny random transformers: 16 wide, every parameter random, so that no bias, scale or mask is trivially right."""

import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

VOCABULARY = 97
FAMILY_NAMES = ("gpt2", "neox parallel", "neox serial", "llama")


def tiny(family: str, layers: int = 2) -> PreTrainedModel:
    """A model of one of FAMILY_NAMES in evaluation mode; the first layers are the same for every number of layers."""
    shape = {"hidden_size": 16, "num_hidden_layers": layers, "num_attention_heads": 2, "vocab_size": VOCABULARY}
    if family == "gpt2":
        model = GPT2LMHeadModel(
            GPT2Config(
                n_embd=16,
                n_layer=layers,
                n_head=2,
                vocab_size=VOCABULARY,
                n_positions=64,
                bos_token_id=0,
                eos_token_id=0,
            )
        )
    elif family == "llama":
        model = LlamaForCausalLM(LlamaConfig(**shape, intermediate_size=24, num_key_value_heads=1, pad_token_id=0))
    else:
        model = GPTNeoXForCausalLM(
            GPTNeoXConfig(**shape, intermediate_size=32, use_parallel_residual=family == "neox parallel")
        )
    for name, parameter in model.named_parameters():
        generator = torch.Generator().manual_seed(sum(name.encode()) + 1000 * len(name))
        noise = torch.randn(parameter.shape, generator=generator)
        with torch.no_grad():
            parameter.copy_(0.25 * noise + (1.0 if "norm" in name or "ln_" in name else 0.0))
    return model.eval().requires_grad_(False)


def some_tokens(rows: int = 3, length: int = 9, seed: int = 0) -> torch.Tensor:
    return torch.randint(VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(seed))


def hook_count(model: torch.nn.Module) -> int:
    """Forward hooks of all kinds on all modules."""
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
