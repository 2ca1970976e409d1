"""Features of any dictionary: the list against slow counts, cards on request, and the pages of a run."""

import copy
import json

import pytest
import torch
from fastapi.testclient import TestClient

from circuits.circuit import Circuit, Node
from circuits.circuit_files import save_circuit
from kibitz.app import AppConfig, open_catalogue
from kibitz.pages.app_server import catalogue_app, pages_below
from kibitz.pages.catalogue import Catalogue
from kibitz.pages.circuit_effects import circuit_effects
from kibitz.pages.guard import Keys
from kibitz.pages.serving import UnknownError
from kibitz.runs import RunError
from saes.architectures import ReLUConfig, ReLUDictionary
from saes.checkpoint import save_dictionary
from saes.digests import weights_digest
from saes.families import find_site, site_names, site_width
from saes.files import FileError
from saes.harvest import harvest_features
from saes.models import save_model
from shift.board_cards import OthelloBoards
from shift.card_facts import direct_logits
from tests.saes.corpora_for_tests import texts, word_tokenizer
from tests.saes.models_for_tests import tiny
from tests.shift.flag_model_for_tests import flag_model

PAGE = "<!doctype html><title>Circuit</title><script>1</script>"


@pytest.fixture(scope="module")
def othello():
    """A model whose stream is a flag of its token, and a dictionary that reads it: feature 1 fires on one move."""
    model, positions, token = flag_model(1, 8)
    site = find_site(model, "resid_0")
    dictionary = ReLUDictionary(ReLUConfig(8, 8), [site])
    dictionary.W_dec.data, dictionary.W_enc.data = torch.eye(8), torch.eye(8)
    return model, dictionary.requires_grad_(False), positions, token


@pytest.fixture(scope="module")
def catalogue(othello):
    model, dictionary, positions, _ = othello
    return Catalogue(model, {"mine": dictionary}, OthelloBoards(positions), positions, {("mine", 1): -0.25})


def test_the_list(othello, catalogue):
    *_, positions, token = othello
    assert catalogue.overview() == [{"key": "0", "name": "mine", "site": "resid_0", "features": 8}]
    features = catalogue.features("0")
    moves = positions.tokens[torch.from_numpy(positions.mask)]
    assert [f["feature"] for f in features] == list(range(8))
    found = features[1]
    assert found["density"] == pytest.approx(float((moves == token).float().mean()))
    assert found["property"].startswith("last move ") and found["f1"] == 1.0 and found["effect"] == -0.25
    assert found["tokens"][0] == found["property"].removeprefix("last move ")
    assert features[0] == {**features[0], "density": 0.0, "property": None, "f1": None, "effect": None}
    with pytest.raises(UnknownError):
        catalogue.features("1")


def test_a_card(catalogue):
    card = catalogue.card("0", 1)
    assert card["features"] == [{"site": "resid_0", "feature": 1, "effect": -0.25}]
    assert card["property"]["f1"] == 1.0 and card["kind"] == "othello"
    assert {s["activation"] for s in card["showings"]["top"]} == {2.0}
    assert catalogue.card("0", 1) is card  # drawn once
    assert catalogue.card("0", 0)["features"][0]["effect"] is None
    for feature in (-1, 8):
        with pytest.raises(UnknownError, match="there are 8"):
            catalogue.card("0", feature)


def test_over_http(catalogue, tmp_path):
    outside, run = tmp_path / "outside.html", tmp_path / "run"
    (run / "circuits" / "a b").mkdir(parents=True)
    (run / ".hidden").mkdir()
    for path in (outside, run / "index.html", run / "circuits" / "a b" / "circuit.html", run / ".hidden" / "x.html"):
        path.write_text(PAGE)
    (run / "secret.txt").write_text("x")
    (run / "link.html").symlink_to(outside)
    keys, pages = Keys(8000), pages_below(run)
    assert list(pages) == ["circuits/a b/circuit.html", "index.html"]
    with TestClient(catalogue_app(catalogue, pages, keys, "a run"), base_url="http://127.0.0.1:8000") as client:
        assert client.get("/api/overview").status_code == 403
        assert client.get(f"/?token={keys.token}").status_code == 200  # the answer sets the cookie
        assert client.get("/api/overview").json()["pages"] == list(pages)
        assert client.get("/api/dictionaries/0").json()["features"][1]["f1"] == 1.0
        assert client.get("/api/dictionaries/0/1").json()["density"] > 0
        assert client.get("/api/dictionaries/0/9").status_code == 404
        assert client.get("/api/dictionaries/0/x").status_code == 422
        shown = client.get("/pages/circuits/a%20b/circuit.html")
        assert shown.text == PAGE
        policy = shown.headers["Content-Security-Policy"]
        assert "sandbox" in policy and "allow-same-origin" not in policy and "connect-src" not in policy
        for name in (
            "link.html",
            "secret.txt",
            ".hidden/x.html",
            "../outside.html",
            "..%2foutside.html",
            "%2fetc%2fpasswd",
        ):
            assert client.get(f"/pages/{name}").status_code == 404


def test_a_run_with_dictionaries_and_a_circuit(othello, tmp_path):
    model, dictionary, *_ = othello
    save_model(model, tmp_path / "model")
    run = tmp_path / "run"
    save_dictionary(dictionary, run / "dictionaries" / "resid_0" / "one")
    (run / "config.yaml").write_text(f"model: {tmp_path / 'model'}\n")
    nodes = {Node("resid_0", 1): 0.5, Node("resid_0", None): 3.0}
    said = {"dictionaries": {"resid_0": weights_digest(dictionary)}, "model": {"dtype": "torch.float32"}}
    save_circuit(Circuit((dictionary.site,), nodes, {}, said), run / "circuit")
    found = open_catalogue(AppConfig(run, count=5))
    (overview,) = found.overview()
    assert overview["site"] == "resid_0" and found.features("0")[1]["effect"] == 0.5 and found.notes == ()
    given = AppConfig(run, dictionaries=(str(run / "dictionaries"),), model=str(tmp_path / "model"), count=5)
    assert open_catalogue(given).features("0")[1]["effect"] == 0.5
    with TestClient(catalogue_app(found, {}, keys := Keys(8000)), base_url="http://127.0.0.1:8000") as client:
        client.get(f"/?token={keys.token}")
        assert client.get("/api/overview").json()["notes"] == []


