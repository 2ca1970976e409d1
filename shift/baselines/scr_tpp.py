"""SCR and TPP as published (Karvonen et al. 2024; SAEBench 2025): what is ablated is ranked with the spurious labels.

One dictionary at the site that is read. A linear probe is fitted to a label of the balanced training prompts, and a
feature's effect is (mean activation of positive less that of negative prompts) * (probe . decoder row). The strongest n
are set to zero, errors kept.

* SCR: |effect|; S = (A_ablated - A_base) / (A_oracle - A_base) of the misled head. Direction 1 ablates what tells the
  spurious label and asks for the intended one, direction 2 the other way round; the metric is the direction whose base
  is lower, and none if they are equal.
* TPP: negative differences count as 0; S = drop of the probe's own accuracy less the drop of the other probe's, the
  mean over both (as coded; SAEBench's documentation has the opposite sign).

Known weaknesses. The ranking uses the very labels that SHIFT forbids. No circuit and no judge is involved: a feature
that helps both properties is ablated all the same. With these thresholds the scores do not separate good from bad
dictionaries, depend on n and on the probe's seed, and "should not be used to evaluate SAEs" (Chanin 2026, arXiv
2605.18229). So they stand beside the others for comparison. The probes are fit_head's, with L2, not trained by Adam
with L1 as there.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from saes.dictionary import Dictionary
from saes.sites import SiteError
from shift.at_readout import read_features, read_in_batches
from shift.contest import Contest
from shift.methods import Method
from shift.probe import fit_head, predict
from shift.trim import Cells

THRESHOLDS = (2, 5, 10, 20, 50, 100, 500)
_NO_GAP = 1e-3  # between base and oracle: the score is then 0, as in the original


@dataclass(frozen=True)
class ScrTpp:
    """Scores by the number of ablated features."""

    thresholds: tuple[int, ...]
    base: tuple[float, float]
    """accuracy of the misled head at the intended label (direction 1), at the spurious label (direction 2)"""
    oracle: tuple[float, float]
    """of the probes for the intended and for the spurious label"""
    directions: tuple[tuple[float, ...], tuple[float, ...]]
    """SCR of both directions"""
    tpp: tuple[float, ...]

    @property
    def scr(self) -> tuple[float, ...] | None:
        """Of the direction whose base is lower; None if they are equal."""
        if self.base[0] == self.base[1]:
            return None
        return self.directions[0] if self.base[0] < self.base[1] else self.directions[1]


def difference_effects(
    difference: Float[Tensor, " f"], probe: nn.Linear, dictionary: Dictionary, *, positive: bool
) -> Float[Tensor, " f"]:
    """Of every feature, from its mean on positive less that on negative prompts; `positive`: TPP's, else SCR's."""
    along = dictionary.W_dec.cpu() @ probe.weight[0].detach().to(dictionary.W_dec.dtype)
    return difference.clamp_min(0) * along if positive else (difference * along).abs()


def strongest(effects: Float[Tensor, " f"], count: int) -> Int[Tensor, " chosen"]:
    """The features of largest effect, the largest first; fewer where fewer have any (all signs, as in the original)."""
    return effects.topk(min(count, int((effects != 0).sum()))).indices


def scr_tpp(contest: Contest, thresholds: Sequence[int] = THRESHOLDS) -> ScrTpp:
    """Both scores; SiteError where the site that is read has no dictionary."""
    dictionary, test = _at_readout(contest), contest.opened.test
    ranked = _Ranked.of(contest)
    orders = {
        (way, positive): strongest(
            difference_effects(ranked.differences[way], ranked.probes[way], dictionary, positive=positive),
            max(thresholds),
        )
        for way in (0, 1)
        for positive in (False, True)
    }
    index = torch.cat(list(orders.values())).unique()
    seen = read_features(contest.model, dictionary, contest.task.reading, test.tokens, test.position, index)

    def accuracy(head: nn.Module, label: int, order: Tensor | None = None) -> float:
        """At the intended label (0) or the spurious one (1), with features ablated."""
        x = seen.x if order is None else seen.ablated(torch.isin(index, order))
        cells = contest.answered(predict(head, x))
        return (cells.intended_accuracy, cells.spurious_accuracy)[label]

    head, probes = contest.prepared.head, ranked.probes
    base = accuracy(head, 0), accuracy(head, 1)
    oracle = accuracy(probes[0], 0), accuracy(probes[1], 1)
    scr: tuple[list[float], list[float]] = ([], [])
    tpp = []
    for n in thresholds:
        for asked in (0, 1):
            gap = oracle[asked] - base[asked]
            changed = accuracy(head, asked, orders[1 - asked, False][:n]) - base[asked]
            scr[asked].append(changed / gap if abs(gap) >= _NO_GAP else 0.0)
        drops = [
            [oracle[of] - accuracy(probes[of], of, orders[ablated, True][:n]) for of in (0, 1)] for ablated in (0, 1)
        ]
        tpp.append((drops[0][0] - drops[0][1] + drops[1][1] - drops[1][0]) / 2)
    return ScrTpp(tuple(thresholds), base, oracle, (tuple(scr[0]), tuple(scr[1])), tuple(tpp))


def scr_at_budget(contest: Contest) -> Sequence[Cells]:
    """The classifier with as many features of the readout site ablated as were trimmed: SCR's strongest."""
    dictionary, ranked = _at_readout(contest), _Ranked.of(contest)
    effects = difference_effects(ranked.differences[1], ranked.probes[1], dictionary, positive=False)
    best = strongest(effects, contest.budget).tolist()
    return [contest.scored(edits=contest.edits({contest.task.site.name: best}))]


@dataclass(frozen=True)
class _Ranked:
    """Probes for the intended label and the spurious one, and by how much features differ between its two values."""

    probes: tuple[nn.Linear, nn.Linear]
    differences: tuple[Float[Tensor, " f"], Float[Tensor, " f"]]

    @classmethod
    def of(cls, contest: Contest) -> "_Ranked":
        train, dictionary = contest.opened.train, _at_readout(contest)
        labels = torch.stack([train.intended, train.spurious], 1)
        sums = torch.zeros(2, 2, dictionary.features)  # [label, value]
        read, start = [], 0
        for x, acts in read_in_batches(contest.model, dictionary, contest.task.reading, train.tokens, train.position):
            of = labels[start : start + len(x)]
            start += len(x)
            sums += torch.stack([(~of).T.to(acts) @ acts, of.T.to(acts) @ acts], 1)
            read.append(x)
        seen = torch.cat(read)
        means = sums / _counts(labels)[..., None]
        return cls(
            (fit_head(seen, train.intended), fit_head(seen, train.spurious)),
            (means[0, 1] - means[0, 0], means[1, 1] - means[1, 0]),
        )


def _counts(labels: Bool[Tensor, "examples 2"]) -> Float[Tensor, "2 2"]:
    return torch.stack([(~labels).sum(0), labels.sum(0)], 1).float()


def _at_readout(contest: Contest) -> Dictionary:
    site = contest.task.site
    if site not in contest.dictionaries:
        raise SiteError(f"SCR and TPP need a dictionary at the site that is read, {site}: there is none")
    return contest.dictionaries[site]


def _has_dictionary(contest: Contest) -> bool:
    return contest.task.site in contest.dictionaries


METHODS: tuple[Method, ...] = (
    Method("scr_at_budget", "SCR's features of the readout site", "balanced", scr_at_budget, _has_dictionary),
)
