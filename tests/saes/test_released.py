"""Dictionaries by folder and by address on the hub: huggingface_hub's own code on a cache and an endpoint of ours."""

import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from saes.architectures import ARCHITECTURES, transcoder
from saes.checkpoint import save_dictionary
from saes.families import find_site, site_names, site_width
from saes.files import FileError
from saes.formats import FORMATS, NotExpressible, load_any, outline, read_format, recognise, write_format
from saes.hub import HubAddress, parse_address
from saes.released import load_released, locate
from saes.sites import Site, SiteError
from tests.saes.models_for_tests import tiny
from tests.saes.released_for_tests import endpoint, gemma_arrays, gemma_folder, gemma_forward, in_cache
from tests.saes.test_formats import NAMES, expressible, foreign_linear, ours, random, saelens_folder, sparsify_folder

RES = "google/gemma-scope-2b-pt-res"
L0_71 = "layer_1/width_16k/average_l0_71"


def x_of(width: int = 16, rows: int = 50) -> np.ndarray:
    return np.random.default_rng(3).standard_normal((rows, width)).astype(np.float32)


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """huggingface_hub with an empty cache of its own, offline."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path / "cache"


@pytest.fixture
def gemma_repo(tmp_path) -> Path:
    """Two layers of a made-up gemma-scope-2b-pt-res."""
    repo = tmp_path / "repo"
    for layer in (0, 1):
        for l0 in (71, 120):
            gemma_folder(repo / f"layer_{layer}/width_16k/average_l0_{l0}", **gemma_arrays(seed=10 * layer + l0))
    (repo / "README.md").write_text("# Gemma Scope")
    return repo


@pytest.mark.parametrize(
    ("source", "address"),
    [
        ("owner/name", HubAddress("owner/name")),
        (f"{RES}:{L0_71}", HubAddress(RES, L0_71)),
        ("owner/name:a/b/@v1.0", HubAddress("owner/name", "a/b", "v1.0")),
        ("owner/name@refs/pr/3", HubAddress("owner/name", "", "refs/pr/3")),
        ("owner/name:.", HubAddress("owner/name")),
        ("name", None),
        ("a/b/c", None),
        ("./owner/name", None),
        ("/owner/name", None),
        ("C:\\sets\\one", None),
        ("", None),
    ],
)
def test_addresses(source, address):
    assert parse_address(source) == address
    if address:
        assert parse_address(str(address)) == address
        assert address.at("other").path == "other"


def test_an_address_stays_in_its_repository():
    with pytest.raises(FileError, match="leaves the repository"):
        parse_address("owner/name:a/../../b")


def test_gemma_scope_computes_what_the_report_says(tmp_path):
    arrays, x = gemma_arrays(), x_of()
    dictionary = load_any(gemma_folder(tmp_path / "gemma-scope-2b-pt-res" / L0_71, **arrays))
    f, reconstruction = gemma_forward(arrays, x.astype(np.float64))
    assert 0.05 < (f != 0).mean() < 0.5
    assert (arrays["threshold"] < 0).any()  # below 0 nothing but positive features is kept
    ours_f = dictionary.encode(torch.from_numpy(x))
    assert np.array_equal(ours_f.numpy() != 0, f != 0)
    np.testing.assert_allclose(ours_f, f, atol=1e-4)
    np.testing.assert_allclose(dictionary.reconstruct(torch.from_numpy(x)), reconstruction, atol=1e-4)
    assert dictionary.architecture == "jumprelu" and not dictionary.config.center
    assert dictionary.site.name == "resid_1"
    assert not any(p.requires_grad for p in dictionary.parameters())


@pytest.mark.parametrize(
    ("path", "reads", "writes"),
    [
        ("gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71", "resid_20", "resid_20"),
        ("models--google--gemma-scope-9b-it-res/snapshots/abc/layer_9/width_16k/average_l0_8", "resid_9", "resid_9"),
        ("gemma-scope-2b-pt-mlp/layer_3/width_16k/average_l0_71", "mlp_3", "mlp_3"),
        ("gemma-scope-2b-pt-att/layer_12/width_65k/average_l0_7", "attn_heads_12", "attn_heads_12"),
        ("gemma-scope-2b-pt-transcoders/layer_7/width_16k/average_l0_7", "blocks.7.ln2.hook_normalized", "mlp_7"),
        ("mine/layer_7/width_16k", "layer_7", "layer_7"),
        ("mine", "unknown", "unknown"),
    ],
)
def test_gemma_scopes_sites_are_in_its_names(path, reads, writes, tmp_path):
    dictionary = load_any(gemma_folder(tmp_path / path))
    assert (dictionary.reads[0].name, dictionary.writes[0].name) == (reads, writes)
    assert outline("gemma_scope", tmp_path / path).reads == list(dictionary.reads)
    renamed = read_format("gemma_scope", tmp_path / path, "blocks.5.hook_resid_mid")
    assert renamed.reads[0].name == "resid_mid_5"


def test_gemma_scope_spelled_in_lower_case_and_with_a_scale(tmp_path):
    arrays = gemma_arrays()
    lower = {("w" + name[1:] if name.startswith("W") else name): array for name, array in arrays.items()}
    plain = load_any(gemma_folder(tmp_path / "plain", **arrays))
    again = load_any(gemma_folder(tmp_path / "lower", **lower, scaling_factor=np.ones(40, np.float32)))
    assert all(torch.equal(t, again.state_dict()[name]) for name, t in plain.state_dict().items())
    with pytest.raises(NotExpressible, match="scaling_factor is not 1"):
        load_any(gemma_folder(tmp_path / "scaled", **arrays, scaling_factor=np.full(40, 2.0, np.float32)))
    with pytest.raises(NotExpressible, match="token embeddings"):
        load_any(gemma_folder(tmp_path / "gemma-scope-2b-pt-res/embedding/width_4k/average_l0_6"))


def oversized(path: Path) -> None:
    """A header that claims more numbers than follow it."""
    arrays = gemma_arrays()
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w") as member:
                shape = (10**6, 10**6) if name == "W_enc" else array.shape
                np.lib.format.write_array_header_1_0(member, {"descr": "<f4", "fortran_order": False, "shape": shape})
                member.write(array.tobytes())


def changed(**arrays):
    return lambda path: np.savez(path, **{**gemma_arrays(), **arrays})


class Touch:
    """Unpickling this would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-70]), "not a whole"),
        (lambda path: path.write_bytes(b""), "not a whole"),
        (lambda path: path.write_text("weights"), "not a whole"),
        (lambda path: np.savez(path, W_enc=np.ones((3, 4))), "lacks the matrix W_dec"),
        (changed(W_enc=np.ones((16, 41), np.float32)), "W_enc has shape"),
        (changed(b_enc=np.full(40, np.nan, np.float32)), "NaN"),
        (changed(threshold=np.ones(40, np.int64)), "not floating-point"),
        (changed(extra=np.ones(3, np.float32)), "holds extra"),
        (changed(W_enc=np.ones((0, 40), np.float32)), "lacks the matrix W_enc"),
        (oversized, "claims more numbers"),
        (lambda path: np.savez(path, W_enc=np.array([[Touch(path.parent / "executed")]], dtype=object)), r"npz"),
    ],
)  # fmt: skip
def test_damaged_npz_files_are_one_sentence(damage, reason, tmp_path):
    folder = gemma_folder(tmp_path / "gemma-scope-2b-pt-res" / L0_71)
    damage(folder / "params.npz")
    with pytest.raises(FileError, match=reason) as error:
        load_any(folder)
    assert str(folder) in str(error.value) and len(str(error.value).splitlines()) == 1
    assert not (folder / "executed").exists()


