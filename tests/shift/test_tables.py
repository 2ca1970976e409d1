"""Text tasks: which rows stand in which set, and that balanced rows stay in the file until the freeze."""

import gc
import json
from collections import Counter
from dataclasses import replace

import pytest
import torch

from saes.sites import Site
from shift.judgements import Judgement, JudgementLog
from shift.preparing import prepare
from shift.probe import fit_head, readout
from shift.reading import Reading
from shift.specs import SpecError
from shift.task import Balanced, SealError
from shift.tasks.draws import CELLS
from shift.tasks.known_texts import (
    HE,
    RELIGION,
    SCREEN,
    SEXUALITY,
    SHE,
    SPORT,
    bias_in_bios,
    gap_coreference,
    gap_gender,
    madlibs,
)
from shift.tasks.prompts import tokenise, without_words
from shift.tasks.rows import Row, TableError, Tables, ambiguous_rows, balanced_rows, labelled_rows, read_tables
from shift.tasks.tables import labelled_text, naming_rows, text_head, text_task
from shift.tasks.text_specs import TextTaskSpec
from shift.tasks.words import WordList
from shift.word_judge import word_tokens
from tests.saes.models_for_tests import tiny
from tests.shift.test_seal import reachable
from tests.shift.text_tables_for_tests import BAD, CATS, DOGS, GOOD, ROWS, tokenizer, write_table

SITE = Site("resid_1", "transformer.h.1")
TOKENIZER = tokenizer()


def make_spec(path, **changes) -> TextTaskSpec:
    given = {"label": "mood", "label_values": ("good", "bad"), "attribute": "dog", "train": 80, "test": 40, "cell": 30}
    return TextTaskSpec(str(path), **{**given, **changes})


@pytest.fixture
def table(tmp_path):
    return write_table(tmp_path / "table.csv")


def texts_of(data) -> list[str]:
    return [TOKENIZER.decode(t[: p + 1]) for t, p in zip(data.tokens, data.position.tolist(), strict=True)]


def truth(text: str) -> tuple[bool, bool]:
    """(label, attribute) by the words of the text, whatever a table says."""
    words = set(text.split())
    return bool(words & set(BAD)), bool(words & set(DOGS))


