"""Streams with a place: what the definition says, on any number of ranks, ahead of time or not, and from any place."""

import itertools
import json
import threading

import numpy as np
import pytest
import torch

from saes.buffer import ActivationBuffer, RowBuffer
from saes.corpus import Corpus, Layout
from saes.families import find_site
from saes.harvest import HarvestError, harvest
from saes.recipes import Member, trainer_for
from saes.row_sources import CorpusRows, MemoryRows, RowSource
from saes.run_checkpoints import Checkpoints
from saes.sources import CorpusError, TokenSource
from saes.streams import PlacedStream
from saes.trainer import TrainConfig
from saes.training import train_stacks
from tests.saes.models_for_tests import tiny

LENGTH = 4
SEED = 5


def telling_model():
    """The embedding of token t at any position is t in every coordinate."""
    model = tiny("gpt2")
    model.transformer.wpe.weight.zero_()
    model.transformer.wte.weight.copy_(torch.arange(97.0)[:, None].expand(97, 16))
    return model


MODEL = telling_model()
EMBED, DEEPER = find_site(MODEL, "embed"), find_site(MODEL, "resid_0")


def corpus(tokens: int = 90, **layout) -> Corpus:
    """Every token is another one."""
    return Corpus(TokenSource(np.arange(1, tokens + 1), pad=None), Layout(LENGTH, **layout), 97)


def memory() -> MemoryRows:
    tokens = torch.arange(1, 93).view(23, LENGTH)
    return MemoryRows(tokens, tokens % 5 > 0, SEED)


def buffer(source: RowSource | None = None, **options) -> RowBuffer:
    options = {"batch_size": 5, "rows_per_refill": 3, "seed": SEED, "prefetch": False, **options}
    return RowBuffer(MODEL, [EMBED, DEEPER], source or CorpusRows(corpus()), **options)


def tokens_of(batches, count: int) -> list[list[int]]:
    return [batch[EMBED][:, 0].long().tolist() for batch in itertools.islice(batches, count)]


