"""minGPT's and nanoGPT's checkpoints against forward passes written from their definitions, in plain torch."""

import math
import os

import pytest
import torch
from torch.nn.functional import gelu, layer_norm, linear

from saes.files import FileError
from saes.importers import gpt_from_checkpoint, import_gpt
from saes.models import load_model
from tests.saes.models_for_tests import some_tokens

WIDTH, LAYERS, HEADS, BLOCK, VOCABULARY = 16, 2, 4, 12, 97


def noise(*shape, scale=0.3):
    return scale * torch.randn(*shape)


def mingpt_state():
    """Names and shapes as in mingpt/model.py of OthelloGPT: separate query, key, value; a head of its own, no bias."""
    state = {"tok_emb.weight": noise(VOCABULARY, WIDTH), "pos_emb": noise(1, BLOCK, WIDTH)}
    for i in range(LAYERS):
        for norm in ("ln1", "ln2"):
            state |= {f"blocks.{i}.{norm}.weight": 1 + noise(WIDTH), f"blocks.{i}.{norm}.bias": noise(WIDTH)}
        for part in ("key", "query", "value", "proj"):
            state |= {
                f"blocks.{i}.attn.{part}.weight": noise(WIDTH, WIDTH),
                f"blocks.{i}.attn.{part}.bias": noise(WIDTH),
            }
        state[f"blocks.{i}.attn.mask"] = torch.ones(BLOCK, BLOCK).tril()[None, None]
        state |= {f"blocks.{i}.mlp.0.weight": noise(4 * WIDTH, WIDTH), f"blocks.{i}.mlp.0.bias": noise(4 * WIDTH)}
        state |= {f"blocks.{i}.mlp.2.weight": noise(WIDTH, 4 * WIDTH), f"blocks.{i}.mlp.2.bias": noise(WIDTH)}
    state |= {"ln_f.weight": 1 + noise(WIDTH), "ln_f.bias": noise(WIDTH), "head.weight": noise(VOCABULARY, WIDTH)}
    return state


def nanogpt_state(bias):
    """Names and shapes as in nanoGPT's model.py: one c_attn, the head tied to the embedding, biases as an option."""
    shapes = {}
    for i in range(LAYERS):
        h = f"transformer.h.{i}."
        shapes |= {h + "ln_1": (WIDTH,), h + "attn.c_attn": (3 * WIDTH, WIDTH), h + "attn.c_proj": (WIDTH, WIDTH)}
        shapes |= {h + "ln_2": (WIDTH,), h + "mlp.c_fc": (4 * WIDTH, WIDTH), h + "mlp.c_proj": (WIDTH, 4 * WIDTH)}
    shapes["transformer.ln_f"] = (WIDTH,)
    state = {"transformer.wte.weight": noise(VOCABULARY, WIDTH), "transformer.wpe.weight": noise(BLOCK, WIDTH)}
    for name, shape in shapes.items():
        state[f"{name}.weight"] = noise(*shape) + (len(shape) == 1)
        if bias:
            state[f"{name}.bias"] = noise(shape[0])
    return state | {"lm_head.weight": state["transformer.wte.weight"]}


def nanogpt_checkpoint(bias, prefix=""):
    arguments = {"n_layer": LAYERS, "n_head": HEADS, "n_embd": WIDTH, "block_size": BLOCK, "bias": bias}
    state = {prefix + name: tensor for name, tensor in nanogpt_state(bias).items()}
    return {"model": state, "model_args": {**arguments, "vocab_size": VOCABULARY, "dropout": 0.0}, "iter_num": 7}


