"""Spans: given in tokens, characters or columns, made by rules, written and read again; and what is refused."""

import csv
import gzip
import json
from pathlib import Path

import pytest
import torch

from circuits.attribution import node_effects
from circuits.metrics import LogitDifference
from circuits.pair_set import PairsError
from circuits.pairs import Reading, read_pairs
from circuits.prompts import Prompt, tokenise
from circuits.span_files import given_spans, write_spans
from circuits.span_rules import AGREEMENT, chess_moves, plies, sentences, template, words
from circuits.spans import Schema, Span, SpanError, merged_order
from saes.files import FileError
from tests.circuits.small import dictionaries_for, small_model
from tests.circuits.tokenizers_for_tests import byte_tokenizer, sentencepiece_tokenizer, word_tokenizer

ROWS = [
    {"clean": "The boys near the car", "patch": "The boy near the car", "clean_answer": "are", "patch_answer": "is"},
    {"clean": "The big girl behind the cars", "patch": "The big girls behind the cars", "clean_answer": "is",
     "patch_answer": "are"},
]  # fmt: skip
NOUNPP = template("The {subject} near the {place}", "The {subject} behind the {place}")


def lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def table(path, rows):
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def ids(count, bos=False):
    return Prompt(tuple(range(count)), bos=bos)


def texts_of(schema, pairs, example):
    """The characters of every span, BOS apart."""
    prompt = pairs.clean[example]
    spans = [span for span in schema.spans(example) if span.name != "bos"]
    return {s.name: prompt.text[prompt.offsets[s.start][0] : prompt.offsets[s.end - 1][1]].strip() for s in spans}


def test_spans_of_different_lengths_become_places_and_empty_ones_have_no_position():
    schema = Schema.of(
        [ids(4), ids(5)],
        [[Span("a", 0, 1), Span("c", 1, 4)], [Span("a", 0, 2), Span("b", 2, 3), Span("c", 3, 5)]],
        names=["a", "b", "c"],
    )
    assert schema.starts.tolist() == [[0, 1, 1, 4], [0, 2, 3, 5]]
    assert schema.places().index.tolist() == [[0, 2, 2, 2, -1], [0, 0, 1, 2, 2]]
    assert schema.places(7).index[0].tolist() == [0, 2, 2, 2, -1, -1, -1]
    assert schema.spans(0) == [Span("a", 0, 1), Span("c", 1, 4)]
    assert schema.take(torch.tensor([1, 1])).places().index.tolist() == [[0, 0, 1, 2, 2]] * 2
    with pytest.raises(SpanError, match="prompts of 4 tokens cannot hold spans up to token 5"):
        schema.places(4)


def test_the_sum_over_spans_is_the_sum_over_positions():
    generator = torch.Generator().manual_seed(0)
    cuts = torch.randint(0, 9, (20, 3), generator=generator).sort(dim=1).values
    starts = torch.cat([torch.zeros(20, 1, dtype=torch.long), cuts], 1)
    schema = Schema(("a", "b", "c"), starts)
    values = torch.randn(20, 8, 5, dtype=torch.float64, generator=generator)
    sums = schema.places(8).sum(values)
    for i in range(20):
        for j, name in enumerate(schema.names):
            expected = values[i, starts[i, j] : starts[i, j + 1]].sum(0)
            torch.testing.assert_close(sums[i, schema.names.index(name)], expected)
        torch.testing.assert_close(sums[i].sum(0), values[i, : schema.lengths[i]].sum(0))


