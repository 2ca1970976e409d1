"""The contracts of a dictionary: affine decoding, exact folding of the scale, honest derivatives."""

import pytest
import torch

from saes.architectures import ARCHITECTURES, ReLUConfig, ReLUDictionary
from saes.dictionary import Dictionary, IdentityDictionary
from saes.sites import Site, SiteError

SITE = Site("resid_0", "transformer.h.0")


def random_dictionary(name: str = "relu", width: int = 12, features: int = 20, seed: int = 0) -> Dictionary:
    """Float64, with every parameter random."""
    if name == "identity":
        return IdentityDictionary(SITE, width).double()
    config, module = ARCHITECTURES[name]
    dictionary = module(config(width=width, features=features), [SITE]).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in dictionary.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return dictionary.requires_grad_(False)


def rows(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


ALL = pytest.mark.parametrize("name", [*ARCHITECTURES, "identity"])


@ALL
def test_decoding_is_affine(name):
    dictionary = random_dictionary(name)
    f, g = rows(5, dictionary.features, seed=2), rows(5, dictionary.features, seed=3)
    for a in (-1.5, 0.3, 2.0):
        mixed = dictionary.decode(a * f + (1 - a) * g)
        torch.testing.assert_close(mixed, a * dictionary.decode(f) + (1 - a) * dictionary.decode(g))
    linear = dictionary.decode(f) - dictionary.decode(torch.zeros_like(f))
    torch.testing.assert_close(linear, f @ dictionary.W_dec)
    torch.testing.assert_close(dictionary.decode(torch.zeros_like(f))[0], dictionary.b_dec)


@ALL
def test_slopes_and_encoder_rows_are_the_derivatives_of_encode(name):
    dictionary = random_dictionary(name)
    x = rows(dictionary.width)
    jacobian = torch.autograd.functional.jacobian(dictionary.encode, x)
    slope = dictionary.activation_slope(dictionary.pre_activation(x))
    index = torch.arange(dictionary.features)
    torch.testing.assert_close(jacobian, slope[:, None] * dictionary.encoder_rows(index))
    torch.testing.assert_close(dictionary.encoder_rows(index[[4, 1]]), dictionary.encoder_rows(index)[[4, 1]])


def test_relu_is_the_equation_of_its_docstring():
    d = random_dictionary("relu")
    x = rows(2, 3, d.width)
    pre = torch.einsum("fd,btd->btf", d.W_enc, x - d.b_dec) + d.b_enc
    torch.testing.assert_close(d.pre_activation(x), pre)
    torch.testing.assert_close(d.encode(x), pre.clamp_min(0))
    torch.testing.assert_close(d.decode(d.encode(x)), torch.einsum("btf,fd->btd", pre.clamp_min(0), d.W_dec) + d.b_dec)


@pytest.mark.parametrize("scale", [0.37, 1.0, 12.5])
def test_folding_the_scale_is_exact(scale):
    d, folded = random_dictionary("relu"), random_dictionary("relu")
    x = 3 * rows(50, d.width)
    folded.fold_scale(scale)
    torch.testing.assert_close(folded.encode(x), scale * d.encode(x / scale), rtol=1e-12, atol=1e-12)
    reconstruction = scale * d.decode(d.encode(x / scale))
    torch.testing.assert_close(folded.decode(folded.encode(x)), reconstruction, rtol=1e-12, atol=1e-12)


def test_a_new_relu_dictionary_has_unit_rows_and_follows_its_seed():
    config = ReLUConfig(width=12, features=40)
    d = ReLUDictionary(config, [SITE], seed=4)
    torch.testing.assert_close(d.W_dec.norm(dim=1), torch.ones(40))
    assert torch.equal(d.W_dec, ReLUDictionary(config, [SITE], seed=4).W_dec)
    assert not torch.equal(d.W_dec, ReLUDictionary(config, [SITE], seed=5).W_dec)
    assert (d.features, d.width, d.site) == (40, 12, SITE)


def test_the_identity_dictionary_loses_nothing():
    d = IdentityDictionary(SITE, 6)
    x = rows(4, 6).float()
    assert torch.equal(d.decode(d.encode(x)), x)
    torch.testing.assert_close(x @ d.W_dec + d.b_dec, d.decode(x))
    assert (d.features, d.width, d.site) == (6, 6, SITE)
    assert not list(d.parameters())


def test_another_width_is_refused_by_name():
    d = random_dictionary("relu")
    d.check_width(12)
    with pytest.raises(SiteError, match=r"resid_0.*\b13\b.*\b12\b"):
        d.check_width(13)


def test_a_dictionary_between_sites_has_no_single_site():
    other = Site("mlp_0", "transformer.h.0.mlp")
    for reads, writes in (([SITE], [other]), ([SITE, other], [SITE, other])):
        with pytest.raises(SiteError):
            _ = Dictionary(reads, writes).site


@pytest.mark.parametrize(("width", "features"), [(0, 4), (4, 0), (-1, 4)])
def test_empty_shapes_are_refused(width, features):
    with pytest.raises(ValueError, match="at least 1"):
        ReLUConfig(width=width, features=features)


def test_chosen_features_are_those_of_the_whole():
    dictionary = ReLUDictionary(ReLUConfig(8, 32), [Site("a", "a")])
    dictionary.b_enc.data.normal_()
    dictionary.b_dec.data.normal_()
    x, index = torch.randn(5, 3, 8), torch.tensor([3, 31, 0])
    torch.testing.assert_close(dictionary.encode_chosen(x, index), dictionary.encode(x)[..., index])
