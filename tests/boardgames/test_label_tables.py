"""Tables of labels of tokens: what is read, what is refused, and that each label comes to its own token."""

import sys

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from boardgames.label_tables import LabelTable, LabelTableError, group_of, read_labels, table
from boardgames.labelled_corpus import LabelledCorpus, join
from boardgames.scoreboard import Scoreboard
from saes.corpus import Corpus, Layout
from saes.dictionary import IdentityDictionary
from saes.families import find_site
from saes.samples import Sample
from saes.sources import TokenSource

VOCABULARY, BOS, CONTEXT = 12, 11, 8
LAYOUTS = {
    "packed": Layout(CONTEXT),
    "packed, BOS by row": Layout(CONTEXT, bos="row", bos_id=BOS),
    "packed, BOS by document": Layout(CONTEXT, bos="document", bos_id=BOS),
    "documents": Layout(CONTEXT, "document"),
    "documents, BOS": Layout(CONTEXT, "document", bos="document", bos_id=BOS),
}


def documents(count: int = 60) -> list[np.ndarray]:
    """Of 0 to 12 tokens from 1 to 10, so that some are empty and some longer than a row."""
    rng = np.random.default_rng(0)
    return [rng.integers(1, 11, rng.integers(0, 13)) for _ in range(count)]


def corpus(layout: Layout) -> Corpus:
    padded = np.zeros((60, 12), np.int64)
    for row, tokens in zip(padded, documents(), strict=True):
        row[: len(tokens)] = tokens
    return Corpus(TokenSource(padded, pad=0), layout, VOCABULARY)


def arrays(shift: int = 0) -> dict[str, np.ndarray]:
    """Labels of every token, in no order; `shift` puts them at tokens further on."""
    document = np.concatenate([np.full(len(tokens), n) for n, tokens in enumerate(documents())])
    token = np.concatenate([np.arange(len(tokens)) for tokens in documents()])
    ids = np.concatenate(documents())
    order = np.random.default_rng(1).permutation(len(ids))
    labels = {"is: five": ids == 5, "is: nine": ids == 9, "large": ids > 5, "is: never": ids > 10}
    return {name: each[order] for name, each in {"document": document, "token": token + shift, **labels}.items()}


def joined(layout: Layout, given: LabelTable, *, tokens: int = 10_000, drop_bos: bool = False, **options):
    return join(given, Sample(corpus(layout), tokens, batch_rows=3, drop_bos=drop_bos), **options)


@pytest.fixture(scope="module")
def telling_model():
    """Its embedding of token t is the t-th unit vector."""
    model = GPT2LMHeadModel(GPT2Config(n_embd=12, n_layer=1, n_head=2, vocab_size=VOCABULARY, n_positions=CONTEXT))
    model.eval().requires_grad_(False)
    model.transformer.wte.weight.copy_(torch.eye(12))
    model.transformer.wpe.weight.zero_()
    return model


def score(model: GPT2LMHeadModel, labelled: LabelledCorpus, **options):
    site = find_site(model, "embed")
    board = Scoreboard(model, [site], labelled.selection, labelled.scoring, resampled=50, batch_rows=5, **options)
    return board.score(IdentityDictionary(site, 12))