@pytest.mark.parametrize(
    ("spans", "said"),
    [
        ([("a", 0, 3), ("b", 2, 5)], "span 'b' starts at token 2, inside 'a', which ends at 3"),
        ([("a", 0, 2), ("b", 3, 5)], "tokens 2 to 3, behind 'a', are in no span"),
        ([("a", 1, 2), ("b", 2, 5)], "tokens 0 to 1, at the beginning, are in no span"),
        ([("a", 0, 2), ("b", 2, 4)], "tokens 4 to 5, behind 'b', are in no span"),
        ([], "tokens 0 to 5, at the beginning, are in no span"),
        ([("a", 0, 2), ("b", 2, 6)], "span 'b' ends at token 6, but the prompt has 5"),
        ([("a", 2, 5), ("b", 0, 2)], "span 'b' starts at token 0, but stands behind 'a', which starts at 2"),
        ([("b", 0, 2), ("a", 2, 5)], r"span 'a' \(token 2\) stands behind 'b' \(token 0\), but the order is a, b"),
        ([("a", 0, 2), ("x", 2, 5)], "span 'x' is none of a, b"),
        ([("a", 0, 2), ("a", 2, 5)], "span 'a' stands there twice"),
        ([("a", 0, 2), ("b", 4, 2)], "span 'b' runs from token 4 to 2"),
        ([("a", -1, 2), ("b", 2, 5)], "span 'a' runs from token -1 to 2"),
    ],
)
def test_spans_that_do_not_fit_are_told_with_example_span_and_numbers(spans, said):
    good = [Span("a", 0, 2), Span("b", 2, 5)]
    with pytest.raises(SpanError, match=f"^example 1: {said}$"):
        Schema.of([ids(5), ids(5)], [good, [Span(*each) for each in spans]], names=["a", "b"])


def test_tables_of_starts_that_do_not_fit_are_refused():
    for names, starts, said in [
        (("a", "a"), [[0, 1, 2]], "'a' is named twice"),
        (("a", "b"), [[0, 1]], r"2 spans need 3 columns \(a start each, then the length\), not 2"),
        (("a", "b"), [[0, 1, 2], [0, 4, 3]], "example 1: span 'b' starts at token 4, but the prompt ends at 3"),
        (("a", "b", "c"), [[0, 4, 3, 5]], "example 0: span 'b' starts at token 4, but span 'c' starts at 3"),
        (("a", "b"), [[1, 2, 3]], "example 0: the first span 'a' starts at token 1"),
    ]:
        with pytest.raises(SpanError, match=said):
            Schema(names, torch.tensor(starts))


def test_the_order_of_names_is_what_all_examples_allow():
    order = merged_order([["a", "b", "d"], ["a", "c", "d"], ["d", "e"]])
    assert sorted(order) == list("abcde") and order[0] == "a" and order[3:] == ("d", "e")
    with pytest.raises(SpanError, match="no order of spans fits all examples: .* before "):
        merged_order([["a", "b"], ["b", "a"]])
    with pytest.raises(SpanError, match="span 'a' stands twice in a, b, a"):
        merged_order([["a", "b", "a"]])


def test_a_bos_token_is_a_span_of_its_own_whether_the_numbers_count_it_or_not():
    expected = (("bos", "a", "b"), [[0, 1, 2, 5]])
    for spans in (
        [Span("a", 1, 2), Span("b", 2, 5)],
        [Span("a", 0, 1), Span("b", 1, 4)],
        [Span("bos", 0, 1), Span("a", 1, 2), Span("b", 2, 5)],
    ):
        schema = Schema.of([ids(5, bos=True)], [spans])
        assert (schema.names, schema.starts.tolist()) == expected
        assert Schema.of([ids(5, bos=True)], [spans], names=["a", "b"]).names == schema.names
    with pytest.raises(SpanError, match="span 'a' starts at token 0, inside 'bos'"):
        Schema.of([ids(5, bos=True)], [[Span("a", 0, 2), Span("b", 2, 5)]])


@pytest.mark.parametrize("kind", ["words", "bytes", "pieces"])
def test_characters_map_to_the_tokens_that_hold_them(kind):
    text = "The boys  near the car"
    tokenizer = {
        "words": word_tokenizer,
        "bytes": lambda: byte_tokenizer(["The near the"]),  # "boys" and "car" fall into bytes
        "pieces": lambda: sentencepiece_tokenizer(["The boy s near the ca r"]),
    }[kind]()
    (prompt,) = tokenise([text], tokenizer, True)
    spans = [Span("det", 0, 3), Span("noun", 4, 8), Span("rest", 10, 22)]
    schema = Schema.of([prompt], [spans], unit="characters")
    assert schema.names == ("bos", "det", "noun", "rest")
    back = {s.name: tokenizer.decode(list(prompt.tokens[s.start : s.end])).strip() for s in schema.spans(0)}
    assert back["det"] == "The" and back["noun"] == "boys" and back["rest"].split() == ["near", "the", "car"]
    # where the space between two spans is counted makes no difference
    touching = [Span("det", 0, 4), Span("noun", 4, 9), Span("rest", 9, 22)]
    assert torch.equal(Schema.of([prompt], [touching], unit="characters").starts, schema.starts)