def circuit_of(dictionary, nodes, **said) -> Circuit:
    return Circuit((dictionary.site,), {Node("resid_0", f): e for f, e in nodes.items()}, {}, said)


def test_effects_go_by_the_weights_of_a_dictionary(othello, tmp_path):
    """Feature 1 of another dictionary at the same site has nothing to do with feature 1 of the circuit's."""
    _, mine, *_ = othello
    other = ReLUDictionary(ReLUConfig(8, 8), [mine.site]).requires_grad_(False)
    digests = {"resid_0": weights_digest(mine)}
    save_circuit(circuit_of(mine, {1: 0.5, 2: -0.25}, dictionaries=digests), tmp_path / "a")
    save_circuit(circuit_of(mine, {1: -0.75}, dictionaries=digests), tmp_path / "b" / "c")
    assert circuit_effects(tmp_path, {"mine": mine}) == ({("mine", 1): -0.75, ("mine", 2): -0.25}, ())
    assert circuit_effects(tmp_path, {"mine": mine, "other": other})[0].keys() == {("mine", 1), ("mine", 2)}
    effects, notes = circuit_effects(tmp_path, {"other": other})
    assert effects == {} and [note.split(":")[0] for note in notes] == ["a", "b/c"]
    assert all("other dictionaries at resid_0" in note for note in notes)


def test_effects_of_a_circuit_that_names_no_dictionaries_are_not_shown(othello, tmp_path):
    _, mine, *_ = othello
    save_circuit(circuit_of(mine, {1: 0.5}), tmp_path / "old")
    effects, (note,) = circuit_effects(tmp_path, {"mine": mine})
    assert effects == {} and note.startswith("old: does not say which dictionaries")


def test_effects_of_a_circuit_in_another_precision(tmp_path):
    """The app reads dictionaries in float32, whatever the circuit was found in."""
    site = find_site(tiny("llama"), "resid_0")
    mine = ReLUDictionary(ReLUConfig(8, 8), [site]).requires_grad_(False)
    rounded = copy.deepcopy(mine).to(torch.bfloat16)
    said = {"dictionaries": {"resid_0": weights_digest(rounded)}, "model": {"dtype": "torch.bfloat16"}}
    save_circuit(circuit_of(mine, {3: 0.5}, **said), tmp_path / "a")
    assert circuit_effects(tmp_path, {"mine": mine}) == ({("mine", 3): 0.5}, ())
    assert mine.W_dec.dtype == torch.float32


def test_only_what_writes_the_stream_has_direct_logits():
    """The heads before their output projection and the input of the MLP are as wide as the stream, and not in it."""
    model = tiny("llama")
    width = model.config.hidden_size
    writes = {}
    for name in site_names(model):
        site = find_site(model, name)
        if site_width(model, site) == width:
            dictionary = ReLUDictionary(ReLUConfig(width, 4), [site]).requires_grad_(False)
            writes[name] = direct_logits(model, dictionary, [0]) is not None
    assert {name for name, has in writes.items() if not has} == {
        f"{kind}_{i}" for kind in ("attn_heads", "mlp_in") for i in range(model.config.num_hidden_layers)
    }
    assert {"embed", "attn_0", "mlp_0", "resid_0", "resid_mid_0"} <= {name for name, has in writes.items() if has}


def test_text(tmp_path):
    model = tiny("llama")
    save_model(model, tmp_path / "model")
    word_tokenizer().save_pretrained(tmp_path / "model")
    site = find_site(model, "resid_0")
    dictionary = ReLUDictionary(ReLUConfig(model.config.hidden_size, 6), [site]).requires_grad_(False)
    save_dictionary(dictionary, tmp_path / "run" / "one")
    (tmp_path / "corpus.txt").write_text("\n".join(texts(12)))
    config = AppConfig(tmp_path / "run", model=str(tmp_path / "model"), context=8, tokens=60)
    with pytest.raises(RunError, match="give --corpus"):
        open_catalogue(config)
    found = open_catalogue(AppConfig(**{**vars(config), "corpus": str(tmp_path / "corpus.txt")}))
    listed = found.features("0")
    shown = found._shown
    every = {site: torch.arange(6)}
    acts = harvest_features(model, {site: dictionary}, every, shown.tokens, shown.mask)[site]
    assert [f["density"] for f in listed] == pytest.approx((acts > 0).float().mean(0).tolist())
    assert all(f["property"] is None and len(f["tokens"]) == 5 for f in listed)
    card = found.card("0", 3)
    assert card["kind"] == "text" and json.dumps(card) and card["heat"] == []


def test_what_is_not_there(tmp_path):
    with pytest.raises(RunError, match="no such folder"):
        AppConfig(tmp_path / "absent")
    with pytest.raises(FileError):
        open_catalogue(AppConfig(tmp_path))
    (tmp_path / "config.yaml").write_text("model: [")
    with pytest.raises(RunError, match=r"config.yaml: cannot be read"):
        open_catalogue(AppConfig(tmp_path))
    with pytest.raises(ValueError, match="port is 70000"):
        AppConfig(port=70000)
