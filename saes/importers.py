"""Board-game GPTs of other projects into transformers' GPT-2: minGPT's (OthelloGPT) and nanoGPT's (ChessGPT).

Li et al. 2023 ("Emergent World Representations") train OthelloGPT with minGPT, Karvonen 2024 ChessGPT with nanoGPT.
Both have GPT-2's blocks with the exact GELU. Only weights are read (no optimiser, no code), and every one must be used.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from saes.files import FileError, read_state
from saes.models import save_model

_Activation = Literal["gelu", "gelu_new"]
_WRAPPERS = re.compile(r"^(?:(?:_orig_mod|module)\.)+")  # torch.compile's and data-parallel training's
_MASK = re.compile(r"(blocks|transformer\.h)\.\d+\.attn\.(mask|bias)")  # buffers; nanoGPT calls its mask a bias
_MINGPT, _NANOGPT = "tok_emb.weight", "transformer.wte.weight"
_AS_NANOGPT = (  # minGPT's names
    (r"tok_emb\.", "transformer.wte."),
    (r"ln_f\.", "transformer.ln_f."),
    (r"head\.", "lm_head."),
    (r"blocks\.(\d+)\.ln([12])\.", r"transformer.h.\1.ln_\2."),
    (r"blocks\.(\d+)\.attn\.proj\.", r"transformer.h.\1.attn.c_proj."),
    (r"blocks\.(\d+)\.mlp\.0\.", r"transformer.h.\1.mlp.c_fc."),
    (r"blocks\.(\d+)\.mlp\.2\.", r"transformer.h.\1.mlp.c_proj."),
)


def import_gpt(
    checkpoint: Path | str, folder: Path | str, *, heads: int | None = None, activation: _Activation = "gelu"
) -> Path:
    """Turn a checkpoint file of minGPT or nanoGPT into a model folder for load_model; the folder is returned.

    `heads`: the number of attention heads, which no weight shows; minGPT's files need it (OthelloGPT: 8), nanoGPT's
    have it in `model_args`. `activation`: "gelu_new" (the tanh approximation) for early nanoGPT and for GPT-2's own
    weights. Raises FileError for a file that is damaged, of another kind, or does not fit together.
    """
    state = read_state(checkpoint)
    try:
        model = gpt_from_checkpoint(state, heads=heads, activation=activation)
    except FileError as error:
        raise FileError(f"{checkpoint}: {error}") from None
    save_model(model, folder)
    return Path(folder)


def gpt_from_checkpoint(
    checkpoint: Mapping[str, Any], *, heads: int | None = None, activation: _Activation = "gelu"
) -> GPT2LMHeadModel:
    """The model of what a checkpoint file holds: a state dict, or nanoGPT's {"model": ..., "model_args": ...}.

    As for import_gpt; in float32, in evaluation mode, without gradients.
    """
    state, arguments = checkpoint.get("model", checkpoint), checkpoint.get("model_args", {})
    if not isinstance(state, Mapping) or not isinstance(arguments, Mapping):
        raise FileError("'model' and 'model_args' are not tables")
    named = {_WRAPPERS.sub("", str(name)): tensor for name, tensor in state.items() if isinstance(tensor, Tensor)}
    weights = {name: t.float() for name, t in named.items() if t.ndim != 4 or not _MASK.fullmatch(name)}
    if _MINGPT in weights:
        weights = _as_nanogpt(weights)
    elif _NANOGPT not in weights:
        first = ", ".join([*state][:3]) or "nothing"
        raise FileError(f"neither minGPT's ({_MINGPT}) nor nanoGPT's ({_NANOGPT}); it begins with {first}")
    weights.setdefault("lm_head.weight", weights[_NANOGPT])
    model = GPT2LMHeadModel(_config(weights, _heads(heads, arguments), activation))
    model.load_state_dict(_as_gpt2(weights, {name: tuple(t.shape) for name, t in model.state_dict().items()}))
    return model.eval().requires_grad_(False)


def _as_nanogpt(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """minGPT's weights under nanoGPT's names, with query, key and value as one matrix [3 · width, width]."""
    if "head.weight" not in weights:
        raise FileError("lacks head.weight")
    found = dict(weights)
    if "pos_emb" in found:
        found["transformer.wpe.weight"] = found.pop("pos_emb").flatten(0, -2)  # [1, block, width]
    for name in weights:
        if match := re.fullmatch(r"blocks\.(\d+)\.attn\.query\.(weight|bias)", name):
            parts = [name.replace("query", part) for part in ("query", "key", "value")]
            if lacking := [part for part in parts if part not in found]:
                raise FileError(f"lacks {', '.join(lacking)}")
            found[f"transformer.h.{match[1]}.attn.c_attn.{match[2]}"] = torch.cat([found.pop(part) for part in parts])
    for pattern, nanogpt in _AS_NANOGPT:
        found = {re.sub(rf"^{pattern}", nanogpt, name): tensor for name, tensor in found.items()}
    return found


def _heads(heads: int | None, arguments: Mapping[str, Any]) -> int:
    stored = arguments.get("n_head", heads)
    if not isinstance(stored, int):
        raise FileError("does not say how many attention heads it has; say heads=8, as for OthelloGPT")
    if heads not in (None, stored):
        raise FileError(f"has n_head {stored}, not {heads}")
    return stored


def _config(weights: dict[str, Tensor], heads: int, activation: _Activation) -> GPT2Config:
    """Sizes are read off the weights; _as_gpt2 checks that all the others agree."""
    for name in (_NANOGPT, "transformer.wpe.weight", "transformer.h.0.mlp.c_fc.weight"):
        if name not in weights or weights[name].ndim != 2:
            raise FileError(f"lacks {name}, a matrix")
    vocabulary, width = weights[_NANOGPT].shape
    if heads < 1 or width % heads:
        raise FileError(f"is {width} wide, which {heads} attention heads do not divide")
    return GPT2Config(
        vocab_size=vocabulary,
        n_positions=len(weights["transformer.wpe.weight"]),
        n_embd=width,
        n_layer=len({match[1] for name in weights if (match := re.match(r"transformer\.h\.(\d+)\.", name))}),
        n_head=heads,
        n_inner=len(weights["transformer.h.0.mlp.c_fc.weight"]),
        activation_function=activation,
        layer_norm_epsilon=1e-5,
        tie_word_embeddings=torch.equal(weights["lm_head.weight"], weights[_NANOGPT]),
        bos_token_id=None,  # GPT-2's own, 50256, lies outside these vocabularies
        eos_token_id=None,
    )


def _as_gpt2(weights: dict[str, Tensor], shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """nanoGPT's weights as GPT-2's, of just these shapes: linear layers [out, in] are [in, out] in GPT-2."""
    linear = re.compile(r"transformer\.h\.\d+\..*\.c_\w+\.weight")
    found = {name: t.mT if linear.fullmatch(name) and t.ndim == 2 else t for name, t in weights.items()}
    if not any(name.endswith(".bias") for name in found):  # trained with bias=False, layer norms included
        found |= {name: torch.zeros(shape) for name, shape in shapes.items() if name.endswith(".bias")}
    if lacking := sorted(shapes.keys() - found.keys()):
        raise FileError(f"lacks {', '.join(lacking[:3])}")
    if unknown := sorted(found.keys() - shapes.keys()):
        raise FileError(f"holds weights that GPT-2 does not have: {', '.join(unknown[:3])}")
    for name, tensor in found.items():
        if tensor.shape != shapes[name]:
            raise FileError(f"{name} is {list(tensor.shape)}, and should be {list(shapes[name])}")
        if not bool(tensor.isfinite().all()):
            raise FileError(f"{name} holds infinite values or NaN")
    return found