def test_a_token_of_two_spans_and_characters_of_none_are_refused():
    (prompt,) = tokenise(["The boys"], byte_tokenizer(["The boys"]), True)
    with pytest.raises(
        SpanError, match=r"token 2, ' boys', is partly in span 'stem', which ends at character 7, and.*'s'"
    ):
        Schema.of([prompt], [[Span("det", 0, 3), Span("stem", 3, 7), Span("s", 7, 8)]], unit="characters")
    with pytest.raises(SpanError, match="characters 3 to 5, behind 'det', are in no span"):
        Schema.of([prompt], [[Span("det", 0, 3), Span("noun", 5, 8)]], unit="characters")
    with pytest.raises(SpanError, match="spans in characters need a text"):
        Schema.of([ids(3)], [[Span("a", 0, 3)]], unit="characters")


def test_one_letter_of_several_tokens_stays_in_its_span():
    (prompt,) = tokenise(["The ♞ boys"], byte_tokenizer(["The boys"]), True)
    assert len(prompt) > 5  # the knight is three bytes
    schema = Schema.of([prompt], [[Span("a", 0, 3), Span("knight", 4, 5), Span("b", 6, 10)]], unit="characters")
    start, end = next((s.start, s.end) for s in schema.spans(0) if s.name == "knight")
    assert end - start == len(prompt) - 3


def test_templates_name_fields_and_fixed_words(tmp_path):
    pairs = read_pairs(lines(tmp_path / "d", ROWS), word_tokenizer())
    schema = pairs.cut(NOUNPP)
    assert texts_of(schema, pairs, 0) == {
        "the": "The", "subject": "boys", "near": "near",
        "the_2": "the", "place": "car",
    }  # fmt: skip
    assert texts_of(schema, pairs, 1)["subject"] == "big girl" and texts_of(schema, pairs, 1)["behind"] == "behind"
    assert schema.names[:3] == ("bos", "the", "subject") and schema.names[-2:] == ("the_2", "place")
    examples = pairs.examples(schema)
    assert examples.places.names == schema.names and examples.places.index.shape == examples.clean.shape


def test_templates_that_do_not_fit_or_fit_twice_are_refused():
    with pytest.raises(SpanError, match="'A boy' does not fit the template 'The {a}' or 'An {a}'"):
        template("The {a}", "An {a}")("A boy")
    with pytest.raises(SpanError, match="in two ways: 'b' is 'x' or 'x near y'|in two ways: 'a' is"):
        template("{a} near {b}")("w near x near y")
    with pytest.raises(SpanError, match="two fields without anything between"):
        template("The {a}{b}")
    with pytest.raises(SpanError, match="a field needs a name"):
        template("The {}")
    with pytest.raises(SpanError, match="template 'The {a'"):
        template("The {a")
    assert template("Is it {a}?")("Is it (x) or y?")[-2:] == [Span("a", 6, 14), Span("?", 14, 15)]


def test_words_are_named_by_what_their_columns_hold():
    clean = ["The boys near the car", "The girl behind the cars"]
    patch = ["The boy near the car", "The girls behind the cars"]
    rule = words(clean, patch)
    assert [span.name for span in rule(clean[0])] == ["the", "changed", "word_3", "the_2", "word_5"]
    assert rule(clean[1])[1] == Span("changed", 4, 8)
    assert [s.name for s in words(clean, names=list("abcde"))(clean[0])] == list("abcde")
    with pytest.raises(SpanError, match=r"'The boy' has 2 words, not 5 as the first one"):
        words(clean, ["The boy"])
    with pytest.raises(SpanError, match=r"has 5 words, not 2 as the list of names \(a, b\)"):
        words(clean, names=["a", "b"])
    with pytest.raises(SpanError, match="'The boy' has 2 words, not 5: the, changed"):
        rule("The boy")