@pytest.mark.parametrize(("tool", "name"), [(t, n) for t in FORMATS for n in NAMES if expressible(t, n)])
def test_an_outline_is_what_reading_gives(tool, name, tmp_path, monkeypatch):
    write_format(tool, ours(name), tmp_path / "out")
    whole = load_any(tmp_path / "out")
    for module in ("saes.files.load_file", "torch.load"):  # no weights are read
        monkeypatch.setattr(module, lambda *_, **__: pytest.fail("weights were read"))
    found = outline(tool, tmp_path / "out")
    assert (tuple(found.reads), tuple(found.writes)) == (whole.reads, whole.writes)
    assert (found.width_in, found.width, found.features) == (whole.width_in, whole.width, whole.features)
    assert found.numbers == whole.W_enc.numel() + whole.W_dec.numel()


def test_a_hub_address_is_read_from_the_cache(cache, gemma_repo):
    in_cache(cache, RES, gemma_repo)
    arrays, x = gemma_arrays(seed=81), torch.from_numpy(x_of())
    dictionary = load_released(f"{RES}:{L0_71}")
    assert dictionary.site == Site("resid_1", "blocks.1.hook_resid_post")
    np.testing.assert_allclose(dictionary.encode(x), gemma_forward(arrays, x.double().numpy())[0], atol=1e-4)
    half = load_released(f"{RES}:{L0_71}@main", dtype=torch.bfloat16)
    assert half.W_enc.dtype == half.threshold.dtype == torch.bfloat16
    assert torch.equal(half.W_dec, dictionary.W_dec.bfloat16())


