"""Sets that load lazily: the same numbers as a dict of all, bit for bit, in bounded memory, whatever the budget."""

import weakref
from collections import Counter

import pytest
import torch

from circuits.attribution import node_effects
from circuits.discover import CircuitConfig, find_circuit
from circuits.exact import exact_effects
from circuits.feature_acts import states_of
from circuits.metrics import LogitDifference
from saes import dictionary_set
from saes.architectures import AffineDictionary, ReLUConfig, ReLUDictionary
from saes.checkpoint import load_dictionary, save_dictionary
from saes.dictionary_set import DictionarySet, bytes_of
from saes.evaluation import evaluate
from saes.families import circuit_sites, find_site
from saes.files import FileError
from saes.sites import Site, SiteError
from tests.circuits.small import dictionaries_for, pairs, small_model
from tests.saes.released_for_tests import gemma_arrays, gemma_folder


@pytest.fixture
def model():
    return small_model().float()


@pytest.fixture
def folder(model, tmp_path):
    """A dictionary for every site of the model, as a folder of folders."""
    for site, dictionary in dictionaries_for(model).items():
        save_dictionary(dictionary.float(), tmp_path / "set" / site.name)
    return tmp_path / "set"


def in_memory(model, folder) -> dict[Site, AffineDictionary]:
    return {site: load_dictionary(folder / site.name) for site in circuit_sites(model)}


def one(folder) -> int:
    return bytes_of(load_dictionary(folder / "embed"))


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(
        torch.equal(a[s].acts, b[s].acts) and torch.equal(a[s].error, b[s].error) for s in a
    )


@pytest.fixture
def alive(monkeypatch):
    """Bytes of all dictionaries that the set has read and that are still somewhere in memory; their maximum."""
    living: dict[int, int] = {}
    most = Counter()
    real = dictionary_set.Place.read

    def read(place, *args, **options):
        dictionary = real(place, *args, **options)
        living[id(dictionary)] = bytes_of(dictionary)
        weakref.finalize(dictionary, living.pop, id(dictionary))
        most["bytes"] = max(most["bytes"], sum(living.values()))
        return dictionary

    monkeypatch.setattr(dictionary_set.Place, "read", read)
    return most


@pytest.mark.parametrize("room", [0, 1, 3, None])
def test_effects_are_bit_identical_to_a_dict_of_all(room, model, folder, alive):
    examples, metric = pairs(), LogitDifference()
    whole = in_memory(model, folder)
    budget = None if room is None else room * one(folder)
    lazy = DictionarySet(folder, model=model, budget_bytes=budget)
    assert list(lazy) == circuit_sites(model)  # in forward order, whatever order the folders have
    for function in (lambda d: node_effects(model, d, examples, metric, steps=3),
                     lambda d: exact_effects(model, d, examples, metric)):  # fmt: skip
        assert same(function(lazy), function(whole))
    assert lazy.bytes_held == (7 if room is None else room) * one(folder)
    # a loop's variable, and the one that a function's earlier loop has left behind, are held by the caller
    assert alive["bytes"] <= (7 if room is None else max(room, 1) + 2) * one(folder)


@pytest.mark.parametrize("room", [0, 1, 2, 5])
def test_no_more_than_the_budget_and_one_is_alive(room, model, folder, alive):
    lazy = DictionarySet(folder, model=model, budget_bytes=room * one(folder))
    for site in [*lazy, *lazy]:
        lazy[site].encode(torch.ones(1, 16))
    assert alive["bytes"] == max(room, 1) * one(folder)  # nobody holds one
    held = lazy[next(iter(lazy))]
    for site in [*lazy, *lazy]:
        lazy[site].encode(torch.ones(1, 16))
    assert torch.equal(held.W_enc, load_dictionary(folder / "embed").W_enc)
    assert alive["bytes"] == (max(room, 1) + 1) * one(folder)


def test_a_circuit_is_bit_identical(model, folder):
    examples, metric, config = pairs(), LogitDifference(), CircuitConfig(nodes=12, edges=30, steps=3, batch_size=2)
    found = [
        find_circuit(model, d, examples, metric, config, progress=False)
        for d in (in_memory(model, folder), DictionarySet(folder, model=model, budget_bytes=one(folder)))
    ]
    a, b = (discovery.circuit for discovery in found)
    assert a.sites == b.sites and a.nodes.keys() == b.nodes.keys() and a.edges.keys() == b.edges.keys()
    assert found[0].gaps == found[1].gaps and same(found[0].scores, found[1].scores)


def test_an_evaluation_is_bit_identical(model, folder):
    site = find_site(model, "resid_0")
    tokens = torch.randint(23, (6, 8))
    mask = torch.ones(6, 8, dtype=torch.bool)
    lazy = DictionarySet(folder, model=model, budget_bytes=0)
    assert evaluate(model, lazy[site], tokens, mask) == evaluate(model, in_memory(model, folder)[site], tokens, mask)


