"""`kibitz circuit graph` from the command line, also with released transcoders that read behind a norm."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from circuits.attribution_graph import attribution_graph
from circuits.graph import AttributionGraph
from circuits.pruning import prune, scores
from circuits.viewer_json import validate
from kibitz.cli import main
from saes.architectures import ReLUConfig, ReLUDictionary
from saes.checkpoint import save_dictionary
from saes.families import find_site
from saes.models import load_model, save_model
from saes.sites import Site, capture
from tests.circuits.transcoders_for_tests import transcoders_for
from tests.saes.corpora_for_tests import word_tokenizer
from tests.saes.models_for_tests import tiny
from tests.saes.released_for_tests import gemma_arrays, gemma_folder, gemma_forward

PROMPT = "w3 w14 w15 w9"
IDS = torch.tensor([1, 5, 16, 17, 11])  # a BOS token first


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Models with their tokenizers, transcoders of two of the three MLPs of one, and an autoencoder."""
    out = tmp_path_factory.mktemp("graph")
    for family, layers in (("llama", 3), ("gemma2", 2)):
        save_model(tiny(family, layers), out / family)
        word_tokenizer().save_pretrained(out / family)
    for site, dictionary in transcoders_for(tiny("llama", 3), missing=(1,)).items():
        save_dictionary(dictionary, out / "transcoders" / site.name)
    save_dictionary(ReLUDictionary(ReLUConfig(16, 8), [Site("mlp_0", "")]), out / "autoencoder")
    return out


def run(folder: Path, out: Path, *more: str, model: str = "llama", transcoders: str = "transcoders") -> dict:
    where = ["--model", str(folder / model), "--prompt", PROMPT, "--out", str(out)]
    main(["circuit", "graph", str(folder / transcoders), *where, *more])
    return json.loads((out / "results.json").read_text())


def test_it_writes_the_graph_and_what_viewers_read(folder, tmp_path, capsys):
    found = run(folder, tmp_path / "run", "--node-threshold", "0.6", "--strongest", "3")
    model = load_model(folder / "llama")
    wanted = attribution_graph(model, transcoders_for(model, missing=(1,)), IDS, progress=False)
    graph = AttributionGraph.load(tmp_path / "run" / "graph")
    assert torch.equal(graph.tokens, IDS) and torch.equal(graph.features, wanted.features)
    torch.testing.assert_close(graph.edges.weights, wanted.edges.weights)
    kept, measured = prune(graph, 0.6), scores(graph)
    assert found["replacement"] == measured.replacement and found["completeness"] == measured.completeness
    assert found["kept_nodes"] == int(kept.nodes.sum()) and found["prompt"] == ["<bos>", "w3", "w14", "w15", "w9"]
    assert found["without_transcoder"] == ["mlp_1"]
    influence = kept.influence[: len(graph.features)]
    block, position, number = graph.features[int(influence.argmax())].tolist()
    first = found["strongest"][0]
    assert (first["feature"], first["position"]) == (f"mlp_{block}/{number}", position)
    document = json.loads((tmp_path / "run" / "viewer" / "graph.json").read_text())
    validate(document)
    assert len(document["nodes"]) == found["kept_nodes"] and len(document["links"]) == found["kept_edges"]
    said = capsys.readouterr().out
    assert f"Replacement score {measured.replacement:.3f}" in said and "GraphScores" not in said
    assert "for want of a transcoder: mlp_1" in said and said.count(" at ") == 3
    likely, probability = found["next"][0]
    assert f"next: {likely!r} {probability:.1%}" in said
    fewer = run(folder, tmp_path / "run", "--max-features", "5")
    assert fewer["features"] == 5 < fewer["active_features"] == found["features"]
    assert f"{found['features'] - 5} weaker ones are counted as error" in capsys.readouterr().out


def test_gemma_scopes_transcoders_make_a_graph(folder, tmp_path):
    """Its features are those of the report's formula on the stream over its root mean square."""
    arrays = gemma_arrays()
    gemma_folder(tmp_path / "gemma-scope-2b-pt-transcoders/layer_1/width_16k/average_l0_9", **arrays)
    place = tmp_path / "gemma-scope-2b-pt-transcoders/layer_1/width_16k"
    run(folder, tmp_path / "run", model="gemma2", transcoders=str(place))
    model = load_model(folder / "gemma2")
    with torch.no_grad(), capture(model, [site := find_site(model, "resid_mid_1")]) as values:
        model(input_ids=IDS[None], use_cache=False)
    x = values[site][0].double().numpy()
    features, _ = gemma_forward(arrays, x / np.sqrt((x**2).mean(-1, keepdims=True) + model.config.rms_norm_eps))
    graph = AttributionGraph.load(tmp_path / "run" / "graph")
    assert graph.features.tolist() == [[1, *pair] for pair in np.argwhere(features).tolist()]
    np.testing.assert_allclose(graph.activations.numpy(), features[features != 0], rtol=1e-3)


@pytest.mark.parametrize(
    ("more", "transcoders", "said"),
    [
        (["--node-threshold", "2"], "transcoders", "node_threshold is 2.0: choose a share between 0 and 1"),
        (["--prompt", ""], "transcoders", "the prompt has no tokens"),
        ([], "autoencoder", "attribution graphs need transcoders"),
        (["--max-features", "0"], "transcoders", "max_features is 0"),
    ],
)
def test_wrong_input_is_one_sentence(more, transcoders, said, folder, tmp_path, capsys):
    with pytest.raises(SystemExit):
        run(folder, tmp_path / "run", *more, transcoders=transcoders)
    shown = capsys.readouterr().err.strip()
    assert said in shown and shown.count("\n") == 0 and not (tmp_path / "run").exists()