def test_other_tools_on_the_hub(cache, tmp_path):
    folder = tmp_path / "files"
    saelens_folder(folder / "blocks.3.hook_resid_post", "standard", foreign_linear())
    tensors = {"encoder.weight": random(24, 8), "encoder.bias": random(24), "W_dec": random(24, 8), "b_dec": random(8)}
    for i in (2, 3):
        sparsify_folder(folder / f"layers.{i}", tensors)
    write_format("dictionary_learning", ours("gated"), folder / "trainer_0")
    write_format("circuit_tracer", ours("relu skip"), folder / "set")
    save_dictionary(ours("matryoshka"), folder / "ours")
    in_cache(cache, "some/saes", folder)
    for path, tool, site in (
        ("blocks.3.hook_resid_post", "saelens", "resid_3"),
        ("layers.2", "sparsify", "resid_2"),
        ("trainer_0", "dictionary_learning", "resid_3"),
        ("set/layer_3.safetensors", "circuit_tracer", "resid_mid_3"),
        ("ours", "kibitz", "resid_3"),
    ):
        (place,) = locate(f"some/saes:{path}")
        assert place.tool == tool
        dictionary = load_released(f"some/saes:{path}")
        assert dictionary.reads[0].name == site
        local = folder / path
        direct = load_released(local)
        assert all(torch.equal(t, direct.state_dict()[k]) for k, t in dictionary.state_dict().items())


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (f"{RES}:layer_1/width_16k/average_l0_70", ["no dictionary at", f"{RES}:{L0_71}"]),
        (f"{RES}:layer_1", ["no dictionary at", "average_l0_120", "average_l0_71"]),
        (RES, ["no dictionary at the top", f"{RES}:layer_0"]),
        (f"{RES}:{L0_71}@v2", ["HF_HUB_OFFLINE", "cache lacks it", "v2"]),
        ("google/other", ["google/other", "HF_HUB_OFFLINE"]),
        ("nowhere", ["no such folder", "owner/name[:folder/in/it][@revision]"]),
        ("a/b/c", ["no such folder", "owner/name"]),
        ("owner/na--me", ["not a name on the hub"]),
    ],
)
def test_what_is_not_there_offline_is_one_sentence(source, words, cache, gemma_repo):
    in_cache(cache, RES, gemma_repo)
    with pytest.raises(FileError) as error:
        load_released(source)
    assert str(error.value).startswith(source.split("@")[0])
    assert len(str(error.value).splitlines()) == 1 and all(word in str(error.value) for word in words)


