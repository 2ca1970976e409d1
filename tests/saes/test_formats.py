"""Files of other tools: the layouts by hand, outputs by formulas that use nothing of ours, damage and refusals."""

import json
import pickle
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from kibitz.convert import ExportConfig, ImportConfig, export_dictionary, import_dictionary
from saes.architectures import ARCHITECTURES, AffineDictionary, CrosscoderConfig, CrosscoderDictionary, transcoder
from saes.architectures import stack as stack_of
from saes.checkpoint import load_dictionary, save_dictionary
from saes.files import FileError
from saes.formats import FORMATS, NotExpressible, circuit_tracer, load_any, read_format, recognise, write_format
from saes.formats.spellings import layer_of, lens_name, our_name, path_name
from saes.sites import Site

D, F, K = 8, 24, 5
RESID = Site("resid_3", "transformer.h.3")
MID, MLP = Site("resid_mid_3", "transformer.h.3.ln_2", "in"), Site("mlp_3", "transformer.h.3.mlp")
TOPK_KINDS = ("topk", "batch_topk", "matryoshka")


def ours(name: str) -> AffineDictionary:
    """`relu`, `relu bare` (no input bias), `relu free` (decoder norms not 1), `relu transcoder`, `relu skip`, ..."""
    architecture, _, variant = name.partition(" ")
    kind = ARCHITECTURES[architecture]
    options = {"k": K} if architecture in TOPK_KINDS else {}
    if architecture == "matryoshka":
        options["group_fractions"] = (0.25, 0.25, 0.5)
    if architecture == "crosscoder":
        dictionary = CrosscoderDictionary(CrosscoderConfig(D, F, widths=(D // 2, D // 2)), [RESID, MLP])
    elif variant in ("transcoder", "skip", "wide"):
        sizes = {"width_in": D, "width": D + 3 if variant == "wide" else D, "features": F}
        dictionary = transcoder(kind, MID, MLP, skip=variant != "transcoder", **sizes, **options)
    else:
        dictionary = kind(kind.config_type(D, F, center=variant != "bare", **options), [RESID])
    random = torch.Generator().manual_seed(len(name))
    with torch.no_grad():
        for key, p in dictionary.named_parameters():
            p.copy_(torch.randn(p.shape, generator=random) * (0.5 if p.dim() > 1 else 0.3))
            if key == "W_dec" and variant != "free":
                p /= p.norm(dim=1, keepdim=True)
        if "threshold" in dict(dictionary.named_buffers()):
            dictionary.threshold.fill_(0.6)
    return dictionary.eval().requires_grad_(False)


SINGLE = ("relu", "gated", "topk", "batch_topk", "jumprelu", "matryoshka")
NAMES = [f"{a}{v}" for a in SINGLE for v in ("", " bare", " free", " transcoder", " skip")] + [
    "relu wide",
    "crosscoder",
]


def expressible(tool: str, name: str) -> bool:
    translates, top = name.endswith(("transcoder", "skip", "wide")), name.startswith("topk")
    if name == "crosscoder":
        return False
    return {
        "dictionary_learning": not translates,
        "saelens": not (top and translates),
        "sparsify": top,
        "circuit_tracer": translates and not top and not name.endswith("wide"),
    }[tool]


def rows(seed: int = 1) -> torch.Tensor:
    return torch.randn(60, D, generator=torch.Generator().manual_seed(seed)) * 1.5 + 0.2


def top(v: torch.Tensor, k: int) -> torch.Tensor:
    values, index = v.topk(k, dim=-1)
    return torch.zeros_like(v).scatter(-1, index, values)


def by_formula(tool: str, folder: Path, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Features and reconstruction from the raw tensors, as the tool's own source computes them."""
    return {
        "dictionary_learning": dictionary_learning_formula,
        "saelens": saelens_formula,
        "sparsify": sparsify_formula,
        "circuit_tracer": circuit_tracer_formula,
    }[tool](folder, x)


def dictionary_learning_formula(folder, x):
    t = torch.load(folder / "ae.pt", weights_only=True)
    name = json.loads((folder / "config.json").read_text())["trainer"]["dict_class"]
    if name == "AutoEncoder" and "bias" in t:
        f = ((x - t["bias"]) @ t["encoder.weight"].T + t["encoder.bias"]).relu()
        return f, f @ t["decoder.weight"].T + t["bias"]
    if name in ("AutoEncoder", "AutoEncoderNew"):
        f = (x @ t["encoder.weight"].T + t["encoder.bias"]).relu()
        return f, f @ t["decoder.weight"].T + t["decoder.bias"]
    if name == "GatedAutoEncoder":
        h = (x - t["decoder_bias"]) @ t["encoder.weight"].T
        f = (h + t["gate_bias"] > 0) * (t["r_mag"].exp() * h + t["mag_bias"]).relu()
        return f, f @ t["decoder.weight"].T + t["decoder_bias"]
    if name == "JumpReluAutoEncoder":
        p = x @ t["W_enc"] + t["b_enc"]
        f = (p * (p > t["threshold"])).relu()
        return f, f @ t["W_dec"] + t["b_dec"]
    if name == "MatryoshkaBatchTopKSAE":
        a = ((x - t["b_dec"]) @ t["W_enc"] + t["b_enc"]).relu()
        f = a * (a > t["threshold"])
        return f, f @ t["W_dec"] + t["b_dec"]
    a = ((x - t["b_dec"]) @ t["encoder.weight"].T + t["encoder.bias"]).relu()
    f = a * (a > t["threshold"]) if name == "BatchTopKSAE" else top(a, int(t["k"]))
    return f, f @ t["decoder.weight"].T + t["b_dec"]


def saelens_formula(folder, x):
    t, c = load_file(folder / "sae_weights.safetensors"), json.loads((folder / "cfg.json").read_text())
    p = (x - t["b_dec"] if c["apply_b_dec_to_input"] else x) @ t["W_enc"]
    W_dec, skip = t["W_dec"], x @ t["W_skip"].T if "W_skip" in t else 0
    architecture = c.get("architecture", "standard")
    if architecture == "gated":
        f = (p + t["b_gate"] > 0) * (p * t["r_mag"].exp() + t["b_mag"]).relu()
        return f, f @ W_dec + t["b_dec"]
    p = p + t["b_enc"]
    if c.get("rescale_acts_by_decoder_norm"):
        norms = W_dec.norm(dim=1)
        p, W_dec = p * norms, W_dec / norms[:, None]
    f = top(p, c["k"]).relu() if architecture == "topk" else p.relu()
    if "threshold" in t:
        f = p.relu() * (p > t["threshold"])
    return f, f @ W_dec + t["b_dec"] + skip


def sparsify_formula(folder, x):
    t, c = load_file(folder / "sae.safetensors"), json.loads((folder / "cfg.json").read_text())
    p = (x if c["transcode"] else x - t["b_dec"]) @ t["encoder.weight"].T + t["encoder.bias"]
    f = top(p.relu(), c["k"])
    return f, f @ t["W_dec"] + t["b_dec"] + (x @ t["W_skip"].T if c["skip_connection"] else 0)


def circuit_tracer_formula(folder, x):
    t = load_file(folder / "layer_3.safetensors")
    p = x @ t["W_enc"].T + t["b_enc"]
    threshold = t.get("activation_function.threshold")
    f = p.relu() if threshold is None else p * (p > threshold)
    return f, f @ t["W_dec"] + t["b_dec"] + (x @ t["W_skip"].T if "W_skip" in t else 0)


def assert_same(a, b):
    for ours_, theirs in zip(a, b, strict=True):
        assert float((ours_ - theirs).abs().max() / theirs.abs().max()) < 1e-6


def outputs(dictionary, x):
    return dictionary.encode(x), dictionary.reconstruct(x)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("tool", FORMATS)
def test_what_is_written_computes_the_same_and_reads_back(tool, name, tmp_path):
    dictionary, folder, x = ours(name), tmp_path / "new" / "out", rows()
    if not expressible(tool, name):
        with pytest.raises(NotExpressible, match=str(folder)) as refusal:
            write_format(tool, dictionary, folder)
        assert len(str(refusal.value).splitlines()) == 1
        assert not list(tmp_path.rglob("*"))
        return
    write_format(tool, dictionary, folder, model_name="othello", context_size=59)
    assert (dictionary.encode(x) != 0).any()
    assert_same(outputs(dictionary, x), by_formula(tool, folder, x))
    assert recognise(folder) == tool
    again = load_any(folder)
    assert_same(outputs(again, x), outputs(dictionary, x))
    assert (again.reads, again.writes) == (dictionary.reads, dictionary.writes)
    assert not any(p.requires_grad for p in again.parameters())
    # only Gated has to become something else: JumpReLU, in a transcoder; circuit-tracer does not keep what JumpReLU was
    kinds = {dictionary.architecture} if tool != "circuit_tracer" else {"relu", "jumprelu"}
    assert again.architecture in (kinds | {"jumprelu"} if name in ("gated transcoder", "gated skip") else kinds)
    if dictionary.architecture == again.architecture == "matryoshka":
        assert again.config.prefixes == dictionary.config.prefixes
    # a second journey changes nothing at all
    write_format(tool, again, tmp_path / "again")
    assert_same(outputs(load_any(tmp_path / "again"), x), outputs(again, x))


LINEAR = "encoder.weight FD encoder.bias F"
CANONICAL = "W_enc DF b_enc F W_dec FD b_dec D"
LAYOUTS = {  # name and shape of each tensor; O is another width, G the number of groups, - a scalar
    ("dictionary_learning", "relu"): f"{LINEAR} decoder.weight DF bias D",
    ("dictionary_learning", "relu free"): f"{LINEAR} decoder.weight DF decoder.bias D",
    ("dictionary_learning", "gated"): (
        "encoder.weight FD decoder.weight DF decoder_bias D r_mag F gate_bias F mag_bias F"
    ),
    ("dictionary_learning", "topk"): f"{LINEAR} decoder.weight DF b_dec D k - threshold -",
    ("dictionary_learning", "batch_topk"): f"{LINEAR} decoder.weight DF b_dec D k - threshold -",
    ("dictionary_learning", "matryoshka"): f"{CANONICAL} k - threshold - group_sizes G",
    ("dictionary_learning", "jumprelu"): f"{CANONICAL} threshold F",
    ("saelens", "relu"): CANONICAL,
    ("saelens", "gated"): "W_enc DF W_dec FD b_dec D b_gate F b_mag F r_mag F",
    ("saelens", "topk"): CANONICAL,
    ("saelens", "batch_topk"): f"{CANONICAL} threshold F",
    ("saelens", "relu wide"): "W_enc DF b_enc F W_dec FO b_dec O W_skip OD",
    ("sparsify", "topk"): f"{LINEAR} W_dec FD b_dec D",
    ("sparsify", "topk skip"): f"{LINEAR} W_dec FD b_dec D W_skip DD",
    ("circuit_tracer", "relu transcoder"): "W_enc FD b_enc F W_dec FD b_dec D",
    ("circuit_tracer", "gated skip"): "W_enc FD b_enc F W_dec FD b_dec D W_skip DD activation_function.threshold F",
}
SIZES = {"D": D, "F": F, "O": D + 3, "G": 3}


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    if (folder / "ae.pt").exists():
        return torch.load(folder / "ae.pt", weights_only=True)
    return load_file(next(folder.glob("*.safetensors")))


@pytest.mark.parametrize(("tool", "name"), LAYOUTS)
def test_tensors_have_the_names_and_shapes_that_the_package_loads_strictly(tool, name, tmp_path):
    write_format(tool, ours(name), tmp_path / "out")
    tensors = tensors_of(tmp_path / "out")
    words = LAYOUTS[tool, name].split()
    expected = dict(zip(words[::2], words[1::2], strict=True))
    shapes = {key: [SIZES[axis] for axis in axes if axis != "-"] for key, axes in expected.items()}
    assert {key: list(t.shape) for key, t in tensors.items()} == shapes
    whole = {"k": torch.int32, "group_sizes": torch.int64}
    assert {key: t.dtype for key, t in tensors.items()} == {key: whole.get(key, torch.float32) for key in tensors}


def test_configs_say_what_the_packages_need(tmp_path):
    def config(tool, name):
        folder = tmp_path / tool / name
        write_format(tool, ours(name), folder, model_name="othello", context_size=59)
        names = [folder / "cfg.json", folder / "config.json", folder / "config.yaml"]
        return yaml.safe_load(next(path for path in names if path.exists()).read_text())

    for name, kind in (
        ("relu", "AutoEncoder"),
        ("relu free", "AutoEncoderNew"),
        ("relu bare", "AutoEncoderNew"),
        ("gated", "GatedAutoEncoder"),
        ("topk bare", "AutoEncoderTopK"),
        ("batch_topk", "BatchTopKSAE"),
        ("matryoshka", "MatryoshkaBatchTopKSAE"),
        ("jumprelu", "JumpReluAutoEncoder"),
    ):
        trainer = config("dictionary_learning", name)["trainer"]
        assert trainer["dict_class"] == kind
        assert (trainer["activation_dim"], trainer["dict_size"], trainer["layer"]) == (D, F, 3)
        assert trainer["lm_name"] == "othello"
        assert trainer.get("k") == (K if "top" in name or name == "matryoshka" else None)

    for name, kind in (
        ("relu", "standard"),
        ("gated", "gated"),
        ("topk", "topk"),
        ("jumprelu bare", "jumprelu"),
        ("batch_topk", "jumprelu"),
        ("matryoshka", "jumprelu"),
        ("relu transcoder", "transcoder"),
        ("relu skip", "skip_transcoder"),
        ("gated transcoder", "jumprelu_transcoder"),
        ("jumprelu skip", "jumprelu_skip_transcoder"),
    ):
        entries = config("saelens", name)
        translates = name.endswith(("transcoder", "skip"))
        assert entries["architecture"] == kind
        assert (entries["d_in"], entries["d_sae"], entries["dtype"]) == (D, F, "float32")
        assert entries["apply_b_dec_to_input"] == (not translates and not name.endswith("bare"))
        assert entries["normalize_activations"] == entries["reshape_activations"] == "none"
        assert entries["metadata"]["sae_lens_version"].startswith("6.")
        assert entries["metadata"]["hook_name"] == f"blocks.3.hook_resid_{'mid' if translates else 'post'}"
        assert entries["metadata"].get("hook_name_out") == ("blocks.3.hook_mlp_out" if translates else None)
        assert entries.get("k") == (K if kind == "topk" else None)
    details = config("saelens", "matryoshka skip")["metadata"]["training_architecture_details"]
    assert details["matryoshka_widths"] == [6, 12, 24]

    entries = config("sparsify", "topk skip")
    assert entries["transcode"] and entries["skip_connection"]
    assert (entries["activation"], entries["d_in"], entries["num_latents"], entries["k"]) == ("topk", D, F, K)
    assert "kibitz" not in entries  # sparsify warns of keys that it does not know

    entries = config("circuit_tracer", "relu skip")
    assert entries["model_kind"] == "transcoder_set"
    assert (entries["feature_input_hook"], entries["feature_output_hook"]) == ("hook_resid_mid", "hook_mlp_out")


def test_a_set_of_layers_is_one_folder(tmp_path):
    sites = [(Site(f"resid_mid_{i}", f"h.{i}.ln_2", "in"), Site(f"mlp_{i}", f"h.{i}.mlp")) for i in range(3)]
    layers = [
        transcoder(ARCHITECTURES["relu"], *pair, width_in=D, width=D, features=F, seed=i).requires_grad_(False)
        for i, pair in enumerate(sites)
    ]
    circuit_tracer.write(layers, tmp_path / "set")
    assert circuit_tracer.layers(tmp_path / "set") == [0, 1, 2]
    for i, layer in enumerate(layers):
        again = read_format("circuit_tracer", tmp_path / "set", layer=i)
        assert torch.equal(again.encode(rows()), layer.encode(rows()))
        assert (again.reads, again.writes) == (layer.reads, layer.writes)
    with pytest.raises(FileError, match="0, 1, 2; name one"):
        load_any(tmp_path / "set")
    with pytest.raises(FileError, match="no layer 7"):
        read_format("circuit_tracer", tmp_path / "set", layer=7)
    with pytest.raises(FileError, match="two dictionaries write layer 0"):
        circuit_tracer.write([layers[0], layers[0]], tmp_path / "twice")
    with pytest.raises(NotExpressible, match="these differ"):
        circuit_tracer.write([layers[0], ours("relu skip")], tmp_path / "mixed")
    for i, layer in enumerate(layers):
        save_dictionary(layer, tmp_path / "ours" / str(i))
    export_dictionary(ExportConfig(tmp_path / "ours", tmp_path / "from_ours", "circuit_tracer"))
    assert circuit_tracer.layers(tmp_path / "from_ours") == [0, 1, 2]
    (tmp_path / "set" / "config.yaml").unlink()  # circuit-tracer's own to_safetensors writes none
    assert read_format("circuit_tracer", tmp_path / "set", layer=1).writes[0].name == "mlp_1"
    (tmp_path / "set" / "config.yaml").write_text("feature_input_hook: hook_resid_pre\nmodel_kind: transcoder_set\n")
    assert read_format("circuit_tracer", tmp_path / "set", layer=1).reads[0].name == "resid_0"
    import_dictionary(ImportConfig(tmp_path / "set", tmp_path / "imported"))
    assert torch.equal(load_dictionary(tmp_path / "imported" / "layer_2").W_enc, layers[2].W_enc)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape) + seed)) * 0.5


def foreign_linear() -> dict[str, torch.Tensor]:
    return {"W_enc": random(D, F), "b_enc": random(F), "W_dec": random(F, D), "b_dec": random(D)}


def dictionary_learning_folder(folder: Path, name: str, tensors: dict, **trainer) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"trainer": {"dict_class": name, "layer": 3, **trainer}}))
    torch.save(tensors, folder / "ae.pt")
    return folder


