"""What a circuit explains: one number per example, read off the logits or off a site."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from saes.sites import Edit, Site, capture, intervene


@dataclass(frozen=True)
class Examples:
    """Clean prompts, their counterfactuals (None for single prompts), and where the metric is read.

    `fields` holds what the metric needs of each example, first axis = example.
    """

    clean: Int[Tensor, "batch length"]
    patch: Int[Tensor, "batch length"] | None
    position: Int[Tensor, " batch"]
    fields: Mapping[str, Tensor]

    def __post_init__(self) -> None:
        if self.patch is not None and self.patch.shape != self.clean.shape:
            raise ValueError(
                f"clean prompts have shape {list(self.clean.shape)} and patch prompts {list(self.patch.shape)}: "
                "a pair must have the same length"
            )
        for name, value in {"position": self.position, **self.fields}.items():
            if len(value) != len(self.clean):
                raise ValueError(f"{name} has {len(value)} entries for {len(self.clean)} examples")

    def __len__(self) -> int:
        return len(self.clean)

    def take(self, index: Tensor) -> "Examples":
        """The examples at `index`, repeats allowed."""
        return Examples(
            self.clean[index],
            None if self.patch is None else self.patch[index],
            self.position[index],
            {name: value[index] for name, value in self.fields.items()},
        )

    def batches(self, size: int) -> "list[Examples]":
        """Consecutive pieces of at most `size` examples."""
        return [self.take(index) for index in torch.arange(len(self)).split(size)]


@runtime_checkable
class Metric(Protocol):
    """A number per example. `reads` is the site it looks at; None means the logits."""

    @property
    def reads(self) -> Site | None: ...

    def __call__(self, output: Float[Tensor, "batch length _"], examples: Examples) -> Float[Tensor, " batch"]: ...


def _at(output: Float[Tensor, "batch length v"], examples: Examples) -> Float[Tensor, "batch v"]:
    return output[torch.arange(len(output), device=output.device), examples.position.to(output.device)]


class LogitDifference:
    """logit(field `answer`) - logit(field `other`) at the example's position."""

    reads: Site | None = None

    def __call__(self, output: Float[Tensor, "batch length v"], examples: Examples) -> Float[Tensor, " batch"]:
        logits = _at(output, examples)
        pick = torch.stack([examples.fields["answer"], examples.fields["other"]], 1).to(logits.device)
        chosen = logits.gather(1, pick)
        return chosen[:, 0] - chosen[:, 1]


class LogOdds:
    """log p - log (1 - p) of the token in field `answer` at the example's position."""

    reads: Site | None = None

    def __call__(self, output: Float[Tensor, "batch length v"], examples: Examples) -> Float[Tensor, " batch"]:
        logits = _at(output, examples)
        answer = examples.fields["answer"][:, None].to(logits.device)
        others = logits.scatter(1, answer, float("-inf"))
        return logits.gather(1, answer)[:, 0] - others.logsumexp(1)


@dataclass(frozen=True)
class ProbeMargin:
    """The signed margin of a linear probe: sign (field, +1 or -1) times its logit at a site and position."""

    probe: nn.Module
    reads: Site | None

    def __call__(self, output: Float[Tensor, "batch length d"], examples: Examples) -> Float[Tensor, " batch"]:
        return self.probe(_at(output, examples)).squeeze(-1) * examples.fields["sign"].to(output)


def measure(
    model: PreTrainedModel,
    metric: Metric,
    tokens: Int[Tensor, "batch length"],
    examples: Examples,
    edits: Mapping[Site, Edit] | None = None,
) -> Float[Tensor, " batch"]:
    """Run the model on tokens, with edits, and evaluate the metric; a metric on a site ends the pass there."""
    tokens = tokens.to(model.device)
    with intervene(model, edits or {}):
        if metric.reads is None:
            return metric(model(input_ids=tokens, use_cache=False).logits, examples)
        with capture(model, [metric.reads]) as values:
            model(input_ids=tokens, use_cache=False)
        return metric(values[metric.reads], examples)