def open_task(task, tmp_path, *judgements):
    log = JudgementLog(tmp_path / f"{len(list(tmp_path.iterdir()))}.jsonl", task.name)
    log.add(*judgements)
    return task.balanced.open(log.freeze(), "test")


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_sets_hold_the_cells_that_they_should_and_share_no_text(tmp_path, ending):
    task = text_task(make_spec(write_table(tmp_path / f"t{ending}")), SITE, TOKENIZER)
    opened = open_task(task, tmp_path)
    for data, size in ((task.train, 80), (task.test, 40)):
        assert [truth(t) for t in texts_of(data)] == [(a, a) for a in data.label.tolist()]
        assert len(data.label) == size and int(data.label.sum()) == size // 2
        assert 0.2 < float(data.label[: size // 2].float().mean()) < 0.8  # shuffled
    for data in (opened.train, opened.test):
        pairs = list(zip(data.intended.tolist(), data.spurious.tolist(), strict=True))
        assert [truth(t) for t in texts_of(data)] == pairs
        assert set(Counter(pairs).values()) == {30}
    every = [t for data in (task.train, task.test, opened.train, opened.test) for t in texts_of(data)]
    assert len(every) == len(set(every)) == 80 + 40 + 8 * 30


def test_words_tell_the_attribute_as_a_column_does(tmp_path, table):
    by_words = make_spec(table, attribute="", attribute_words=(CATS, DOGS))
    tables = [read_tables(spec) for spec in (make_spec(table), by_words)]
    assert tables[0].train == tables[1].train
    both = [*ROWS, {"text": "a beagle met a tabby", "mood": "bad", "dog": 1}, {"text": "x1", "mood": "bad", "dog": 1}]
    spec = replace(by_words, path=str(write_table(tmp_path / "both.csv", both)))
    assert read_tables(spec).train == tables[0].train


def test_duplicates_are_one_row(tmp_path, table):
    twice = write_table(tmp_path / "twice.csv", ROWS + ROWS)
    assert read_tables(make_spec(twice)).train == read_tables(make_spec(table)).train


def test_verdicts_draw_the_balanced_rows(table, tmp_path):
    """Two files of judgements draw different rows, the same file the same; where it lies makes no difference."""
    task = text_task(make_spec(table), SITE, TOKENIZER)
    (tmp_path / "elsewhere").mkdir()
    moved = text_task(make_spec(write_table(tmp_path / "elsewhere" / "other.csv")), SITE, TOKENIZER)
    assert moved.name == task.name
    judged = Judgement("resid_0", 7, -0.5, "keep", "", "me", time="2026-01-01T00:00:00+00:00")
    first, again = open_task(task, tmp_path, judged), open_task(moved, tmp_path, judged)
    other = open_task(task, tmp_path, replace(judged, verdict="trim"))
    assert torch.equal(first.test.tokens, again.test.tokens)
    assert not torch.equal(first.test.tokens, other.test.tokens)
    assert not {t for d in (other.train, other.test) for t in texts_of(d)} & set(texts_of(task.train))


def test_no_balanced_row_can_be_reached_before_the_freeze(table, tmp_path):
    """Not by any attribute, closure or container: no row, text, token or label of those that are then drawn."""
    task = text_task(make_spec(table), SITE, TOKENIZER)
    gc.collect()
    before = reachable(task)
    assert any(thing is task.train.tokens for thing in before)  # it does look inside
    assert not [thing for thing in before if isinstance(thing, Row | Tables | Balanced)]
    opened = open_task(task, tmp_path)
    secret = {t for data in (opened.train, opened.test) for t in texts_of(data)}
    tokens = {tuple(row) for data in (opened.train, opened.test) for row in data.tokens.tolist()}
    assert not [thing for thing in before if isinstance(thing, str) and thing in secret]
    seen = 0
    for thing in before:
        if isinstance(thing, torch.Tensor) and thing.ndim == 2 and thing.shape[1] == opened.train.tokens.shape[1]:
            seen += len(thing)
            assert not {tuple(row) for row in thing.tolist()} & tokens
    assert seen >= 120
    with pytest.raises(SealError, match="frozen"):
        task.balanced.open(None, "curious")


@pytest.mark.parametrize("change", ["label", "row", "gone"])
def test_a_table_that_changed_stays_sealed(table, tmp_path, change):
    task = text_task(make_spec(table), SITE, TOKENIZER)
    rows = list(ROWS)
    if change == "label":
        rows[7] = {**rows[7], "mood": "bad" if rows[7]["mood"] == "good" else "good"}
    write_table(table, rows if change == "label" else rows[1:])
    if change == "gone":
        table.unlink()
    with pytest.raises(TableError if change == "gone" else SealError, match="no such file|has changed since"):
        open_task(task, tmp_path)
    if change == "label":  # and another table is another task: its judgements open nothing of this one
        assert text_task(make_spec(table), SITE, TOKENIZER).name != task.name


def test_without_balanced_data_all_but_scoring_works(table, tmp_path):
    agreeing = [r for r in ROWS if (r["mood"] == "bad") == bool(r["dog"])]
    bare = [{"text": r["text"], "mood": r["mood"]} for r in agreeing]
    spec = make_spec(write_table(tmp_path / "bare.csv", bare), balanced=None, attribute="")
    task = text_task(spec, SITE, TOKENIZER)
    assert len(task.train.tokens) == 80
    prepared = prepare(tiny("gpt2"), {}, task, examples=4, steps=1, progress=False)
    assert prepared.candidates == []
    log = JudgementLog(tmp_path / "j.jsonl", task.name)
    with pytest.raises(SealError, match="no balanced data, so nothing can be scored"):
        task.balanced.open(log.freeze(), "scoring")
    assert "unsealed" not in (tmp_path / "j.jsonl").read_text()


def test_a_balanced_table_of_its_own(table, tmp_path):
    agreeing = [r for r in ROWS if (r["mood"] == "bad") == bool(r["dog"])]
    ambiguous = write_table(tmp_path / "a.csv", [{"text": r["text"], "mood": r["mood"]} for r in agreeing])
    task = text_task(make_spec(ambiguous, balanced=str(table)), SITE, TOKENIZER)
    opened = open_task(task, tmp_path)
    mine = {t for data in (task.train, task.test) for t in texts_of(data)}
    theirs = {t for data in (opened.train, opened.test) for t in texts_of(data)}
    assert len(mine) == 120 and len(theirs) == 240 and not mine & theirs


def test_rows_to_show_features_on_stand_in_no_set(table, tmp_path):
    spec = make_spec(table)
    shown = naming_rows(spec, 1000)
    tables = read_tables(spec)
    train, test, _ = ambiguous_rows(spec, tables)
    drawable = {r.text for key in range(4) for rows in balanced_rows(spec, tables, key) for r in rows}
    assert len(shown) == len(set(shown)) > 50
    assert not set(shown) & ({r.text for r in (*train, *test)} | drawable)
    assert naming_rows(spec, 10) == shown[:10]
    # where every row is used, it is the training texts
    bare = [r for r in ROWS if (r["mood"] == "bad") == bool(r["dog"])][:8] + [
        r for r in ROWS if (r["mood"] == "bad") == bool(r["dog"]) and r["mood"] == "bad"
    ][:8]
    few = make_spec(write_table(tmp_path / "few.csv", bare), balanced=None, train=8, test=8)
    train, test, left = ambiguous_rows(few, read_tables(few))
    if not left:
        assert naming_rows(few) == [r.text for r in train]


def test_labelled_texts_stand_in_no_set(table):
    spec = make_spec(table, labelled=40, cell=40)
    tables = read_tables(spec)
    aside = labelled_rows(spec, tables)
    train, test, _ = ambiguous_rows(spec, tables)
    drawable = {r.text for key in range(4) for rows in balanced_rows(spec, tables, key) for r in rows}
    assert len(aside) == 40 and {(r.label, r.attribute) for r in aside} == set(CELLS)
    assert not {r.text for r in aside} & ({r.text for r in (*train, *test)} | drawable | set(naming_rows(spec, 1000)))
    found = labelled_text(spec, TOKENIZER)
    assert found is not None and found.intended.tolist() == [r.label for r in aside]
    assert labelled_text(make_spec(table), TOKENIZER) is None


def test_positions_and_padding(table):
    """A BOS token stands before the text, is part of no mean, and padding changes nothing that is read."""
    spec, with_bos = make_spec(table), tokenizer(bos=True)
    texts = ["n1 is a kind tabby", "n2", "n3 is a"]
    tokens, position = tokenise(spec, TOKENIZER, texts)
    assert position.tolist() == [4, 0, 2] and tokens.shape == (3, 5)
    marked, place = tokenise(replace(spec, bos=True), with_bos, texts)
    assert torch.equal(marked[:, 1:], tokens) and place.tolist() == [5, 1, 3]
    assert (marked[:, 0] == with_bos.bos_token_id).all()
    task = text_task(replace(spec, bos=True), SITE, with_bos)
    assert task.reading == Reading(SITE, True, 1)
    model = tiny("gpt2")
    together = readout(model, Reading(SITE, True, 1), marked, place)
    for i in range(3):
        alone = readout(model, Reading(SITE, True, 1), marked[i : i + 1, : place[i] + 1], place[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-4, atol=1e-5)
    assert tokenise(replace(spec, max_length=3), TOKENIZER, texts)[1].tolist() == [2, 0, 2]
    with pytest.raises(ValueError, match="no beginning-of-text token"):
        tokenise(replace(spec, bos=True), TOKENIZER, texts)


def test_reading_up_to_a_word(tmp_path):
    rows = [{**r, "place": r["text"].index(r["text"].split()[3])} for r in ROWS]
    spec = make_spec(write_table(tmp_path / "at.csv", rows), at="place", attribute="", attribute_words=(CATS, DOGS))
    assert not read_tables(spec).train  # the pet stands behind the mood, so no text is left with one
    spec = make_spec(tmp_path / "at.csv", at="place", train=10, test=4, cell=4)
    assert {len(r.text.split()) for r in read_tables(spec).train} == {4}
    cut = tokenise(replace(spec, max_length=2), TOKENIZER, ["n1 is a kind"])[0]
    assert TOKENIZER.decode(cut[0]) == "a kind"
    write_table(tmp_path / "at.csv", [{**r, "place": 99} for r in ROWS])
    with pytest.raises(TableError, match="row 1: 99 is not the place of a character"):
        read_tables(spec)


@pytest.mark.parametrize("bos", [False, True])
def test_words_are_deleted_from_prompts(table, tmp_path, bos):
    tok = tokenizer(bos)
    spec = make_spec(table, bos=bos)
    task = text_task(spec, SITE, tok)
    assert task.deleted is None  # nobody has said which words they are
    by_words = text_task(replace(spec, attribute="", attribute_words=(CATS, DOGS)), SITE, tok)
    assert by_words.deleted is not None
    opened = open_task(task, tmp_path)
    for data in (task.train, opened.test):
        less = by_words.deleted(data.tokens, data.position)
        before, after = (
            [tok.decode(t[bos : p + 1]) for t, p in zip(tokens, position.tolist(), strict=True)]
            for tokens, position in ((data.tokens, data.position), less)
        )
        assert after == [" ".join(w for w in t.split() if w not in CATS + DOGS) for t in before]
    untouched, _ = without_words(spec, tok, ("absent",))(task.train.tokens, task.train.position)
    assert torch.equal(untouched, task.train.tokens)
    nothing = without_words(spec, tok, ("is", "a", *GOOD, *BAD, *CATS, *DOGS, *(f"n{i}" for i in range(20))))
    assert (nothing(task.train.tokens, task.train.position)[1] == int(bos)).all()


def test_word_lists():
    listed = WordList(["he", "middle", "middle aged", "U.S."])
    assert listed.spans("He, the middle aged man: he") == [(0, 2), (8, 19), (25, 27)]
    assert listed.removed("He is there, middle aged he.") == "is there,."
    assert listed.removed("the  theme") == "the  theme" and listed.within("from the U.S. here")
    assert not WordList([]).within("anything")


def test_which_tokens_belong_to_words(table):
    spec, texts = make_spec(table, bos=True), ["n1 is a kind tabby", "beagle beagle n2", "x1"]
    tok = tokenizer(bos=True)
    kinds = word_tokens(spec, tok, texts, (CATS, DOGS))
    assert kinds.tolist() == [[-1, 0, 0, 0, 0, 1], [-1, 2, 2, 0, -1, -1], [-1, 0, -1, -1, -1, -1]]
    assert kinds.shape == tokenise(spec, tok, texts)[0].shape


def biographies(count: dict[tuple[int, int], int], split: str):
    return [
        {"hard_text": f"{split} n{i} x{cell[0]} x{cell[1]} {i}", "profession": cell[0], "gender": cell[1]}
        for cell, n in count.items()
        for i in range(n)
    ]


@pytest.fixture
def bios(tmp_path):
    """A folder in the shape of LabHC/bias_in_bios."""
    folder = tmp_path / "bias_in_bios" / "data"
    folder.mkdir(parents=True)
    for split, n in (("train", 1), ("test", 2)):
        rows = biographies({(21, 0): 9 * n, (13, 1): 6 * n, (21, 1): 5 * n, (13, 0): 3 * n, (2, 0): 4}, split)
        write_table(folder / f"{split}-00000-of-00001.parquet", rows)
    return tmp_path / "bias_in_bios"


def test_bias_in_bios_as_published(bios):
    """The rows of the notebook, by a loop that is written out: the first n of each kind, shuffled by Python."""
    import random

    import datasets

    spec = bias_in_bios("pythia", str(bios))
    tables = read_tables(spec)
    for split, got, cells in zip(
        ("train", "test"), ambiguous_rows(spec, tables)[:2], balanced_rows(spec, tables, 1), strict=True
    ):
        data = list(datasets.load_dataset(str(bios), split=split))
        kinds = {
            (y, g): [x["hard_text"] for x in data if x["profession"] == y and x["gender"] == g]
            for y in (21, 13)
            for g in (0, 1)
        }
        n = min(len(kinds[21, 0]), len(kinds[13, 1]))
        texts = kinds[21, 0][:n] + kinds[13, 1][:n]
        order = list(range(2 * n))
        random.Random(42).shuffle(order)
        assert [r.text for r in got] == [texts[i] for i in order]
        assert [r.label for r in got] == [i >= n for i in order]
        n = min(map(len, kinds.values()))
        texts = [t for cell in ((21, 0), (21, 1), (13, 0), (13, 1)) for t in kinds[cell][:n]]
        order = list(range(4 * n))
        random.Random(42).shuffle(order)
        assert [r.text for r in cells] == [texts[i] for i in order]


def test_bias_in_bios_is_a_task(bios, tmp_path):
    spec = replace(bias_in_bios("pythia", str(bios)), site="resid_1")
    task = text_task(spec, SITE, TOKENIZER)
    assert len(task.train.label) == 12 and len(task.test.label) == 24
    opened = open_task(task, tmp_path)
    assert [len(d.intended) for d in (opened.train, opened.test)] == [12, 24]
    assert all(t.startswith("<unk>") for t in map(str, naming_rows(spec))) or naming_rows(spec)
    assert {t.split()[2] for t in naming_rows(spec)} == {"x2"}  # other professions are in no set
    head = text_head(spec, tiny("gpt2"), task)
    assert isinstance(head, torch.nn.Linear)
    assert text_head(replace(spec, head="optimum"), tiny("gpt2"), task) is None
    assert bias_in_bios("gemma").site == "resid_22" and bias_in_bios("gemma").head_batch == 32


def test_the_papers_head_learns_and_its_seed_decides_it():
    from shift.paper_head import fit_paper_head

    x = torch.randn(4000, 8)
    label = x[:, 0] > 0
    head = fit_paper_head(x, label, seed=1)
    assert ((head(x)[:, 0] > 0) == label).float().mean() > 0.9
    assert torch.equal(head.weight, fit_paper_head(x, label, seed=1).weight)
    assert not torch.equal(head.weight, fit_paper_head(x, label, seed=2).weight)
    assert ((fit_head(x, label)(x)[:, 0] > 0) == label).float().mean() > 0.99


def test_a_spec_is_plain_json(table):
    spec = make_spec(table, attribute="", attribute_words=(CATS, DOGS), bos=False)
    assert TextTaskSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"trian": 3}, "did you mean 'train'"),
        ({"train": "3"}, "'train' is '3': expected a whole number or null"),
        ({"pooled": 1}, "expected true or false"),
        ({"label_values": ["a"]}, "two texts"),
        ({"attribute_words": ["a", "b"]}, "two lists of words"),
        ({"label_values": ["1", "1.0"]}, None),
        ({"label_values": ["TRUE", "true"]}, "must differ"),
        ({"train": None}, "need a test_split"),
        ({"train": 3}, "even number"),
        ({"cell": 1}, "at least 2"),
        ({"head": "best"}, "expected optimum or paper"),
        ({"attribute": ""}, "give the column of the attribute"),
        ({"attribute": "label"}, "both the column 'label'"),
        ({"attribute_words": [["a"], ["b"]]}, "choose one"),
        ({"attribute": "", "attribute_words": [["a"], []]}, "words for yes"),
        ({"attribute": "", "attribute_words": [["a"], ["A"]]}, "stands in both"),
        ({"path": ""}, "path is empty"),
    ],
)
def test_a_spec_that_describes_no_task(changes, message):
    values = {"path": "x.csv", "attribute": "b", **changes}
    if message is None:
        TextTaskSpec.from_json(values)
        return
    with pytest.raises(SpecError, match=message):
        TextTaskSpec.from_json(values)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"text": "words"}, "no column 'words'; there are: text, mood, dog"),
        ({"text": "dog"}, "which is no text"),
        ({"path": "nowhere.csv"}, "no such file"),
        ({"path": "owner/nothing"}, "cannot be read"),
        ({"test_split": "test"}, "a file has no part 'test'"),
        ({"train": 2000}, "of 1000 rows for train with mood and the attribute both no"),
        ({"cell": 500}, "of 500 rows for the balanced train set with mood no and the attribute no"),
        ({"label_values": ("ok", "bad")}, "0 of 40 rows"),
    ],
)
def test_a_table_that_does_not_do(table, changes, message):
    with pytest.raises(TableError, match=message):
        text_task(make_spec(**{"path": table, **changes}), SITE, TOKENIZER)