def test_the_one_not_used_for_longest_goes_first(model, folder):
    lazy = DictionarySet(folder, model=model, budget_bytes=2 * one(folder) + 100)
    a, b, c = list(lazy)[:3]
    first = lazy[a]
    assert lazy[b] is lazy[b] and lazy[a] is first and lazy.loads == 2
    lazy[c]  # b was used before a
    assert lazy[a] is first and lazy.loads == 3
    before = first.encode(torch.ones(3, 16))
    lazy[b], lazy[c]
    assert lazy[a] is not first and lazy.loads == 6
    # one that a caller still holds stays whole
    assert torch.equal(first.encode(torch.ones(3, 16)), before)
    assert torch.equal(lazy[a].encode(torch.ones(3, 16)), before)
    lazy.release()
    assert lazy.bytes_held == 0 and "0 of them loaded" in repr(lazy)


def test_opening_and_looking_around_reads_no_weights(model, folder, monkeypatch):
    monkeypatch.setattr("saes.checkpoint.read_tensors", lambda *_: pytest.fail("weights were read"))
    lazy = DictionarySet(folder, model=model, budget_bytes=0)
    assert len(lazy) == 7 and find_site(model, "mlp_1") in lazy and Site("mlp_9", "mlp") not in lazy
    assert {o.features for o in lazy.outlines.values()} == {24}
    assert lazy == lazy and lazy != DictionarySet(folder, model=model) and {lazy}
    assert lazy.loads == 0
    with pytest.raises(KeyError):
        lazy[Site("mlp_9", "mlp")]


def test_weights_in_16_bits_beside_a_model_in_16_bits(model, folder):
    half = DictionarySet(folder, model=small_model().bfloat16())
    site = next(iter(half))
    assert half[site].W_enc.dtype == torch.bfloat16 and half.bytes_held == one(folder) // 2
    assert torch.equal(half[site].W_enc, load_dictionary(folder / site.name).W_enc.bfloat16())
    states = states_of(small_model().bfloat16(), half, pairs().clean)
    assert {state.acts.dtype for state in states.values()} == {torch.bfloat16}
    with pytest.raises(SiteError, match=r"bfloat16 cannot read a model in torch\.float32"):
        DictionarySet(folder, model=model, dtype=torch.bfloat16)


def test_a_set_of_a_transcoder_set_and_gemma_scope(tmp_path, folder):
    for i in range(3):
        arrays = gemma_arrays(seed=i)
        gemma_folder(tmp_path / f"gemma-scope-2b-pt-res/layer_{i}/width_16k/average_l0_7{i}", **arrays)
    paths = sorted((tmp_path / "gemma-scope-2b-pt-res").glob("*/*/*"))
    lazy = DictionarySet(paths, budget_bytes=0)
    assert [site.name for site in lazy] == ["resid_0", "resid_1", "resid_2"]
    for i, dictionary in enumerate(lazy.values()):
        assert torch.equal(dictionary.W_dec, torch.from_numpy(gemma_arrays(seed=i)["W_dec"]))
    with pytest.raises(FileError, match=r"average_l0_70: reads resid_0, like .*average_l0_70; leave one out"):
        DictionarySet([paths[0], paths[0]])
    model = small_model().float()
    with pytest.raises(SiteError, match=r"average_l0_72: site 'resid_2'.*no such site"):
        DictionarySet(paths, model=model)
    assert len(DictionarySet([paths[0], folder / "embed"], model=model)) == 2


def test_bad_arguments(folder, model):
    for options, words in (({"budget_bytes": -1}, "budget_bytes is -1"), ({"keep_on_host": True}, "on the CPU")):
        with pytest.raises(ValueError, match=words):
            DictionarySet(folder, **options)
    with pytest.raises(FileError, match="no such folder"):
        DictionarySet(folder / "missing")
    wide = ReLUDictionary(ReLUConfig(24, 8), [find_site(model, "resid_0")])
    save_dictionary(wide, folder.parent / "wide")
    with pytest.raises(SiteError, match="is 24 wide, but resid_0 of this model 16"):
        DictionarySet(folder.parent / "wide", model=model)


@pytest.mark.gpu
def test_on_a_gpu_kept_in_page_locked_memory(model, folder, monkeypatch):
    model = model.to("cuda")
    examples, metric = pairs(), LogitDifference()
    whole = {site: d.to("cuda") for site, d in in_memory(model, folder).items()}
    expected = node_effects(model, whole, examples, metric, steps=3)
    for keep in (False, True):
        lazy = DictionarySet(folder, model=model, budget_bytes=one(folder), keep_on_host=keep)
        assert lazy.device.type == "cuda"
        assert same(node_effects(model, lazy, examples, metric, steps=3), expected)
        site = next(iter(lazy))
        assert not any(p.requires_grad for p in lazy[site].parameters())
    loads = lazy.loads
    monkeypatch.setattr(dictionary_set.Place, "read", lambda *_, **__: pytest.fail("a file was read again"))
    for site in lazy:
        assert torch.equal(lazy[site].W_enc, whole[site].W_enc)
    assert lazy.loads > loads
