"""`kibitz import` from the hub's cache, offline: what is written, and what is said when it cannot be."""

from pathlib import Path

import numpy as np
import pytest
import torch

from kibitz.cli import main
from saes.checkpoint import load_dictionary
from saes.files import read_shapes, read_tensors
from tests.saes.released_for_tests import gemma_arrays, gemma_folder, in_cache

REPO = "google/gemma-scope-2b-pt-att"
FOLDER = "layer_2/width_16k/average_l0_71"


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Path:
    """A working folder, beside a cache that holds one dictionary of a made-up gemma-scope-2b-pt-att."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    gemma_folder(tmp_path / "files" / FOLDER)
    in_cache(tmp_path / "cache", REPO, tmp_path / "files")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def test_import_from_the_hub(hub, capsys):
    main(["import", f"{REPO}:{FOLDER}", "out"])
    assert capsys.readouterr().out.strip() == (
        "out: jumprelu, 40 features of width 16 at attn_heads_2, from gemma_scope"
    )
    dictionary = load_dictionary(hub / "out")
    np.testing.assert_array_equal(dictionary.W_enc.numpy(), gemma_arrays()["W_enc"].T)
    assert dictionary.site.name == "attn_heads_2"


def test_import_in_16_bits_and_at_another_site(hub):
    main(["import", f"{REPO}:{FOLDER}@main", "half", "--dtype", "bfloat16", "--site", "resid_1"])
    weights = hub / "half" / "dictionary.safetensors"
    assert {t.dtype for t in read_tensors(weights).values()} == {torch.bfloat16}
    assert read_shapes(weights)["W_enc"] == (40, 16)
    dictionary = load_dictionary(hub / "half")
    assert dictionary.site.name == "resid_1" and dictionary.W_enc.dtype == torch.float32
    np.testing.assert_allclose(dictionary.W_dec, gemma_arrays()["W_dec"], rtol=2**-8)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([f"{REPO}:{FOLDER[:-1]}", "out"], ["no dictionary at", f"{REPO}:{FOLDER}"]),
        ([f"{REPO}:layer_3/width_16k", "out"], ["no dictionary at", f"{REPO}:{FOLDER}"]),
        ([REPO, "out"], ["no dictionary at the top", f"{REPO}:{FOLDER}"]),
        (["google/gemma-scope-2b-pt-res:layer_2", "out"], ["HF_HUB_OFFLINE is set"]),
        ([f"{REPO}:{FOLDER}@v2", "out"], ["HF_HUB_OFFLINE is set"]),
        ([f"{REPO}:../{FOLDER}", "out"], ["leaves the repository"]),
        (["gemma", "out"], ["gemma: no such folder", "owner/name"]),
        ([f"{REPO}:{FOLDER}", "out", "--target", "mlp_1"], ["give no second site"]),
        ([f"{REPO}:{FOLDER}", "out", "--from", "saelens"], ["cfg.json"]),
        ([f"{REPO}:{FOLDER}", "out", "--dtype", "int8"], ["int8"]),
    ],
)
def test_what_cannot_be_imported_is_one_sentence_and_leaves_nothing(arguments, words, hub, capsys):
    with pytest.raises(SystemExit) as leaving:
        main(["import", *arguments])
    assert leaving.value.code in (1, 2)
    sentence = capsys.readouterr().err.strip()
    assert sentence.startswith("kibitz: ") and len(sentence.splitlines()) == 1
    assert all(word in sentence for word in words), sentence
    assert not list(hub.iterdir())
