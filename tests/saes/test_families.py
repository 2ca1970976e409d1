"""The family table: it checks itself, and a site is found by all of its names."""

from dataclasses import replace

import pytest

from saes.families import FAMILIES, blocks, circuit_sites, find_site, site_width
from saes.family_checks import check_family
from saes.sites import SiteError
from tests.saes.models_for_tests import FAMILY_NAMES, hook_count, tiny


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_the_rows_describe_the_models(family):
    model = tiny(family)
    check_family(model, tolerance=1e-5)
    assert [b.parallel for b in blocks(model)] == [family == "neox parallel"] * 2
    names = ["embed", "attn_0", "mlp_0", "resid_0", "attn_1", "mlp_1", "resid_1"]
    assert [s.name for s in circuit_sites(model)] == names


@pytest.mark.parametrize(
    "fault",
    [
        {"mlp": "transformer.h.{i}.ln_2"},
        {"attn": "transformer.h.{i}.mlp"},
        {"block": "transformer.h.{i}.mlp"},
        {"embed": "transformer.wte"},
        {"mlp": "transformer.h.{i}.feed_forward"},
    ],
    ids=lambda fault: " ".join(f"{k}={v}" for k, v in fault.items()),
)
def test_a_wrong_row_is_caught(monkeypatch, fault):
    model = tiny("gpt2")
    monkeypatch.setitem(FAMILIES, "gpt2", replace(FAMILIES["gpt2"], **fault))
    with pytest.raises(SiteError):
        check_family(model)
    assert hook_count(model) == 0


def test_a_large_residual_entry_hides_no_wrong_writer(monkeypatch):
    model = tiny("gpt2")
    model.transformer.wte.weight[:, 0] = 1e4
    check_family(model)
    monkeypatch.setitem(FAMILIES, "gpt2", replace(FAMILIES["gpt2"], mlp="transformer.h.{i}.ln_2"))
    with pytest.raises(SiteError, match=r"resid_0: differs from embed \+ attn_0 \+ mlp_0"):
        check_family(model)


def test_the_fault_is_named():
    model = tiny("gpt2")
    forward = model.transformer.h[1].forward
    model.transformer.h[1].forward = lambda *args, **kwargs: forward(*args, **kwargs) * 1.1
    with pytest.raises(SiteError, match=r"resid_1: differs from resid_0 \+ attn_1 \+ mlp_1"):
        check_family(model)


@pytest.mark.parametrize(
    ("family", "spelling", "name"),
    [
        ("gpt2", "resid_1", "resid_1"),
        ("gpt2", "blocks.1.hook_resid_post", "resid_1"),
        ("gpt2", "blocks.0.hook_resid_mid", "resid_mid_0"),
        ("gpt2", "blocks.1.hook_attn_out", "attn_1"),
        ("gpt2", "blocks.0.hook_mlp_out", "mlp_0"),
        ("gpt2", "blocks.1.attn.hook_z", "attn_heads_1"),
        ("gpt2", "blocks.0.mlp.hook_post", "mlp_hidden_0"),
        ("gpt2", "transformer.h.1", "resid_1"),
        ("gpt2", "transformer.h.0.attn", "attn_0"),
        ("neox parallel", "blocks.1.hook_resid_pre", "resid_0"),
        ("gpt2", "blocks.0.hook_resid_pre", "embed"),
        ("neox parallel", "gpt_neox.layers.1", "resid_1"),
        ("neox serial", "gpt_neox.layers.0.mlp", "mlp_0"),
        ("llama", "model.layers.1.self_attn", "attn_1"),
        ("llama", "model.embed_tokens", "embed"),
    ],
)
def test_spellings(family, spelling, name):
    model = tiny(family)
    assert find_site(model, spelling).name == name
    assert find_site(model, spelling) == find_site(model, name)


@pytest.mark.parametrize("name", ["resid_2", "resid", "blocks.9.hook_resid_post", "transformer.h.2", "", "mlp_-1"])
def test_unknown_sites_name_themselves_and_what_is_near(name):
    with pytest.raises(SiteError, match="no such site; nearest: ") as caught:
        find_site(tiny("gpt2"), name)
    assert isinstance(caught.value, ValueError)
    if name == "resid_2":
        assert "'resid_2'" in str(caught.value) and "resid_1" in str(caught.value)


def test_a_model_without_a_row_is_refused():
    model = tiny("gpt2")
    model.config.model_type = "abacus"
    with pytest.raises(SiteError, match=r"'abacus'.*gpt2"):
        find_site(model, "embed")


def test_widths_of_residual_and_hidden_sites():
    model = tiny("llama")
    assert site_width(model, find_site(model, "resid_0")) == 16
    assert site_width(model, find_site(model, "mlp_hidden_1")) == 24
