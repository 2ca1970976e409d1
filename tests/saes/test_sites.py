"""capture and intervene against transformers' own hidden states and against the modules applied by hand."""

import pytest
import torch

from saes.families import blocks, circuit_sites, find_site
from saes.sites import Site, SiteError, capture, intervene
from tests.saes.models_for_tests import FAMILY_NAMES, hook_count, some_tokens, tiny

EVERY_SITE = ("embed", "attn_heads", "attn", "resid_mid", "mlp_hidden", "mlp", "resid")


def run(model, tokens):
    return model(input_ids=tokens, use_cache=False)


def captured(model, tokens, *names):
    sites = [find_site(model, name) for name in names]
    with capture(model, sites) as values:
        run(model, tokens)
    return [values[site] for site in sites]


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_residual_sites_are_transformers_hidden_states(family):
    model, deeper, tokens = tiny(family, layers=2), tiny(family, layers=3), some_tokens()
    # the last hidden state has the final norm applied, so the truth comes from a model with one layer more
    truth = deeper(input_ids=tokens, use_cache=False, output_hidden_states=True).hidden_states
    assert len(truth) == 4
    for name, expected in zip(("embed", "resid_0", "resid_1"), truth[:3], strict=True):
        torch.testing.assert_close(captured(model, tokens, name)[0], expected, rtol=0, atol=0)
    assert not torch.allclose(truth[1], truth[2], atol=0.1)


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_writers_and_finer_sites_are_what_the_modules_compute(family):
    model, tokens = tiny(family), some_tokens()
    inner = model.transformer.h if family == "gpt2" else (model.model if family == "llama" else model.gpt_neox).layers
    for i, block in enumerate(inner):
        before, heads, attn, hidden, mlp, resid = captured(
            model,
            tokens,
            "embed" if i == 0 else f"resid_{i - 1}",
            *(f"{kind}_{i}" for kind in ("attn_heads", "attn", "mlp_hidden", "mlp", "resid")),
        )
        norm = block.ln_2 if family == "gpt2" else block.post_attention_layernorm
        middle = before if family == "neox parallel" else before + attn
        close = {"rtol": 1e-4, "atol": 1e-5}
        torch.testing.assert_close(mlp, block.mlp(norm(middle)), **close)
        torch.testing.assert_close(attn, resid - before - mlp, **close)
        out = {
            "gpt2": lambda b: (b.attn.c_proj, b.mlp.c_proj),
            "llama": lambda b: (b.self_attn.o_proj, b.mlp.down_proj),
        }
        neox = lambda b: (b.attention.dense, b.mlp.dense_4h_to_h)  # noqa: E731
        project_heads, project_neurons = out.get(family, neox)(block)
        torch.testing.assert_close(attn, project_heads(heads), **close)
        torch.testing.assert_close(mlp, project_neurons(hidden), **close)
        if family != "neox parallel":
            torch.testing.assert_close(captured(model, tokens, f"resid_mid_{i}")[0], middle, **close)


def test_values_come_in_forward_order_whatever_was_asked_first():
    model = tiny("gpt2")
    sites = circuit_sites(model)
    with capture(model, reversed(sites)) as values:
        run(model, some_tokens())
    assert list(values) == sites


def test_stop_after_runs_nothing_behind_the_deepest_site(monkeypatch):
    model, tokens = tiny("gpt2"), some_tokens()
    expected = captured(model, tokens, "resid_0")[0]

    def must_not_run(*args, **kwargs):
        raise AssertionError("this module lies behind the last captured site")

    monkeypatch.setattr(model.transformer.h[1], "forward", must_not_run)
    sites = [find_site(model, "resid_0"), find_site(model, "embed")]
    with capture(model, sites) as values:
        run(model, tokens)
    torch.testing.assert_close(values[sites[0]], expected, rtol=0, atol=0)
    with pytest.raises(AssertionError), capture(model, sites, stop_after=False):
        run(model, tokens)
    assert hook_count(model) == 0


def test_without_stop_after_the_pass_and_the_block_run_to_the_end():
    model, tokens = tiny("gpt2"), some_tokens()
    with capture(model, [find_site(model, "embed")], stop_after=False):
        logits = run(model, tokens).logits
    torch.testing.assert_close(logits, run(model, tokens).logits, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["resid_0", "resid_mid_1", "mlp_hidden_0"])
