"""Files are whole or absent; a damaged one is named; a dictionary comes back as it was saved."""

import json

import pytest
import torch

from saes.architectures import CrosscoderConfig, ReLUConfig, ReLUDictionary
from saes.checkpoint import load_dictionary, save_dictionary
from saes.files import (
    FileError,
    all_finite,
    atomic,
    read_json,
    read_state,
    read_tensors,
    sha256,
    write_json,
    write_state,
    write_text,
)
from saes.recorder import JSONLines, read_records
from saes.sites import Site
from tests.saes.dictionaries_for_tests import VARIANTS, fresh, random_dictionary, rows


def listing(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_an_exception_in_the_block_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "deep" / "a.txt"
    write_text(path, "old")
    for error in (RuntimeError, KeyboardInterrupt, OSError):
        with pytest.raises(error), atomic(path) as part:
            part.write_text("half of the new")
            assert path.read_text() == "old", "nothing is replaced before the end"
            raise error
    assert listing(tmp_path) == {"deep/a.txt": b"old"}
    with pytest.raises(RuntimeError), atomic(tmp_path / "new.txt") as part:
        part.write_text("x")
        raise RuntimeError
    assert not (tmp_path / "new.txt").exists()
    write_text(path, "new")
    assert listing(tmp_path) == {"deep/a.txt": b"new"}


@pytest.mark.parametrize("value", [{"x": float("nan")}, [float("inf")], {"x": object()}])
def test_what_is_not_json_is_refused_and_the_old_file_stays(tmp_path, value):
    path = tmp_path / "a.json"
    write_json(path, {"x": 1})
    with pytest.raises((ValueError, TypeError)):
        write_json(path, value)
    assert read_json(path) == {"x": 1}
    assert list(listing(tmp_path)) == ["a.json"]


def test_state_round_trip_and_damage(tmp_path):
    path = tmp_path / "state.pt"
    write_state(path, {"a": {"t": torch.arange(3), "n": [1, 0.5, "x", None]}})
    state = read_state(path)
    assert torch.equal(state["a"]["t"], torch.arange(3)) and state["a"]["n"] == [1, 0.5, "x", None]
    path.write_bytes(path.read_bytes()[:-40])
    for broken in (path, tmp_path / "absent.pt"):
        with pytest.raises(FileError, match=broken.name):
            read_state(broken)


def test_state_files_run_no_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "written"), "w"))

    torch.save({"x": Evil()}, tmp_path / "state.pt")
    with pytest.raises(FileError, match=r"state\.pt"):
        read_state(tmp_path / "state.pt")
    assert not (tmp_path / "written").exists()


def test_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.fixture
def saved(tmp_path):
    dictionary = random_dictionary("relu").float()
    save_dictionary(dictionary, tmp_path / "d")
    return dictionary, tmp_path / "d"


@pytest.mark.parametrize("name", VARIANTS)
def test_a_dictionary_comes_back_as_it_was(tmp_path, name):
    dictionary = random_dictionary(name).float()
    save_dictionary(dictionary, tmp_path / "d")
    assert set(listing(tmp_path / "d")) == {"config.json", "dictionary.safetensors"}
    loaded = load_dictionary(tmp_path / "d")
    assert type(loaded) is type(dictionary)
    assert (loaded.config, loaded.reads, loaded.writes) == (dictionary.config, dictionary.reads, dictionary.writes)
    assert loaded.state_dict().keys() == dictionary.state_dict().keys()
    for key, tensor in dictionary.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[key])
    x = rows(7, dictionary.width_in).float()
    assert torch.equal(loaded.reconstruct(x), dictionary.reconstruct(x))
    assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())
    before = listing(tmp_path / "d")
    save_dictionary(loaded, tmp_path / "d")
    assert listing(tmp_path / "d") == before


OPTIONS = {
    "relu": {"unit_norm": False, "center": False},
    "gated": {"unit_norm": False},
    "topk": {"k": 7, "threshold_decay": 0.5, "threshold_start": 9},
    "batch_topk": {"k": 3, "threshold_decay": 0.9},
    "jumprelu": {"bandwidth": 0.7, "first_threshold": 0.2, "step_on": "feature"},
    "matryoshka": {"k": 5, "group_fractions": (0.25, 0.75), "group_weights": (0.1, 0.9)},
    "crosscoder": {"widths": (2, 10), "unit_norm": True},
    "relu skip": {"unit_norm": False},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_every_field_of_a_config_comes_back(tmp_path, name):
    dictionary = fresh(name, **OPTIONS[name])
    save_dictionary(dictionary, tmp_path)
    loaded = load_dictionary(tmp_path)
    assert loaded.config == dictionary.config != fresh(name).config
    assert hash(loaded.config) == hash(dictionary.config), "tuples, not JSON's lists"


def test_a_threshold_that_was_never_measured_stays_so(tmp_path):
    save_dictionary(fresh("batch_topk"), tmp_path)
    assert float(load_dictionary(tmp_path).threshold) == -1


def test_the_first_format_still_loads(saved):
    """Folders written before there was more than one architecture, the shipped weights among them."""
    dictionary, folder = saved
    site = {"name": "resid_0", "module": "transformer.h.0", "end": "out"}
    first = {"format": "kibitz-dictionary-1", "architecture": "relu", "width": 12, "features": 20}
    (folder / "config.json").write_text(json.dumps({**first, "reads": [site], "writes": [site]}))
    loaded = load_dictionary(folder)
    assert loaded.config == ReLUConfig(width=12, features=20) and loaded.site == dictionary.site
    x = rows(7, 12).float()
    assert torch.equal(loaded.reconstruct(x), dictionary.reconstruct(x))
    save_dictionary(loaded, folder)
    assert read_json(folder / "config.json")["format"] == "kibitz-dictionary-2"


def test_a_folder_says_what_a_dictionary_reads_and_writes(tmp_path):
    save_dictionary(random_dictionary("jumprelu skip").float(), tmp_path / "t")
    save_dictionary(random_dictionary("crosscoder").float(), tmp_path / "c")
    config = read_json(tmp_path / "t" / "config.json")
    assert (config["architecture"], config["width_in"], config["width"]) == ("jumprelu", 9, 12)
    assert (config["skip"], config["center"]) == (True, False)
    assert [s["name"] for s in config["reads"] + config["writes"]] == ["resid_0", "mlp_0"]
    crosscoder = load_dictionary(tmp_path / "c")
    assert crosscoder.config == CrosscoderConfig(width=12, features=20, widths=(5, 7))
    assert [s.name for s in crosscoder.reads] == [s.name for s in crosscoder.writes] == ["resid_0", "mlp_0"]


def test_sites_at_the_input_of_a_module_keep_their_end(tmp_path):
    site = Site("mlp_hidden_0", "transformer.h.0.mlp.c_proj", "in")
    save_dictionary(ReLUDictionary(ReLUConfig(width=4, features=6), [site]), tmp_path)
    assert load_dictionary(tmp_path).site == site


def test_half_precision_on_disk_loads_as_float32(tmp_path):
    dictionary = random_dictionary("relu").float()
    save_dictionary(dictionary, tmp_path, dtype=torch.float16)
    loaded = load_dictionary(tmp_path)
    assert loaded.W_dec.dtype == torch.float32
    assert torch.equal(loaded.W_dec, dictionary.W_dec.half().float())
    assert not torch.equal(loaded.W_dec, dictionary.W_dec)


def edit_config(folder, change):
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


def truncate(name, keep):
    def damage(folder):
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: int(keep * len(data))])

    return damage