def test_sentences_are_cut_behind_their_ends():
    text = 'It cost 3.5 coins. "Why?" she said! No answer\n'
    assert [text[a:b].strip() for _, a, b in sentences(text)] == [
        "It cost 3.5 coins.",
        '"Why?"',
        "she said!",
        "No answer",
    ]
    assert [name for name, _, _ in sentences(text)] == [f"sentence_{i}" for i in range(1, 5)]
    assert "".join(text[a:b] for _, a, b in sentences(text)) == text
    assert sentences("One.  ") == [Span("sentence_1", 0, 6)]
    prompts = tokenise([text, "One. Two."], byte_tokenizer(["One Two"]), True)
    schema = Schema.of(prompts, [sentences(p.text) for p in prompts], unit="characters")
    assert schema.names == ("bos", *(f"sentence_{i}" for i in range(1, 5)))
    assert [s.name for s in schema.spans(1)] == ["bos", "sentence_1", "sentence_2"]


def test_plies_of_games_of_different_length():
    schema = plies([3, 5])
    assert schema.names == tuple(f"ply_{i}" for i in range(1, 6))
    assert schema.places().index.tolist() == [[0, 1, 2, -1, -1], [0, 1, 2, 3, 4]]
    phases = plies([30, 10, 1], by="phase", opening=20)
    assert phases.names == ("opening", "middle", "last")
    assert phases.starts.tolist() == [[0, 20, 29, 30], [0, 9, 9, 10], [0, 0, 0, 1]]
    assert plies([4, 6], by="phase", opening=2, bos=True).starts.tolist() == [[0, 1, 3, 3, 4], [0, 1, 3, 5, 6]]
    assert plies([3], bos=True).places().index.tolist() == [[0, 1, 2]]


def test_chess_transcripts_are_cut_into_numbers_dots_and_moves():
    text = ";1.e4 e5 2.Nf3 Nc6 3.O-O exd8=Q+ 10"
    parts = chess_moves()(text)
    assert [(name, text[a:b].strip()) for name, a, b in parts[:6]] == [
        ("start", ";"), ("number_1", "1"), ("dot_1", "."), ("white_1", "e4"), ("black_1", "e5"), ("number_2", "2"),
    ]  # fmt: skip
    assert "".join(text[a:b] for _, a, b in parts) == text
    moves = chess_moves("moves")(text)
    assert [(name, text[a:b].strip()) for name, a, b in moves] == [
        ("start", ";"), ("white_1", "1.e4"), ("black_1", "e5"), ("white_2", "2.Nf3"), ("black_2", "Nc6"),
        ("white_3", "3.O-O"), ("black_3", "exd8=Q+"), ("white_4", "10"),
    ]  # fmt: skip


@pytest.mark.parametrize("detail", ["parts", "moves"])
def test_a_transcript_may_end_anywhere(detail):
    text = ";1.e4 e5 2.Nf3 Nc6"
    prompts = [Prompt.by_character(text[:n], range(n)) for n in range(1, len(text) + 1)]
    rule = chess_moves(detail)
    schema = Schema.of(prompts, [rule(p.text) for p in prompts], unit="characters")
    assert schema.lengths.tolist() == list(range(1, len(text) + 1))
    whole = schema.places().index[-1]
    for row, n in zip(schema.places().index, schema.lengths.tolist(), strict=True):
        cut = n - (text[n - 1] == " ")  # the space at an end goes to what is before it, there being nothing behind
        assert torch.equal(row[:cut], whole[:cut]) and (row[n:] == -1).all()
    odd = Prompt.by_character(";1.e4 .. e5", range(11))
    with pytest.raises(SpanError, match="example 0: characters 5 to 11, behind 'white_1', are in no span"):
        Schema.of([odd], [rule(odd.text)], unit="characters")


