"""A classifier of the user's own answers through SHIFT's parts what it answers by itself."""

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForSequenceClassification

from saes.families import circuit_sites, find_site
from saes.models import ModelError
from saes.sites import capture, intervene
from shift.probe import predict, readout
from shift.reading import Reading
from shift.tasks.own import OwnError, load_classifier, load_probe
from tests.saes.models_for_tests import VOCABULARY, tiny

FAMILIES = ("gpt2", "llama", "neox parallel", "neox serial", "qwen2", "gemma2")


def classifier(family: str, labels: int = 2):
    """A random classifier of a family, and its pad token."""
    config = tiny(family).config
    config.num_labels, config.pad_token_id = labels, VOCABULARY - 1
    model = AutoModelForSequenceClassification.from_config(config)
    for name, parameter in model.named_parameters():
        generator = torch.Generator().manual_seed(sum(name.encode()) + 1000 * len(name))
        with torch.no_grad():
            parameter.copy_(
                0.25 * torch.randn(parameter.shape, generator=generator) + ("norm" in name or "ln_" in name)
            )
    return model.eval()


def padded(rows: int = 6, length: int = 9):
    """Prompts of different lengths with padding behind: tokens, mask, position of the last token."""
    tokens = torch.randint(1, VOCABULARY - 1, (rows, length), generator=torch.Generator().manual_seed(3))
    position = torch.tensor([length - 1 - i % 5 for i in range(rows)])
    mask = torch.arange(length) <= position[:, None]
    return torch.where(mask, tokens, VOCABULARY - 1), mask.long(), position


@pytest.mark.parametrize("family", FAMILIES)
def test_head_and_site_are_the_classifier(tmp_path, family):
    whole = classifier(family)
    whole.save_pretrained(tmp_path)
    own = load_classifier(tmp_path, device="cpu")
    tokens, mask, position = padded()
    with torch.no_grad():
        logits = whole(input_ids=tokens, attention_mask=mask).logits
    x = readout(own.model, Reading(own.site), tokens, position)
    torch.testing.assert_close(own.head(x)[:, 0], logits[:, 1] - logits[:, 0], rtol=0, atol=1e-5)
    assert (predict(own.head, x) == (logits.argmax(1) == 1)).all()
    assert own.site == circuit_sites(own.model)[-1]


@pytest.mark.parametrize("family", ["gpt2", "llama", "neox parallel"])
def test_an_edit_inside_changes_both_alike(tmp_path, family):
    """The sites are those that the classifier computes with: an edit moves its own logits as much as the head's."""
    whole = classifier(family)
    whole.save_pretrained(tmp_path)
    own = load_classifier(tmp_path, device="cpu")
    tokens, mask, position = padded()
    site = find_site(own.model, "mlp_0")
    edits = {site: lambda x: 3 * x + 1}
    with torch.no_grad(), intervene(whole, edits):
        logits = whole(input_ids=tokens, attention_mask=mask).logits
    x = readout(own.model, Reading(own.site), tokens, position, edits)
    torch.testing.assert_close(own.head(x)[:, 0], logits[:, 1] - logits[:, 0], rtol=0, atol=1e-5)
    assert (own.head(x) - own.head(readout(own.model, Reading(own.site), tokens, position))).abs().max() > 1e-2


