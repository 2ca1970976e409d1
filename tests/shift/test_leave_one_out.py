"""Leaving one part out is a full pass without it, whatever was cached; features at the readout by the slow way."""

from dataclasses import replace

import pytest
import torch

from saes.sites import SiteError, capture, intervene
from shift.at_readout import read_features
from shift.candidates import Candidate
from shift.judgements import JudgementLog
from shift.leave_one_out import (
    judged_parts,
    leave_one_judgement_out,
    leave_one_site_out,
    readout_site_only,
    upstream_only,
)
from shift.reading import Reading
from shift.scoring import open_contest
from shift.verdicts import Judgement
from tests.shift.planted_for_tests import SPURIOUS, WIDTH, Planted

SITE = "resid_0"


@pytest.fixture(scope="module", params=["zero", "mean"])
def judged(request, tmp_path_factory):
    """Two groups and a single feature judged irrelevant by hand, over two sites, pooled behind a first token."""
    folder = tmp_path_factory.mktemp("judged")
    site = Planted(folder).task.site
    planted = Planted(folder, Reading(site, pooled=True, start=1), length=3)
    prepared = planted.contest().prepared
    prepared = replace(prepared, candidates=[*prepared.candidates, Candidate(site, 7, -0.1)])
    log = JudgementLog(folder / "by_hand.jsonl", "planted")
    far = SPURIOUS + WIDTH  # the feature that fires where the property is absent
    for where, feature, effect, item in (
        ("embed", SPURIOUS, -3.0, "1"),
        ("embed", far, -2.0, "1"),
        (SITE, SPURIOUS, -2.0, "2"),
        (SITE, far, -2.5, "2"),
        (SITE, 7, -0.1, "3"),
    ):
        log.add(Judgement(where, feature, effect, "trim", "", "me", item=item))
    log.add(Judgement(SITE, 9, -9.0, "keep", "", "me", item="4"))
    frozen = log.freeze()
    contest = open_contest(
        planted.model, planted.dictionaries, planted.task, prepared, frozen, ablation=request.param, progress=False
    )
    return contest, frozen


def test_parts_are_what_was_judged_together_the_strongest_first(judged):
    contest, frozen = judged
    parts = judged_parts(contest, frozen)
    far = SPURIOUS + WIDTH
    assert [p.features for p in parts] == [
        {"embed": [SPURIOUS, far]},
        {SITE: [SPURIOUS, far]},
        {SITE: [7]},
    ]
    assert parts[0].name == f"embed/{SPURIOUS} and 1 more" and parts[1].name == f"{SITE}/{far} and 1 more"
    fewer = replace(contest, trimmed={SITE: [7, far]})
    assert [p.features for p in judged_parts(fewer, frozen)] == [{SITE: [far]}, {SITE: [7]}]


def test_every_effect_is_that_of_a_full_pass(judged):
    contest, frozen = judged
    found = leave_one_judgement_out(contest, frozen)
    assert len(found) == 3
    for left in found:
        rest = {
            site: [f for f in index if f not in left.part.features.get(site, [])]
            for site, index in contest.trimmed.items()
        }
        full = contest.scored(edits=contest.edits(rest))
        assert (left.cells.accuracy == full.accuracy).all()
        assert left.worst_group == pytest.approx(left.whole.worst_group - full.worst_group)
        assert left.spurious == pytest.approx(full.spurious_accuracy - left.whole.spurious_accuracy)
        assert left.intended == pytest.approx(left.whole.intended_accuracy - full.intended_accuracy)
    assert abs(found[2].worst_group) < 0.05  # it does nothing
    assert len(leave_one_judgement_out(contest, frozen, limit=1)) == 1


def test_sites_and_halves(judged):
    contest, _ = judged
    sites = leave_one_site_out(contest)
    assert [left.part.name for left in sites] == ["embed", SITE]
    assert (sites[0].cells.accuracy == readout_site_only(contest).accuracy).all()
    assert (sites[1].cells.accuracy == upstream_only(contest).accuracy).all()
    assert sites[0].whole.worst_group > 0.95
    nothing = replace(contest, trimmed={"embed": contest.trimmed["embed"]})
    assert (readout_site_only(nothing).accuracy == contest.scored().accuracy).all()


@pytest.mark.parametrize("reading", [dict(), dict(pooled=True, start=1), dict(pooled=True)])
def test_features_ablated_behind_the_reading_are_those_ablated_in_the_model(tmp_path, reading):
    planted = Planted(tmp_path, length=3)
    reading = Reading(planted.task.site, **reading)
    dictionary = planted.dictionaries[reading.site]
    dictionary.W_dec.data += 0.2 * torch.randn(dictionary.W_dec.shape)
    test, index = planted.task.test, torch.tensor([1, 4, 17, 20])
    embed = next(s for s in planted.dictionaries if s.name == "embed")
    edits = reading.within  # what stands before the text stays
    upstream = {embed: edits(lambda x: 0.5 * x)}
    seen = read_features(planted.model, dictionary, reading, test.tokens, test.position, index, upstream)
    which, values = torch.tensor([True, False, True, True]), torch.tensor([0.3, 9.0, 0.0, 1.0])

    def replaced(x):
        f = dictionary.encode(x)
        error = x - dictionary.decode(f)
        f[..., index[which]] = values[which]
        return dictionary.decode(f) + error

    everything = {**upstream, reading.site: edits(replaced)}
    with intervene(planted.model, everything), capture(planted.model, [reading.site]) as found:
        planted.model(input_ids=test.tokens)
    assert torch.allclose(seen.ablated(which, values), reading.of(found[reading.site], test.position), atol=1e-5)
    with pytest.raises(SiteError, match="edited before it is read"):
        read_features(
            planted.model, dictionary, reading, test.tokens, test.position, index, {reading.site: lambda x: x}
        )
