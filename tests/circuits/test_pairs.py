"""Pairs from the files of four tools: what is read, what is refused with which words, what is left out and counted."""

import csv
import json
import logging

import pytest
import torch

from circuits.attribution import node_effects
from circuits.metrics import LogitDifference, MaskMass, measure
from circuits.pair_set import PairsError
from circuits.pairs import Reading, greater_than, load_pairs, read_pairs
from circuits.prompts import PromptError
from saes.files import FileError
from tests.circuits.small import dictionaries_for, small_model
from tests.circuits.tokenizers_for_tests import WORDS, byte_tokenizer, sentencepiece_tokenizer, word_tokenizer

IDS = {word: i for i, word in enumerate(["<unk>", "<bos>", *WORDS])}
ROWS = [
    {"clean_prefix": "The boys", "patch_prefix": "The boy", "clean_answer": " are", "patch_answer": " is", "case": "p"},
    {
        "clean_prefix": "The girl near the cars",
        "patch_prefix": "The girls near the cars",
        "clean_answer": " is",
        "patch_answer": " are",
        "case": "s",
    },
]


def ids(text):
    return [IDS[word] for word in text.split()]


def lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def table(path, rows, delimiter=","):
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_json_lines_become_padded_examples_that_explain_patch_minus_clean(tmp_path):
    examples = load_pairs(lines(tmp_path / "data.json", ROWS), word_tokenizer())
    assert examples.clean.tolist() == [[1, *ids("The boys"), 0, 0, 0], [1, *ids("The girl near the cars")]]
    assert examples.patch.tolist() == [[1, *ids("The boy"), 0, 0, 0], [1, *ids("The girls near the cars")]]
    assert examples.lengths.tolist() == [3, 6] and examples.position.tolist() == [2, 5]
    assert examples.fields["answer"].tolist() == ids("is are")  # of the patch prompts
    assert examples.fields["other"].tolist() == ids("are is")
    logits = torch.randn(2, 23)
    expected = logits[[0, 1], ids("is are")] - logits[[0, 1], ids("are is")]
    assert torch.equal(LogitDifference()(logits, examples), expected)


def test_the_clean_answer_can_be_explained_instead(tmp_path):
    examples = load_pairs(lines(tmp_path / "data", ROWS), word_tokenizer(), explain="clean")
    assert examples.fields["answer"].tolist() == ids("are is")
    assert examples.fields["other"].tolist() == ids("is are")


def forms(tmp_path):
    """The same two pairs in every format, all in files of one misleading name."""
    pairs = [(r["clean_prefix"], r["patch_prefix"], r["clean_answer"], r["patch_answer"]) for r in ROWS]
    auto = [{"clean": c, "corrupt": p, "answers": [a], "wrong_answers": [b]} for c, p, a, b in pairs]
    eap = [
        {"": i, "clean": c, "corrupted": p, "correct_idx": IDS[a.strip()], "incorrect_idx": IDS[b.strip()]}
        for i, (c, p, a, b) in enumerate(pairs)
    ]
    peap = [{"prompt": c, "counter": p, "correct_token": a, "wrong_token": b, "length": 9} for c, p, a, b in pairs]
    rows = {name: tmp_path / name / "data.txt" for name in ("lines", "list", "auto", "eap", "tabs", "peap")}
    for path in rows.values():
        path.parent.mkdir()
    lines(rows["lines"], ROWS)
    rows["list"].write_text(json.dumps(ROWS))
    rows["auto"].write_text("\ufeff" + json.dumps({"seq_labels": ["a"], "prompts": auto}, indent=1))
    table(rows["eap"], eap)
    table(rows["tabs"], eap, "\t")
    table(rows["peap"], peap)
    return rows


