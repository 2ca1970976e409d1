"""Which candidates detect the same thing: a concept is found again at many sites, and is judged once."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from boardgames.matching import Match
from circuits.feature_acts import Dictionaries
from saes.harvest import harvest_features
from shift.candidates import Candidate, chosen_features
from shift.queue import Group, QueueError
from shift.reading import Reading
from shift.task import Ambiguous


def ambiguous_activations(
    model: PreTrainedModel,
    dictionaries: Dictionaries,
    candidates: Sequence[Candidate],
    reading: Reading,
    data: Ambiguous,
    prompts: int = 64,
) -> Float[Tensor, "positions candidates"]:
    """Activations of each candidate in the text of ambiguous prompts, up to the position read."""
    features = chosen_features(candidates)
    tokens, position = data.tokens[:prompts], data.position[:prompts]
    read = reading.text(position, tokens.shape[1])
    acts = harvest_features(model, dictionaries, features, tokens, read)
    column = {(site, f): i for site, index in features.items() for i, f in enumerate(index.tolist())}
    return torch.stack([acts[c.site][:, column[c.site, c.feature]] for c in candidates], 1)


def group_by_activation(
    candidates: Sequence[Candidate], acts: Float[Tensor, "positions candidates"], threshold: float = 0.9
) -> list[Group]:
    """Groups whose members' activations have a cosine of at least `threshold` with those of the group's strongest.

    The strongest candidate starts the first group, the strongest of those left the next one: no chains of features,
    each like the next, whose ends have nothing in common. Order is by influence of the leaders.
    """
    if not 0 < threshold <= 1:
        raise QueueError(f"the cosine threshold is {threshold}: it lies above 0 and at most at 1")
    if acts.shape[1] != len(candidates):
        raise QueueError(
            f"activations of {acts.shape[1]} features and {len(candidates)} candidates: give one column each"
        )
    unit = acts / acts.norm(dim=0).clamp_min(torch.finfo(acts.dtype).tiny)  # a feature that never fires is like none
    cosine = (unit.T @ unit).clamp_max(1)
    left = sorted(range(len(candidates)), key=lambda i: (-abs(candidates[i].effect), i))
    groups: list[Group] = []
    while left:
        leader, near = left[0], (cosine[left[0]] >= threshold - 1e-6).tolist()
        groups.append(tuple(candidates[i] for i in left if i == leader or near[i]))
        left = [i for i in left if i != leader and not near[i]]
    return groups


def group_by_property(
    candidates: Sequence[Candidate], matches: Mapping[tuple[str, int], Match], minimum_f1: float = 0.5
) -> list[Group]:
    """Groups with the same best-matching property; a feature that matches worse than `minimum_f1` is its own group.

    Only where the judge may know what features match: not in blind mode.
    """
    groups: dict[object, list[Candidate]] = {}
    for candidate in sorted(candidates, key=lambda c: -abs(c.effect)):
        match = matches.get((candidate.site.name, candidate.feature))
        name = candidate if match is None or match.f1 < minimum_f1 else match.column
        groups.setdefault(name, []).append(candidate)
    return [tuple(members) for members in groups.values()]