@pytest.mark.parametrize("capture_outside", [True, False])
def test_captures_see_edits_however_they_nest(name, capture_outside):
    model, tokens = tiny("gpt2"), some_tokens()
    site = find_site(model, name)
    plain = captured(model, tokens, name)[0]
    if capture_outside:
        with capture(model, [site]) as values, intervene(model, {site: lambda x: 3 * x - 1}):
            run(model, tokens)
    else:
        with intervene(model, {site: lambda x: 3 * x - 1}), capture(model, [site]) as values:
            run(model, tokens)
    torch.testing.assert_close(values[site], 3 * plain - 1)


def test_edits_run_in_the_order_in_which_they_were_entered():
    model, tokens = tiny("gpt2"), some_tokens()
    site = find_site(model, "attn_1")
    plain = captured(model, tokens, "attn_1")[0]
    with intervene(model, {site: lambda x: x + 1}), intervene(model, {site: lambda x: x * 2}):
        torch.testing.assert_close(captured(model, tokens, "attn_1")[0], (plain + 1) * 2)
    torch.testing.assert_close(captured(model, tokens, "attn_1")[0], plain, rtol=0, atol=0)


def test_leaving_an_inner_edit_keeps_the_order_of_the_others():
    model, tokens = tiny("gpt2"), some_tokens()
    site = find_site(model, "attn_1")
    plain = captured(model, tokens, "attn_1")[0]

    def add(x):
        return x + 1

    with intervene(model, {site: add}), intervene(model, {site: lambda x: x * 2}):
        with intervene(model, {site: add}):
            torch.testing.assert_close(captured(model, tokens, "attn_1")[0], (plain + 1) * 2 + 1)
        torch.testing.assert_close(captured(model, tokens, "attn_1")[0], (plain + 1) * 2)


def test_a_nested_capture_never_goes_on_without_its_values():
    model, tokens = tiny("gpt2"), some_tokens()
    early, late = find_site(model, "embed"), find_site(model, "resid_1")
    went_on = False
    with capture(model, [early]) as outer:
        with capture(model, [late]) as inner:
            run(model, tokens)
        went_on = True
    assert early in outer
    assert late in inner or not went_on, "the outer capture's stop was swallowed by the inner one"
    with capture(model, [early], stop_after=False) as outer, capture(model, [late], stop_after=False) as inner:
        run(model, tokens)
    assert early in outer and late in inner


@pytest.mark.parametrize("family", FAMILY_NAMES)
@pytest.mark.parametrize("kind", EVERY_SITE)
def test_an_edit_reaches_everything_behind_its_site_and_nothing_before(family, kind):
    model, tokens = tiny(family), some_tokens()
    if kind == "resid_mid" and family == "neox parallel":
        with pytest.raises(SiteError):
            find_site(model, "resid_mid_1")
        return
    site = find_site(model, "embed" if kind == "embed" else f"{kind}_1")
    changed = tokens.shape[1] // 2

    def zero_half(x):
        return torch.cat([x[:, :changed], torch.zeros_like(x[:, changed:])], 1)

    plain, upstream = run(model, tokens).logits, captured(model, tokens, "resid_0")[0]
    with intervene(model, {site: zero_half}):
        edited = run(model, tokens).logits
        if kind != "embed":
            torch.testing.assert_close(captured(model, tokens, "resid_0")[0], upstream, rtol=0, atol=0)
    assert ((plain - edited).abs().amax(-1)[:, changed:] > 1e-4).all()
    torch.testing.assert_close(plain[:, :changed], edited[:, :changed])


def test_replacing_the_last_residual_replaces_the_logits():
    model, tokens, other = tiny("gpt2"), some_tokens(), some_tokens(seed=1)
    site = find_site(model, "resid_1")
    elsewhere = captured(model, other, "resid_1")[0]
    with intervene(model, {site: lambda x: elsewhere}):
        logits = run(model, tokens).logits
    torch.testing.assert_close(logits, run(model, other).logits, rtol=0, atol=0)