def test_real_transcripts_are_covered(shared):
    with gzip.open(shared / "data" / "chess" / "lichess_transcripts.csv.gz", "rt") as file:
        games = [";" + row["transcript"] for _, row in zip(range(200), csv.DictReader(file), strict=False)]
    prompts = [Prompt.by_character(game, range(len(game))) for game in games]
    schema = Schema.of(prompts, [chess_moves()(game) for game in games], unit="characters")
    for i, game in enumerate(games):
        moves = [game[a:b].strip() for name, a, b in schema.spans(i) if name.startswith(("white", "black"))]
        assert moves == [word.split(".")[-1] for word in game[1:].split()]


def test_clean_and_patch_must_be_cut_at_the_same_tokens(tmp_path):
    row = {"clean": "The big boy near the car", "patch": "The boy near the big car"}
    pairs = read_pairs(lines(tmp_path / "d", [ROWS[0], row]), word_tokenizer())
    with pytest.raises(
        SpanError, match="line 2: span 'subject' is tokens 2 to 4 of the clean prompt and 2 to 3 of the patch prompt"
    ):
        pairs.cut(NOUNPP)
    with pytest.raises(SpanError, match="line 1: rules cut texts"):
        read_pairs(lines(tmp_path / "ids", [{"clean": [1, 2]}]), None).cut(NOUNPP)


@pytest.mark.parametrize("inline", [True, False])
def test_spans_of_a_file_are_read_with_its_pairs(tmp_path, inline):
    spans = [
        [["the", 1, 2], ["subject", 2, 3], ["rest", 3, 6]],
        [["the", 1, 2], ["subject", 2, 4], ["rest", 4, 7]],
    ]
    if inline:
        file = lines(tmp_path / "d", [{**row, "spans": s} for row, s in zip(ROWS, spans, strict=True)])
    else:
        starts = [{"the": s[0][1], "subject": s[1][1], "rest": s[2][1], "length": s[2][2]} for s in spans]
        named = [{"prompt": r["clean"], "counter": r["patch"], "prompt_id": 1} for r in ROWS]
        file = table(tmp_path / "d", [{**r, **s, "split": "eval"} for r, s in zip(named, starts, strict=True)])
    pairs = read_pairs(file, word_tokenizer())
    schema = given_spans(pairs)
    assert schema.names == ("bos", "the", "subject", "rest")
    assert schema.starts.tolist() == [[0, 1, 2, 3, 6], [0, 1, 2, 4, 7]]


def test_columns_that_do_not_count_bos_and_empty_spans(tmp_path):
    rows = [
        {"prompt": "The boys near", "a": 0, "b": 1, "c": 1, "length": 3},
        {"prompt": "The big girl", "a": 0, "b": 1, "c": 2, "length": 3},
    ]
    schema = given_spans(read_pairs(table(tmp_path / "d", rows), word_tokenizer()))
    assert schema.starts.tolist() == [[0, 1, 2, 2, 4], [0, 1, 2, 3, 4]]
    two = given_spans(read_pairs(tmp_path / "d", word_tokenizer()), columns=["a", "c"])
    assert two.names == ("bos", "a", "c") and two.starts.tolist() == [[0, 1, 2, 4], [0, 1, 3, 4]]
    without = given_spans(read_pairs(tmp_path / "d", word_tokenizer(), Reading(bos=False)))
    assert without.starts.tolist() == [[0, 1, 1, 3], [0, 1, 2, 3]]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"length": 9}, "line 2: `length` is 9, but the prompt has 4 tokens: .* without a BOS token"),
        ({"b": 4, "c": 3}, "line 2: span 'b' starts at token 4, but 'c', behind it, is 3"),
        ({"c": "x"}, "no column in front of `length`"),
        ({"a": 2, "b": 2}, "no column in front of `length` starts at token 1"),
    ],
)
def test_columns_that_do_not_fit_are_refused(tmp_path, changes, said):
    row = {"prompt": "The boys near", "a": 1, "b": 2, "c": 3, "length": 4} | changes
    with pytest.raises(SpanError, match=said):
        given_spans(read_pairs(table(tmp_path / "d", [row]), word_tokenizer()))


