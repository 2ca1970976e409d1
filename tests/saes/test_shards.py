"""Activations on disk against fresh forward passes, after kills and damage, and in training against memory."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from saes.architectures import ReLUConfig, ReLUDictionary
from saes.corpus import Corpus, Layout
from saes.families import find_site
from saes.files import sha256
from saes.harvest import HarvestError
from saes.locks import LockError, locked
from saes.objective import SparseReconstruction
from saes.penalties import Lp, LpConfig
from saes.shard_writer import ShardPlan, size_sentence, to_int8, write_shards
from saes.shards import ActivationShards, ShardError, ShardStream
from saes.sites import capture
from saes.sources import TokenSource
from saes.streams import ActivationStream
from saes.text import TextSource
from saes.trainer import TrainConfig, Trainer
from saes.training import train
from tests.saes.corpora_for_tests import texts, word_tokenizer
from tests.saes.models_for_tests import tiny

CONTEXT, BATCH_ROWS = 6, 2
MODEL = tiny("llama")
SITES = [find_site(MODEL, "resid_1"), find_site(MODEL, "mlp_0")]


def corpus(rows="pack", bos="row", seed=0) -> Corpus:
    tokens = np.random.default_rng(seed).integers(2, 97, 400)
    tokens[::9] = 96
    return Corpus(TokenSource(tokens, separator=96), Layout(CONTEXT, rows, bos, 1), 97)


def plan(tokens=150, dtype="fp32", per_shard=2 * BATCH_ROWS * CONTEXT, **options) -> ShardPlan:
    """Shards of two passes."""
    one = ShardPlan({site: 16 for site in SITES}, tokens, dtype, batch_rows=BATCH_ROWS, **options)
    return ShardPlan(one.sites, tokens, dtype, one.bytes_per_token * per_shard, BATCH_ROWS, one.drop_bos, one.model)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def truth(corpus: Corpus, tokens: int, drop_bos: bool = False):
    """Labels and activations of the first `tokens` unmasked places, from one forward pass over everything."""
    rows = corpus.stream().take(1000)
    with torch.no_grad(), capture(MODEL, SITES) as values:
        MODEL(input_ids=rows.tokens, use_cache=False)
    keep = rows.mask & (rows.positions > 0) if drop_bos else rows.mask
    labels = {n: getattr(rows, n)[keep][:tokens] for n in ("tokens", "positions", "documents", "offsets")}
    return labels, {site: values[site][keep][:tokens] for site in SITES}


# ---- what is written ----


@pytest.mark.parametrize("rows", ["pack", "document"])
@pytest.mark.parametrize("drop_bos", [False, True])
def test_random_access_equals_a_fresh_forward_pass(tmp_path, rows, drop_bos):
    index = write_shards(tmp_path / "a", MODEL, plan(drop_bos=drop_bos), corpus(rows))
    shards = ActivationShards(tmp_path / "a")
    labels, values = truth(corpus(rows), 150, drop_bos)
    assert len(shards) == 150 == sum(s["tokens"] for s in index["shards"]) and len(index["shards"]) > 4
    shuffled = torch.randperm(150)
    for indices in (torch.arange(150), shuffled, shuffled[:7].repeat(3), torch.tensor([149]), shuffled[:0]):
        stored = shards.labels(indices)
        for name, expected in labels.items():
            assert torch.equal(getattr(stored, name), expected[indices]), name
        for site in SITES:
            torch.testing.assert_close(shards.rows(site, indices), values[site][indices], rtol=1e-5, atol=1e-5)
    assert torch.equal(shards.rows("mlp_0", [3, 99]), shards.rows(SITES[1], np.array([3, 99])))
    assert shards.width("resid_1") == 16
    shards.check()


def test_a_corpus_that_ends_gives_what_it_has(tmp_path):
    index = write_shards(tmp_path, MODEL, plan(10_000), corpus(bos="none"))
    assert index["complete"] and len(ActivationShards(tmp_path)) == 400
    before = contents(tmp_path)
    write_shards(tmp_path, MODEL, plan(10_000), corpus(bos="none"))
    assert contents(tmp_path) == before


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16", "int8"])
def test_every_type_is_as_exact_as_it_can_be(tmp_path, dtype):
    write_shards(tmp_path, MODEL, plan(dtype=dtype), corpus())
    shards = ActivationShards(tmp_path)
    _, values = truth(corpus(), 150)
    for site in SITES:
        x, stored = values[site], shards.rows(site, range(150))
        largest = x.abs().amax(1, keepdim=True)
        bound = {"fp32": 1e-5 * largest, "fp16": x.abs() * 2**-11, "bf16": x.abs() * 2**-8, "int8": largest / 254}
        assert bool(((stored - x).abs() <= bound[dtype] + 1e-5).all())
        assert shards.rows(site, [0], torch.bfloat16).dtype == torch.bfloat16


def test_int8_is_wrong_by_half_a_step_at_most():
    x = torch.randn(500, 33) * torch.logspace(-30, 30, 500)[:, None]
    x[7] = 0
    steps, scale = to_int8(x)
    back = steps.float() * scale[:, None]
    assert bool(((back - x).abs() <= x.abs().amax(1, keepdim=True) / 254 * (1 + 1e-5)).all())
    assert torch.equal(
        steps[x.abs().argmax(1, keepdim=True) == torch.arange(33)].abs(), (127 * (scale > 0)).to(torch.int8)
    )


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "int8"])
def test_the_size_said_before_is_the_size_written(tmp_path, dtype):
    p = plan(dtype=dtype)
    index = write_shards(tmp_path, MODEL, p, corpus())
    said, written = p.total_bytes(CONTEXT), sum(s["bytes"] for s in index["shards"])
    assert written == sum(f.stat().st_size for f in tmp_path.glob("*.safetensors")) <= said
    assert said - written <= 4096 * len(index["shards"])
    assert [size_sentence(n) for n in (1000, 5 << 20, 3 << 29)] == ["1.0 KiB", "5.0 MiB", "1.5 GiB"]


def test_a_disk_that_is_too_small_is_refused_before_anything_is_written(tmp_path):
    needed = plan().total_bytes(CONTEXT)
    with pytest.raises(ShardError, match=r"KiB are to be written and the disk has .* KiB left"):
        write_shards(tmp_path / "a", MODEL, plan(), corpus(), free=needed - 1)
    assert not (tmp_path / "a").exists()
    write_shards(tmp_path / "a", MODEL, plan(), corpus(), free=needed)
    write_shards(tmp_path / "a", MODEL, plan(), corpus(), free=0)  # nothing is left to write


@pytest.mark.parametrize(("value", "said"), [(1e6, "reaches .*, more than fp16 holds"), (float("nan"), "NaN")])
def test_values_that_the_type_cannot_hold_are_refused(tmp_path, value, said):
    model = tiny("llama")
    model.model.layers[1].mlp.down_proj.weight.fill_(value)
    model.model.layers[1].mlp.up_proj.weight.fill_(1.0)
    with pytest.raises((ShardError, HarvestError), match=f"resid_1.*{said}"):
        write_shards(tmp_path, model, plan(dtype="fp16"), corpus())


def test_outliers_are_left_out_before_the_type_has_to_hold_them(tmp_path):
    """Token 5 is a hundred times as long as the others at the embedding."""
    model, many = tiny("llama"), np.full(400, 7)
    many[[11, 130, 131, 399]] = 5
    model.model.embed_tokens.weight[5] *= 1e5
    sites = {find_site(model, "embed"): 16, find_site(model, "mlp_0"): 16}
    data = Corpus(TokenSource(many), Layout(CONTEXT), 97)
    with pytest.raises(ShardError, match="more than fp16 holds"):
        write_shards(tmp_path / "a", model, ShardPlan(sites, 1000, "fp16", batch_rows=BATCH_ROWS), data)
    write_shards(tmp_path / "b", model, ShardPlan(sites, 1000, "fp16", batch_rows=BATCH_ROWS, max_norm=10.0), data)
    shards = ActivationShards(tmp_path / "b")
    assert len(shards) == 396 and set(shards.labels(range(396)).tokens.tolist()) == {7}
    with pytest.raises(ShardError, match="max_norm is 0.5"):
        ShardPlan(sites, 1000, max_norm=0.5)


def test_two_processes_do_not_write_to_one_folder(tmp_path):
    with locked(tmp_path / "a", "writing activations"), pytest.raises(LockError, match=r"process \d+ is writing activ"):
        write_shards(tmp_path / "a", MODEL, plan(), corpus())
    write_shards(tmp_path / "a", MODEL, plan(), corpus())


# ---- kills and damage ----


class Killed(Exception):
    pass


def text_corpus(folder: Path) -> Corpus:
    path = folder / "t.jsonl"
    path.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts(80)))
    return Corpus(TextSource(str(path), word_tokenizer()), Layout(CONTEXT, bos="document", bos_id=1), 97)


@pytest.mark.parametrize("kind", ["tokens", "text"])
@pytest.mark.parametrize("moment", ["pass", "before the shard", "before the index"])
def test_a_kill_and_the_same_call_again_give_the_same_bytes(tmp_path, monkeypatch, kind, moment):
    def new():
        return corpus() if kind == "tokens" else text_corpus(tmp_path)

    write_shards(tmp_path / "whole", MODEL, plan(), new())
    for n in (1, 2, 4):
        folder = tmp_path / f"killed {n}"
        with monkeypatch.context() as patch:
            calls = []
            name = {"pass": "harvest", "before the shard": "write_tensors", "before the index": "write_json"}[moment]
            real = getattr(__import__("saes.shard_writer").shard_writer, name)

            def deadly(*args, calls=calls, real=real, n=n, **options):
                calls.append(1)
                if len(calls) == n:
                    raise Killed
                return real(*args, **options)

            patch.setattr(f"saes.shard_writer.{name}", deadly)
            with pytest.raises(Killed):
                write_shards(folder, MODEL, plan(), new())
        if (folder / "index.json").exists():
            with pytest.raises(ShardError, match="is not finished; the same `kibitz harvest` again"):
                ActivationShards(folder)
        folder.mkdir(exist_ok=True)
        (folder / ".shard-00009.safetensors.x.part").write_bytes(b"half")  # what a kill leaves
        passes = []
        write_shards(folder, MODEL, plan(), new(), progress=passes.append)
        assert contents(folder) == contents(tmp_path / "whole") and sum(passes) == 150


def test_kept_shards_are_not_harvested_again(tmp_path, monkeypatch):
    write_shards(tmp_path, MODEL, plan(), corpus())
    monkeypatch.setattr("saes.shard_writer.harvest", lambda *_args, **_options: pytest.fail("harvested again"))
    write_shards(tmp_path, MODEL, plan(), corpus())


@pytest.mark.parametrize("harm", ["flip", "cut", "delete"])
@pytest.mark.parametrize("number", [0, 2, 6])
def test_a_damaged_shard_is_named_and_written_again(tmp_path, harm, number):
    write_shards(tmp_path, MODEL, plan(), corpus())
    before = contents(tmp_path)
    path = tmp_path / f"shard-{number:05d}.safetensors"
    data = bytearray(path.read_bytes())
    data[-9] ^= 1
    {"flip": lambda: path.write_bytes(data), "cut": lambda: path.write_bytes(data[:-5]), "delete": path.unlink}[harm]()
    with pytest.raises(ShardError, match=f"shard-{number:05d}.safetensors"):
        ActivationShards(tmp_path).check()
    said = []
    write_shards(tmp_path, MODEL, plan(), corpus(), report=said.append)
    assert contents(tmp_path) == before
    assert len(said) == 1 and path.name in said[0] and "writing it again" in said[0]
    ActivationShards(tmp_path).check()


def test_other_settings_are_refused_in_one_sentence(tmp_path):
    write_shards(tmp_path / "a", MODEL, plan(model={"weights": "x"}), corpus())
    before = contents(tmp_path / "a")
    for other, data, said in [
        (plan(tokens=151, model={"weights": "x"}), corpus(), "another tokens;"),
        (plan(dtype="fp16", model={"weights": "x"}), corpus(), "another dtype"),
        (plan(model={"weights": "y"}), corpus(), "another model;"),
        (plan(model={"weights": "x"}), corpus(seed=1), "another corpus;"),
        (plan(model={"weights": "x"}, drop_bos=True), corpus("document"), "another drop_bos and another corpus;"),
    ]:
        with pytest.raises(ShardError, match=said):
            write_shards(tmp_path / "a", MODEL, other, data)
    assert contents(tmp_path / "a") == before
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.tex").write_text("three years of work")
    with pytest.raises(ShardError, match="is not empty and holds no activations"):
        write_shards(tmp_path / "b", MODEL, plan(), corpus())


def test_wrong_questions_are_answered_in_one_sentence(tmp_path):
    with pytest.raises(ShardError, match=r"holds no index.json; write activations with `kibitz harvest`"):
        ActivationShards(tmp_path)
    write_shards(tmp_path, MODEL, plan(), corpus())
    shards = ActivationShards(tmp_path)
    for wrong, said in [([0, 150], "no token number 150; there are 150"), ([-1], "no token number -1")]:
        with pytest.raises(ShardError, match=said):
            shards.rows("resid_1", wrong)
    with pytest.raises(ShardError, match="has no site 'resid_7'; there are: resid_1, mlp_0"):
        shards.rows("resid_7", [0])
    with pytest.raises(ShardError, match="never fill a batch of 151"):
        ShardStream(shards, batch_size=151, group=100)
    (tmp_path / "index.json").write_text('{"format": "other"}')
    with pytest.raises(ShardError, match="is not an index of activations"):
        ActivationShards(tmp_path)


# ---- training ----


def different_tokens() -> Corpus:
    """So that an activation tells which token it is of."""
    return Corpus(TokenSource(np.random.default_rng(0).permutation(95)), Layout(CONTEXT), 97)


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> ActivationShards:
    folder = tmp_path_factory.mktemp("shards")
    write_shards(folder, MODEL, plan(95, per_shard=BATCH_ROWS * CONTEXT), different_tokens())
    return ActivationShards(folder)


def numbers(stream: ShardStream, shards: ActivationShards, start: int, count: int) -> list[list[int]]:
    """Which tokens are in which batch, told by their activations."""
    every = shards.rows("resid_1", range(len(shards)))
    found = []
    for batch, _ in zip(stream.batches(start), range(count), strict=False):
        same = (batch[SITES[0]][:, None] == every[None]).all(2)
        assert bool((same.sum(1) == 1).all())
        found.append(same.float().argmax(1).tolist())
        assert torch.equal(batch[SITES[1]], shards.rows("mlp_0", found[-1])), "the sites of a batch belong together"
    return found


def test_batches_start_anywhere_and_come_at_most_once_an_epoch(shards):
    made = {"batch_size": 9, "group": 3, "seed": 4}
    count, groups = len(shards.index["shards"]), -(-len(shards.index["shards"]) // 3)
    whole = numbers(ShardStream(shards, **made), shards, 0, 40)
    for n in (0, 1, 5, 13, 29):
        assert numbers(ShardStream(shards, **made), shards, n, 5) == whole[n : n + 5]
    sizes = np.diff(shards.starts)
    order = np.random.default_rng([4, 0]).permutation(count)
    per_epoch = sum(int(sizes[order[3 * g : 3 * g + 3]].sum()) // 9 for g in range(groups))
    first = sum(whole[:per_epoch], [])
    assert len(set(first)) == len(first) == 9 * per_epoch
    assert numbers(ShardStream(shards, **{**made, "seed": 5}), shards, 0, 3) != whole[:3]
    shard_of = np.searchsorted(shards.starts, np.array(whole[0]), side="right") - 1
    assert set(shard_of) <= set(order[:3]) and len(set(shard_of)) > 1, "the shards of a group are mixed"
    assert isinstance(ShardStream(shards, **made), ActivationStream)


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_read_slices_of_the_global_batch(shards, world):
    whole = ShardStream(shards, batch_size=3 * world, group=3, seed=4)
    ranks = [ShardStream(shards, batch_size=3, group=3, seed=4, rank=r, world=world) for r in range(world)]
    parts = [numbers(rank, shards, 2, 9) for rank in ranks]
    assert [sum(each, []) for each in zip(*parts, strict=True)] == numbers(whole, shards, 2, 9)
    assert all(torch.equal(rank.sample()[SITES[0]], whole.sample()[SITES[0]]) for rank in ranks)
    with pytest.raises(ShardError, match="rank is 2 of 2"):
        ShardStream(shards, batch_size=3, rank=2, world=2)


class Memory:
    """The batches of a stream, from arrays."""

    def __init__(self, stream: ShardStream, shards: ActivationShards, steps: int) -> None:
        self._numbers = numbers(stream, shards, 0, steps)
        self._sample = stream.sample()
        _, values = truth(different_tokens(), 95)
        self._exact = {site: shards.rows(site, range(95)) for site in SITES}
        for site in SITES:  # a forward pass of other rows at a time differs in the last bits
            torch.testing.assert_close(self._exact[site], values[site], rtol=1e-5, atol=1e-5)

    def batches(self, start: int = 0):
        for chosen in self._numbers[start:]:
            yield {site: self._exact[site][chosen] for site in SITES}

    def sample(self):
        return self._sample


def test_training_from_shards_gives_the_weights_of_the_same_batches_from_memory(shards):
    def weights(stream):
        torch.manual_seed(3)
        trainers = {
            site: Trainer(
                ReLUDictionary(ReLUConfig(16, 32), [site]), SparseReconstruction(Lp(LpConfig(0.01))), TrainConfig(25)
            )
            for site in SITES
        }
        return {s.name: d.state_dict() for s, d in train(trainers, stream, progress=False).items()}

    stream = ShardStream(shards, batch_size=16, group=2, seed=1)
    from_disk, from_memory = weights(stream), weights(Memory(stream, shards, 25))
    for name, state in from_disk.items():
        assert state.keys() == from_memory[name].keys()
        assert all(torch.equal(state[key], from_memory[name][key]) for key in state)


def test_the_index_says_what_is_there(shards):
    index = json.loads((shards.folder / "index.json").read_text())
    assert [s["name"] for s in index["sites"]] == ["resid_1", "mlp_0"] and index["tokens"] == 95
    for shard in index["shards"]:
        assert sha256(shards.folder / shard["file"]) == shard["sha256"]