def by_definition(source: str, world: int, batch: int, rows_per_refill: int, epochs: int) -> list[list[int]]:
    """Global batches, written down from the documentation."""
    found = []
    for epoch in range(epochs):
        if source == "corpus":
            rows = [list(range(at, min(at + LENGTH, 91))) for at in range(1, 91, LENGTH)]
        else:
            order = np.random.default_rng([SEED, epoch]).permutation(23)
            rows = [[t for t in range(1 + LENGTH * row, 1 + LENGTH * (row + 1)) if t % 5] for row in order]
        size = world * rows_per_refill
        for start in range(0, len(rows), size):
            parts = [list(part) for part in np.array_split(np.arange(len(rows[start : start + size])), world)]
            positions = [sum((rows[start + i] for i in part), []) for part in parts]
            orders = [
                np.random.default_rng([SEED, epoch, start // rows_per_refill] + ([rank] if rank else [])).permutation(
                    len(mine)
                )
                for rank, mine in enumerate(positions)
            ]
            for n in range(min(map(len, positions)) // batch):
                both = zip(positions, orders, strict=True)
                found.append([mine[i] for mine, order in both for i in order[n * batch : (n + 1) * batch]])
    return found


@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize("source", ["corpus", "memory"])
def test_the_ranks_batches_side_by_side_are_what_the_definition_says(source, world):
    expected = by_definition(source, world, 3, 2, epochs=3)
    rows = CorpusRows(corpus()) if source == "corpus" else memory()
    ranks = [buffer(rows, batch_size=3, rows_per_refill=2, rank=r, world=world).batches() for r in range(world)]
    for batch in expected:
        parts = [next(rank) for rank in ranks]
        drawn = [part[EMBED][:, 0].long().tolist() for part in parts]
        assert sum(drawn, []) == batch and len(set(batch)) == len(batch)
        assert len({json.dumps(rank.place()) for rank in ranks}) == 1


def test_memory_rows_are_the_activation_buffer():
    tokens = torch.arange(1, 93).view(23, LENGTH)
    whole = ActivationBuffer(MODEL, [EMBED], tokens, tokens % 5 > 0, batch_size=5, rows_per_refill=3, seed=SEED)
    assert tokens_of(whole.batches(), 60) == tokens_of(buffer(memory()).batches(), 60)
    assert torch.equal(whole.sample()[EMBED], buffer(memory(), rank=1, world=2, rows_per_refill=3).sample()[EMBED])


def source_named(name: str) -> RowSource:
    return CorpusRows(corpus()) if name == "corpus" else memory()


@pytest.mark.parametrize("options", [{}, {"prefetch": True}, {"max_norm": 1.5}, {"rank": 1, "world": 2}], ids=str)
@pytest.mark.parametrize("source", ["corpus", "memory"])
def test_a_place_is_gone_on_from(source, options, monkeypatch):
    for n in (0, 1, 2, 7, 23):
        batches = buffer(source_named(source), **options).batches()
        tokens_of(batches, n)
        place = json.loads(json.dumps(batches.place()))
        expected = tokens_of(batches, 20)
        batches.close()
        again = buffer(source_named(source), **options)
        assert isinstance(again, PlacedStream)
        for found in (again.open(place), again.batches(n)):
            assert tokens_of(found, 20) == expected
            found.close()


def test_refills_before_a_place_are_not_harvested(monkeypatch):
    batches = buffer().batches()
    tokens_of(batches, 11)
    calls = []
    monkeypatch.setattr("saes.buffer.harvest", lambda *given: calls.append(1) or harvest(*given))
    next(buffer().open(batches.place()))
    assert len(calls) == 1


@pytest.mark.parametrize("round_stays", [False, True], ids=["same rows a rank", "same rows a round"])
@pytest.mark.parametrize("worlds", [(1, 2), (2, 1), (4, 2)])
def test_another_number_of_ranks_goes_on_with_the_next_round(worlds, round_stays):
    before, after = worlds

    def of(rank: int, world: int) -> RowBuffer:
        rows = {"rows_per_refill": 8 // world} if round_stays else {}
        return buffer(rank=rank, world=world, batch_size=2, **rows)

    batches = of(0, before).batches()
    used = set(sum(tokens_of(batches, 3), []))
    place = batches.place()
    drawn = [sum(tokens_of(of(rank, after).open(place), 2), []) for rank in range(after)]
    assert min(map(min, drawn)) > max(used), "rows of the round in use do not come again"


def test_prefetch_changes_no_bit_and_the_model_may_be_used_meanwhile():
    options = {"batch_size": 7, "rows_per_refill": 4}
    ahead, plain = buffer(prefetch=True, **options).batches(), buffer(prefetch=False, **options).batches()
    for _ in range(40):  # the second buffer runs the same model in this thread while the first one's thread does
        one, other = next(ahead), next(plain)
        assert all(torch.equal(one[site], other[site]) for site in (EMBED, DEEPER))
    ahead.close()


def running() -> int:
    return sum(thread.name.startswith("refill") for thread in threading.enumerate())


def test_an_error_in_the_thread_comes_out_as_it_was_and_closing_ends_the_thread(monkeypatch):
    class Broken(Exception):
        pass

    passes = itertools.count()

    def failing(*given):
        if next(passes) == 2:
            raise Broken("of the third refill")
        return harvest(*given)

    monkeypatch.setattr("saes.buffer.harvest", failing)
    batches = buffer(prefetch=True).batches()
    assert len(tokens_of(batches, 4)) == 4 and running() == 1  # two batches a refill
    with pytest.raises(Broken, match="of the third refill"):
        next(batches)
    batches.close()
    assert running() == 0


def test_closing_does_not_wait_for_the_rest_of_a_refill(monkeypatch):
    passes, waits, go_on = [], threading.Event(), threading.Event()

    def slowly(*given):
        for values in harvest(*given):
            passes.append(1)
            if len(passes) > 6:  # in the third refill, of three passes
                waits.set()
                go_on.wait(20)
            yield values

    monkeypatch.setattr("saes.buffer.harvest", slowly)
    batches = buffer(rows_per_refill=3, batch_rows=1, prefetch=True).batches()
    tokens_of(batches, 3)  # the second refill is in use
    assert waits.wait(20)
    threading.Timer(0.2, go_on.set).start()
    batches.close()
    assert running() == 0 and len(passes) == 7


# ---- what is left out ----


def test_bos_tokens_and_the_first_of_each_row_can_be_left_out():
    rows = CorpusRows(corpus(40, bos="document", bos_id=0), drop_bos=True)
    drawn = set(sum(tokens_of(buffer(rows, batch_size=4, rows_per_refill=4).batches(), 8), []))
    assert drawn and not drawn & {0, *range(4, 41, 4)}, "token 4 is the first of the second row, and so on"


@pytest.mark.parametrize("prefetch", [False, True])
def test_outliers_are_left_out_of_batches_and_sample(prefetch):
    tokens = torch.full((6, LENGTH), 3)
    tokens[1, 2], tokens[4, 0] = 90, 96
    everything = torch.ones_like(tokens, dtype=torch.bool)
    stream = buffer(MemoryRows(tokens, everything), rows_per_refill=6, max_norm=10.0, prefetch=prefetch)
    batches = stream.batches()
    drawn = tokens_of(batches, 12)
    batches.close()
    assert {t for batch in drawn for t in batch} == {3} and len(stream.sample()[EMBED]) == 22
    whole = buffer(MemoryRows(tokens, everything), rows_per_refill=6).batches()
    assert {90, 96} <= set(sum(tokens_of(whole, 12), []))


def test_more_outliers_than_batches_end_in_a_sentence():
    tokens = torch.tensor([[1, 1, 1, 60], [60, 60, 1, 1]])
    stream = buffer(MemoryRows(tokens, torch.ones_like(tokens, dtype=torch.bool)), batch_size=8, max_norm=10.0)
    with pytest.raises(ValueError, match="positions within 10 times the median norm .* never fill a batch of 8"):
        next(stream.batches())
    with pytest.raises(ValueError, match="use one process"):
        buffer(max_norm=10.0, world=2)


def test_nan_in_the_activations_names_the_site():
    model = telling_model()
    model.transformer.h[0].mlp.c_proj.weight.fill_(float("nan"))
    stream = RowBuffer(model, [EMBED, DEEPER], CorpusRows(corpus()), batch_size=5, rows_per_refill=3, prefetch=True)
    for call in (stream.sample, lambda: next(stream.batches())):
        with pytest.raises(HarvestError, match="resid_0: the model gives NaN or infinity"):
            call()


# ---- the corpus's end ----


def test_a_corpus_is_read_again_and_the_epochs_are_counted():
    stream = buffer(rows_per_refill=23, batch_size=90)
    batches = stream.batches()
    for epoch in range(3):
        assert sorted(tokens_of(batches, 1)[0]) == list(range(1, 91)) and stream.epoch == epoch


def test_training_can_start_behind_rows_that_are_kept_apart():
    apart = corpus().stream()
    apart.take(3)
    rows = CorpusRows(corpus(), start=apart.cursor())
    drawn = sum(tokens_of(buffer(rows, batch_size=6).batches(), 60), [])
    assert set(drawn) == set(range(13, 91)), "also after the first epoch"


def test_corpora_that_fill_no_batch_are_refused():
    with pytest.raises(ValueError, match="90 positions in refills of 3 rows never fill a batch of 13"):
        buffer(batch_size=13)
    with pytest.raises(ValueError, match="refills of 6 rows never fill a batch of 13 on each of 2 ranks"):
        buffer(batch_size=13, world=2)
    behind = corpus().stream()
    behind.take(100)
    with pytest.raises(CorpusError, match="no row left to train on"):
        buffer(CorpusRows(corpus(), start=behind.cursor()))
    with pytest.raises(ValueError, match="rank is 2 of 2"):
        buffer(rank=2, world=2)


# ---- training ----


@pytest.mark.parametrize("prefetch", [False, True])
def test_training_on_a_corpus_ends_with_the_same_bits_wherever_it_was_stopped(prefetch, tmp_path):
    class Stopped(Exception):
        pass

    class StopsAt(Checkpoints):
        """Dies right after the checkpoint of a step, or in the steps behind it."""

        def save(self, step, state):
            super().save(step, state)
            if step == stop:
                raise Stopped

    def run(folder, kind=Checkpoints):
        trainer = trainer_for(
            "p_annealing", [Member(0, 0.05), Member(1, 0.2)], TrainConfig(30), [DEEPER], width=16, features=32
        )
        options = {"checkpoints": kind(folder), "save_every": 4, "progress": False}
        (members,) = train_stacks({"x": trainer}, buffer(prefetch=prefetch), **options).values()
        return [{**m.state_dict()} for m in members], Checkpoints(folder).load()

    expected, last = run(tmp_path / "whole")
    assert last["(place of the stream)"]["round"]["cursor"]["rows"] > 0
    for stop in (4, 16, 28):
        with pytest.raises(Stopped):
            run(tmp_path / str(stop), StopsAt)
        found, state = run(tmp_path / str(stop))
        for one, other in zip(expected, found, strict=True):
            assert all(torch.equal(one[name], other[name]) for name in one)
        assert state["(place of the stream)"] == last["(place of the stream)"]
    assert running() == 0