def test_every_format_gives_the_same_examples_whatever_the_file_is_called(tmp_path):
    made = {name: load_pairs(path, word_tokenizer()) for name, path in forms(tmp_path).items()}
    first = made.pop("lines")
    for name, other in made.items():
        assert torch.equal(other.clean, first.clean) and torch.equal(other.patch, first.patch), name
        assert {k: v.tolist() for k, v in other.fields.items()} == {k: v.tolist() for k, v in first.fields.items()}


def test_bos_is_put_in_once_where_the_tokenizer_has_one_unless_told_otherwise(tmp_path):
    file = lines(
        tmp_path / "data", [{"clean": "<bos> The boys", "answer": "are"}, {"clean": "The boys", "answer": "are"}]
    )
    whole = [1, *ids("The boys")]
    assert [list(p.tokens) for p in read_pairs(file, word_tokenizer()).clean] == [whole, whole]
    without = read_pairs(file, word_tokenizer(), Reading(bos=False)).clean
    assert [list(p.tokens) for p in without] == [whole, whole[1:]] and [p.bos for p in without] == [True, False]
    plain = lines(tmp_path / "plain", [{"clean": "The boys", "answer": "are"}])
    assert list(read_pairs(plain, word_tokenizer(bos=False)).clean[0].tokens) == whole[1:]
    with pytest.raises(PromptError, match="this tokenizer has none"):
        read_pairs(plain, word_tokenizer(bos=False), Reading(bos=True))


def test_prompts_without_a_counterfactual_are_single(tmp_path):
    file = lines(
        tmp_path / "data", [{"prompt": "The boys", "answer": " are"}, {"prompt": "The big girl", "answer": " is"}]
    )
    examples = load_pairs(file, word_tokenizer())
    assert examples.patch is None and set(examples.fields) == {"answer"}
    assert examples.fields["answer"].tolist() == ids("are is")
    mixed = lines(tmp_path / "mixed", [{"clean": "The boys", "patch": "The boy"}, {"clean": "The boys", "patch": None}])
    with pytest.raises(PairsError, match="line 2: patch is None"):
        load_pairs(mixed, word_tokenizer())


def test_token_ids_need_no_tokenizer(tmp_path):
    file = lines(tmp_path / "d", [{"clean": [3, 4, 5], "patch": [3, 9, 5], "clean_answer": 7, "patch_answer": [8]}])
    examples = load_pairs(file, None)
    assert examples.clean.tolist() == [[3, 4, 5]] and examples.patch.tolist() == [[3, 9, 5]]
    assert examples.fields["answer"].tolist() == [8] and examples.fields["other"].tolist() == [7]
    text = lines(tmp_path / "t", [{"clean": "The boys"}])
    with pytest.raises(PairsError, match="text, which needs a tokenizer"):
        load_pairs(text, None)


def test_an_answer_is_the_token_that_stands_behind_the_prompt(tmp_path):
    """SentencePiece puts a space in front of " are" by itself: alone that is two tokens, behind the prompt one."""
    tokenizer = sentencepiece_tokenizer(["The boys are", "The boy is"])
    assert len(tokenizer(" are", add_special_tokens=False)["input_ids"]) > 1
    examples = load_pairs(lines(tmp_path / "data", ROWS[:1]), tokenizer)
    assert tokenizer.convert_ids_to_tokens(examples.fields["other"].tolist()) == ["▁are"]
    # behind a space there is no token " are": the answer keeps its own
    spaced = byte_tokenizer(["The boys are", "are"])
    file = lines(tmp_path / "spaced", [{"clean": "The boys ", "answer": "are"}])
    answer = load_pairs(file, spaced).fields["answer"].tolist()
    assert answer == spaced("are", add_special_tokens=False)["input_ids"]