def saelens_folder(folder: Path, architecture: str, tensors: dict, *, old: bool = False, **config) -> Path:
    folder.mkdir(parents=True)
    entries = {"d_in": D, "d_sae": F, "apply_b_dec_to_input": True, "architecture": architecture, **config}
    if not old:
        entries.setdefault("metadata", {"sae_lens_version": "6.2.0", "hook_name": "blocks.3.hook_resid_post"})
    (folder / "cfg.json").write_text(json.dumps(entries))
    save_file({k: t.contiguous() for k, t in tensors.items()}, folder / "sae_weights.safetensors")
    return folder


def sparsify_folder(folder: Path, tensors: dict, **config) -> Path:
    folder.mkdir(parents=True)
    entries = {"d_in": D, "num_latents": F, "k": K, "transcode": False, "skip_connection": False, "signed": False}
    (folder / "cfg.json").write_text(json.dumps({**entries, **config}))
    save_file(tensors, folder / "sae.safetensors")
    return folder


def test_strangers_of_dictionary_learning(tmp_path):
    linear = {"encoder.weight": random(F, D), "encoder.bias": random(F), "decoder.weight": random(D, F)}
    unscaled = dictionary_learning_folder(tmp_path / "april", "AutoEncoder", {**linear, "bias": random(D)})
    # its trainers name AutoEncoder whichever class they train
    new = dictionary_learning_folder(tmp_path / "new", "AutoEncoder", {**linear, "decoder.bias": random(D)})
    competing = {**linear, "b_dec": random(D), "k": torch.tensor(K, dtype=torch.int32)}
    older = dictionary_learning_folder(tmp_path / "older", "AutoEncoderTopK", competing, k=K)
    unset = dictionary_learning_folder(
        tmp_path / "unset", "BatchTopKSAE", {**competing, "threshold": torch.tensor(-1.0)}, k=K
    )
    for folder, architecture in ((unscaled, "relu"), (new, "relu"), (older, "topk"), (unset, "batch_topk")):
        dictionary = load_any(folder)
        assert dictionary.architecture == architecture
        assert dictionary.site.name == "layer_3"  # the config names no site, and none is guessed
        assert_same(outputs(dictionary, rows()), dictionary_learning_formula(folder, rows()))
    named = dictionary_learning_folder(
        tmp_path / "named", "AutoEncoder", {**linear, "bias": random(D)}, submodule_name="resid_post_layer_3"
    )
    assert load_any(named).site.name == "resid_3"
    assert read_format("dictionary_learning", named, "blocks.1.hook_mlp_out").site.name == "mlp_1"
    with pytest.raises(FileError, match="k is 9, but ae.pt has 5"):
        load_any(dictionary_learning_folder(tmp_path / "k", "AutoEncoderTopK", competing, k=9))
    with pytest.raises(NotExpressible, match="'SomeSAE' is not known"):
        load_any(dictionary_learning_folder(tmp_path / "unknown", "SomeSAE", competing))
    (new / "config.json").write_text('{"trainer": {"dict_class": "AutoEncoder"}, "buffer": {"io": "in_and_out"}}')
    with pytest.raises(NotExpressible, match="another tensor than it reads"):
        load_any(new)