def test_only_the_files_of_one_dictionary_are_fetched(cache, gemma_repo, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    (gemma_repo / "layer_1" / "width_16k" / "params.npz").write_text("another folder's file of that name")
    with endpoint({RES: gemma_repo}) as (url, sent):
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
        monkeypatch.setattr(
            "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        dictionary = load_released(f"{RES}:{L0_71}")
        assert sent == [f"{L0_71}/params.npz"]
        np.testing.assert_array_equal(dictionary.W_dec.numpy(), gemma_arrays(seed=81)["W_dec"])
        for source, words in (
            (f"{RES}:layer_1/width_16k/average_l0_9", [f"{RES}:{L0_71}"]),
            (f"{RES}:{L0_71}@v2", ["no branch, tag or commit 'v2'"]),
            ("google/gemma-scope-3b", ["the hub has no repository 'google/gemma-scope-3b'"]),
        ):
            with pytest.raises(FileError) as error:
                load_released(source)
            assert len(str(error.value).splitlines()) == 1 and all(word in str(error.value) for word in words)
        assert sent == [f"{L0_71}/params.npz"]
    # the hub is gone: what was fetched is still there, and what was not is one sentence
    assert torch.equal(load_released(f"{RES}:{L0_71}").W_dec, dictionary.W_dec)
    with pytest.raises(FileError, match="the hub cannot be reached") as error:
        load_released(f"{RES}:layer_0/width_16k/average_l0_71")
    assert len(str(error.value).splitlines()) == 1


def test_a_folder_wins_over_an_address_of_the_same_name(cache, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_dictionary(ours("relu"), "owner/name")
    assert load_released("owner/name").site.name == "resid_3"


def test_sites_of_the_model(tmp_path):
    model = tiny("gemma2")
    for kind, name in (("res", "resid_1"), ("mlp", "mlp_1"), ("att", "attn_heads_1")):
        width = site_width(model, find_site(model, name))
        folder = gemma_folder(tmp_path / f"gemma-scope-2b-pt-{kind}" / L0_71, **gemma_arrays(width, width))
        dictionary = load_released(folder, model=model)
        assert dictionary.site == find_site(model, name)  # the module's path in this model
    assert width == 24  # heads are wider together than the stream
    with pytest.raises(SiteError, match=r"is 24 wide, but resid_0 of this model 16; is it of another model\?"):
        load_released(folder, model=model, site="resid_0")
    deep = gemma_folder(tmp_path / "gemma-scope-2b-pt-res/layer_9/width_16k/average_l0_71")
    with pytest.raises(SiteError, match="no such site"):
        load_released(deep, model=model)
    assert load_released(deep, model=model, site="blocks.0.hook_resid_post").site == find_site(model, "resid_0")
    reading = gemma_folder(tmp_path / "gemma-scope-2b-pt-transcoders" / L0_71)
    assert load_released(reading, model=model).reads == (find_site(model, "mlp_in_1"),)
    assert load_released(reading, model=model, site="resid_mid_1").writes == (find_site(model, "mlp_1"),)
    assert site_names(model)[:3] == ["embed", "attn_heads_0", "attn_0"]


def test_a_folder_of_ours_takes_another_site(tmp_path):
    save_dictionary(ours("relu"), tmp_path / "one")
    assert load_released(tmp_path / "one", site="mlp_0").site.name == "mlp_0"
    assert load_released(tmp_path / "one", site="blocks.3.hook_resid_post").site == ours("relu").site
    save_dictionary(transcoder(ARCHITECTURES["relu"], Site("a", "a"), Site("b", "b"), width_in=4, width=4, features=9),
                    tmp_path / "two")  # fmt: skip
    with pytest.raises(FileError, match="more than one site"):
        load_released(tmp_path / "two", site="mlp_0")


def test_numbers_that_a_dtype_cannot_hold(tmp_path):
    arrays = gemma_arrays() | {"b_dec": np.full(16, 1e6, np.float32)}
    theirs = gemma_folder(tmp_path / "theirs", **arrays)
    save_dictionary(load_any(theirs), tmp_path / "ours")
    for folder in (theirs, tmp_path / "ours"):
        assert load_released(folder, dtype=torch.bfloat16).b_dec.dtype == torch.bfloat16
        with pytest.raises(FileError, match=r"b_dec holds numbers that torch\.float16 cannot"):
            load_released(folder, dtype=torch.float16)


def test_a_folder_of_folders_and_files(tmp_path):
    for i in (0, 1):
        gemma_folder(tmp_path / "set" / f"layer_{i}")
    (tmp_path / "set" / "notes").mkdir()
    assert [place.name for place in locate(tmp_path / "set")] == ["layer_0", "layer_1"]
    with pytest.raises(FileError, match="holds 2 dictionaries; name one of layer_0, layer_1"):
        load_released(tmp_path / "set")
    with pytest.raises(FileError, match="is a file"):
        load_released(tmp_path / "set/layer_0/params.npz")
    with pytest.raises(FileError, match=re.escape(str(tmp_path / "set/notes"))):
        load_released(tmp_path / "set/notes")
    save_file({"W_enc": random(24, 8), "b_enc": random(24), "W_dec": random(24, 8), "b_dec": random(8)},
              tmp_path / "set/notes/layer_5.safetensors")  # fmt: skip
    assert recognise(tmp_path / "set/notes") == "circuit_tracer"
    assert load_released(tmp_path / "set/notes/layer_5.safetensors").writes[0].name == "mlp_5"
