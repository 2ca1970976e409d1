"""Dictionaries that compute the same in another form, and our dictionaries from another tool's tensors.

* W (x - b) + c = W x + (c - W b): the input bias can be moved into the encoder's bias, and out of it.
* BatchTopK and Matryoshka outside of training are JumpReLU with one threshold for all features.
* Gated is JumpReLU: with m = exp(r) s + b_mag, s + b_gate > 0 is m > b_mag - exp(r) b_gate (arXiv:2404.16014, app. E).

Sums are made in float64 and rounded once.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saes.architectures import (
    ARCHITECTURES,
    AffineDictionary,
    BatchTopKDictionary,
    CrosscoderDictionary,
    GatedDictionary,
    JumpReLUConfig,
    JumpReLUDictionary,
    ReLUDictionary,
)
from saes.files import FileError
from saes.formats.folders import NotExpressible
from saes.formats.spellings import Sites


def expressible(dictionary: AffineDictionary, folder: Path | str, tool: str) -> None:
    """NotExpressible for what no other format knows: crosscoders and stacks; FileError for weights that are not finite.

    Also the first check of every writer, so that nothing is created for a dictionary that is refused.
    """
    if dictionary.members is not None:
        raise NotExpressible(f"{folder}: a stack of {dictionary.members} dictionaries; unstack it and write each one")
    if isinstance(dictionary, CrosscoderDictionary):
        raise NotExpressible(f"{folder}: {tool} cannot express a crosscoder: its dictionaries read and write one site")
    if len(dictionary.reads) != 1 or len(dictionary.writes) != 1:
        raise NotExpressible(f"{folder}: {tool} cannot express a dictionary of several sites")
    for name, t in dictionary.state_dict().items():
        if not bool(t.isfinite().all()):
            raise FileError(f"{folder}: not written, for the dictionary's {name} holds NaN or infinity")


def is_transcoder(dictionary: AffineDictionary) -> bool:
    """Whether it writes something else than it reads, or adds a linear path."""
    return dictionary.reads != dictionary.writes or dictionary.config.skip or dictionary.width_in != dictionary.width


def weights(dictionary: AffineDictionary) -> dict[str, Tensor]:
    """All parameters and buffers as float32 on the CPU."""
    return {name: t.detach().float().cpu() for name, t in dictionary.state_dict().items()}


def weights_with_center(dictionary: AffineDictionary, center: bool) -> dict[str, Tensor]:
    """`weights` of the same dictionary with b_dec subtracted from its input, or not."""
    w = weights(dictionary)
    if dictionary.config.center == center:
        return w
    exact = {name: t.detach().double().cpu() for name, t in dictionary.state_dict().items()}
    shift = exact["W_enc"] @ exact["b_dec"] * (1 if center else -1)
    if "r_mag" not in w:
        return {**w, "b_enc": (exact["b_enc"] + shift).float()}
    b_mag = exact["b_mag"] + exact["r_mag"].exp() * shift
    return {**w, "b_gate": (exact["b_gate"] + shift).float(), "b_mag": b_mag.float()}


@torch.no_grad()
def as_jumprelu(dictionary: AffineDictionary) -> JumpReLUDictionary:
    """A ReLU, Gated, BatchTopK or Matryoshka dictionary as JumpReLU, thresholds at 0 or above."""
    config, tensors = dictionary.config, weights(dictionary)
    if isinstance(dictionary, ReLUDictionary):
        tensors["threshold"] = torch.zeros(config.features)
    elif isinstance(dictionary, BatchTopKDictionary):
        tensors["threshold"] = tensors["threshold"].expand(config.features)
    elif isinstance(dictionary, GatedDictionary):
        gate, r, b = (tensors.pop(name).double() for name in ("b_gate", "r_mag", "b_mag"))
        tensors["W_enc"] = (r.exp()[:, None] * tensors["W_enc"].double()).float()
        tensors |= {"b_enc": b.float(), "threshold": (b - r.exp() * gate).float()}
    elif not isinstance(dictionary, JumpReLUDictionary):
        raise NotExpressible(f"the features of a {dictionary.architecture} dictionary compete: it has no thresholds")
    tensors["threshold"] = tensors["threshold"].clamp_min(0)  # the same: what is kept is positive in any case
    shape = {name: getattr(config, name) for name in ("width", "features", "width_in", "center", "skip", "unit_norm")}
    result = JumpReLUDictionary(JumpReLUConfig(**shape), dictionary.reads, dictionary.writes)
    result.load_state_dict(tensors)
    return result.requires_grad_(False)


def has_unit_rows(W_dec: Tensor, tolerance: float = 2e-3) -> bool:
    """Whether decoder rows have norm 1; by default as far as rows stored in 16 bits can."""
    return bool(((W_dec.norm(dim=1) - 1).abs() <= tolerance).all())


def build(
    architecture: str, tensors: Mapping[str, Tensor], sites: Sites, path: Path, *, center: bool, **options: Any
) -> AffineDictionary:
    """Our dictionary, frozen, from canonical float32 tensors (see saes.architectures.affine)."""
    kind = ARCHITECTURES[architecture]
    (features, width), width_in = tensors["W_dec"].shape, tensors["W_enc"].shape[1]
    reads, writes = sites
    try:
        config = kind.config_type(
            width,
            features,
            width_in=width_in if (reads != writes or width_in != width) else None,
            center=center,
            skip="W_skip" in tensors,
            unit_norm=has_unit_rows(tensors["W_dec"]),
            **options,
        )
        with torch.device("meta"):  # no random weights, which would be thrown away
            dictionary = kind(config, reads, writes)
    except ValueError as error:
        raise FileError(f"{path}: {error}") from None
    # cloned: what is read may be a mapped file
    whole = {name: t.clone(memory_format=torch.contiguous_format) for name, t in tensors.items()}
    dictionary.load_state_dict(whole, assign=True)
    return dictionary.eval().requires_grad_(False)
