"""What an MLP reads is a site, and released transcoders that read it before the norm's gain compute the same there."""

import numpy as np
import pytest
import torch

from saes.architectures import ReLUDictionary, transcoder
from saes.dictionary_set import DictionarySet
from saes.families import FAMILIES, blocks, family_of, find_site, site_names
from saes.formats import write_format
from saes.released import load_released
from saes.sites import Site, SiteError, capture
from tests.saes.models_for_tests import FAMILY_NAMES, MORE_FAMILIES, some_tokens, tiny
from tests.saes.released_for_tests import gemma_arrays, gemma_folder, gemma_forward

AT = "layer_1/width_16k/average_l0_7"


def values(model, *names: str) -> list[torch.Tensor]:
    sites = [find_site(model, name) for name in names]
    with torch.no_grad(), capture(model, sites, stop_after=False) as found:
        model(input_ids=some_tokens(), use_cache=False)
    return [found[site] for site in sites]


@pytest.mark.parametrize("family", [*FAMILY_NAMES, *MORE_FAMILIES])
def test_the_mlp_makes_what_it_writes_of_this_site(family):
    model = tiny(family)
    row, block = family_of(model), blocks(model)[1]
    stream = block.before.name if block.parallel else "resid_mid_1"
    before, read, written = values(model, stream, "mlp_in_1", "mlp_1")
    after = "model.layers.1.post_feedforward_layernorm"
    with torch.no_grad():
        made = model.get_submodule(row.mlp_in.format(i=1))(read)
        if row.mlp == after.replace("1", "{i}"):
            made = model.get_submodule(after)(made)
        torch.testing.assert_close(made, written)
        if family != "olmo2":  # whose MLPs read the stream as it is
            before = model.get_submodule(row.mid_norm.format(i=1))(before)
    torch.testing.assert_close(read, before)
    names = site_names(model)
    assert names.index("mlp_in_1") < names.index("mlp_hidden_1") < names.index("mlp_1")


def test_its_names_in_other_tools():
    model = tiny("llama")
    site = find_site(model, "mlp_in_1")
    assert find_site(model, "blocks.1.mlp.hook_in") == site
    assert find_site(model, "blocks.1.hook_mlp_in") == find_site(model, "resid_mid_1"), "the stream, by its name there"
    assert find_site(model, "blocks.1.mlp.hook_out") == find_site(model, "mlp_1")
    with pytest.raises(SiteError, match="hook_out"):  # before the norm behind the MLP, which is none of our sites
        find_site(tiny("gemma2"), "blocks.1.mlp.hook_out")


def plain_norm(family: str, model, x: np.ndarray) -> np.ndarray:
    """TransformerLens' hook_normalized from the stream, in numpy: a LayerNorm whole, an RMSNorm without its gain."""
    if family == "gpt2":
        norm = model.transformer.h[1].ln_2
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + norm.eps)
        return scaled * norm.weight.numpy() + norm.bias.numpy()
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + model.config.rms_norm_eps)


@pytest.mark.parametrize("family", ["gemma2", "gemma3_text", "llama", "gpt2"])
def test_gemma_scopes_transcoders_compute_the_same_on_the_model(family, tmp_path):
    model, arrays = tiny(family), gemma_arrays()
    folder = gemma_folder(tmp_path / "gemma-scope-2b-pt-transcoders" / AT, **arrays)
    stream, read = values(model, "resid_mid_1", "mlp_in_1")
    wanted, output = gemma_forward(arrays, plain_norm(family, model, stream.double().numpy()))
    assert (wanted != 0).mean() > 0.05
    many = DictionarySet(folder, model=model, budget_bytes=0)  # read anew at every use
    site = find_site(model, "mlp_in_1")
    for made in (load_released(folder, model=model), many[site], many[site]):
        assert made.reads == (site,) and made.writes == (find_site(model, "mlp_1"),)
        with torch.no_grad():
            features = made.encode(read)
            torch.testing.assert_close(features.double(), torch.from_numpy(wanted), rtol=1e-3, atol=1e-4)
            torch.testing.assert_close(made.decode(features).double(), torch.from_numpy(output), rtol=1e-3, atol=1e-3)


def test_a_skip_term_is_divided_too(tmp_path):
    model = tiny("llama")
    normalized, written = Site("blocks.1.ln2.hook_normalized", ""), find_site(model, "mlp_1")
    made = transcoder(ReLUDictionary, normalized, written, width_in=16, width=16, features=20, seed=0, skip=True)
    with torch.no_grad():
        made.W_skip.normal_()
    write_format("circuit_tracer", made, tmp_path / "set")
    found = load_released(tmp_path / "set", model=model)
    stream, read = values(model, "resid_mid_1", "mlp_in_1")
    x = torch.from_numpy(plain_norm("llama", model, stream.numpy()))
    assert found.reads == (find_site(model, "mlp_in_1"),)
    with torch.no_grad():
        torch.testing.assert_close(found.bypass(read), made.bypass(x), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(found.encode(read), made.encode(x), rtol=1e-4, atol=1e-4)


def test_norms_behind_which_nothing_can_be_read_are_refused(tmp_path):
    folder = gemma_folder(tmp_path / "gemma-scope-2b-pt-transcoders" / AT)
    model = tiny("gemma2")
    model.model.layers[1].pre_feedforward_layernorm.weight[3] = -1.0  # 1 + weight is the gain
    with pytest.raises(SiteError, match="the gain of the norm before that MLP has zeros"):
        load_released(folder, model=model)
    with pytest.raises(SiteError, match="no norm stands before the MLPs of this olmo2"):
        load_released(folder, model=tiny("olmo2"))
    with pytest.raises(SiteError, match="no such site"):
        load_released(gemma_folder(tmp_path / "gemma-scope-2b-pt-transcoders" / AT.replace("1", "9", 1)), model=model)


def test_every_family_of_the_table_has_the_site():
    assert all(row.mlp_in is not None for row in FAMILIES.values())
