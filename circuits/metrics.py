"""What a circuit explains: one number per example, read off the logits or off a site."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from circuits.examples import Examples
from saes.sites import Edit, Site, capture, intervene


@runtime_checkable
class Metric(Protocol):
    """A number per example.

    `reads` is the site that it looks at: it is called with that site's tensor [batch, length, D]. None means the
    logits, of which it gets those at each example's position, [batch, V].
    """

    @property
    def reads(self) -> Site | None: ...

    def __call__(self, output: Tensor, examples: Examples) -> Float[Tensor, " batch"]: ...


@dataclass(frozen=True)
class OfLogits:
    """Any function of the logits [batch, V] at the examples' positions, and of the examples."""

    function: Callable[[Tensor, Examples], Tensor]
    reads: Site | None = None

    def __call__(self, output: Float[Tensor, "batch v"], examples: Examples) -> Float[Tensor, " batch"]:
        values = self.function(output, examples)
        if values.shape != (len(examples),):
            raise ValueError(f"a metric gives one number per example: {len(examples)}, not {list(values.shape)}")
        return values


class Logit:
    """logit(field `answer`)."""

    reads: Site | None = None

    def __call__(self, output: Float[Tensor, "batch v"], examples: Examples) -> Float[Tensor, " batch"]:
        return _chosen(output, examples, "answer")


class LogitDifference:
    """logit(field `answer`) - logit(field `other`)."""

    reads: Site | None = None

    def __call__(self, output: Float[Tensor, "batch v"], examples: Examples) -> Float[Tensor, " batch"]:
        return _chosen(output, examples, "answer") - _chosen(output, examples, "other")


class LogProbability:
    """log p of the token in field `answer`, in nats."""

    reads: Site | None = None

    def __call__(self, output: Float[Tensor, "batch v"], examples: Examples) -> Float[Tensor, " batch"]:
        return _chosen(output, examples, "answer") - output.logsumexp(-1)


class LogOdds:
    """log p - log (1 - p) of the token in field `answer`."""

    reads: Site | None = None

    def __call__(self, output: Float[Tensor, "batch v"], examples: Examples) -> Float[Tensor, " batch"]:
        answer = examples.fields["answer"][:, None].to(output.device)
        return _chosen(output, examples, "answer") - output.scatter(1, answer, float("-inf")).logsumexp(1)


class MaskMass:
    """Log-odds of the tokens in field `tokens` [batch, V] (bool), such as the legal moves, taken together."""

    reads: Site | None = None

    def __call__(self, output: Float[Tensor, "batch v"], examples: Examples) -> Float[Tensor, " batch"]:
        inside = examples.fields["tokens"].to(output.device)
        minus = float("-inf")
        return output.masked_fill(~inside, minus).logsumexp(1) - output.masked_fill(inside, minus).logsumexp(1)


class Divergence:
    """KL(reference || model) in nats; field `reference` holds the reference's log-probabilities [batch, V].

    Its gradient vanishes where the model is the reference: attribution patching sees nothing, integrated gradients do.
    """

    reads: Site | None = None

    def __call__(self, output: Float[Tensor, "batch v"], examples: Examples) -> Float[Tensor, " batch"]:
        reference = examples.fields["reference"].to(output)
        return (reference.exp() * (reference - output.log_softmax(-1))).sum(-1)


@dataclass(frozen=True)
class ProbeMargin:
    """The signed margin of a linear probe: sign (field, +1 or -1) times its logit at a site and position."""

    probe: nn.Module
    reads: Site | None

    def __call__(self, output: Float[Tensor, "batch length d"], examples: Examples) -> Float[Tensor, " batch"]:
        return self.probe(_at(output, examples)).squeeze(-1) * examples.fields["sign"].to(output)


METRICS: Mapping[str, type] = {
    "logit": Logit,
    "logit-difference": LogitDifference,
    "log-probability": LogProbability,
    "log-odds": LogOdds,
    "mask-mass": MaskMass,
    "kl": Divergence,
}
"""metrics of the logits by the names that the command line and files use"""


def with_reference(model: PreTrainedModel, examples: Examples) -> Examples:
    """The examples with the field `reference` that Divergence compares with: the model's own clean predictions."""
    with torch.no_grad():
        log_p = logits_at(model, examples.clean, examples).log_softmax(-1)
    return replace(examples, fields={**examples.fields, "reference": log_p})


def measure(
    model: PreTrainedModel,
    metric: Metric,
    tokens: Int[Tensor, "batch length"],
    examples: Examples,
    edits: Mapping[Site, Edit] | None = None,
) -> Float[Tensor, " batch"]:
    """Run the model on tokens, with edits, and evaluate the metric; a metric on a site ends the pass there."""
    with intervene(model, edits or {}):
        if metric.reads is None:
            return metric(logits_at(model, tokens, examples), examples)
        with capture(model, [metric.reads]) as values:
            model(input_ids=tokens.to(model.device), use_cache=False)
        return metric(values[metric.reads], examples)


def logits_at(
    model: PreTrainedModel, tokens: Int[Tensor, "batch length"], examples: Examples
) -> Float[Tensor, "batch v"]:
    """Logits at the examples' positions; the unembedding runs at those positions only."""
    wanted, which = examples.position.to(model.device).unique(return_inverse=True)
    logits = model(input_ids=tokens.to(model.device), use_cache=False, logits_to_keep=wanted).logits
    return logits[torch.arange(len(logits), device=logits.device), which]


def _chosen(output: Float[Tensor, "batch v"], examples: Examples, field: str) -> Float[Tensor, " batch"]:
    return output.gather(1, examples.fields[field][:, None].to(output.device))[:, 0]


def _at(output: Float[Tensor, "batch length d"], examples: Examples) -> Float[Tensor, "batch d"]:
    return output[torch.arange(len(output), device=output.device), examples.position.to(output.device)]