def test_the_columns_of_a_counterfactual_file_must_agree(tmp_path):
    one = table(tmp_path / "a", [{"prompt": "The big boy near", "det": 1, "noun": 2, "rest": 4, "length": 5}])
    two = table(tmp_path / "b", [{"prompt": "The boy near car", "det": 1, "noun": 2, "rest": 3, "length": 5}])
    same = read_pairs(one, word_tokenizer(), counterfactuals=one)
    assert given_spans(same).starts.tolist() == [[0, 1, 2, 4, 5]]
    with pytest.raises(SpanError, match="span 'noun' is tokens 2 to 4 of the clean prompt and 2 to 3 of the patch"):
        given_spans(read_pairs(one, word_tokenizer(), counterfactuals=two))


def test_the_reference_of_peap_is_read(shared, tmp_path):
    """Its four prompts of different length, columns made with a BOS token that TransformerLens put in."""
    golden = json.loads((shared / "golden" / "peap" / "gpt2_counterfactual.json").read_text())
    rows = [dict(zip(golden["columns"], row, strict=True)) for row in golden["rows"]]
    words_of = [word for word in golden["vocab"] if not word.startswith("<")]
    pairs = read_pairs(table(tmp_path / "d.csv", rows), word_tokenizer(words=words_of))
    schema = given_spans(pairs)
    assert schema.names == ("bos", *golden["spans"][:-1])
    assert schema.starts[:, 1:].tolist() == [[row[name] for name in golden["spans"]] for row in rows]
    assert [texts_of(schema, pairs, i)["SUBJ"] for i in range(4)] == ["man", "boys", "that parent", "that that men"]


@pytest.mark.parametrize("unit", [None, "tokens", "characters"])
def test_spans_json_is_read_as_it_was_written(tmp_path, unit):
    tokenizer = byte_tokenizer(
        ["The boy boys girl girls near behind the are is", "are", "is"]
    )  # "car" falls into bytes
    pairs = read_pairs(lines(tmp_path / "d", [{**row, "case": "p"} for row in ROWS]), tokenizer)
    schema = pairs.cut(NOUNPP)
    file = tmp_path / "out" / "spans.json"
    write_spans(file, pairs, schema, unit)
    again = read_pairs(file, tokenizer)
    back = given_spans(again)
    assert back.names == schema.names and torch.equal(back.starts, schema.starts)
    one, two = pairs.examples(schema), again.examples(back)
    assert torch.equal(one.clean, two.clean) and torch.equal(one.patch, two.patch)
    assert {k: v.tolist() for k, v in one.fields.items()} == {k: v.tolist() for k, v in two.fields.items()}
    assert [pair.row["case"] for pair in again.pairs] == ["p", "p"]
    assert [p.name for p in file.parent.iterdir()] == ["spans.json"]
    write_spans(tmp_path / "twice.json", again, back, unit)
    assert (tmp_path / "twice.json").read_text() == file.read_text()
    if unit is None:  # characters: another tokenizer finds the same words
        other = read_pairs(file, word_tokenizer())
        found = given_spans(other)
        assert [texts_of(found, other, i) for i in range(2)] == [texts_of(schema, pairs, i) for i in range(2)]


def test_spans_of_token_ids_are_written_in_tokens(tmp_path):
    rows = [
        {"clean": [5, 6, 7], "patch": [5, 9, 7], "clean_answer": 1, "patch_answer": 2},
        {"clean": [5], "patch": [6]},
    ]
    rows[1] |= {"clean_answer": 1, "patch_answer": 2}
    pairs = read_pairs(lines(tmp_path / "d", rows), None)
    schema = plies([3, 1])
    write_spans(tmp_path / "spans.json", pairs, schema)
    again = read_pairs(tmp_path / "spans.json", None)
    assert torch.equal(given_spans(again).starts, schema.starts) and again.header["unit"] == "tokens"
    assert again.examples().fields["answer"].tolist() == [2, 2]
    with pytest.raises(SpanError, match="cannot be told in characters"):
        write_spans(tmp_path / "no.json", pairs, schema, "characters")
    with pytest.raises(SpanError, match="other prompts"):
        write_spans(tmp_path / "no.json", pairs, plies([3, 2]))
    with pytest.raises(PairsError, match="other prompts"):
        pairs.examples(plies([3, 2]))
    assert not (tmp_path / "no.json").exists()


