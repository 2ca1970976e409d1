"""Whether a model is as its family describes it (saes/families.py), on real forward passes."""

from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedModel

from saes.families import blocks, find_site, site_names
from saes.sites import Site, SiteError, capture, intervene


@torch.no_grad()
def check_family(model: PreTrainedModel, tolerance: float = 1e-3) -> None:
    """Check the description of a model on real forward passes; SiteError names the first site that is not as described.

    In every block resid_i = resid_{i-1} + attn_i + mlp_i, up to `tolerance` times what attn_i and mlp_i write (the
    residual stream is no measure: one large entry would hide a wrong writer) and the rounding of the model's dtype.
    In serial blocks also resid_mid_i = resid_{i-1} + attn_i; in parallel ones mlp_i must not depend on attn_i.
    """
    values = _every_site(model)
    for index, block in enumerate(blocks(model)):
        if not block.parallel:
            _check_sum(values, find_site(model, f"resid_mid_{index}"), block.before, [block.attn], tolerance)
        _check_sum(values, block.resid, block.before, [block.attn, block.mlp], tolerance)
    first = blocks(model)[0]
    if first.parallel:
        with intervene(model, {first.attn: lambda x: 2 * x + 1}), capture(model, [first.mlp]) as edited:
            model(input_ids=_probe(model), use_cache=False)
        if not torch.equal(edited[first.mlp], values[first.mlp]):
            raise SiteError(f"{first.mlp}: depends on {first.attn}, so the blocks are not parallel; name mid_norm")


def _check_sum(values: dict[Site, Tensor], site: Site, before: Site, writers: list[Site], tolerance: float) -> None:
    """SiteError unless `site` is `before` plus what `writers` write."""
    terms, dtype = " + ".join(map(str, (before, *writers))), values[site].dtype
    shapes = {str(part): list(values[part].shape) for part in (site, before, *writers)}
    if any(shape != shapes[str(site)] for shape in shapes.values()):
        listed = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise SiteError(f"{site}: cannot be {terms}, for their shapes differ: {listed}")
    start, end, *parts = (values[part].cpu().double() for part in (before, site, *writers))
    written = torch.stack(parts).sum(0)
    gap = (end - start - written).norm()
    if not gap.isfinite():
        raise SiteError(f"{site}: infinite or NaN in {dtype}; load the model in another dtype")
    # a sum of three is rounded twice, by half an eps each time; four times that is allowed
    rounding = 4 * torch.finfo(dtype).eps * torch.maximum(start.norm(), end.norm())
    if gap > tolerance * written.norm() + rounding:
        share = float(gap / written.norm().clamp_min(1e-12))
        raise SiteError(f"{site}: differs from {terms} by {share:.1%} of what is written, so the family does not fit")


def _probe(model: PreTrainedModel) -> Int[Tensor, "1 4"]:
    return torch.arange(4, device=model.device).remainder(model.config.get_text_config().vocab_size)[None]


def _every_site(model: PreTrainedModel) -> dict[Site, Tensor]:
    """The values of all sites, each [1, 4, width], from one whole forward pass."""
    sites = [find_site(model, name) for name in site_names(model)]
    with capture(model, sites, stop_after=False) as values:
        model(input_ids=_probe(model), use_cache=False)
    for site in sites:
        if site not in values:
            raise SiteError(f"{site}: {site.module!r} does not run in a forward pass")
        value: Any = values[site]  # whatever a user's module hands on
        if not isinstance(value, Tensor) or value.shape[:-1] != (1, 4):
            found = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise SiteError(f"{site}: {site.module!r} hands on {found}, not activations [batch, length, width]")
    return values