def test_strangers_of_saelens(tmp_path):
    linear = foreign_linear()
    for name, architecture, tensors, config in (
        ("plain", "standard", linear, {"noise_scale": 0.0}),
        ("bare", "standard", linear, {"apply_b_dec_to_input": False}),
        ("rescaled", "topk", linear, {"k": K, "rescale_acts_by_decoder_norm": True}),
        ("negative", "jumprelu", {**linear, "threshold": random(F)}, {}),
    ):
        folder = saelens_folder(tmp_path / name, architecture, tensors, **config)
        assert load_any(folder).site.name == "resid_3"
        assert_same(outputs(load_any(folder), rows()), saelens_formula(folder, rows()))
    half = {key: t.bfloat16() for key, t in linear.items()}
    folder = saelens_folder(tmp_path / "half", "standard", half, dtype="bfloat16")
    assert torch.equal(load_any(folder).W_enc, half["W_enc"].T.float())


def test_saelens_files_from_before_version_6(tmp_path):
    linear, x = foreign_linear(), rows()
    old = {"hook_point": "blocks.3.hook_resid_pre", "activation_fn_str": "relu", "sae_lens_training_version": "3.4.0"}
    folder = saelens_folder(tmp_path / "old", "standard", linear, old=True, **old)
    assert load_any(folder).site.name == "resid_2"
    assert_same(outputs(load_any(folder), x), saelens_formula(folder, x))
    topk = {**old, "activation_fn_str": "topk", "activation_fn_kwargs": {"k": K}, "normalize_activations": False}
    dictionary = load_any(saelens_folder(tmp_path / "topk", "standard", linear, old=True, **topk))
    p = (x - linear["b_dec"]) @ linear["W_enc"] + linear["b_enc"]
    assert_same([dictionary.encode(x)], [top(p, K).relu()])
    for key, value, reason in (
        ("activation_fn_str", "tanh-relu", "tanh-relu"),
        ("normalize_activations", True, "by what factor"),
    ):
        with pytest.raises(NotExpressible, match=reason):
            load_any(saelens_folder(tmp_path / key, "standard", linear, old=True, **{**old, key: value}))
    with pytest.raises(FileError, match="scaling_factor, which belongs to no"):
        load_any(saelens_folder(tmp_path / "f", "standard", {**linear, "scaling_factor": random(F)}, old=True, **old))


