"""SHIFT repairs a planted confound, and nothing can look at the balanced labels before the freeze."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from boardgames.matching import Match
from saes.architectures import ReLUConfig, ReLUDictionary
from saes.families import circuit_sites, find_site
from shift.judge import ConceptOracle
from shift.judgements import Frozen, Judgement, JudgementError, JudgementLog
from shift.report import judge_all, outcome, prepare
from shift.task import Ambiguous, Balanced, BalancedSplits, Sealed, SealError, ShiftTask

INTENDED, SPURIOUS = 0, 1  # coordinates of the embedding that hold the two properties


@pytest.fixture
def planted(tmp_path):
    """Tokens are (intended, spurious, nuisance) triples, embedded as such; the dictionary is true."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=64, n_positions=2, n_embd=16, n_layer=1, n_head=1, bos_token_id=None, eos_token_id=None
    )
    model = GPT2LMHeadModel(config).eval().requires_grad_(False)
    token = torch.arange(64)
    intended, spurious = token % 2 == 1, token // 2 % 2 == 1
    embedding = 0.1 * torch.randn(64, 16)
    embedding[:, INTENDED], embedding[:, SPURIOUS] = intended * 2.0 - 1, spurious * 6.0 - 3
    model.transformer.wte.weight.copy_(embedding)
    model.transformer.wpe.weight.zero_()
    for module in (model.transformer.h[0].attn.c_proj, model.transformer.h[0].mlp.c_proj):
        module.weight.zero_()
    dictionaries = {}
    for site in circuit_sites(model):
        d = ReLUDictionary(ReLUConfig(16, 32), [site])
        d.W_dec.data = torch.cat([torch.eye(16), -torch.eye(16)])
        d.W_enc.data = d.W_dec.data.clone()
        dictionaries[site] = d.requires_grad_(False)
    opened = []

    def draw(agree: bool, seed: int):
        rows = torch.randint(64, (4000,), generator=torch.Generator().manual_seed(seed))
        rows = rows[intended[rows] == spurious[rows]] if agree else rows
        tokens = rows[:, None].repeat(1, 2)
        return tokens, torch.ones(len(rows), dtype=torch.long), intended[rows], spurious[rows]

    def generate():
        opened.append(True)
        return BalancedSplits(Balanced(*draw(False, 3)), Balanced(*draw(False, 4)))

    task = ShiftTask(
        "planted", "intended", "spurious", find_site(model, "resid_0"),
        Ambiguous(*draw(True, 1)[:3]), Ambiguous(*draw(True, 2)[:3]), Sealed("planted", generate),
    )  # fmt: skip
    return model, dictionaries, task, opened, tmp_path / "judgements.jsonl"


def oracle(dictionaries) -> ConceptOracle:
    def match(feature: int) -> Match:
        square = {INTENDED: "a", SPURIOUS: "b"}.get(feature % 16, "")
        return Match(f"about {square}", square, 1.0, 1.0, 1.0, 0, 0.5)

    return ConceptOracle({(s.name, f): match(f) for s in dictionaries for f in range(32)}, {"a"}, {"b"})


def test_a_planted_confound_is_repaired(planted):
    model, dictionaries, task, opened, path = planted
    prepared = prepare(model, dictionaries, task, candidates=12, examples=40, steps=3, progress=False)
    assert prepared.ambiguous_accuracy > 0.99
    frozen = judge_all(prepared, oracle(dictionaries), path, task)
    assert not opened  # the balanced set does not exist yet
    result = outcome(model, dictionaries, task, prepared, frozen, examples=40, steps=3, progress=False)
    assert opened
    assert result.before.worst_group < 0.6  # both coordinates tell the label, so the head leans on both
    assert result.after.worst_group > 0.95
    assert result.retrained.worst_group > 0.95
    assert result.after.spurious_accuracy == pytest.approx(0.5, abs=0.05)
    assert result.skyline.worst_group > 0.9
    assert np.mean([cells.worst_group for cells in result.random]) < 0.8
    assert result.trimmed >= 2


def test_without_verdicts_nothing_changes(planted):
    model, dictionaries, task, _, path = planted
    prepared = prepare(model, dictionaries, task, candidates=5, examples=20, steps=2, progress=False)
    frozen = JudgementLog(path, task.name).freeze()
    result = outcome(model, dictionaries, task, prepared, frozen, examples=20, steps=2, progress=False)
    assert result.trimmed == 0
    assert (result.after.accuracy == result.before.accuracy).all()


class TestSeal:
    def test_nothing_but_a_frozen_file_opens_it(self, planted):
        _, _, task, opened, path = planted
        with pytest.raises(SealError, match="frozen"):
            task.balanced.open(None, "curious")
        log = JudgementLog(path, task.name)
        with pytest.raises(JudgementError, match="not frozen"):
            task.balanced.open(Frozen(path, task.name, (), "0" * 64), "forged")
        frozen = log.freeze()
        with pytest.raises(SealError):
            task.balanced.open(dataclasses.replace(frozen, judgements=(_judgement(),)), "forged")
        assert not opened
        task.balanced.open(frozen, "scoring")
        assert json.loads(path.read_text().splitlines()[-1])["kind"] == "unsealed"

    def test_of_another_task(self, planted):
        _, _, task, opened, path = planted
        with pytest.raises(SealError, match="another"):
            task.balanced.open(JudgementLog(path, "another").freeze(), "mistake")
        assert not opened

    def test_a_changed_judgement_is_noticed(self, planted):
        _, _, task, opened, path = planted
        log = JudgementLog(path, task.name)
        log.add(_judgement())
        frozen = log.freeze()
        path.write_text(path.read_text().replace('"keep"', '"trim"'))
        with pytest.raises(JudgementError, match="changed"):
            task.balanced.open(frozen, "scoring")
        assert not opened

    def test_frozen_means_frozen(self, planted):
        *_, path = planted
        log = JudgementLog(path, "planted")
        log.freeze()
        with pytest.raises(JudgementError, match="frozen"):
            log.add(_judgement())
        with pytest.raises(JudgementError, match="frozen"):
            JudgementLog(path, "planted")


def test_the_latest_verdict_of_a_rater_counts(tmp_path):
    log = JudgementLog(tmp_path / "j.jsonl", "t")
    log.add(_judgement())
    log.add(dataclasses.replace(_judgement(), verdict="trim"))
    log.add(dataclasses.replace(_judgement(), feature=8))
    assert log.freeze().trimmed() == {"resid_0": [7]}


def _judgement() -> Judgement:
    return Judgement("resid_0", 7, -0.5, "keep", "looks fine", "me")