@pytest.mark.parametrize(
    ("header", "spans", "said"),
    [
        ({}, "the 0 3", "prompt 1: spans is 'the 0 3', not a list"),
        ({}, [["the", 0]], r"prompt 1: spans holds \['the', 0\], not \[name, start, end\]"),
        ({}, [["the", 0, 2.5]], r"not \[name, start, end\]"),
        ({}, [[3, 0, 2]], r"not \[name, start, end\]"),
        ({"unit": "words"}, [["the", 0, 2]], "the unit of spans is 'words': choose tokens or characters"),
        ({"names": "the"}, [["the", 0, 2]], "the names of spans are 'the', not a list of texts"),
        ({"version": 2}, [["the", 0, 2]], "kibitz-spans of version 2, and this reads kibitz-spans of version 1"),
        ({"format": "other"}, [["the", 0, 2]], "other of version 1, and this reads"),
    ],
)
def test_a_broken_spans_json_is_a_file_error(tmp_path, header, spans, said):
    file = tmp_path / "spans.json"
    whole = {"format": "kibitz-spans", "version": 1, **header, "prompts": [{"clean": "The boys", "spans": spans}]}
    file.write_text(json.dumps(whole))
    with pytest.raises(FileError, match=said) as refused:
        given_spans(read_pairs(file, word_tokenizer()))
    assert "spans.json" in str(refused.value)
    file.write_text(json.dumps(whole)[:-9])
    with pytest.raises(FileError, match="spans.json: neither JSON nor JSON Lines"):
        read_pairs(file, word_tokenizer())


def test_agreement_data_has_meaningful_spans(shared):
    """The span `subject` is what the pair changes, and nothing else is, however many tokens the nouns have."""
    lengths = set()
    for name, pattern in AGREEMENT.items():
        file = shared / "data" / "agreement" / f"{name}_test.json"
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        answers = [row["clean_answer"] for row in rows] * 9
        tokenizer = byte_tokenizer([row["clean_prefix"] for row in rows] + answers, size=360)
        pairs = read_pairs(file, tokenizer, Reading(unequal="skip"))
        assert len(pairs) + pairs.skipped["prompts of unequal length"] == len(rows)
        schema = pairs.cut(template(pattern))
        rule = words([p.text for p in pairs.clean], [p.text for p in pairs.patch])
        assert torch.equal(schema.starts, pairs.cut(rule).starts)
        subject = schema.names.index("subject")
        assert pairs.cut(rule).names[subject] == "changed"
        examples = pairs.examples(schema)
        where = (examples.clean != examples.patch).nonzero(as_tuple=True)
        assert set(examples.places.index[where].tolist()) == {subject}
        lengths |= set(schema.starts.diff(dim=1)[:, subject].tolist())
    assert len(lengths) > 2


def test_effects_summed_over_spans_are_those_of_each_example_alone(tmp_path):
    tokenizer = word_tokenizer()
    pairs = read_pairs(lines(tmp_path / "all", ROWS), tokenizer)
    schema = pairs.cut(NOUNPP)
    examples = pairs.examples(schema)
    assert examples.lengths.tolist() == [6, 7]
    model = small_model()
    dictionaries = dictionaries_for(model)
    effects = node_effects(model, dictionaries, examples, LogitDifference(), steps=3)
    for i, row in enumerate(ROWS):
        alone = read_pairs(lines(tmp_path / str(i), [row]), tokenizer).examples()
        own = node_effects(model, dictionaries, alone, LogitDifference(), steps=3)
        for site in dictionaries:
            sums = effects[site].at_places(examples.grouped, 24).joined()[i]
            for j in range(len(schema.names)):
                start, end = schema.starts[i, j : j + 2].tolist()
                expected = own[site].dense(24).joined()[0, start:end].sum(0)
                torch.testing.assert_close(sums[j], expected, rtol=0, atol=1e-12)


def test_the_example_of_the_documentation_runs(tmp_path, monkeypatch, capsys):
    text = (Path(__file__).parents[2] / "docs" / "spans.md").read_text()
    monkeypatch.chdir(tmp_path)
    exec(text.split("```python\n")[1].split("```")[0], {})
    assert capsys.readouterr().out == "('bos', 'the', 'subject', 'near', 'the_2', 'place')\n"
