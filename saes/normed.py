"""Dictionaries that read a normed residual stream before the norm's gain, made to read what the MLP reads.

TransformerLens' `blocks.N.ln2.hook_normalized` is x / rms(x) where the norm is an RMSNorm: its gain comes after it.
Gemma Scope's transcoders read it (their authors folded the gain into the MLP), and circuit-tracer's sets that name it.
Of a LayerNorm it is the norm's output, as the MLP reads it, in models loaded without processing, as circuit-tracer does
(https://github.com/TransformerLensOrg/TransformerLens/issues/747). No module of a transformers model hands x / rms(x)
on, but the site mlp_in_N is x / rms(x) times the gain: encoder columns divided by the gain give the same features.
"""

import re

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from saes.architectures import AffineDictionary
from saes.families import family_of, find_site
from saes.sites import Site, SiteError

_NORMALIZED = re.compile(r"blocks\.(\d+)\.ln2\.hook_normalized")
_LARGE = 2.0**10  # an input so large that the norm's epsilon is nothing beside its square, and with an exact root

Gain = Float[Tensor, " d"]


def read_in(model: PreTrainedModel, site: Site) -> tuple[Site, Gain | None]:
    """The model's site for what a dictionary reads, and the gain to divide encoder columns by, if there is one."""
    match = _NORMALIZED.fullmatch(site.name)
    if match is None:
        return find_site(model, site.name), None
    found, family = find_site(model, f"mlp_in_{match[1]}"), family_of(model)
    if family.mid_norm is None or family.mid_norm == family.mlp_in:
        raise SiteError(f"{site}: no norm stands before the MLPs of this {model.config.model_type}")
    norm = model.get_submodule(family.mid_norm.format(i=match[1]))
    if isinstance(norm, nn.LayerNorm):
        return found, None
    gain = _gain(norm, int(model.config.get_text_config().hidden_size), model)
    if bool((gain == 0).any()):
        raise SiteError(f"{site}: the gain of the norm before that MLP has zeros, behind which nothing can be read")
    return found, gain


@torch.no_grad()
def _gain(norm: nn.Module, width: int, model: PreTrainedModel) -> Gain:
    """Of an RMSNorm, whatever a family adds to its weight: what it makes of a vector of equal entries."""
    dtype = torch.promote_types(model.dtype, torch.float32)
    return norm(torch.full((1, width), _LARGE, dtype=dtype, device=model.device))[0]


@torch.no_grad()
def divide_gain(dictionary: AffineDictionary, gain: Gain) -> None:
    """Make a dictionary of x one of gain * x, exactly: the same features, skip term and reconstruction."""
    gain = gain.to(dictionary.W_enc)
    dictionary.W_enc.div_(gain)
    if dictionary.config.skip:
        dictionary.W_skip.div_(gain[:, None])