def test_the_madlibs(shared, tmp_path):
    """A tenth of the file, which is enough for every cell."""
    lines = (shared / "data" / "text" / "bias_madlibs_77k.csv").read_text(encoding="utf-8").splitlines(True)
    (tmp_path / "some.csv").write_text("".join([lines[0], *lines[1::10]]), encoding="utf-8")
    spec = madlibs(str(tmp_path / "some.csv"), "resid_1", train=400, test=100, cell=100)
    task = text_task(spec, SITE, TOKENIZER)
    assert len(task.train.label) == 400
    for row in read_tables(spec).train[::100]:
        words = set(row.text.lower().replace(".", "").split())
        assert row.attribute == bool(words & set(SEXUALITY)) != bool(words & set(RELIGION))


def test_gap(shared):
    files = str(shared / "data" / "text" / "gap-*.tsv")
    spec = gap_gender(files, "resid_1")
    train, _, _ = ambiguous_rows(spec, read_tables(spec))
    assert len(train) == 200
    for row in train:
        words = {w.strip(".,") for w in row.text.lower().split()}
        assert row.text.lower().split()[-1].strip("\"'(") in (SHE if row.label else HE)
        assert words & set(SCREEN if row.label else SPORT) or "-" in row.text
    spec = gap_coreference(files, "resid_1")
    assert [len(rows) for rows in ambiguous_rows(spec, read_tables(spec))[:2]] == [800, 200]