def attention(q, k, v):
    """Causal attention of [batch, length, width] tensors, head by head."""
    length, outputs = q.shape[1], []
    for q_h, k_h, v_h in zip(*(x.split(WIDTH // HEADS, dim=-1) for x in (q, k, v)), strict=True):
        scores = q_h @ k_h.transpose(-2, -1) / math.sqrt(WIDTH // HEADS)
        scores = scores.masked_fill(torch.ones(length, length).tril() == 0, -torch.inf)
        outputs.append(scores.softmax(-1) @ v_h)
    return torch.cat(outputs, -1)


def mingpt_forward(s, tokens):
    def lin(name, x):
        return linear(x, s[f"{name}.weight"], s[f"{name}.bias"])

    def norm(name, x):
        return layer_norm(x, (WIDTH,), s[f"{name}.weight"], s[f"{name}.bias"])

    x = s["tok_emb.weight"][tokens] + s["pos_emb"][:, : tokens.shape[1]]
    for i in range(LAYERS):
        b = f"blocks.{i}"
        y = norm(f"{b}.ln1", x)
        heads = attention(*(lin(f"{b}.attn.{part}", y) for part in ("query", "key", "value")))
        x = x + lin(f"{b}.attn.proj", heads)
        x = x + lin(f"{b}.mlp.2", gelu(lin(f"{b}.mlp.0", norm(f"{b}.ln2", x))))  # nn.GELU(): the exact one
    return norm("ln_f", x) @ s["head.weight"].T


def nanogpt_forward(s, tokens, approximate="none"):
    def lin(name, x):
        return linear(x, s[f"{name}.weight"], s.get(f"{name}.bias"))

    def norm(name, x):
        return layer_norm(x, (WIDTH,), s[f"{name}.weight"], s.get(f"{name}.bias"), 1e-5)

    x = s["transformer.wte.weight"][tokens] + s["transformer.wpe.weight"][: tokens.shape[1]]
    for i in range(LAYERS):
        h = f"transformer.h.{i}"
        q, k, v = lin(f"{h}.attn.c_attn", norm(f"{h}.ln_1", x)).split(WIDTH, dim=2)
        x = x + lin(f"{h}.attn.c_proj", attention(q, k, v))
        hidden = gelu(lin(f"{h}.mlp.c_fc", norm(f"{h}.ln_2", x)), approximate=approximate)
        x = x + lin(f"{h}.mlp.c_proj", hidden)
    return norm("transformer.ln_f", x) @ s["lm_head.weight"].T


def imported(checkpoint, tmp_path, **options):
    """Through a file, a folder and load_model, which checks the residual sum."""
    torch.save(checkpoint, tmp_path / "checkpoint.pt")
    return load_model(import_gpt(tmp_path / "checkpoint.pt", tmp_path / "model", **options))


def assert_same(logits, expected):
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
    assert expected.std() > 0.3, "the models say something"


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.module."])
def test_othello_gpt(tmp_path, prefix):
    state, tokens = mingpt_state(), some_tokens(length=BLOCK)
    model = imported({prefix + name: tensor for name, tensor in state.items()}, tmp_path, heads=HEADS)
    assert_same(model(input_ids=tokens).logits, mingpt_forward(state, tokens))
    assert model.config.n_positions == BLOCK and not model.config.tie_word_embeddings
    assert {path.name for path in (tmp_path / "model").iterdir()} == {"config.json", "model.safetensors"}


def test_a_head_that_equals_the_embedding_is_tied(tmp_path):
    state = mingpt_state()
    state["head.weight"] = state["tok_emb.weight"].clone()
    model = imported(state, tmp_path, heads=HEADS)
    assert model.lm_head.weight is model.transformer.wte.weight
    assert_same(model(input_ids=some_tokens()).logits, mingpt_forward(state, some_tokens()))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("prefix", ["", "_orig_mod."])
def test_chess_gpt(tmp_path, bias, prefix):
    checkpoint, tokens = nanogpt_checkpoint(bias, prefix), some_tokens(length=BLOCK)
    model = imported(checkpoint, tmp_path)
    state = {name.removeprefix(prefix): tensor for name, tensor in checkpoint["model"].items()}
    assert_same(model(input_ids=tokens).logits, nanogpt_forward(state, tokens))
    assert model.lm_head.weight is model.transformer.wte.weight and model.config.n_head == HEADS


def test_chess_gpt_with_a_head_of_its_own_masks_and_the_tanh_gelu(tmp_path):
    checkpoint, tokens = nanogpt_checkpoint(bias=False), some_tokens(length=BLOCK)
    state = checkpoint["model"]
    state["lm_head.weight"] = noise(VOCABULARY, WIDTH)
    for i in range(LAYERS):  # saved where flash attention is missing
        state[f"transformer.h.{i}.attn.bias"] = torch.ones(1, 1, BLOCK, BLOCK).tril()
    model = imported(checkpoint, tmp_path, activation="gelu_new")
    tanh, exact = (nanogpt_forward(state, tokens, approximate) for approximate in ("tanh", "none"))
    torch.testing.assert_close(model(input_ids=tokens).logits, tanh, rtol=1e-5, atol=2e-5)
    assert (tanh - exact).abs().max() > 1e-4, "the two differ"


def test_the_activation_is_the_exact_gelu():
    state, tokens = nanogpt_state(bias=True), some_tokens(length=BLOCK)
    logits = gpt_from_checkpoint(state, heads=HEADS)(input_ids=tokens).logits
    exact, tanh = (nanogpt_forward(state, tokens, approximate) for approximate in ("none", "tanh"))
    assert (logits - exact).abs().max() < 0.1 * (tanh - exact).abs().max()


def mingpt_with(**changed):
    """minGPT's weights with some replaced, or left out where None is given."""
    state = mingpt_state() | {name.replace("__", "."): tensor for name, tensor in changed.items()}
    return {name: tensor for name, tensor in state.items() if tensor is not None}


@pytest.mark.parametrize(
    ("checkpoint", "heads", "message"),
    [
        (mingpt_state, None, "does not say how many attention heads it has; say heads=8"),
        (mingpt_state, 3, "is 16 wide, which 3 attention heads do not divide"),
        (mingpt_state, 0, "is 16 wide, which 0 attention heads do not divide"),
        (lambda: nanogpt_checkpoint(True), 8, "has n_head 4, not 8"),
        (lambda: mingpt_with(head__weight=None), 4, r"lacks head\.weight"),
        (lambda: mingpt_with(pos_emb=None), 4, r"lacks transformer\.wpe\.weight"),
        (lambda: mingpt_with(blocks__1__attn__key__weight=None), 4, r"lacks blocks\.1\.attn\.key\.weight"),
        (lambda: mingpt_with(blocks__1__attn__query__bias=None), 4, r"lacks transformer\.h\.1\.attn\.c_attn\.bias"),
        (lambda: mingpt_with(blocks__1__ln1__bias=None), 4, r"lacks transformer\.h\.1\.ln_1\.bias"),
        (lambda: mingpt_with(probe__weight=noise(3, 3)), 4, r"does not have: probe\.weight"),
        (lambda: mingpt_with(blocks__1__mlp__2__weight=noise(3, 3)), 4, r"c_proj\.weight is \[3, 3\], .* \[64, 16\]"),
        (
            lambda: mingpt_with(ln_f__bias=torch.full((WIDTH,), torch.nan)),
            4,
            r"ln_f\.bias holds infinite values or NaN",
        ),
        (lambda: {"linear.weight": noise(3, 3)}, 4, "neither minGPT's .* nor nanoGPT's .*; it begins with linear"),
        (dict, 4, "it begins with nothing"),
        (lambda: {"model": [noise(3)]}, 4, "'model' and 'model_args' are not tables"),
    ],
)
def test_what_does_not_fit_together_is_named_in_one_sentence(tmp_path, checkpoint, heads, message):
    torch.save(checkpoint(), tmp_path / "checkpoint.pt")
    with pytest.raises(FileError, match=rf"checkpoint\.pt: .*{message}") as caught:
        import_gpt(tmp_path / "checkpoint.pt", tmp_path / "model", heads=heads)
    assert "\n" not in str(caught.value) and not (tmp_path / "model").exists()


class Trap:
    """Makes a folder when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("sprung",)


def test_code_in_a_checkpoint_does_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({**mingpt_state(), "trap": Trap()}, tmp_path / "checkpoint.pt")
    with pytest.raises(FileError, match=r"checkpoint\.pt: damaged, or not a state file"):
        import_gpt(tmp_path / "checkpoint.pt", tmp_path / "model", heads=HEADS)
    assert not (tmp_path / "sprung").exists() and not (tmp_path / "model").exists()


def test_a_file_that_is_missing_or_cut_short_is_named(tmp_path):
    with pytest.raises(FileError, match=r"none\.pt: no such file"):
        import_gpt(tmp_path / "none.pt", tmp_path / "model", heads=HEADS)
    torch.save(mingpt_state(), tmp_path / "half.pt")
    whole = (tmp_path / "half.pt").read_bytes()
    (tmp_path / "half.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FileError, match=r"half\.pt: damaged"):
        import_gpt(tmp_path / "half.pt", tmp_path / "model", heads=HEADS)
