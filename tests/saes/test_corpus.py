"""Rows of a corpus against its documents, and resumed streams against undisturbed ones."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from saes import sources, text
from saes.corpus import Corpus, Layout, Rows
from saes.sources import CorpusError, TokenSource
from saes.text import TextSource
from tests.saes.corpora_for_tests import ids, texts, word_tokenizer

BOS = 1


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch) -> None:
    """Chunks so small that rows and documents lie across their ends."""
    monkeypatch.setattr(text, "_CHUNK_TEXTS", 3)
    monkeypatch.setattr(sources, "_CHUNK_TOKENS", 20)


def write_jsonl(path: Path, documents: list[str]) -> Path:
    path.write_text("".join(json.dumps({"id": i, "text": d}) + "\n" for i, d in enumerate(documents)))
    return path


@pytest.fixture
def files(tmp_path) -> Path:
    """Two files of 20 and 14 documents."""
    write_jsonl(tmp_path / "a.jsonl", texts(20))
    write_jsonl(tmp_path / "b.jsonl", texts(34, 20))
    return tmp_path


def whole(corpus: Corpus, step: int = 4) -> Rows:
    stream, parts = corpus.stream(), []
    while len(rows := stream.take(step)):
        parts.append(rows)
    return Rows(*(torch.cat([getattr(p, name) for p in parts]) for name in Rows.__dataclass_fields__))


def equal(a: Rows, b: Rows) -> bool:
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in Rows.__dataclass_fields__)


def pieces(documents: list[list[int]]) -> list[tuple[int, int, int]]:
    """(token, document, offset) of every token of the corpus."""
    return [(t, n, i) for n, d in enumerate(documents) for i, t in enumerate(d)]


def own(rows: Rows) -> list[tuple[int, int, int]]:
    """The same of the rows, without padding and BOS tokens of ours."""
    chosen = rows.offsets >= 0
    return list(zip(*(x[chosen].tolist() for x in (rows.tokens, rows.documents, rows.offsets)), strict=True))


DOCUMENTS = [ids(t) for t in texts(34)]


# ---- layout ----


@pytest.mark.parametrize("bos", ["none", "row", "document"])
@pytest.mark.parametrize("context", [2, 5, 16, 400])
def test_packing_loses_and_invents_no_token(files, bos, context):
    layout = Layout(context, "pack", bos, BOS)
    rows = whole(Corpus(TextSource(str(files), word_tokenizer()), layout, 97))
    assert own(rows) == pieces(DOCUMENTS)
    assert bool(rows.mask[:-1].all()), "only the last row may be padded"
    inserted = rows.mask & (rows.offsets < 0)
    assert bool((rows.tokens[inserted] == BOS).all())
    expected = {"none": 0, "row": len(rows), "document": sum(map(bool, DOCUMENTS))}[bos]
    assert int(inserted.sum()) == expected
    assert int(rows.mask.sum()) == len(pieces(DOCUMENTS)) + expected
    assert len(rows) == -(-int(rows.mask.sum()) // context)
    if bos == "row":
        assert bool(inserted[:, 0].all()) and torch.equal(rows.documents[:, 0], rows.documents[:, 1])
    if bos == "document":
        everything = [x[rows.mask].tolist() for x in (rows.tokens, rows.documents, rows.offsets)]
        with_bos = [(t, n, i - 1) for n, d in enumerate(DOCUMENTS) if d for i, t in enumerate([BOS, *d])]
        assert list(zip(*everything, strict=True)) == with_bos


@pytest.mark.parametrize("bos", ["none", "row", "document"])
@pytest.mark.parametrize("context", [2, 6, 30])
def test_one_document_a_row(files, bos, context):
    rows = whole(Corpus(TextSource(str(files), word_tokenizer()), Layout(context, "document", bos, BOS, pad_id=0), 97))
    filled = [(n, d) for n, d in enumerate(DOCUMENTS) if d]
    assert len(rows) == len(filled)
    before = [] if bos == "none" else [BOS]
    for i, (n, document) in enumerate(filled):
        tokens = (before + document)[:context]
        padding = context - len(tokens)
        offsets = [-1] * len(before) + list(range(len(tokens) - len(before)))
        assert rows.tokens[i].tolist() == tokens + [0] * padding
        assert rows.mask[i].tolist() == [True] * len(tokens) + [False] * padding
        assert rows.documents[i].tolist() == [n] * len(tokens) + [-1] * padding
        assert rows.offsets[i].tolist() == offsets + [-1] * padding
        assert rows.positions[i].tolist() == list(range(context))


# ---- resuming ----


def kinds(files: Path) -> dict[str, TextSource | TokenSource]:
    flat = np.array([t for d in DOCUMENTS if d for t in [*d, 95]])
    return {
        "text": TextSource(str(files), word_tokenizer()),
        "separated": TokenSource(flat, separator=95),
        "one document": TokenSource(flat),
        "table": TokenSource(np.array([d[:9] + [0] * (9 - len(d[:9])) for d in DOCUMENTS]), pad=0),
    }


@pytest.mark.parametrize("kind", ["text", "separated", "one document", "table"])
@pytest.mark.parametrize("layout", ["pack", "document"])
@pytest.mark.parametrize("bos", ["none", "document"])
def test_resuming_at_every_row_gives_the_rows_of_an_undisturbed_run(files, kind, layout, bos):
    corpus = Corpus(kinds(files)[kind], Layout(5, layout, bos, BOS), 97)
    truth = whole(corpus)
    stream = corpus.stream()
    for n in range(len(truth) + 1):
        cursor = json.loads(json.dumps(stream.cursor()))
        again = Corpus(kinds(files)[kind], Layout(5, layout, bos, BOS), 97).stream(cursor)
        rest = Rows(*(getattr(truth, name)[n : n + 3] for name in Rows.__dataclass_fields__))
        assert equal(again.take(3), rest), n
        assert again.cursor()["rows"] == min(n + 3, len(truth))
        stream.take(1)


def test_resuming_a_downloaded_data_set(files, tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    corpus = Corpus(TextSource(str(files / "a.jsonl"), word_tokenizer(), streaming=False), Layout(5))
    streamed = whole(Corpus(TextSource(str(files / "a.jsonl"), word_tokenizer()), Layout(5)))
    assert equal(whole(corpus), streamed)
    first = corpus.stream()
    first.take(7)
    assert torch.equal(corpus.stream(first.cursor()).take(2).tokens, streamed.tokens[7:9])


def test_rows_do_not_depend_on_how_many_are_taken_at_a_time(files):
    corpus = Corpus(TextSource(str(files), word_tokenizer()), Layout(6, "document"), 97)
    assert equal(whole(corpus, 1), whole(corpus, 7)) and equal(whole(corpus, 7), whole(corpus, 1000))


def test_a_cursor_of_other_settings_or_another_file_is_refused(files):
    tokenizer = word_tokenizer()
    cursor = Corpus(TextSource(str(files), tokenizer), Layout(5)).stream().cursor()
    others = [Layout(6), Layout(5, "document"), Layout(5, "pack", "row", BOS)]
    write_jsonl(files / "c.jsonl", texts(5))
    corpora = [Corpus(TextSource(str(files / "a.jsonl"), tokenizer), layout) for layout in others]
    for corpus in [*corpora, Corpus(TextSource(str(files), tokenizer), Layout(5))]:
        with pytest.raises(CorpusError, match="another corpus, or to other settings"):
            corpus.stream(cursor)


# ---- dropped connections ----


class Flaky:
    """A data set whose connection drops before each of the examples in `drops`, once."""

    def __init__(self, inner, drops: set[int]) -> None:
        self._inner, self._drops = inner, drops

    def state_dict(self):
        return self._inner.state_dict()

    def load_state_dict(self, state) -> None:
        self._inner.load_state_dict(state)

    def __iter__(self):
        for example in self._inner:
            if example["id"] in self._drops:
                self._drops.remove(example["id"])
                raise ConnectionError("the cable was pulled")
            yield example


def flaky(files: Path, monkeypatch, drops: set[int], **options) -> TextSource:
    """A source that takes a local file for one on the hub, and loses its connection."""
    import datasets

    load = datasets.load_dataset
    local = {"path": "json", "data_files": str(files / "a.jsonl"), "split": "train", "streaming": True}
    monkeypatch.setattr(datasets, "load_dataset", lambda **_: Flaky(load(**local), drops))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    return TextSource("someone/stories", word_tokenizer(), **options)


def test_a_dropped_connection_costs_no_row(files, monkeypatch, caplog):
    waits = []
    monkeypatch.setattr("saes.text.time.sleep", waits.append)
    truth = whole(Corpus(TextSource(str(files / "a.jsonl"), word_tokenizer()), Layout(5)))
    rows = whole(Corpus(flaky(files, monkeypatch, {0, 4, 5, 10}), Layout(5)))
    assert equal(rows, truth)
    assert waits == [1, 1, 2, 1]  # once for the first look, then 4 and 5 in one chunk
    assert "the cable was pulled" in caplog.text


def test_a_connection_that_stays_away_is_named(files, monkeypatch):
    waits = []
    monkeypatch.setattr("saes.text.time.sleep", waits.append)
    source = flaky(files, monkeypatch, {3, 4, 5}, retries=2)
    with pytest.raises(CorpusError, match="someone/stories: gave up after 3 tries .*the cable was pulled"):
        whole(Corpus(source, Layout(5)))
    assert waits == [1, 2]


# ---- files ----


def test_every_kind_of_text_file_gives_the_same_rows(files, tmp_path):
    from datasets import Dataset

    documents = texts(20)
    Dataset.from_dict({"text": documents}).to_parquet(tmp_path / "t.parquet")
    for suffix, between in (("csv", ","), ("tsv", "\t")):
        lines = [between.join(row) for row in [("id", "text"), *(("0", d) for d in documents if d)]]
        (tmp_path / f"t.{suffix}").write_text("\n".join(lines))
    (tmp_path / "t.json").write_text(json.dumps(documents))
    (tmp_path / "t.txt").write_text("\n".join(documents) + "\n")
    with gzip.open(tmp_path / "t.jsonl.gz", "wt") as stream:
        stream.write((files / "a.jsonl").read_text())
    truth = whole(Corpus(TextSource(str(files / "a.jsonl"), word_tokenizer()), Layout(5)))
    for suffix in ("parquet", "csv", "tsv", "json", "txt", "jsonl.gz"):
        rows = whole(Corpus(TextSource(str(tmp_path / f"t.{suffix}"), word_tokenizer()), Layout(5)))
        assert torch.equal(rows.tokens, truth.tokens) and torch.equal(rows.offsets, truth.offsets), suffix


def test_what_a_document_of_a_text_file_is(tmp_path):
    path = tmp_path / "t.txt"
    path.write_text("w1 w2\nw3\n\nw4\n")

    def documents(kind):
        rows = whole(Corpus(TextSource(str(path), word_tokenizer(), documents=kind), Layout(9, "document")))
        return [row[mask].tolist() for row, mask in zip(rows.tokens, rows.mask, strict=True)]

    assert documents("line") == [[3, 4], [5], [6]]
    assert documents("paragraph") == [[3, 4, 5], [6]]
    assert documents("file") == [[3, 4, 5, 6]]


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors", ".bin"])
def test_files_of_token_ids(tmp_path, suffix):
    path = tmp_path / f"t{suffix}"
    tokens = (np.arange(61) % 50).astype(np.uint16)
    match suffix:
        case ".npy":
            np.save(path, tokens)
        case ".npz":
            np.savez(path, tokens=tokens, lengths=tokens)
        case ".safetensors":
            save_file({"tokens": tokens, "lengths": tokens}, path)
        case _:
            tokens.tofile(path)
    rows = whole(Corpus(TokenSource.open(path), Layout(7), 97))
    assert rows.tokens[rows.mask].tolist() == tokens.tolist()
    assert rows.offsets[rows.mask].tolist() == list(range(61))


def test_padding_is_what_stands_behind_the_last_token(tmp_path):
    np.save(tmp_path / "t.npy", np.array([[5, 0, 6, 0, 0], [0, 0, 0, 0, 0], [1, 2, 3, 4, 5]]))
    rows = whole(Corpus(TokenSource.open(tmp_path / "t.npy", pad=0), Layout(5, "document")))
    assert rows.tokens.tolist() == [[5, 0, 6, 0, 0], [1, 2, 3, 4, 5]]
    assert rows.mask.sum(1).tolist() == [3, 5] and rows.documents[:, 0].tolist() == [0, 2]


def test_a_separator_ends_its_document():
    rows = whole(Corpus(TokenSource(np.array([5, 6, 9, 9, 7]), separator=9), Layout(5)))
    assert rows.documents.tolist() == [[0, 0, 0, 1, 2]] and rows.offsets.tolist() == [[0, 1, 2, 0, 0]]


# ---- mistakes ----


def test_mistakes_end_in_one_sentence(tmp_path, files):
    tokenizer = word_tokenizer()
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "broken.jsonl").write_text('{"text": "w1"}\n{"text": \n')
    (tmp_path / "blank.txt").write_text("\n\n\n")
    np.save(tmp_path / "floats.npy", np.ones(4))
    np.savez(tmp_path / "two.npz", a=np.arange(3), b=np.arange(3))
    (tmp_path / "odd.bin").write_bytes(b"abc")
    (tmp_path / "none.bin").write_bytes(b"")
    (tmp_path / "torn.safetensors").write_bytes(b"abc")
    (tmp_path / "mixed").mkdir()
    for name in ("a.txt", "b.csv"):
        (tmp_path / "mixed" / name).write_text("text\nw1\n")
    wrong = [
        ("missing.jsonl", {}, "missing.jsonl: no such file"),
        ("*.parquet", {}, "matches no file"),
        ("mixed", {}, ".csv and .txt files"),
        ("a.jsonl", {"column": "story"}, "no column 'story'; there are: id, text"),
        ("a.jsonl", {"column": "id"}, "column 'id' holds int"),
        ("empty.jsonl", {}, "holds no document"),
        ("broken.jsonl", {}, "broken.jsonl: cannot be read"),
    ]
    for name, options, said in wrong:
        with pytest.raises(CorpusError, match=said.replace("*", r"\*")) as error:
            whole(Corpus(TextSource(str(tmp_path / name), tokenizer, **options), Layout(5)))
        assert "\n" not in str(error.value)
    with pytest.raises(CorpusError, match="someone/stories: cannot be read .*offline|someone/stories: cannot be read"):
        TextSource("someone/stories", tokenizer)
    with pytest.raises(CorpusError, match="its documents are empty"):
        whole(Corpus(TextSource(str(tmp_path / "blank.txt"), tokenizer), Layout(5)))
    for name, said in [
        ("missing.npy", "no such file"),
        ("floats.npy", "floats.npy: tokens are integers, and these are float64"),
        ("two.npz", "no array 'tokens'; there are: a, b"),
        ("odd.bin", "its 3 bytes are no whole number of uint16"),
        ("none.bin", "not one token"),
        ("torn.safetensors", "torn.safetensors: not a readable"),
    ]:
        with pytest.raises(CorpusError, match=said):
            TokenSource.open(tmp_path / name)


def test_a_token_outside_the_vocabulary_is_named():
    with pytest.raises(CorpusError, match="token id 97 at place 2 of document 0 is outside .* vocabulary of 97"):
        whole(Corpus(TokenSource(np.array([1, 2, 97])), Layout(5), 97))
    with pytest.raises(CorpusError, match="token id -1"):
        whole(Corpus(TokenSource(np.array([1, -1])), Layout(5), 97))


def test_a_bos_that_the_tokenizer_lacks_is_refused():
    with pytest.raises(CorpusError, match="the tokenizer has no BOS token"):
        Layout(5, bos="row", bos_id=word_tokenizer(bos=False).bos_token_id)


# ---- real text ----


def test_real_stories_packed_are_the_stories(shared):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(shared / "data" / "stories260K")
    path = shared / "data" / "text" / "tinystories_1000.json"
    stories = json.loads(path.read_text())[:20]
    layout = Layout(64, bos="document", bos_id=tokenizer.bos_token_id)
    rows = Corpus(TextSource(str(path), tokenizer), layout, 512).stream().take(40)
    truth = [t for s in stories for t in [tokenizer.bos_token_id, *tokenizer(s, add_special_tokens=False)["input_ids"]]]
    assert bool(rows.mask.all()) and rows.tokens.flatten().tolist() == truth[: 40 * 64]
