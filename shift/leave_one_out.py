"""What each part of the trimming does: everything judged irrelevant is ablated but one site's, or one judgement's.

Features self-repair and repeat each other, so what a part does alone and what it does last differ. Leaving one out says
what the rest cannot do without it. Two coarse parts answer whether the circuit matters: only the site that is read
(as SCR would), and only what stands before it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from tqdm import tqdm

from shift.at_readout import ReadFeatures, read_features
from shift.contest import Contest
from shift.judgements import Frozen
from shift.probe import predict
from shift.trim import Cells, Features


@dataclass(frozen=True)
class Part:
    """Features that are put back together: a site's, or those that were judged together."""

    name: str
    features: Features


@dataclass(frozen=True)
class LeftOut:
    """The cells with all trims but one part's ablated."""

    part: Part
    cells: Cells
    whole: Cells
    """with all trims ablated"""

    @property
    def worst_group(self) -> float:
        """What the part adds to the worst group's accuracy, on top of all others."""
        return self.whole.worst_group - self.cells.worst_group

    @property
    def intended(self) -> float:
        """What it adds to the accuracy at the intended label."""
        return self.whole.intended_accuracy - self.cells.intended_accuracy

    @property
    def spurious(self) -> float:
        """What it takes from the accuracy at the spurious label; positive: the part was needed."""
        return self.cells.spurious_accuracy - self.whole.spurious_accuracy


def leave_one_site_out(contest: Contest) -> list[LeftOut]:
    """For every site with trims, in forward order."""
    parts = [Part(s.name, {s.name: contest.trimmed[s.name]}) for s in contest.dictionaries if s.name in contest.trimmed]
    return list(_left_out(contest, parts, "sites left out"))


def leave_one_judgement_out(contest: Contest, frozen: Frozen, limit: int = 20) -> list[LeftOut]:
    """For the `limit` strongest judgements that trim anything; what was judged as one group is put back as one."""
    return list(_left_out(contest, judged_parts(contest, frozen)[:limit], "judgements left out"))


def readout_site_only(contest: Contest) -> Cells:
    """Of all trims only those at the site that is read."""
    site = contest.task.site.name
    return contest.scored(edits=contest.edits({site: contest.trimmed.get(site, [])}))


def upstream_only(contest: Contest) -> Cells:
    """Of all trims only those before the site that is read."""
    return contest.scored(edits=contest.edits(_upstream(contest)))


def judged_parts(contest: Contest, frozen: Frozen) -> list[Part]:
    """What is trimmed, as it was judged: the largest sum of absolute effects first.

    Where several raters grouped a feature differently, the first rater's group holds it.
    """
    left = {(site, f) for site, index in contest.trimmed.items() for f in index}
    groups: dict[tuple[str, str], dict[tuple[str, int], float]] = {}
    for j in frozen.judgements:
        if j.role == "candidate" and j.key in left:
            left.discard(j.key)
            groups.setdefault((j.rater, j.item or f"{j.site}/{j.feature}"), {})[j.key] = abs(j.effect)
    found = []
    for members in sorted(groups.values(), key=lambda m: (-sum(m.values()), sorted(m))):
        (site, feature), *others = sorted(members, key=lambda key: (-members[key], key))
        name = f"{site}/{feature}" + (f" and {len(others)} more" if others else "")
        features: dict[str, list[int]] = {}
        for at, f in sorted(members):
            features.setdefault(at, []).append(f)
        found.append(Part(name, features))
    return found


def _left_out(contest: Contest, parts: Sequence[Part], title: str) -> Iterator[LeftOut]:
    """Parts at the site that is read need no pass of their own: one, with all trims before it, serves all of them."""
    site = contest.task.site
    whole = contest.scored(edits=contest.edits(contest.trimmed))
    seen = _seen_behind_upstream(contest) if any(set(part.features) == {site.name} for part in parts) else None
    for part in tqdm(parts, desc=title, disable=not contest.progress):
        rest = {name: sorted(set(index) - set(part.features.get(name, ()))) for name, index in contest.trimmed.items()}
        if seen is not None and set(part.features) == {site.name}:
            index = torch.tensor(contest.trimmed[site.name])
            values = None if contest.values is None else contest.values[site].acts.cpu()[index]
            x = seen.ablated(torch.isin(index, torch.tensor(rest[site.name], dtype=torch.long)), values)
            cells = contest.answered(predict(contest.prepared.head, x))
        else:
            cells = contest.scored(edits=contest.edits(rest))
        yield LeftOut(part, cells, whole)


def _seen_behind_upstream(contest: Contest) -> ReadFeatures:
    task, test = contest.task, contest.opened.test
    return read_features(
        contest.model,
        contest.dictionaries[task.site],
        task.reading,
        test.tokens,
        test.position,
        torch.tensor(contest.trimmed[task.site.name]),
        contest.edits(_upstream(contest)),
    )


def _upstream(contest: Contest) -> Features:
    return {name: index for name, index in contest.trimmed.items() if name != contest.task.site.name}