@pytest.mark.parametrize("drop_bos", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_every_token_has_its_own_label(layout, drop_bos):
    found = joined(layout, table("t", arrays()), drop_bos=drop_bos)
    texts, seen = documents(), set()
    for half in (found.selection, found.scoring):
        ids, labels = half.tokens[half.mask].numpy(), half.labels
        assert labels.columns == ("is: five", "is: nine", "is: never", "large")
        assert half.groups == {"is": 3, "concepts": 1}
        for n, (document, token) in enumerate(zip(labels.game, labels.ply, strict=True)):
            own = texts[document][token]
            assert ids[n] == own and labels.matrix[n].tolist() == [own == 5, own == 9, False, own > 5]
            seen.add((document, token))
    room = CONTEXT - layout.starts_with_bos
    if layout.rows == "pack":
        total = sum(map(len, texts))
        rows = -(-(total + (layout.bos == "document") * sum(map(bool, map(len, texts)))) // room)
        assert total - drop_bos * rows <= len(seen) <= total and (drop_bos or len(seen) == total)
    else:
        first = int(drop_bos and not layout.starts_with_bos)
        assert seen == {(n, i) for n, text in enumerate(texts) for i in range(first, min(room, len(text)))}
    assert not set(found.selection.labels.game) & set(found.scoring.labels.game)
    assert found.missing == len(np.concatenate(texts)) - len(seen) and found.behind == 0


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_planted_concepts_are_covered_and_an_offset_of_one_is_not(telling_model, layout):
    right = score(telling_model, joined(layout, table("t", arrays())), each_property=True)["is"]
    assert right.coverage.score == 1 and right.feature.tolist()[:2] == [5, 9] and right.limit == pytest.approx(2 / 3)
    assert right.f1_bounds is not None and right.f1_bounds.tolist()[:2] == [[1, 1], [1, 1]]
    wrong = score(telling_model, joined(layout, table("t", arrays(shift=1))))["is"]
    assert wrong.coverage.score < 0.4


def test_intervals_of_a_concept_hold_its_f1(telling_model):
    noisy = arrays()
    noisy["large"] = noisy["large"] ^ (np.random.default_rng(2).random(len(noisy["large"])) < 0.2)
    found = score(telling_model, joined(LAYOUTS["packed"], table("t", noisy)), each_property=True)["concepts"]
    low, high = found.f1_bounds[0]
    assert (low, high) == found.coverage.bounds and low < found.f1[0] < high  # the one concept of its group
    (best,) = found.best()
    assert best["always_on"] == pytest.approx(found.always_on) and best["low"] == low


def test_npz_in_both_forms_and_parquet_are_one_table(tmp_path):
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    given = arrays()
    names = [name for name in given if name not in ("document", "token")]
    np.savez(tmp_path / "a.npz", **given)
    whole = {"labels": np.stack([given[name] for name in names], 1).astype(np.uint8), "columns": np.array(names)}
    np.savez(tmp_path / "b.npz", document=given["document"].astype(np.uint16), token=given["token"], **whole)
    parquet.write_table(pa.table({**given, "text": ["x"] * len(given["token"])}), tmp_path / "c.parquet")
    a, b = (read_labels(tmp_path / name) for name in ("a.npz", "b.npz"))
    c = read_labels(tmp_path / "c.parquet", names)
    for other in (b, c):
        assert other.columns == a.columns and np.array_equal(other.matrix, a.matrix)
        assert np.array_equal(other.document, a.document) and np.array_equal(other.token, a.token)
    one = read_labels(tmp_path / "a.npz", ["large", "is: nine"])
    assert one.columns == ("large", "is: nine") and one.groups == {"concepts": 1, "is": 1}
    with pytest.raises(LabelTableError, match="column 'text' is .*, not boolean; --concepts names"):
        read_labels(tmp_path / "c.parquet")
    with pytest.raises(LabelTableError, match="has no column 'six'; there are: document, token, is: five"):
        read_labels(tmp_path / "c.parquet", ["six"])


def test_groups_are_what_stands_before_a_colon_or_slash():
    names = {"colour: red": "colour", "colour/red": "colour", "a b : c": "a b", "red": "concepts", ": red": "concepts"}
    assert {name: group_of(name) for name in names} == names
    assert group_of("red:") == "concepts"


def test_find_equals_a_dictionary_of_rows():
    rng = np.random.default_rng(0)
    keys = sorted({(int(d), int(t)) for d, t in zip(rng.integers(0, 40, 99), rng.integers(0, 9, 99), strict=True)})
    document, token = np.array(keys).T
    rows = {key: row for row, key in enumerate(keys)}
    given = table("t", {"document": document * 10**8, "token": token, "x": token > 3})
    asked = [(d, t) for d in range(-1, 42) for t in range(-1, 11)]
    found = given.find(np.array([d * 10**8 for d, _ in asked]), np.array([t for _, t in asked]))
    assert found.tolist() == [rows.get(key, -1) for key in asked]


def test_rows_without_a_token_are_counted():
    found = joined(LAYOUTS["documents"], table("t", arrays()), tokens=100)
    texts = documents()
    last = max(int(half.labels.game.max()) for half in (found.selection, found.scoring))
    assert 100 <= found.tokens <= 107
    assert found.behind == sum(map(len, texts[last + 1 :]))
    assert found.missing == sum(max(0, len(text) - CONTEXT) for text in texts[: last + 1])
    assert f"{found.behind} rows of the table are of documents behind" in found.said
    some = {name: each[arrays()["document"] < 20] for name, each in arrays().items()}
    few = joined(LAYOUTS["packed"], table("t", some))
    assert few.behind == few.missing == 0 and few.tokens < len(np.concatenate(texts)) / 2  # the rest is not read
    assert "have no label" in few.said


def test_the_split_is_of_documents_and_follows_the_seed():
    given = table("t", arrays())
    sets = [set(joined(LAYOUTS["packed"], given, seed=seed).selection.labels.game) for seed in (0, 0, 1)]
    assert sets[0] == sets[1] != sets[2]
    most = joined(LAYOUTS["packed"], given, share=0.9)
    assert len(set(most.selection.labels.game)) > 2 * len(set(most.scoring.labels.game))


WRONG = [
    ({"token": None}, "has no column 'token'; there are: document"),
    ({"document": np.zeros(2)}, "document is float64"),
    ({"document": np.zeros(3, int)}, "3 numbers of documents and 2 of tokens"),
    ({"token": np.array([1, -2])}, "token is -2 in row 1"),
    ({"document": np.array([0, 1 << 50])}, "no such document"),
    ({"x": None}, "has no column of labels"),
    ({"x": np.array([0.0, 1.0])}, "column 'x' is float64, not boolean"),
    ({"x": np.array([0, 2])}, "column 'x' is 2 in row 1; labels are 0 or 1"),
    ({"x": np.array([True])}, r"column 'x' has shape \[1\]; expected \[2\]"),
    ({"token": np.array([3, 3])}, "token 3 of document 0 has two rows; the second is row 1"),
    ({"labels": np.ones((2, 3), bool)}, "labels has 3 columns; their names are missing"),
    ({"labels": np.ones((2, 2), bool), "columns": np.array(["a", "a"])}, "2 columns and 1 different names"),
    ({"labels": np.ones((2, 1), bool), "columns": np.array(["x"])}, "the column 'x' is there twice"),
    ({"document": np.zeros(0, int), "token": np.zeros(0, int)}, "has no row"),
]


@pytest.mark.parametrize(("changed", "said"), WRONG, ids=[said for _, said in WRONG])
def test_bad_tables_are_named(changed, said):
    given = {"document": np.array([0, 0]), "token": np.array([0, 1]), "x": np.array([True, False]), **changed}
    with pytest.raises(LabelTableError, match=f"^mine: .*{said}"):
        table("mine", {name: each for name, each in given.items() if each is not None})


def test_bad_files_are_named(tmp_path, monkeypatch):
    (tmp_path / "torn.npz").write_bytes(b"PK\x03\x04")
    (tmp_path / "torn.parquet").write_bytes(b"PAR1")
    (tmp_path / "t.csv").write_text("document,token")
    for name, said in (
        ("none.npz", "no such file"),
        ("t.csv", "is a .npz or a .parquet file"),
        ("torn.npz", "not a readable .npz"),
        ("torn.parquet", "not a readable parquet file"),
    ):
        with pytest.raises(LabelTableError, match=said):
            read_labels(tmp_path / name)
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    columns = {"document": [0, 0], "token": [0, 1], "x": [True, None]}
    parquet.write_table(pa.table(columns), tmp_path / "null.parquet")
    with pytest.raises(LabelTableError, match="column 'x' has 1 rows without a value"):
        read_labels(tmp_path / "null.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(LabelTableError, match=r"needs pyarrow: pip install 'kibitz\[text\]'"):
        read_labels(tmp_path / "null.parquet")


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        (np.arange(900, 910), "none of its 10 rows is a token of the corpus.*documents 900 to 909"),
        (np.arange(1, 3), "at least 2 are needed"),
    ],
)
def test_tables_that_do_not_fit_the_corpus_are_refused(numbers: np.ndarray, said: str):
    given = {"document": numbers, "token": np.zeros(len(numbers), int), "x": numbers > 0}
    with pytest.raises(LabelTableError, match=said):
        joined(LAYOUTS["packed"], table("mine", given))