@pytest.mark.parametrize("rescale", [True, False])
def test_a_saelens_training_checkpoint_becomes_what_a_finished_run_would_save(rescale, tmp_path):
    linear, x, a, threshold = foreign_linear(), rows(), 0.37, 0.4
    folder = saelens_folder(
        tmp_path / "checkpoint",
        "matryoshka_batchtopk",
        {**linear, "topk_threshold": torch.tensor(threshold, dtype=torch.float64)},
        k=K,
        rescale_acts_by_decoder_norm=rescale,
        matryoshka_widths=[6, 12],
        normalize_activations="expected_average_only_in",
    )
    with pytest.raises(NotExpressible, match="by what factor"):
        load_any(folder)
    (folder / "activation_scaler.json").write_text(json.dumps({"scaling_factor": a}))
    dictionary = load_any(folder)
    # on scaled activations z = a x, with features in units of the raw decoder's norm
    norms = linear["W_dec"].norm(dim=1) if rescale else torch.ones(F)
    p = ((a * x - linear["b_dec"]) @ linear["W_enc"] + linear["b_enc"]) * norms
    kept = p * (p > threshold)
    assert_same([dictionary.encode(x)], [kept / a if rescale else kept])
    assert_same([dictionary.reconstruct(x)], [(kept / norms @ linear["W_dec"] + linear["b_dec"]) / a])
    assert dictionary.architecture == "matryoshka" and dictionary.config.prefixes == [6, 12, 24]


