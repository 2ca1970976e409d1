"""Node effects, edges and faithfulness against the corrected references of the original implementation (float64)."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, GPTNeoXForCausalLM

from circuits.attribution import node_effects
from circuits.edges import Chosen, edge_effects
from circuits.examples import Examples
from circuits.feature_acts import states_of, zero_states
from circuits.metrics import LogitDifference
from saes.architectures import ReLUConfig, ReLUDictionary
from saes.families import circuit_sites

GOLDEN = Path(__file__).parents[3] / "shared" / "golden" / "feature_circuits"
CASES = sorted(p.name for p in GOLDEN.glob("*")) if GOLDEN.is_dir() else []
pytestmark = pytest.mark.skipif(not CASES, reason="the shared reference folder is not here")
TOLERANCE = 1e-9


class MinusLogit:
    """The metric of the unpaired reference."""

    reads = None

    def __call__(self, output, examples):
        return -output.gather(1, examples.fields["answer"][:, None])[:, 0]


class Case:
    def __init__(self, name: str) -> None:
        self.folder = GOLDEN / name
        config = AutoConfig.from_pretrained(self.folder)
        config._attn_implementation = "sdpa"  # transformers' eager attention takes the softmax in float32
        self.model = GPTNeoXForCausalLM(config).double().eval().requires_grad_(False)
        weights = load_file(self.folder / "model.safetensors")
        self.model.load_state_dict({k.replace("embed_out.", "lm_head."): v for k, v in weights.items()})
        weights = load_file(self.folder / "saes.safetensors")
        self.dictionaries = {}
        for site in circuit_sites(self.model):
            w = {k.removeprefix(site.name + "."): v for k, v in weights.items() if k.startswith(site.name + ".")}
            d = ReLUDictionary(ReLUConfig(w["encoder.weight"].shape[1], w["encoder.weight"].shape[0]), [site]).double()
            d.load_state_dict(
                {
                    "b_dec": w["bias"],
                    "W_enc": w["encoder.weight"],
                    "b_enc": w["encoder.bias"],
                    "W_dec": w["decoder.weight"].T.contiguous(),
                }
            )
            self.dictionaries[site] = d.requires_grad_(False)
        ids = load_file(self.folder / "inputs.safetensors")
        self.paired = "patch_ids" in ids and "nopair" not in name
        last = torch.full((len(ids["clean_ids"]),), ids["clean_ids"].shape[1] - 1)
        if self.paired:
            self.metric = LogitDifference()
            fields = {"answer": ids["patch_answer"], "other": ids["clean_answer"]}
            self.examples = Examples(ids["clean_ids"], ids["patch_ids"], last, fields)
            self.patch = None
        else:
            self.metric = MinusLogit()
            self.examples = Examples(ids["clean_ids"], None, last, {"answer": ids["clean_answer"]})
            self.patch = zero_states(states_of(self.model, self.dictionaries, ids["clean_ids"]))
        self.effects = load_file(self.folder / "node_effects_fixed.safetensors")
        self.edges = load_file(self.folder / "circuit_fixed.safetensors")


@pytest.fixture(params=CASES, scope="module")
def case(request):
    return Case(request.param)


def relative_error(ours, theirs) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max().clamp_min(1e-300))


@pytest.mark.parametrize("method", ["attribution", "ig"])
def test_node_effects(case, method):
    ours = node_effects(
        case.model, case.dictionaries, case.examples, case.metric, case.patch, method=method, rule="left"
    )
    key = {"attribution": "attrib", "ig": "ig"}[method]
    compared = 0
    for site, scores in ours.effects.items():
        name = f"{key}.effect.{site.name}"
        if f"{name}.act" not in case.effects:
            continue
        assert relative_error(scores.acts, case.effects[f"{name}.act"]) < TOLERANCE
        assert relative_error(scores.error, case.effects[f"{name}.resc"][..., 0]) < TOLERANCE
        compared += 1
    assert compared == (10 if f"{key}.effect.resid_0.act" in case.effects else 0)
    assert compared or method == "ig"


def test_edges(case):
    """Summed over positions, with nodes above the reference's threshold, left end points and clean slopes."""
    threshold = json.loads((case.folder / "meta.json").read_text())["node_threshold"]
    nodes = node_effects(case.model, case.dictionaries, case.examples, case.metric, case.patch, rule="left")
    every = {s: Chosen(torch.arange(d.features), True) for s, d in case.dictionaries.items()}
    mask = {site: (scores.joined().abs() > threshold).double() for site, scores in nodes.effects.items()}
    ours = edge_effects(case.model, case.dictionaries, case.examples, nodes, every, slope="clean", mask=mask)
    theirs = {
        k.removeprefix("sum.edge."): v for k, v in case.edges.items() if k.startswith("sum.edge.") and "->y" not in k
    }
    assert {f"{up}->{down}" for up, down in ours} == set(theirs)
    for (up, down), matrix in ours.items():
        assert relative_error(matrix, theirs[f"{up}->{down}"]) < TOLERANCE, (up, down)