def test_two_labels_of_several_and_a_single_logit(tmp_path):
    whole = classifier("llama", 4)
    whole.config.id2label = {0: "sports", 1: "news", 2: "spam", 3: "ham"}
    whole.save_pretrained(tmp_path / "four")
    tokens, mask, position = padded()
    with torch.no_grad():
        logits = whole(input_ids=tokens, attention_mask=mask).logits
    for labels in (("ham", "spam"), (3, 2)):
        own = load_classifier(tmp_path / "four", labels=labels, device="cpu")
        x = readout(own.model, Reading(own.site), tokens, position)
        torch.testing.assert_close(own.head(x)[:, 0], logits[:, 2] - logits[:, 3], rtol=0, atol=1e-5)
    for labels, message in ((None, "4 labels .*'spam'"), (("ham", "eggs"), "no label 'eggs'"), ((1, 1), "the same")):
        with pytest.raises(OwnError, match=message):
            load_classifier(tmp_path / "four", labels=labels, device="cpu")
    single = classifier("gpt2", 1)
    single.save_pretrained(tmp_path / "one")
    own = load_classifier(tmp_path / "one", device="cpu")
    with torch.no_grad():
        logits = single(input_ids=tokens, attention_mask=mask).logits
    x = readout(own.model, Reading(own.site), tokens, position)
    torch.testing.assert_close(own.head(x), logits, rtol=0, atol=1e-5)
    with pytest.raises(OwnError, match="single logit"):
        load_classifier(tmp_path / "one", labels=(0, 1), device="cpu")


def test_the_body_is_a_language_model_with_sites(tmp_path):
    classifier("gpt2").save_pretrained(tmp_path)
    own = load_classifier(tmp_path, device="cpu")
    sites = circuit_sites(own.model)
    with capture(own.model, sites, stop_after=False) as values:
        logits = own.model(input_ids=padded()[0]).logits
    assert list(values) == sites and logits.shape[-1] == VOCABULARY
    assert not any(p.is_meta or p.requires_grad for p in own.model.parameters())


def test_weights_that_would_be_unpickled_are_refused(tmp_path):
    whole = classifier("gpt2")
    whole.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(whole.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError):
        load_classifier(tmp_path, device="cpu")


def test_a_language_model_is_no_classifier(tmp_path):
    tiny("llama").save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="lack score.weight"):
        load_classifier(tmp_path, device="cpu")


@pytest.mark.parametrize("standardised", [False, True])
@pytest.mark.parametrize("rows", [0, 1, 2])
def test_a_probe_from_a_file(tmp_path, rows, standardised):
    torch.manual_seed(1)
    weight, bias = torch.randn(max(rows, 1), 8), torch.randn(max(rows, 1))
    tensors = {"weight": weight if rows else weight[0].clone(), "bias": bias}
    mean, scale = (torch.randn(8), torch.rand(8) + 0.5) if standardised else (torch.zeros(8), torch.ones(8))
    if standardised:
        tensors |= {"mean": mean, "scale": scale}
    save_file(tensors, tmp_path / "probe.safetensors")
    x = torch.randn(20, 8)
    logits = ((x - mean) / scale) @ weight.T + bias
    expected = logits[:, 1] - logits[:, 0] if rows == 2 else logits[:, 0]
    torch.testing.assert_close(load_probe(tmp_path / "probe.safetensors", 8)(x)[:, 0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "tensors, message",
    [
        ({"w": torch.ones(8)}, "a probe is weight"),
        ({"weight": torch.ones(8), "other": torch.ones(1)}, "there are: other, weight"),
        ({"weight": torch.ones(3, 8)}, r"shape \[3, 8\]"),
        ({"weight": torch.ones(1, 7)}, r"expected \[8\]"),
        ({"weight": torch.ones(2, 8), "bias": torch.ones(1)}, "bias has 1 numbers; expected 2"),
        ({"weight": torch.ones(8), "scale": torch.zeros(8)}, "scale is 0"),
        ({"weight": torch.full((8,), torch.nan)}, "NaN"),
    ],
)
def test_a_file_that_is_no_probe(tmp_path, tensors, message):
    save_file(tensors, tmp_path / "probe.safetensors")
    with pytest.raises(OwnError, match=message):
        load_probe(tmp_path / "probe.safetensors", 8)


def test_a_probe_that_is_missing_or_pickled(tmp_path):
    with pytest.raises(OwnError, match="no such file"):
        load_probe(tmp_path / "probe.safetensors")
    torch.save({"weight": torch.ones(8)}, tmp_path / "probe.safetensors")
    with pytest.raises(OwnError, match="not a whole safetensors file"):
        load_probe(tmp_path / "probe.safetensors")