def test_answers_of_several_tokens_are_refused_by_name_or_left_out_and_counted(tmp_path, caplog):
    tokenizer = byte_tokenizer(["The boy boys are is", "The boys"])
    odd = {**ROWS[0], "patch_answer": " walks"}
    file = lines(tmp_path / "data", [ROWS[0], odd])
    pieces = tokenizer.convert_ids_to_tokens(tokenizer(" walks", add_special_tokens=False)["input_ids"])
    with pytest.raises(PairsError) as refused:
        load_pairs(file, tokenizer)
    assert f"{file}, line 2: the answer ' walks' is {len(pieces)} tokens" in str(refused.value)
    assert repr(pieces[0]) in str(refused.value) and "long_answers='skip'" in str(refused.value)
    pairs = read_pairs(file, tokenizer, Reading(long_answers="skip"))
    assert len(pairs) == 1 and pairs.skipped == {"answers of several tokens": 1}
    with caplog.at_level(logging.WARNING):
        assert len(load_pairs(file, tokenizer, Reading(long_answers="skip"))) == 1
    assert "left out 1 with answers of several tokens" in caplog.text


def test_pairs_of_unequal_length_are_refused_with_both_lengths_or_left_out_and_counted(tmp_path):
    uneven = {**ROWS[0], "patch_prefix": "The big boy"}
    file = lines(tmp_path / "data", [*ROWS, uneven, uneven])
    with pytest.raises(PairsError, match=r"line 3: the clean prompt has 3 tokens and the patch prompt 4.*'skip'"):
        load_pairs(file, word_tokenizer())
    pairs = read_pairs(file, word_tokenizer(), Reading(unequal="skip"))
    assert len(pairs) == 2 and pairs.skipped == {"prompts of unequal length": 2}
    with pytest.raises(PairsError, match="no pair is left: 2 with prompts of unequal length"):
        read_pairs(lines(tmp_path / "none", [uneven, uneven]), word_tokenizer(), Reading(unequal="skip"))


def test_several_answers_are_refused_or_one_is_taken_or_they_are_masks(tmp_path):
    row = {"clean": "The boys", "corrupt": "The boy", "answers": [" are", " that"], "wrong_answers": [" is"]}
    file = tmp_path / "data"
    file.write_text(json.dumps({"prompts": [row]}))
    with pytest.raises(PairsError, match=r"2 answers to the clean prompt.*several='first'"):
        load_pairs(file, word_tokenizer())
    assert load_pairs(file, word_tokenizer(), several="first").fields["other"].tolist() == ids("are")
    masks = load_pairs(file, word_tokenizer(), several="mask", vocabulary=23, explain="clean")
    assert masks.fields["tokens"].nonzero().tolist() == [[0, i] for i in sorted(ids("are that"))]
    assert masks.fields["others"].nonzero().tolist() == [[0, i] for i in ids("is")]
    logits = torch.randn(1, 23, dtype=torch.float64)
    mass = logits.softmax(-1)[0, ids("are that")].sum()
    assert torch.allclose(MaskMass()(logits, masks), (mass / (1 - mass)).log())


def test_greater_than_has_its_answers_from_the_label(tmp_path):
    tokenizer = byte_tokenizer([f"{n:02}" for n in range(100)])
    rows = [{"clean": "from 1797 to 17", "corrupted": "from 1701 to 17", "label": 97}]
    file = table(tmp_path / "data", rows)
    pairs = read_pairs(file, tokenizer, answers=greater_than)
    assert pairs.pairs[0].asked == (("98", "99"), tuple(f"{n:02}" for n in range(98)))
    assert tokenizer.convert_ids_to_tokens(list(pairs.pairs[0].clean_answers)) == ["98", "99"]
    assert pairs.examples(several="mask").fields["tokens"].sum() == 98
    with pytest.raises(PairsError, match="needs a column `label`"):
        read_pairs(lines(tmp_path / "rows", ROWS), word_tokenizer(), answers=greater_than)