def test_gradients_flow_through_captured_values():
    model, tokens = tiny("gpt2"), some_tokens()
    site = find_site(model, "resid_0")
    shift = torch.zeros(16, requires_grad=True)
    with capture(model, [site], stop_after=False) as values, intervene(model, {site: lambda x: x + shift}):
        loss = run(model, tokens).logits[:, -1].square().sum()
    (at_site,) = torch.autograd.grad(loss, values[site], retain_graph=True)
    (at_shift,) = torch.autograd.grad(loss, shift)
    torch.testing.assert_close(at_site.sum((0, 1)), at_shift)
    assert at_shift.norm() > 0


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_interventions_work_inside_generate_with_a_cache(family):
    model, prompt = tiny(family), some_tokens(rows=2, length=4)
    site = find_site(model, "resid_0")
    push = 2.0 * torch.randn(16, generator=torch.Generator().manual_seed(3))
    settings = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    lengths = []

    def edit(x):
        lengths.append(x.shape[1])
        return x + push

    mask = torch.ones_like(prompt)
    with intervene(model, {site: edit}):
        generated = model.generate(prompt, attention_mask=mask, use_cache=True, **settings)
    assert lengths == [4] + [1] * 7, "the cache is in use, and every pass was edited"
    by_hand = prompt
    with intervene(model, {site: lambda x: x + push}):
        for _ in range(8):
            logits = run(model, by_hand).logits[:, -1]
            logits[:, [t for t in [model.generation_config.eos_token_id] if t is not None]] = -torch.inf
            by_hand = torch.cat([by_hand, logits.argmax(-1, keepdim=True)], 1)
    assert torch.equal(generated, by_hand)
    assert not torch.equal(generated, model.generate(prompt, attention_mask=mask, **settings))


def test_an_edit_of_another_shape_is_refused():
    model = tiny("gpt2")
    site = find_site(model, "mlp_0")
    with pytest.raises(SiteError, match=r"\[3, 9, 15\].*\[3, 9, 16\]"), intervene(model, {site: lambda x: x[..., 1:]}):
        run(model, some_tokens())
    assert hook_count(model) == 0


def test_a_module_whose_input_has_another_name_is_no_input_site():
    class Outer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = torch.nn.Linear(3, 3)

        def forward(self, x):
            return self.inner(input=x)

    model = Outer()
    with (
        pytest.raises(SiteError, match="a Linear is called with input only"),
        capture(model, [Site("x", "inner", "in")]),
    ):
        model(torch.zeros(1, 3))
    assert hook_count(model) == 0


def test_an_unknown_module_is_named_with_its_nearest_and_leaves_no_hook():
    model = tiny("gpt2")
    sites = [find_site(model, "embed"), Site("resid_7", "transformer.h.7")]
    with pytest.raises(SiteError, match=r"resid_7.*transformer\.h\.7.*transformer\.h\.[01]"), capture(model, sites):
        pass
    assert hook_count(model) == 0


def test_hooks_are_gone_after_use_and_after_an_exception():
    model, tokens = tiny("gpt2"), some_tokens()
    sites = [*circuit_sites(model), find_site(model, "resid_mid_0")]
    plain = run(model, tokens).logits
    with intervene(model, dict.fromkeys(sites, torch.zeros_like)):
        assert hook_count(model) == len(sites)
        with capture(model, sites, stop_after=False):
            run(model, tokens)
            assert hook_count(model) == len(sites), "a capture and an edit share one hook"
    assert hook_count(model) == 0

    def broken(x):
        raise RuntimeError("an edit fails")

    with pytest.raises(RuntimeError), capture(model, sites), intervene(model, {sites[3]: broken}):
        run(model, tokens)
    with pytest.raises(KeyboardInterrupt), intervene(model, dict.fromkeys(sites, torch.zeros_like)):
        raise KeyboardInterrupt
    assert hook_count(model) == 0
    torch.testing.assert_close(run(model, tokens).logits, plain, rtol=0, atol=0)


def test_every_block_lists_its_sites_in_the_order_of_the_residual_stream():
    model = tiny("neox serial")
    first, second = blocks(model)
    assert (first.before.name, first.attn.name, first.mlp.name, first.resid.name) == (
        "embed",
        "attn_0",
        "mlp_0",
        "resid_0",
    )
    assert second.before == first.resid
