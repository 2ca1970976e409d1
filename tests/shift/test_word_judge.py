"""The word judge tells features that fire on the words of one list from all others, and SHIFT then repairs the task."""

import pytest
import torch

from saes.architectures import ReLUConfig, ReLUDictionary
from saes.families import find_site
from shift.baselines.tokens import METHODS as TOKENS
from shift.candidates import Candidate
from shift.cards import Card
from shift.judge import JudgeError
from shift.methods import CORE
from shift.preparing import prepare
from shift.scoring import judge_all, open_contest, run_methods
from shift.tasks.tables import naming_rows, text_task
from shift.tasks.text_specs import TextTaskSpec
from shift.word_judge import WordJudge
from tests.saes.models_for_tests import tiny
from tests.shift.text_tables_for_tests import BAD, CATS, DOGS, GOOD, tokenizer, write_table

TOKENIZER = tokenizer()
LEVELS = {"bad": (BAD, 1.0), "good": (GOOD, 1.0), "dog": (DOGS, 3.0), "cat": (CATS, 3.0), "pet": (CATS + DOGS, 1.0)}


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """An embedding whose axes say which kind of word a token is, a model that adds nothing, the true dictionary."""
    model = tiny("gpt2", 1)
    ids = {kind: TOKENIZER.convert_tokens_to_ids(list(words)) for kind, (words, _) in LEVELS.items()}
    embedding = 0.02 * torch.randn(97, 16, generator=torch.Generator().manual_seed(0))
    for axis, (kind, (_, level)) in enumerate(LEVELS.items()):
        embedding[ids[kind], axis] += level
    with torch.no_grad():
        model.transformer.wte.weight.copy_(embedding)
        for parameter in (model.transformer.wpe.weight, *model.transformer.h[0].attn.c_proj.parameters()):
            parameter.zero_()
        for parameter in model.transformer.h[0].mlp.c_proj.parameters():
            parameter.zero_()
    sites = [find_site(model, "embed"), find_site(model, "resid_0")]
    dictionaries = {}
    for site in sites:
        dictionaries[site] = ReLUDictionary(ReLUConfig(16, 16), [site]).requires_grad_(False)
        for weight in (dictionaries[site].W_dec, dictionaries[site].W_enc):
            weight.copy_(torch.eye(16))
    spec = TextTaskSpec(
        str(write_table(tmp_path_factory.mktemp("planted") / "t.csv")),
        label="mood",
        label_values=("good", "bad"),
        attribute_words=(CATS, DOGS),
        site="resid_0",
        train=160,
        test=40,
        cell=40,
    )
    return model, dictionaries, spec


def make_judge(planted, candidates, **given) -> WordJudge:
    model, dictionaries, spec = planted
    return WordJudge(model, dictionaries, candidates, spec, TOKENIZER, naming_rows(spec), **given)


def test_it_trims_one_list_and_keeps_the_rest(planted):
    site = find_site(planted[0], "resid_0")
    candidates = [Candidate(site, axis, -1.0) for axis in range(len(LEVELS))]
    judge = make_judge(planted, candidates)
    verdicts = {kind: judge(Card((c,))).verdict for kind, c in zip(LEVELS, candidates, strict=True)}
    assert verdicts == {"bad": "keep", "good": "keep", "dog": "trim", "cat": "trim", "pet": "keep"}
    seen = judge.activity["resid_0", 2]
    assert seen.yes == pytest.approx(3.0, abs=0.1) and seen.no < 0.1 and seen.rest < 0.1
    with pytest.raises(JudgeError, match="none of the candidates"):
        judge(Card((Candidate(site, 9, -1.0),)))


def test_shift_on_a_table_from_end_to_end(planted, tmp_path):
    model, dictionaries, spec = planted
    task = text_task(spec, find_site(model, "resid_0"), TOKENIZER)
    prepared = prepare(model, dictionaries, task, candidates=10, examples=40, steps=3, progress=False)
    judge = make_judge(planted, prepared.candidates)
    frozen = judge_all(prepared, judge, tmp_path / "judgements.jsonl", task)
    assert set(frozen.trimmed()["resid_0"]) >= {2, 3}
    contest = open_contest(model, dictionaries, task, prepared, frozen, examples=20, steps=2, progress=False)
    wanted = {"words_deleted", "words_deleted_retrained"}
    outcome = run_methods(contest, [*CORE, *(m for m in TOKENS if m.name in wanted)])
    assert outcome["original"].worst_group < 0.5 < 0.9 < outcome["oracle"].worst_group
    for name in ("shift_retrained", "words_deleted_retrained"):
        assert outcome[name].worst_group > 0.9


def test_what_it_cannot_judge_by(planted):
    site = find_site(planted[0], "resid_0")
    for given, message in (
        ({"ratio": 0.5}, "at least 1"),
        ({"words": ((), ("a",))}, "attribute is a column"),
        ({"words": (CATS, ("zebra",))}, "has a word that tells yes"),
    ):
        with pytest.raises(JudgeError, match=message):
            make_judge(planted, [Candidate(site, 0, -1.0)], **given)