def test_strangers_of_sparsify(tmp_path):
    tensors = {"encoder.weight": random(F, D), "encoder.bias": random(F), "W_dec": random(F, D), "b_dec": random(D)}
    for name, config in (
        ("layers.3", {}),
        ("layers.4", {"num_latents": 0, "expansion_factor": F // D, "multi_topk": True}),
        ("layers.5.mlp", {"transcode": True, "skip_connection": True}),
        ("layers.6", {"skip_connection": True}),  # a linear path although it reads what it writes
    ):
        skip = {"W_skip": random(D, D)} if config.get("skip_connection") else {}
        folder = sparsify_folder(tmp_path / "run" / name, {**tensors, **skip}, **config)
        assert_same(outputs(load_any(folder), rows()), sparsify_formula(folder, rows()))
    assert load_any(tmp_path / "run" / "layers.3").site.name == "resid_3"
    translating = load_any(tmp_path / "run" / "layers.5.mlp")
    assert (translating.reads[0].name, translating.writes[0].name) == ("mlp_in_5", "mlp_5")
    renamed = read_format("sparsify", tmp_path / "run" / "layers.5.mlp", "resid_mid_5", "mlp_5")
    assert renamed.reads[0].name == "resid_mid_5"
    with pytest.raises(FileError, match="holds 4 coders"):
        load_any(tmp_path / "run")
    import_dictionary(ImportConfig(tmp_path / "run", tmp_path / "imported"))
    assert load_dictionary(tmp_path / "imported" / "layers.4").features == F
    with pytest.raises(NotExpressible, match="groupmax"):
        load_any(sparsify_folder(tmp_path / "groups", tensors, activation="groupmax"))


def base(tool: str, folder: Path) -> Path:
    """A whole folder of a stranger."""
    if tool == "dictionary_learning":
        tensors = {"encoder.weight": random(F, D), "encoder.bias": random(F), "decoder.weight": random(D, F)}
        return dictionary_learning_folder(folder, "AutoEncoder", {**tensors, "bias": random(D)})
    if tool == "saelens":
        return saelens_folder(folder, "standard", foreign_linear())
    tensors = {"encoder.weight": random(F, D), "encoder.bias": random(F), "W_dec": random(F, D), "b_dec": random(D)}
    if tool == "sparsify":
        return sparsify_folder(folder, tensors)
    folder.mkdir()
    config = {"model_kind": "transcoder_set", "feature_input_hook": "hook_resid_mid"}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    names = {"encoder.weight": "W_enc", "encoder.bias": "b_enc"}
    save_file({names.get(key, key): t for key, t in tensors.items()}, folder / "layer_0.safetensors")
    return folder


FILES = {
    "dictionary_learning": ("config.json", "ae.pt"),
    "saelens": ("cfg.json", "sae_weights.safetensors"),
    "sparsify": ("cfg.json", "sae.safetensors"),
    "circuit_tracer": ("config.yaml", "layer_0.safetensors"),
}


def rewrite(folder: Path, tool: str, change) -> None:
    """The same file with its tensors changed."""
    path = folder / FILES[tool][1]
    tensors = change(tensors_of(folder))
    if path.suffix == ".pt":
        torch.save(tensors, path)
    else:
        save_file({key: t.contiguous() for key, t in tensors.items()}, path)


def first(change):
    """Applied to the bias of what a file reconstructs, which every format has."""
    return lambda tensors: {k: change(t) if k in ("bias", "b_dec") else t for k, t in tensors.items()}


def with_nan(t):
    return t.index_fill(0, torch.tensor([1]), float("nan"))


DAMAGE = {
    "truncated weights": lambda folder, config, weights: weights.write_bytes(weights.read_bytes()[:-50]),
    "empty weights": lambda folder, config, weights: weights.write_bytes(b""),
    "text for weights": lambda folder, config, weights: weights.write_text("weights"),
    "no weights": lambda folder, config, weights: weights.unlink(),
    "NaN": first(with_nan),
    "infinity": first(lambda t: with_nan(t).nan_to_num(nan=float("inf"))),
    "integers": first(lambda t: t.long()),
    "complex": first(lambda t: t.to(torch.complex64)),
    "too long": first(lambda t: torch.cat([t, t])),
    "a matrix for a vector": first(lambda t: t[None]),
    "a tensor lacks": lambda tensors: {k: t for k, t in tensors.items() if "enc" not in k or "weight" in k},
    "a tensor too many": lambda tensors: {**tensors, "scale": torch.ones(F)},
    "a transposed matrix": lambda tensors: {
        k: t.T if k.startswith(("W_dec", "dec")) else t for k, t in tensors.items()
    },
    "truncated config": lambda folder, config, weights: config.write_text(config.read_text()[:-4] + "\n["),
    "a list for a config": lambda folder, config, weights: config.write_text("[1, 2]"),
    "binary for a config": lambda folder, config, weights: config.write_bytes(b"\x80\x04\xff\x00"),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("tool", FORMATS)
def test_a_damaged_folder_is_one_sentence(tool, damage, tmp_path):
    folder = base(tool, tmp_path / "layers.3")
    load_any(folder)
    change, (config, weights) = DAMAGE[damage], FILES[tool]
    if change.__code__.co_argcount == 3:
        change(folder, folder / config, folder / weights)
    else:
        rewrite(folder, tool, change)
    with pytest.raises(FileError, match=str(tmp_path)) as error:
        read_format(tool, folder)
    assert len(str(error.value)) < 400
    with pytest.raises(FileError):
        import_dictionary(ImportConfig(folder, tmp_path / "out", tool))  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.iterdir()] == ["layers.3"]


CONFIGS = [
    ("saelens", "d_in", D + 1, "shape"),
    ("saelens", "d_sae", None, "'d_sae' is missing"),
    ("saelens", "d_sae", "many", "'d_sae' is 'many'"),
    ("saelens", "d_sae", True, "expected a whole number"),
    ("saelens", "architecture", "temporal", "no architecture 'temporal'"),
    ("saelens", "architecture", 3, "expected text"),
    ("saelens", "normalize_activations", "layer_norm", "normalise each row"),
    ("saelens", "normalize_activations", "constant_norm_rescale", "normalise each row"),
    ("saelens", "reshape_activations", "patches", "none or hook_z"),
    ("saelens", "apply_b_dec_to_input", "yes", "true or false"),
    ("saelens", "metadata", {"sae_lens_version": "6.1", "hook_head_index": 2}, "head 2 alone"),
    ("saelens", "metadata", {"sae_lens_version": "6.1", "kibitz": {"reads": 1}}, "lacks `reads` or `writes`"),
    ("sparsify", "d_in", None, "'d_in' is missing"),
    ("sparsify", "num_latents", F + 1, "announces"),
    ("sparsify", "k", F + 1, "k is 25"),
    ("sparsify", "k", 0, "at least 1"),
    ("sparsify", "skip_connection", True, "lacks the tensor W_skip"),
    ("sparsify", "transcode", 1, "true or false"),
    ("dictionary_learning", "trainer", None, "'dict_class' is missing"),
    ("dictionary_learning", "trainer", [], "a table of settings"),
    ("dictionary_learning", "trainer", {"dict_class": "GatedAutoEncoder"}, "lacks the tensor"),
    ("dictionary_learning", "trainer", {"dict_class": "AutoEncoder", "dict_size": 9}, "dict_size is 9"),
    ("circuit_tracer", "model_kind", "cross_layer_transcoder", "holds no layer_0"),
    ("circuit_tracer", "kibitz", {"0": {"reads": []}}, "lacks `reads` or `writes`"),
]


@pytest.mark.parametrize(("tool", "key", "value", "sentence"), CONFIGS)
def test_a_config_that_cannot_be_meant_is_refused(tool, key, value, sentence, tmp_path):
    folder = base(tool, tmp_path / "layers.3")
    path = folder / FILES[tool][0]
    entries = yaml.safe_load(path.read_text())
    path.write_text(json.dumps({**entries, key: value}))
    with pytest.raises(FileError, match=sentence):
        read_format(tool, folder)


def test_a_cross_layer_transcoder_and_a_negative_threshold_are_refused(tmp_path):
    folder = base("circuit_tracer", tmp_path / "set")
    rewrite_threshold = {**load_file(folder / "layer_0.safetensors"), "activation_function.threshold": -torch.ones(F)}
    save_file(rewrite_threshold, folder / "layer_0.safetensors")
    with pytest.raises(NotExpressible, match="below 0"):
        load_any(folder)
    (tmp_path / "clt").mkdir()
    save_file({"W_enc_0": random(F, D)}, tmp_path / "clt" / "W_enc_0.safetensors")
    with pytest.raises(NotExpressible, match="no cross-layer transcoder"):
        load_any(tmp_path / "clt")


class Payload:
    """Unpickling this would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("save", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value, protocol=2))])
def test_nothing_is_unpickled(save, tmp_path):
    folder = base("dictionary_learning", tmp_path / "in")
    save({"encoder.weight": Payload(tmp_path / "executed")}, folder / "ae.pt")
    with pytest.raises(FileError, match=r"ae\.pt"):
        load_any(folder)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "value",
    [
        [torch.ones(3)],
        torch.ones(3),
        {"encoder.weight": [[1.0]]},
        {"encoder.weight": torch.ones(1).expand(100_000, 100_000)},
        {"encoder.weight": torch.ones(F, D).to_sparse()},
    ],
)
def test_a_state_file_that_is_no_state_of_a_dictionary(value, tmp_path):
    folder = base("dictionary_learning", tmp_path / "in")
    if isinstance(value, dict) and isinstance(value["encoder.weight"], torch.Tensor):
        features, width = value["encoder.weight"].shape
        value |= {"encoder.bias": torch.ones(1).expand(features), "bias": torch.ones(1).expand(width)}
        value["decoder.weight"] = torch.ones(1).expand(width, features)
    torch.save(value, folder / "ae.pt")
    # TypeError: the annotation of read_state, which tests check, comes first
    with pytest.raises((FileError, TypeError), match=r"ae\.pt"):
        load_any(folder)


def test_writers_never_replace_a_folder_and_leave_nothing_behind(tmp_path, monkeypatch):
    for tool, name in (
        ("saelens", "relu"),
        ("dictionary_learning", "relu"),
        ("sparsify", "topk"),
        ("circuit_tracer", "relu skip"),
    ):
        taken = tmp_path / tool
        taken.mkdir()
        with pytest.raises(FileError, match="here already"):
            write_format(tool, ours(name), taken)
        broken = ours(name)
        broken.b_enc[3] = float("nan")
        with pytest.raises(FileError, match="b_enc holds NaN"):
            write_format(tool, broken, tmp_path / "new")
        stacked = stack_of([ours(name), ours(name)])
        with pytest.raises(NotExpressible, match="a stack of 2"):
            write_format(tool, stacked, tmp_path / "new")
        with monkeypatch.context() as disk:
            disk.setattr("saes.files.os.replace", full)
            with pytest.raises(OSError, match="disk"):
                write_format(tool, ours(name), tmp_path / "new")
        taken.rmdir()
    assert not list(tmp_path.iterdir())


def full(*_):
    raise OSError("the disk is full")


def test_unknown_folders_and_formats_are_refused(tmp_path):
    with pytest.raises(FileError, match="no such folder"):
        load_any(tmp_path / "nowhere")
    with pytest.raises(FileError, match="holds none of"):
        load_any(tmp_path)
    with pytest.raises(ValueError, match="known: dictionary_learning"):
        read_format("onnx", tmp_path)
    with pytest.raises(FileError, match="give no second site"):
        read_format("saelens", base("saelens", tmp_path / "sae"), "resid_1", "mlp_1")


@pytest.mark.parametrize(
    ("theirs", "name"),
    [
        ("blocks.3.hook_resid_post", "resid_3"),
        ("blocks.3.hook_resid_pre", "resid_2"),
        ("blocks.0.hook_resid_pre", "embed"),
        ("blocks.12.attn.hook_z", "attn_heads_12"),
        ("gpt_neox.layers.3", "resid_3"),
        ("transformer.h.3.attn", "attn_3"),
        ("layers.3.mlp", "mlp_3"),
        ("model.layers.3.self_attn", "attn_3"),
        ("mlp_2", "mlp_2"),
        ("vision.tower", "vision.tower"),
    ],
)
def test_spellings_of_a_site(theirs, name):
    assert our_name(theirs) == name
    assert our_name(lens_name(Site(name, "m"))) == name


def test_what_a_site_says_of_itself():
    assert layer_of(RESID) == 3 and layer_of(Site("embed", "transformer.drop")) is None
    assert path_name(MLP) == "h.3.mlp" and path_name(Site("resid_1", "gpt_neox.layers.1")) == "layers.1"
    heads = ARCHITECTURES["relu"](ARCHITECTURES["relu"].config_type(D, F), [Site("attn_heads_3", "h.3.c_proj", "in")])
    assert lens_name(heads.site) == "blocks.3.attn.hook_z"


def test_saelens_is_told_to_join_the_heads_of_hook_z(tmp_path):
    kind = ARCHITECTURES["relu"]
    write_format("saelens", kind(kind.config_type(D, F), [Site("attn_heads_3", "h.3.c_proj", "in")]), tmp_path / "z")
    assert json.loads((tmp_path / "z" / "cfg.json").read_text())["reshape_activations"] == "hook_z"
    assert load_any(tmp_path / "z").site.name == "attn_heads_3"


def test_commands_export_and_import(tmp_path):
    save_dictionary(ours("relu"), tmp_path / "ours")
    said = export_dictionary(ExportConfig(tmp_path / "ours", tmp_path / "theirs", "saelens", "othello"))
    assert said == f"{tmp_path / 'theirs'}: relu, {F} features of width {D} at resid_3, for saelens"
    said = import_dictionary(ImportConfig(tmp_path / "theirs", tmp_path / "back", site="resid_1"))
    assert said == f"{tmp_path / 'back'}: relu, {F} features of width {D} at resid_1, from saelens"
    back = load_dictionary(tmp_path / "back")
    assert torch.equal(back.encode(rows()), ours("relu").encode(rows()))
    with pytest.raises(FileError, match="here already"):
        import_dictionary(ImportConfig(tmp_path / "theirs", tmp_path / "back"))
    with pytest.raises(FileError, match="of Kibitz already"):
        import_dictionary(ImportConfig(tmp_path / "ours", tmp_path / "new"))


def test_the_real_saelens_dictionaries_of_an_othello_gpt(shared, tmp_path):
    files = sorted((shared / "data" / "othello_saes").glob("*_sae_*.safetensors"))
    if not files:
        pytest.skip("data/othello_saes is not among the reference data")
    for path in files:
        folder = tmp_path / path.stem
        folder.mkdir()
        (folder / "sae_weights.safetensors").symlink_to(path)
        (folder / "cfg.json").symlink_to(path.with_suffix(".cfg.json"))
        dictionary = load_any(folder)
        assert (dictionary.architecture, dictionary.site.name, dictionary.width) == ("relu", "resid_2", 128)
        x = torch.randn(50, 128)
        assert_same(outputs(dictionary, x), saelens_formula(folder, x))
        write_format("dictionary_learning", dictionary, tmp_path / "dl" / path.stem)
        assert_same(
            outputs(dictionary, x), dictionary_learning_formula(tmp_path / "dl" / path.stem, x)
        )  # through another format's formula
