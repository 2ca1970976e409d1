"""The neuron skyline (Marks et al. 2024, appendix): coordinates of the sites in place of features.

As many coordinates as features were trimmed, those on which the margin of the balanced training prompts' *spurious*
labels relies most, are set to their mean. The paper ranks them by integrated gradients to zero, though they are set to
the mean; the second form ranks them by what is done to them, so that neurons are not held back by the ranking.
"""

from collections.abc import Callable, Sequence

from jaxtyping import Float
from torch import Tensor

from saes.dictionary import IdentityDictionary
from saes.sites import Site
from shift.contest import Contest
from shift.methods import Method
from shift.trim import Cells, mean_features, trimming_edits


class CentredNeurons(IdentityDictionary):
    """Coordinates less a mean: zero is the mean."""

    def __init__(self, site: Site, mean: Float[Tensor, " d"]) -> None:
        super().__init__(site, len(mean))
        self.to(mean)
        self.b_dec = mean

    def pre_activation(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        return x - self.b_dec

    def decode(self, f: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        return f + self.b_dec


def neuron_skyline(*, to_mean: bool) -> Callable[[Contest], Sequence[Cells]]:
    """`to_mean`: ranked by the effect of setting a coordinate to its mean, not to zero."""

    def run(contest: Contest) -> Sequence[Cells]:
        plain = {site: IdentityDictionary(site, d.width).to(d.W_dec) for site, d in contest.dictionaries.items()}
        means = mean_features(contest.model, plain, contest.task.reading, contest.task.train)
        centred = {site: CentredNeurons(site, means[site].acts) for site in plain}
        features = contest.most_relied_on(centred if to_mean else plain, contest.opened.train)
        return [contest.scored(edits=trimming_edits(centred, features, contest.task.reading))]

    return run


METHODS: tuple[Method, ...] = (
    Method("neuron_skyline", "Neuron skyline (paper's ranking)", "balanced", neuron_skyline(to_mean=False)),
    Method("neuron_skyline_mean", "Neuron skyline (ranked to the mean)", "balanced", neuron_skyline(to_mean=True)),
)