def test_counterfactuals_can_stand_in_a_second_file_row_by_row(tmp_path):
    answers = [{"correct_token": r["clean_answer"], "wrong_token": r["patch_answer"]} for r in ROWS]
    one = table(tmp_path / "a.csv", [{"prompt": r["clean_prefix"], **a} for r, a in zip(ROWS, answers, strict=True)])
    two = table(tmp_path / "b.csv", [{"prompt": r["patch_prefix"], **a} for r, a in zip(ROWS, answers, strict=True)])
    both = load_pairs(one, word_tokenizer(), counterfactuals=two)
    whole = load_pairs(lines(tmp_path / "c", ROWS), word_tokenizer())
    assert torch.equal(both.patch, whole.patch) and torch.equal(both.fields["answer"], whole.fields["answer"])
    short = table(tmp_path / "s.csv", [{"prompt": "The boy"}])
    with pytest.raises(PairsError, match=r"1 prompts, but .*a\.csv has 2"):
        load_pairs(one, word_tokenizer(), counterfactuals=short)


def test_columns_of_other_names_are_told(tmp_path):
    file = table(tmp_path / "d", [{"clean": "The boys", "corrupted": "The boy", "corrupted_hard": "The girl"}])
    pairs = read_pairs(file, word_tokenizer(), Reading(columns={"patch": "corrupted_hard"}))
    assert pairs.patch[0].text == "The girl"
    assert pairs.examples().fields == {}  # a metric such as KL needs none
    with pytest.raises(PairsError, match="no column 'hard' for patch; there are: clean, corrupted, corrupted_hard"):
        read_pairs(file, word_tokenizer(), Reading(columns={"patch": "hard"}))
    with pytest.raises(PairsError, match="columns: wrong is none of clean, patch"):
        Reading(columns={"wrong": "corrupted"})
    two = table(tmp_path / "two", [{"clean": "The boys", "prompt": "The boy"}])
    with pytest.raises(PairsError, match="clean and prompt could both hold clean"):
        read_pairs(two, word_tokenizer())


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "is empty"),
        ("{", "neither JSON nor JSON Lines"),
        ('{"clean": "The boys"}\n{"clean": "The', "line 2: not JSON"),
        ('{"clean": "The boys"}\n[1]', "line 2: list, not an object"),
        ('{"prompts": 3}', "a list of objects"),
        ('{"prompts": []}', "holds no prompt"),
        ("clean,patch\nThe boys", "line 2: 1 columns, but the first line has 2"),
        ("clean,patch\nThe boys,The boy,x", "line 2: 3 columns, but the first line has 2"),
        ('clean,patch\n"The boys,The boy', "damaged behind line 1"),
        ("first,second\n1,2", "no column for the prompts"),
        ('{"clean": 3}', "clean is 3, not a text"),
        ('{"clean": ""}', "clean is '', not a text"),
        ('{"clean": "The boys", "answer": 2.5}', "answer is 2.5, not an answer"),
        ('{"clean": "The boys", "answer": 99}', "token id 99 is outside the vocabulary of 16 tokens"),
        ("clean,correct_idx\nThe boys,x", "correct_idx is 'x', not an answer"),
        (
            '{"clean": "The boys", "patch": "The boy", "answer": "are"}',
            "no answer to the patch prompt.*explain='clean'",
        ),
    ],
)
def test_broken_files_are_told_in_one_sentence(tmp_path, content, said):
    file = tmp_path / "data.json"
    file.write_text(content)
    with pytest.raises(FileError, match=said) as refused:
        load_pairs(file, word_tokenizer())
    assert "data.json" in str(refused.value)


def test_a_missing_file_and_one_that_is_no_text_are_file_errors(tmp_path):
    with pytest.raises(FileError, match="no such file"):
        load_pairs(tmp_path / "none", word_tokenizer())
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00\xd8")
    with pytest.raises(FileError, match="not readable as text"):
        load_pairs(tmp_path / "bytes", word_tokenizer())


