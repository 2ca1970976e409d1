"""Concept bottleneck probing (Marks et al. 2024, appendix; after Yuksekgonul et al. 2023, post-hoc bottlenecks).

The classifier sees a prompt only by the cosines of what it reads, mean-centred, with the directions of named concepts
that somebody holds to be relevant; a small head on these is fitted on ambiguous prompts. (The notebook centres the
concepts and not what is read; a mean of large norm would drown the cosines.)
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from saes.sites import Site
from shift.contest import Contest
from shift.methods import Method
from shift.probe import fit_head, predict, readout
from shift.reading import Reading
from shift.trim import Cells


def keyword_concepts(
    model: PreTrainedModel, site: Site, tokens: Int[Tensor, "words length"], position: Int[Tensor, " words"]
) -> Float[Tensor, "words d"]:
    """Directions of words: activations at the last token of each (`position`), less their mean."""
    at_last = readout(model, Reading(site), tokens, position)
    return at_last - at_last.mean(0)


def concept_bottleneck(contest: Contest) -> Sequence[Cells]:
    """The small head's cells."""
    concepts = contest.concepts
    assert concepts is not None
    mean = contest.seen.mean(0)

    def bottleneck(x: Float[Tensor, "examples d"]) -> Float[Tensor, "examples concepts"]:
        return torch.cosine_similarity((x - mean)[:, None], concepts[None].to(x), dim=-1)

    head = fit_head(bottleneck(contest.seen), contest.task.train.label)
    return [contest.answered(predict(head, bottleneck(contest.seen_test)))]


def _has_concepts(contest: Contest) -> bool:
    return contest.concepts is not None


METHODS: tuple[Method, ...] = (
    Method("concept_bottleneck", "Concept bottleneck", "labelled", concept_bottleneck, _has_concepts),
)
