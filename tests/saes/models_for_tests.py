"""Tiny random transformers: 16 wide, every parameter random, so that no bias, scale or mask is trivially right."""

from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedModel

VOCABULARY = 97
FAMILY_NAMES = ("gpt2", "neox parallel", "neox serial", "llama")
_ANY = {"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 0}
_SHAPE = {**_ANY, "hidden_size": 16, "num_attention_heads": 2}
_NEOX = {**_SHAPE, "intermediate_size": 32}
_GATED = {**_SHAPE, "intermediate_size": 24, "num_key_value_heads": 1, "pad_token_id": 0}
_PLAIN = ("llama", "mistral", "olmo2", "phi3", "qwen2", "smollm3")
_WIDE = ("gemma", "gemma2", "gemma3_text", "qwen3")  # whose heads may be wider together than the residual stream
MORE_FAMILIES = ("gpt_neo", *_PLAIN[1:], *_WIDE)
_TINY: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("gpt2", {**_ANY, "n_embd": 16, "n_head": 2, "n_positions": 64}),
    "neox parallel": ("gpt_neox", {**_NEOX, "use_parallel_residual": True}),
    "neox serial": ("gpt_neox", {**_NEOX, "use_parallel_residual": False}),
    "gpt_neo": ("gpt_neo", {**_ANY, "hidden_size": 16, "num_heads": 2, "max_position_embeddings": 64}),
    **{name: (name, _GATED) for name in _PLAIN},
    **{name: (name, {**_GATED, "head_dim": 12}) for name in _WIDE},
}


def tiny(family: str, layers: int = 2) -> PreTrainedModel:
    """A model of one of the families in evaluation mode; the first layers are the same for every number of layers."""
    kind, shape = _TINY[family]
    depth = {"num_layers": layers, "attention_types": [[["global"], layers]]}  # GPT-Neo's way to say it
    config = CONFIG_MAPPING[kind](**shape, **(depth if kind == "gpt_neo" else {"num_hidden_layers": layers}))
    model = AutoModelForCausalLM.from_config(config)
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
