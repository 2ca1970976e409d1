"""The user's own classifier: a probe from a file, or a transformers sequence classifier; `prepare` takes its head."""

from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from saes.families import circuit_sites
from saes.files import FileError, all_finite, read_tensors
from saes.models import load_sequence_classifier
from saes.sites import Site
from shift.probe import readout
from shift.reading import Reading

_NORMS = ("norm", "ln_f", "final_layer_norm")  # where a base model keeps the norm behind its last block
_ROUNDING = 1e-3  # of the logits, in half precision times its coarser eps


class OwnError(ValueError):
    """A classifier that cannot be had, or is not of the kind that was expected."""


@dataclass(frozen=True)
class OwnClassifier:
    """A sequence classifier taken apart: its body as a language model, so that sites and circuits work, and its head.

    The head maps the last block's output at the last token to the classifier's logit of yes minus its logit of no. Make
    the task with `site` and `pooled=False`, and give `head` to `prepare`. The model's own next-token logits mean
    nothing, since a classifier has no such layer.
    """

    model: PreTrainedModel
    site: Site
    head: nn.Module


def load_probe(path: Path | str, width: int | None = None) -> nn.Linear:
    """A linear probe from a safetensors file, as a head; `width` is what its site must have, if it is known.

    `weight` [D] or [1, D], or [2, D] for a classifier of no and yes, which becomes their difference; `bias` as many as
    rows, or absent; `mean` and `scale` [D] where activations are standardised first: weight @ ((x - mean) / scale).
    OwnError for tensors of other names or shapes.
    """
    try:
        tensors = {name: t.float() for name, t in read_tensors(path).items()}
    except FileError as error:
        raise OwnError(str(error)) from None
    if "weight" not in tensors or tensors.keys() - {"weight", "bias", "mean", "scale"}:
        there = ", ".join(sorted(tensors)) or "nothing"
        raise OwnError(f"{path}: a probe is weight, and if wanted bias, mean and scale; there are: {there}")
    for name, t in tensors.items():
        if not all_finite(t):
            raise OwnError(f"{path}: {name} holds infinite values or NaN")
    weight = tensors["weight"]
    weight = weight[None] if weight.ndim == 1 else weight
    if weight.ndim != 2 or len(weight) not in (1, 2) or weight.shape[1] != (width or weight.shape[1]):
        wanted = "D" if width is None else str(width)
        raise OwnError(f"{path}: weight has shape {list(weight.shape)}; expected [{wanted}], [1, {wanted}] or [2, ...]")
    rows, d = weight.shape
    bias = _given(path, tensors, "bias", rows, 0.0)
    weight, bias = (weight[1:] - weight[:1], bias[1:] - bias[:1]) if rows == 2 else (weight, bias)
    mean, scale = _given(path, tensors, "mean", d, 0.0), _given(path, tensors, "scale", d, 1.0)
    if not bool((scale != 0).all()):
        raise OwnError(f"{path}: scale is 0 somewhere")
    return _linear(weight / scale, bias - (weight / scale) @ mean)


def load_classifier(
    source: str | Path,
    *,
    labels: tuple[str | int, str | int] | None = None,
    dtype: str | torch.dtype = "float32",
    device: str | torch.device = "auto",
) -> OwnClassifier:
    """A sequence classifier of a folder or the hub, on a causal model of a family that saes.families knows.

    `labels`: its names or numbers of no and yes; by default those of a classifier with two, in their order. One with a
    single logit has no labels to choose. Raises OwnError if the parts do not give the classifier's own answers.
    """
    whole = load_sequence_classifier(source, dtype=dtype, device=device)
    score = getattr(whole, "score", None)
    if not isinstance(score, nn.Linear):
        raise OwnError(f"{source}: {type(whole).__name__} has no linear layer `score` on a causal model")
    rows = _rows(source, whole, labels)
    bias = score.bias if score.bias is not None else torch.zeros(score.out_features).to(score.weight)
    if rows is None:
        weight, bias = score.weight, bias
    else:
        no, yes = rows
        weight, bias = (score.weight[yes] - score.weight[no])[None], (bias[yes] - bias[no])[None]
    norm = next((n for name in _NORMS if isinstance(n := getattr(whole.base_model, name, None), nn.Module)), None)
    if norm is None:
        raise OwnError(f"{source}: {type(whole.base_model).__name__} has no norm behind its blocks named {_NORMS}")
    # on the CPU, where prompts are classified, and a copy, so that edits of the model cannot reach it
    head = nn.Sequential(deepcopy(norm), _linear(weight, bias)).cpu().eval().requires_grad_(False)
    model = _language_model(whole)
    own = OwnClassifier(model, circuit_sites(model)[-1], head)
    _check_same(source, whole, own, rows)
    return own


