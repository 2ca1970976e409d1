"""The frozen model: exact at the prompt, affine away from it, in every family, and gone when its block ends."""

import pytest
import torch

from circuits.frozen import GraphError, Recording, Replaying
from circuits.linear_model import LinearModel
from saes.families import blocks, find_site
from saes.sites import Site, intervene
from tests.circuits.transcoders_for_tests import case, mlp_input, transcoders_for
from tests.saes.models_for_tests import FAMILY_NAMES, MORE_FAMILIES, hook_count, some_tokens, tiny

TOKENS = some_tokens(1, 6)[0]


def random_sources(linear: LinearModel, batch: int, seed: int) -> dict[Site, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    return {s: torch.randn(batch, *x.shape, generator=random, dtype=x.dtype) for s, x in linear.sources.items()}


WITH_SDPA = [f for f in (*FAMILY_NAMES, *MORE_FAMILIES) if f not in ("gemma2", "gpt_neo")]
ATTENTIONS = [*((f, "sdpa") for f in WITH_SDPA), *((f, "eager") for f in (*WITH_SDPA, "gemma2", "gpt_neo"))]


@pytest.mark.parametrize(("family", "attention"), ATTENTIONS)
def test_values_are_affine_in_the_sources_however_far_from_the_prompt(family, attention):
    setup = case(family)
    if family != "gpt_neo":  # which computes its attention itself
        setup.model.set_attn_implementation(attention)
    linear = LinearModel(setup.model, setup.transcoders, setup.tokens)
    a, b = random_sources(linear, 2, 1), random_sources(linear, 2, 2)
    with torch.no_grad():
        mixed = linear.run({s: 3 * a[s] - 2 * b[s] for s in a})
        at_a, at_b = linear.run(a), linear.run(b)
    for site, value in mixed.items():
        torch.testing.assert_close(value, 3 * at_a[site] - 2 * at_b[site], rtol=1e-10, atol=1e-10)
        assert (at_a[site] - at_b[site]).abs().max() > 1e-2
    true = setup.model(setup.tokens[None]).logits[0, -1]
    torch.testing.assert_close(linear.logits, true, rtol=1e-4, atol=1e-5)  # norms of the true model are in float32


def test_a_recorded_pass_is_the_models_own():
    """GPT-2 computes in float64 throughout, so nothing but the order of sums may differ."""
    model = tiny("gpt2").double()
    true = model(TOKENS[None]).logits
    record: list[torch.Tensor] = []
    with Recording(record):
        recorded = model(TOKENS[None], use_cache=False).logits
    with Replaying(record):
        replayed = model(TOKENS[None], use_cache=False).logits
    torch.testing.assert_close(recorded, true, rtol=1e-12, atol=1e-12)
    assert torch.equal(recorded, replayed)
    assert len(record) == 2 * (2 + 1) + 1  # two norms and a pattern in each block, and the last norm


def test_replaying_holds_what_was_recorded():
    """With another prompt the patterns and scales stay those of the first one."""
    model, record = tiny("llama").double(), []
    with Recording(record):
        model(TOKENS[None], use_cache=False)
    other = (TOKENS + 1) % 97
    with Replaying(record):
        held = model(other[None], use_cache=False).logits
    assert (held - model(other[None]).logits).abs().max() > 1e-2


def test_a_model_that_takes_another_way_is_refused():
    model, record = tiny("gpt2").double(), []
    with Recording(record):
        model(TOKENS[None], use_cache=False)
    with pytest.raises(GraphError, match="another way than its first"), Replaying(record[:-1]):
        model(TOKENS[None], use_cache=False)


def test_everything_is_as_before_even_after_an_exception():
    model = tiny("neox parallel").double()
    model.requires_grad_(True)
    model.gpt_neox.layers[0].attention.dense.weight.requires_grad_(False)
    asked = [p.requires_grad for p in model.parameters()]
    before, settings = model(TOKENS[None]).logits, model.config.to_dict()
    linear = LinearModel(model, transcoders_for(model), TOKENS)
    part = linear.parts[1]
    linear.effects(part.reads, part.encoders, part.positions)

    def fail(_):
        raise RuntimeError("in the middle of a pass")

    with pytest.raises(RuntimeError, match="in the middle"), intervene(model, {find_site(model, "resid_0"): fail}):
        LinearModel(model, transcoders_for(model), TOKENS)
    assert hook_count(model) == 0
    assert torch.equal(model(TOKENS[None]).logits, before)
    assert model.config.to_dict() == settings
    assert [p.requires_grad for p in model.parameters()] == asked
    assert all(p.grad is None for p in model.parameters())


class _Squashed(torch.nn.Module):
    """A norm that nothing freezes."""

    def forward(self, x):
        return torch.tanh(x)


def test_what_cannot_be_frozen_is_refused():
    model = tiny("llama").double()
    model.model.layers[1].input_layernorm = _Squashed()
    with pytest.raises(GraphError, match=r"not linear at mlp_in_1 .* attn_implementation='sdpa'"):
        LinearModel(model, transcoders_for(model), TOKENS)


def test_reading_behind_the_activation_function_is_refused():
    model = tiny("gpt2").double()
    made = transcoders_for(model, width=16, missing=(0,))
    (dictionary,) = made.values()
    dictionary.reads = (Site("act", "transformer.h.1.mlp.act", "out"),)
    with pytest.raises(ValueError, match="width 64"):
        LinearModel(model, made, TOKENS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lower_precision_is_affine_to_its_own_rounding(dtype):
    model = tiny("gemma2", 3).to(dtype)
    linear = LinearModel(model, transcoders_for(model), TOKENS)
    part = linear.parts[2]
    effects = linear.effects(part.reads, part.encoders, part.positions)
    assert effects.dtype == torch.float32
    exact = LinearModel(model.double(), transcoders_for(model), TOKENS)
    assert len(blocks(model)) == 3 and mlp_input(model, 2) == exact.parts[2].reads
    same = [
        (i, j)
        for i, one in enumerate(zip(part.positions.tolist(), part.features.tolist(), strict=True))
        for j, two in enumerate(zip(exact.parts[2].positions.tolist(), exact.parts[2].features.tolist(), strict=True))
        if one == two
    ]
    rows, other_rows = (torch.tensor(x) for x in zip(*same, strict=True))
    tokens = slice(-len(TOKENS), None)  # columns that are the same whichever features are active
    wanted = exact.effects(exact.parts[2].reads, exact.parts[2].encoders, exact.parts[2].positions)
    gap = (effects[rows, tokens] - wanted[other_rows, tokens]).abs().max() / wanted[:, tokens].abs().max()
    assert gap < {torch.float32: 1e-5, torch.bfloat16: 0.1}[dtype]
