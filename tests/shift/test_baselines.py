"""Every baseline on a planted confound: which of them repair the classifier is known, and what each may look at."""

from collections import Counter
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from saes.dictionary import IdentityDictionary
from shift.baselines import ALL
from shift.baselines.concept_bottleneck import keyword_concepts
from shift.baselines.heads import GROUP
from shift.baselines.neurons import CentredNeurons
from shift.baselines.tokens import judged_at_tokens, spurious_at_tokens, token_eraser, token_sites
from shift.contest import Contest
from shift.judge import JudgeError
from shift.methods import CORE, Method
from shift.probe import readout
from shift.scoring import run_methods
from shift.task import Balanced, BalancedSplits
from tests.shift.planted_for_tests import INTENDED, SPURIOUS, WIDTH, Planted

SPURIOUS_BIT = 2  # of the token


def without_the_bit(tokens, position):
    return tokens & ~SPURIOUS_BIT, position


def bits(tokens, position):
    """Two tables: one of noise, one that holds the spurious bit among others."""
    last = tokens[torch.arange(len(tokens)), position]
    table = torch.stack([last // 2**k % 2 for k in range(6)], 1).float()
    return table[:, 2:], table[:, 1:]


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    return Planted(tmp_path_factory.mktemp("planted"))


@pytest.fixture(scope="module")
def contest(planted) -> Contest:
    """With everything that any method asks for."""
    concepts = torch.zeros(2, WIDTH)
    concepts[0, INTENDED], concepts[1, 5] = 1, 1
    made = planted.contest(concepts=concepts)
    return replace(made, task=replace(made.task, deleted=without_the_bit, token_local=bits))


@pytest.fixture(scope="module")
def result(contest):
    return run_methods(contest, ALL)


def test_names_differ_and_the_core_is_among_them():
    assert max(Counter(m.name for m in ALL).values()) == 1 == max(Counter(m.title for m in ALL).values())
    assert set(CORE) <= set(ALL)


def test_everything_runs_where_a_contest_has_everything(result):
    assert [row.name for row in result.rows] == [m.name for m in ALL]
    assert all(row.runs for row in result.rows)


@pytest.mark.parametrize(
    "name",
    [
        *("shift", "shift_retrained", "oracle", "feature_skyline", "neuron_skyline", "neuron_skyline_mean"),
        *("leace", "leace_retrained", "intended_probe", "last_layer", "concept_bottleneck", "scr_at_budget"),
        *("token_sites", "token_sites_retrained", "token_sites_full", "token_sites_full_retrained"),
        *("tokens_erased", "tokens_erased_retrained"),
    ],
)
def test_what_repairs_a_cue_that_is_a_word(result, name):
    assert result[name].worst_group > 0.95
    assert result[name].runs[0].spurious_accuracy == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("name", ["original", "random", "random_retrained"])
def test_what_does_not_repair_it(result, name):
    assert result[name].worst_group < 0.75


def test_deleted_words_blind_the_old_head_and_serve_a_new_one(result):
    assert result["words_deleted"].runs[0].spurious_accuracy == pytest.approx(0.5, abs=0.05)
    no, yes = result["words_deleted"].runs[0].accuracy
    assert no.min() > 0.99 and yes.max() < 0.6  # all prompts now look as if they had no cue, and it leans to "no"
    assert result["words_deleted_retrained"].worst_group > 0.95


def test_methods_are_left_out_where_they_have_nothing_to_work_with(planted):
    bare = planted.task
    without = replace(Planted.contest(Planted(planted.path.parent / "bare")), labelled=None)
    assert without.task.name == bare.name
    names = {m.name for m in ALL if m.applies(without)}
    assert names >= {"original", "shift", "oracle", "token_sites", "neuron_skyline", "scr_at_budget"}
    assert not names & {"leace", "intended_probe", "last_layer", "token_sites_full", "tokens_erased"}
    assert not names & {"concept_bottleneck", "words_deleted", "words_deleted_retrained"}
    with pytest.raises(JudgeError, match="no labelled prompts"):
        _ = without.seen_labelled


class TestTokens:
    def test_sites_before_the_second_block(self, contest):
        assert [s.name for s in token_sites(contest)] == ["embed", "attn_0", "mlp_0", "resid_0"]
        some = {s: d for s, d in contest.dictionaries.items() if s.name in ("embed", "mlp_0")}
        assert [s.name for s in token_sites(replace(contest, dictionaries=some))] == ["embed", "mlp_0"]

    def test_budgets(self, contest):
        judged, full = judged_at_tokens(contest), spurious_at_tokens(contest)
        assert judged == contest.trimmed  # one block: everything stands before the second
        assert sum(map(len, full.values())) <= contest.budget
        assert all(f % WIDTH == SPURIOUS for index in full.values() for f in index[:1])

    def test_no_erasing_of_what_only_the_labels_tell(self, contest):
        """Tables of noise cannot predict the label of prompts that their fit has not seen, so nothing is erased."""

        def noise(tokens, position):
            return (torch.randn(len(tokens), 400, generator=torch.Generator().manual_seed(0)),)

        blind = replace(contest, task=replace(contest.task, token_local=noise))
        erase = token_eraser(blind)
        x = blind.seen_test
        assert float((erase(x) - x)[:, SPURIOUS].abs().mean() / x[:, SPURIOUS].abs().mean()) < 0.2
        gone = token_eraser(contest)(x)
        rate = contest.opened.test.spurious
        assert abs(float(gone[rate, SPURIOUS].mean() - gone[~rate, SPURIOUS].mean())) < 0.5  # 6 before


class TestNeurons:
    def test_centred_neurons_at_zero_are_the_mean(self, contest):
        site = contest.task.site
        x, mean = torch.randn(5, WIDTH), torch.randn(WIDTH)
        neurons = CentredNeurons(site, mean)
        assert torch.allclose(neurons.decode(neurons.encode(x)), x, atol=1e-6)
        assert torch.equal(neurons.decode(torch.zeros(WIDTH)), mean)
        assert not torch.equal(IdentityDictionary(site, WIDTH).decode(torch.zeros(WIDTH)), mean)


def test_keyword_concepts_are_centred_activations_at_the_last_token(contest):
    words = torch.tensor([[3, 0], [5, 7], [9, 1]])
    last = torch.tensor([0, 1, 1])
    found = keyword_concepts(contest.model, contest.task.site, words, last)
    rows = readout(contest.model, contest.task.reading, words, last)
    assert torch.allclose(found, rows - rows.mean(0)) and found.mean(0).abs().max() < 1e-6


def test_group_balanced_rows_of_labelled_prompts(contest):
    known = contest.known
    rows = known.equal_rows(3, most=GROUP)
    cells = (2 * known.intended[rows].long() + known.spurious[rows].long()).bincount()
    assert cells.tolist() == [GROUP] * 4 and len(rows.unique()) == len(rows)
    assert not torch.equal(rows, known.equal_rows(4, most=GROUP))


class Untouchable(BalancedSplits):
    """Balanced data of which the training half may not be looked at."""

    def __getattribute__(self, name):
        if name == "train":
            raise AssertionError("a method that may not touched balanced training prompts")
        return super().__getattribute__(name)


class Guarded(Balanced):
    """Balanced prompts whose labels only `answered` may read."""

    def __getattribute__(self, name):
        if name in ("intended", "spurious") and not Referee.scoring:
            raise AssertionError(f"a method looked at the {name} labels of the test")
        return super().__getattribute__(name)


class Referee(Contest):
    """Scores answers, and nothing else may see the labels of the test."""

    scoring = False

    def answered(self, answers):
        Referee.scoring = True
        try:
            return super().answered(answers)
        finally:
            Referee.scoring = False


@pytest.mark.parametrize("method", ALL, ids=lambda m: m.name)
def test_nothing_looks_at_labels_that_it_does_not_declare(contest, result, method: Method):
    splits = contest.opened
    test = Guarded(*(getattr(splits.test, f.name) for f in fields(Balanced)))
    allowed = method.labels == "balanced"
    opened = BalancedSplits(splits.train, test) if allowed else Untouchable(splits.train, test)
    labelled = contest.labelled if method.labels == "labelled" else None
    given = {f.name: getattr(contest, f.name) for f in fields(Contest)} | {"opened": opened, "labelled": labelled}
    runs = method.run(Referee(**given))
    assert not Referee.scoring
    for run, known in zip(runs, result[method.name].runs, strict=True):
        assert np.array_equal(run.accuracy, known.accuracy)  # and it is the same without what it may not see


def test_the_guard_guards(contest):
    guarded = Guarded(*(getattr(contest.opened.test, f.name) for f in fields(Balanced)))
    with pytest.raises(AssertionError, match="spurious labels of the test"):
        _ = guarded.spurious
    with pytest.raises(AssertionError, match="balanced training prompts"):
        _ = Untouchable(contest.opened.train, guarded).train


def test_budgets_hold(contest, monkeypatch):
    """No method ablates more features than were trimmed."""
    seen: list[int] = []
    edits = Contest.edits

    def counted(self, features):
        seen.append(sum(map(len, features.values())))
        return edits(self, features)

    monkeypatch.setattr(Contest, "edits", counted)
    run_methods(contest, [m for m in ALL if m.name.startswith(("random", "token_sites", "scr", "feature"))])
    assert seen and max(seen) <= contest.budget
