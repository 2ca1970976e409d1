"""SCR and TPP against a plain loop over prompts and features, and on a planted dictionary."""

import pytest
import torch

from saes.architectures import ReLUConfig, ReLUDictionary
from saes.sites import Site, SiteError, capture
from shift.baselines.scr_tpp import difference_effects, scr_at_budget, scr_tpp, strongest
from shift.probe import fit_head
from shift.reading import Reading
from tests.shift.planted_for_tests import WIDTH, Planted

COUNTS = (1, 2, 3, 8)


def plain_scores(contest, counts):
    """The published formulas, prompt by prompt: (base, oracle, direction 1, direction 2, TPP)."""
    site, reading = contest.task.site, contest.task.reading
    dictionary, opened = contest.dictionaries[site], contest.opened

    def encoded(data):
        found = []
        for tokens, position in zip(data.tokens, data.position, strict=True):
            with capture(contest.model, [site]) as values:
                contest.model(input_ids=tokens[None])
            first = reading.start if reading.pooled else int(position)
            x = values[site][0, first : int(position) + 1]
            f = dictionary.encode(x)
            found.append((f, x - dictionary.decode(f)))
        return found

    train, test = encoded(opened.train), encoded(opened.test)

    def seen(texts, ablated=()):
        rows = []
        for f, error in texts:
            left = f.clone()
            left[:, list(ablated)] = 0.0
            rows.append((dictionary.decode(left) + error).mean(0))
        return torch.stack(rows)

    acts = torch.stack([f.mean(0) for f, _ in train])
    labels = [(d.intended, d.spurious) for d in (opened.train, opened.test)]
    probes = [fit_head(seen(train), label) for label in labels[0]]
    orders = {}
    for way in (0, 1):
        difference = acts[labels[0][way]].mean(0) - acts[~labels[0][way]].mean(0)
        for scheme in ("scr", "tpp"):
            effects = []
            for f in range(dictionary.features):
                along = float(sum(probes[way].weight[0, d] * dictionary.W_dec[f, d] for d in range(WIDTH)))
                moved = float(difference[f])
                effects.append(abs(moved * along) if scheme == "scr" else max(moved, 0) * along)
            orders[way, scheme] = sorted((f for f in range(len(effects)) if effects[f]), key=lambda f: -effects[f])

    def accuracy(head, label, ablated=()):
        return float(((head(seen(test, ablated))[:, 0] > 0) == labels[1][label]).float().mean())

    head = contest.prepared.head
    base = [accuracy(head, 0), accuracy(head, 1)]
    oracle = [accuracy(probes[0], 0), accuracy(probes[1], 1)]
    scr: list[list[float]] = [[], []]
    tpp = []
    for n in counts:
        for asked in (0, 1):
            changed = accuracy(head, asked, orders[1 - asked, "scr"][:n])
            scr[asked].append((changed - base[asked]) / (oracle[asked] - base[asked]))
        own, other = [], []
        for way in (0, 1):
            order = orders[way, "tpp"][:n]
            own.append(oracle[way] - accuracy(probes[way], way, order))
            other.append(oracle[1 - way] - accuracy(probes[1 - way], 1 - way, order))
        tpp.append(sum(own) / 2 - sum(other) / 2)
    return base, oracle, scr[0], scr[1], tpp


def small(planted, prompts: int = 120):
    """Balanced sets of a few prompts in equal cells, and a dictionary that is not quite the coordinates."""
    contest = planted.contest()
    for name in ("train", "test"):
        data = getattr(contest.opened, name)
        cells = [((data.intended == a) & (data.spurious == b)).nonzero()[:, 0] for a in (0, 1) for b in (0, 1)]
        rows = torch.cat([cell[: prompts // 4] for cell in cells])
        cut = type(data)(data.tokens[rows], data.position[rows], data.intended[rows], data.spurious[rows])
        object.__setattr__(contest.opened, name, cut)
    dictionary = contest.dictionaries[contest.task.site]
    dictionary.W_dec.data += 0.1 * torch.randn(dictionary.W_dec.shape, generator=torch.Generator().manual_seed(1))
    return contest


@pytest.mark.parametrize("pooled", [False, True])
def test_equal_to_a_plain_loop(tmp_path, pooled):
    planted = Planted(tmp_path, length=3)
    if pooled:
        planted = Planted(tmp_path, Reading(planted.task.site, pooled=True, start=1), length=3)
    contest = small(planted)
    found = scr_tpp(contest, COUNTS)
    base, oracle, first, second, tpp = plain_scores(contest, COUNTS)
    assert found.base == pytest.approx(base, abs=1e-6) and found.oracle == pytest.approx(oracle, abs=1e-6)
    assert found.directions[0] == pytest.approx(first, abs=1e-5)
    assert found.directions[1] == pytest.approx(second, abs=1e-5)
    assert found.tpp == pytest.approx(tpp, abs=1e-6)


def test_a_true_dictionary_scores_well(tmp_path):
    contest = Planted(tmp_path).contest()
    found = scr_tpp(contest, (2,))
    assert found.base[0] < found.base[1]  # it leans on the spurious property more
    assert found.scr is not None and found.scr == found.directions[0]
    assert found.scr[0] > 0.95 and found.directions[1][0] > 0.95
    assert found.tpp[0] > 0.1
    (cells,) = scr_at_budget(contest)
    assert cells.worst_group > 0.95


def test_effects_and_choice_by_hand():
    probe, dictionary = torch.nn.Linear(2, 1), ReLUDictionary(ReLUConfig(2, 4), [Site("resid_0", "h")])
    probe.weight.data = torch.tensor([[2.0, -1.0]])
    dictionary.W_dec.data = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 2.0], [-1.0, 0.0]])
    difference = torch.tensor([0.5, 3.0, 7.0, -4.0])
    scr = difference_effects(difference, probe, dictionary, positive=False)
    tpp = difference_effects(difference, probe, dictionary, positive=True)
    assert scr.tolist() == [1.0, 3.0, 0.0, 8.0] and tpp.tolist() == [1.0, -3.0, 0.0, 0.0]
    assert strongest(scr, 2).tolist() == [3, 1]
    assert strongest(tpp, 4).tolist()[0] == 0 and len(strongest(tpp, 4)) == 2  # negative ones count too, as coded


def test_a_dictionary_at_the_readout_is_needed(tmp_path):
    contest = Planted(tmp_path).contest()
    object.__setattr__(contest, "dictionaries", {s: d for s, d in contest.dictionaries.items() if s.name == "embed"})
    with pytest.raises(SiteError, match="resid_0: there is none"):
        scr_tpp(contest)