def _given(path: Path | str, tensors: dict[str, Tensor], name: str, length: int, otherwise: float) -> Tensor:
    given = tensors.get(name, torch.full((length,), otherwise)).reshape(-1)
    if len(given) != length:
        raise OwnError(f"{path}: {name} has {len(given)} numbers; expected {length}")
    return given


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    made = nn.Linear(weight.shape[1], 1, dtype=weight.dtype)
    with torch.no_grad():
        made.weight.copy_(weight)
        made.bias.copy_(bias)
    return made.requires_grad_(False)


def _rows(
    source: str | Path, model: PreTrainedModel, labels: tuple[str | int, str | int] | None
) -> tuple[int, int] | None:
    """The rows of no and yes; None for a single logit."""
    names = {int(i): str(name) for i, name in (model.config.id2label or {}).items()}
    count = int(model.config.num_labels or 0)
    listed = ", ".join(f"{i} {names.get(i, '')!r}" for i in range(count))
    if labels is None:
        if count > 2:
            raise OwnError(f"{source}: has {count} labels ({listed}); say which are no and yes")
        return (0, 1) if count == 2 else None
    if count == 1:
        raise OwnError(f"{source}: has a single logit, so there are no labels to choose")
    by_name = {name: i for i, name in names.items()}
    found = [label if isinstance(label, int) else by_name.get(label, -1) for label in labels]
    for label, row in zip(labels, found, strict=True):
        if not 0 <= row < count:
            raise OwnError(f"{source}: has no label {label!r}; there are: {listed}")
    if found[0] == found[1]:
        raise OwnError(f"{source}: {labels[0]!r} and {labels[1]!r} are the same label")
    return found[0], found[1]


def _language_model(whole: PreTrainedModel) -> PreTrainedModel:
    """The classifier's body in a causal language model; its embedding stands in for the missing next-token layer."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(whole.config, dtype=whole.dtype)
    setattr(model, model.base_model_prefix, whole.base_model)
    embedding = whole.get_input_embeddings().weight
    assert isinstance(embedding, nn.Parameter)
    out = nn.Linear(embedding.shape[1], embedding.shape[0], bias=False, device="meta")
    out.weight = embedding
    model.set_output_embeddings(out)
    return model.eval().requires_grad_(False)


@torch.no_grad()
def _check_same(source: str | Path, whole: PreTrainedModel, own: OwnClassifier, rows: tuple[int, int] | None) -> None:
    """OwnError unless head and site give the classifier's answer on some token ids."""
    tokens = torch.arange(1, 9).remainder(whole.config.get_text_config().vocab_size)[None]
    logits = whole(input_ids=tokens.to(whole.device), attention_mask=torch.ones_like(tokens).to(whole.device)).logits[0]
    expected = (logits[0] if rows is None else logits[rows[1]] - logits[rows[0]]).float().cpu()
    found = own.head(readout(own.model, Reading(own.site), tokens, torch.tensor([7])))[0, 0].float()
    allowed = max(_ROUNDING, 16 * torch.finfo(whole.dtype).eps) * float(logits.float().abs().max().clamp_min(1))
    if not bool((found - expected).abs() <= allowed):
        raise OwnError(
            f"{source}: its parts answer {float(found):.4g} where it answers {float(expected):.4g}; "
            "its head is not a norm and a linear layer on the last block"
        )