def test_the_split_keeps_a_pair_its_copies_and_its_reverse_together_in_any_order(tmp_path):
    rows = [
        {"clean": [i, j], "patch": [j, i], "clean_answer": 1, "patch_answer": answer}
        for i in range(2, 12)
        for j in range(2, 12)
        if i != j
        for answer in (2, 3)
    ]
    pairs = read_pairs(lines(tmp_path / "d", rows), None)
    train, test = pairs.split(0.2, seed=3)
    assert len(train) + len(test) == len(pairs) == 180

    def prompts(some):
        return {frozenset((p.clean.tokens, p.patch.tokens)) for p in some.pairs}

    assert not prompts(train) & prompts(test) and len(prompts(test)) == 9  # a fifth of 45
    backwards = read_pairs(lines(tmp_path / "b", rows[::-1]), None)
    assert prompts(backwards.split(0.2, seed=3)[1]) == prompts(test)
    assert prompts(pairs.split(0.2, seed=4)[1]) != prompts(test)
    assert len(pairs.split(0.0)[1]) == 0 and len(pairs.split(1.0)[0]) == 0
    with pytest.raises(PairsError, match=r"test is 1.5: choose a share"):
        pairs.split(1.5)


def test_pairs_are_chosen_by_their_columns(tmp_path):
    pairs = read_pairs(lines(tmp_path / "d", ROWS), word_tokenizer())
    assert [p.row["case"] for p in pairs.having(case="s").pairs] == ["s"]
    with pytest.raises(PairsError, match="no column 'split'"):
        pairs.having(split="eval")


def test_agreement_data_is_read_whole(shared):
    """Every word a token: nothing is of unequal length, and clean and patch differ in one word."""
    for name, size, count in (("simple_test", 2, 120), ("nounpp_test", 5, 480), ("within_rc_test", 5, 2400)):
        file = shared / "data" / "agreement" / f"{name}.json"
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        words = dict.fromkeys(
            word for row in rows for key, text in row.items() if key != "case" for word in text.split()
        )
        examples = load_pairs(file, word_tokenizer(words=words))
        assert len(examples) == count and set(examples.ends.tolist()) == {size + 1}
        assert ((examples.clean != examples.patch).sum(1) == 1).all()
        assert (examples.fields["answer"] != examples.fields["other"]).all()


def test_effects_on_a_padded_batch_are_those_of_each_example_alone(tmp_path):
    rows = [
        {"clean": "The boys", "patch": "The boy", "clean_answer": "are", "patch_answer": "is"},
        {
            "clean": "The girl near the cars",
            "patch": "The girls near the cars",
            "clean_answer": "is",
            "patch_answer": "are",
        },
        {
            "clean": "The car that the boy",
            "patch": "The car that the boys",
            "clean_answer": "is",
            "patch_answer": "are",
        },
        {"clean": "The big girl", "patch": "The big girls", "clean_answer": "is", "patch_answer": "are"},
    ]
    together = load_pairs(lines(tmp_path / "all", rows), word_tokenizer())
    model = small_model()
    dictionaries = dictionaries_for(model)
    metric = LogitDifference()
    whole = node_effects(model, dictionaries, together, metric, steps=4)
    change = measure(model, metric, together.patch, together) - measure(model, metric, together.clean, together)
    for i, row in enumerate(rows):
        alone = load_pairs(lines(tmp_path / str(i), [row]), word_tokenizer())
        assert alone.clean.shape[1] == together.lengths[i]
        one = node_effects(model, dictionaries, alone, metric, steps=4)
        for site in dictionaries:
            padded = whole[site].dense(24).joined()[i]
            torch.testing.assert_close(
                padded[: together.lengths[i]], one[site].dense(24).joined()[0], rtol=0, atol=1e-12
            )
            assert not padded[together.lengths[i] :].any()
        own = measure(model, metric, alone.patch, alone) - measure(model, metric, alone.clean, alone)
        torch.testing.assert_close(change[i : i + 1], own, rtol=0, atol=1e-12)