DAMAGE = {
    "weights cut in the middle": ("dictionary.safetensors", truncate("dictionary.safetensors", 0.6)),
    "weights cut in the header": ("dictionary.safetensors", truncate("dictionary.safetensors", 0.01)),
    "empty weights": ("dictionary.safetensors", truncate("dictionary.safetensors", 0)),
    "no weights": ("dictionary.safetensors", lambda f: (f / "dictionary.safetensors").unlink()),
    "no config": ("config.json", lambda f: (f / "config.json").unlink()),
    "config cut": ("config.json", truncate("config.json", 0.5)),
    "config is no object": ("config.json", lambda f: (f / "config.json").write_text("[1, 2]")),
    "another width": ("dictionary.safetensors", lambda f: edit_config(f, lambda c: c.update(width=13))),
    "another number of features": ("dictionary.safetensors", lambda f: edit_config(f, lambda c: c.update(features=7))),
    "unknown architecture": ("config.json", lambda f: edit_config(f, lambda c: c.update(architecture="abacus"))),
    "another format": ("config.json", lambda f: edit_config(f, lambda c: c.update(format="other-1"))),
    "a missing entry": ("config.json", lambda f: edit_config(f, lambda c: c.pop("features"))),
    "a width that is text": ("config.json", lambda f: edit_config(f, lambda c: c.update(width="wide"))),
    "a width of 0": ("config.json", lambda f: edit_config(f, lambda c: c.update(width=0))),
    "an unknown option": ("config.json", lambda f: edit_config(f, lambda c: c.update(temperature=1.0))),
    "another architecture's option": ("config.json", lambda f: edit_config(f, lambda c: c.update(k=4))),
    "an architecture with other weights": (
        "dictionary.safetensors",
        lambda f: edit_config(f, lambda c: c.update(architecture="gated")),
    ),
    "a skip term without weights": (
        "dictionary.safetensors",
        lambda f: edit_config(f, lambda c: c.update(skip=True, center=False)),
    ),
    "a centred transcoder": ("config.json", lambda f: edit_config(f, lambda c: c["writes"][0].update(name="mlp_0"))),
    "a site with an unknown entry": ("config.json", lambda f: edit_config(f, lambda c: c["reads"][0].update(x=1))),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_folders_are_refused_by_file_and_left_alone(saved, case):
    _, folder = saved
    name, damage = DAMAGE[case]
    damage(folder)
    before = listing(folder)
    with pytest.raises(FileError) as caught:
        load_dictionary(folder)
    assert str(folder / name) in str(caught.value)
    assert listing(folder) == before


def test_tensors_read_from_a_missing_file_name_it(tmp_path):
    with pytest.raises(FileError, match=r"absent\.safetensors: no such file"):
        read_tensors(tmp_path / "absent.safetensors")
    assert not list(tmp_path.iterdir())


def test_records_survive_a_kill_and_later_ones_win(tmp_path):
    log = tmp_path / "runs" / "metrics.jsonl"
    recorder = JSONLines(log)
    recorder.record(0, {"loss": 1.0})
    recorder.record(1, {"loss": 0.5})
    with log.open("a") as stream:
        stream.write('{"step": 2, "lo\n')  # cut short by a kill
    JSONLines(log).record(1, {"loss": 0.25})
    assert read_records(log) == [{"step": 0, "loss": 1.0}, {"step": 1, "loss": 0.25}]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_one_number_that_is_not_finite_is_seen_wherever_it_is(dtype, bad):
    for shape in ((), (1,), (7,), (33, 65)):
        t = torch.randn(shape).to(dtype)
        t.view(-1)[0] = torch.finfo(dtype).max
        assert all_finite(t)
        for place in {0, t.numel() // 2, t.numel() - 1}:
            damaged = t.clone()
            damaged.view(-1)[place] = bad
            assert not all_finite(damaged)
    assert all_finite(torch.zeros(0, 3, dtype=dtype))
