"""What an MLP writes at one prompt, taken apart by its transcoder: active features, bias, skip term and error."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from circuits.frozen import GraphError
from saes.dictionary import Dictionary
from saes.digests import weights_digest
from saes.families import blocks, find_site
from saes.sites import Site, SiteError


@dataclass(frozen=True)
class Part:
    """mlp output == sum of decoders at their positions + bias + read @ skip + error, position by position.

    Features that are not zero are listed by position, then by number. Without a transcoder `reads` is None, there is
    no feature, and the error is the whole output.
    """

    writes: Site
    reads: Site | None
    positions: Int[Tensor, " n"]
    features: Int[Tensor, " n"]
    acts: Float[Tensor, " n"]
    pre: Float[Tensor, " n"]
    """pre-activations: what edges into a feature add up to"""
    encoders: Float[Tensor, "n d_in"]
    """gradients of the pre-activations with respect to what is read"""
    decoders: Float[Tensor, "n d"]
    """decoder rows times activations"""
    bias: Float[Tensor, " d"]
    skip: Float[Tensor, "d_in d"] | None
    error: Float[Tensor, "length d"]
    digest: str | None
    """of the transcoder's weights"""

    @property
    def written(self) -> Float[Tensor, "length d"]:
        """All but the skip term, which the linear map contains."""
        return self.error.index_add(0, self.positions, self.decoders) + self.bias

    @property
    def counts(self) -> list[int]:
        """Features at each position."""
        return torch.bincount(self.positions, minlength=len(self.error)).tolist()


def without_transcoder(writes: Site, output: Float[Tensor, "length d"]) -> Part:
    """An MLP that is nothing but error nodes."""
    none = output.new_zeros(0, dtype=torch.long)
    rows, numbers = output.new_zeros(0, output.shape[1]), output.new_zeros(0)
    return Part(writes, None, none, none, numbers, numbers, rows, rows, torch.zeros_like(output[0]), None, output, None)


@torch.no_grad()
def part_of(
    dictionary: Dictionary,
    reads: Site,
    writes: Site,
    x: Float[Tensor, "length d_in"],
    output: Float[Tensor, "length d"],
) -> Part:
    """The parts of `output`, of which the dictionary reads `x`."""
    dictionary.check_width(x.shape[-1])
    if dictionary.width != output.shape[-1]:
        raise GraphError(
            f"the transcoder of {writes} writes width {dictionary.width} and the site has {output.shape[-1]}: "
            "is it of another model?"
        )
    if dictionary.W_dec.dtype != x.dtype or dictionary.W_dec.device != x.device:
        raise GraphError(
            f"the transcoder of {writes} is in {dictionary.W_dec.dtype} on {dictionary.W_dec.device}, the model in "
            f"{x.dtype} on {x.device}: load one like the other"
        )
    acts, pre = dictionary.encode(x), dictionary.pre_activation(x)
    positions, features = acts.nonzero().unbind(1)
    bypass = dictionary.bypass(x)
    return Part(
        writes,
        reads,
        positions,
        features,
        acts[positions, features],
        pre[positions, features],
        dictionary.encoder_rows(features).detach(),
        acts[positions, features, None] * dictionary.W_dec[features],
        dictionary.decode(torch.zeros_like(acts[0])),
        # the bypass is linear: its matrix is what it makes of the identity
        None if bypass is None else dictionary.bypass(torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)),
        output - dictionary.decode(acts) - (0 if bypass is None else bypass),
        weights_digest(dictionary),
    )


def transcoders_by_block(model: PreTrainedModel, transcoders: Mapping[Site, Dictionary]) -> dict[int, Site]:
    """The key of each block's transcoder; GraphError for a dictionary that is no transcoder of one of the MLPs.

    Dictionaries are looked up one at a time and not kept, so that a DictionarySet may load them as they are needed.
    """
    mlps = {block.mlp.name: i for i, block in enumerate(blocks(model))}
    found: dict[int, Site] = {}
    for key in transcoders:
        dictionary = transcoders[key]
        reads, writes = (", ".join(map(str, sites)) for sites in (dictionary.reads, dictionary.writes))
        if len(dictionary.reads) != 1 or len(dictionary.writes) != 1:
            raise GraphError(f"a dictionary from {reads} to {writes}: a transcoder reads one site and writes one MLP")
        if dictionary.reads == dictionary.writes:
            raise GraphError(f"the dictionary of {writes} is an autoencoder: attribution graphs need transcoders")
        name = site_in(model, dictionary.writes[0]).name
        if name not in mlps:
            raise GraphError(
                f"the transcoder of {reads} writes {writes}, which is no MLP: it has to be one of {_all(mlps)}"
            )
        if mlps[name] in found:
            raise GraphError(f"two transcoders write {name}: leave one out")
        found[mlps[name]] = key
    return found


def site_in(model: PreTrainedModel, site: Site) -> Site:
    """The model's own site of that name, in any tool's spelling, or else the site as it is."""
    try:
        return find_site(model, site.name)
    except SiteError:
        return site


def _all(names: Mapping[str, int]) -> str:
    first, *_, last = list(names) * 2
    return f"{first} to {last}"
