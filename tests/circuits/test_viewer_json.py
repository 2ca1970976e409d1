"""Documents for viewers: unique ids, links that resolve, a schema that refuses what viewers cannot read."""

import copy
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from circuits.graph_export import graph_to_viewer
from circuits.pruning import prune
from circuits.viewer_json import (
    ViewerError,
    ViewerLink,
    ViewerNode,
    ViewerPage,
    schema,
    to_viewer,
    validate,
    write_viewer,
)
from saes.files import FileError, read_json, write_json
from tests.circuits.graphs_for_tests import random_graph

KEYS = {
    "metadata": {"slug", "scan", "transcoder_list", "prompt_tokens", "prompt", "node_threshold", "schema_version"},
    "qParams": {"pinnedIds", "supernodes", "linkType", "clickedId", "sg_pos"},
    "nodes": {
        "node_id", "feature", "layer", "ctx_idx", "feature_type", "token_prob", "is_target_logit", "run_idx",
        "reverse_ctx_idx", "jsNodeId", "clerp", "influence", "activation",
    },
    "links": {"source", "target", "weight"},
}  # fmt: skip
PAGE = ViewerPage("page", "gpt2", ["mlp_0", "mlp_1"], ["a", "b", "c"], "abc")


def name(token: int) -> str:
    return f"<{token}>"


@pytest.fixture(scope="module")
def document():
    return graph_to_viewer(random_graph(), "random", name)


def test_the_keys_are_those_that_viewers_read(document):
    assert document.keys() == KEYS.keys()
    for part in ("metadata", "qParams"):
        assert document[part].keys() == KEYS[part]
    for part in ("nodes", "links"):
        assert document[part] and all(entry.keys() == KEYS[part] for entry in document[part])
    assert json.loads(json.dumps(document, allow_nan=False)) == document


@pytest.mark.parametrize("seed", range(4))
def test_the_document_is_the_pruned_graph(seed):
    graph = random_graph(seed)
    kept, document = prune(graph, 0.7), graph_to_viewer(graph, "g", name, node_threshold=0.7)
    validate(document)
    nodes = {node["node_id"]: node for node in document["nodes"]}
    kinds = Counter(node["feature_type"] for node in document["nodes"])
    bounds = (0, graph.first_error, graph.first_token, graph.first_logit, len(graph))
    types = ("cross layer transcoder", "mlp reconstruction error", "embedding", "logit")
    for kind, low, high in zip(types, bounds[:-1], bounds[1:], strict=True):
        assert kinds[kind] == int(kept.nodes[low:high].sum())
    for i in kept.nodes[: graph.first_error].nonzero().flatten().tolist():
        block, position, number = graph.features[i].tolist()
        node = nodes[f"{block}_{number}_{position}"]
        assert (node["layer"], node["ctx_idx"]) == (str(block), position)
        assert node["activation"] == float(graph.activations[i])
        assert node["influence"] == float(kept.cumulative[i])
    weights = sorted(link["weight"] for link in document["links"])
    assert weights == sorted(graph.edges.weights[kept.edges].tolist())
    targets = [node for node in document["nodes"] if node["is_target_logit"]]
    assert [node["clerp"] for node in targets] == [f'Output "{name(int(graph.logit_tokens[0]))}" (p=0.500)']


def test_error_nodes_never_share_an_id_with_features():
    """circuit-tracer calls both `0_1_2`: the error of block 1 and feature 1 of block 0, each in column 2."""
    feature, error = ViewerNode("feature", 0, 2, 1), ViewerNode("error", 1, 2, None)
    token, output = ViewerNode("token", 0, 2, 1, "c"), ViewerNode("output", 0, 2, 1, "d", probability=0.5)
    links = [ViewerLink(token, feature, 1.0), ViewerLink(error, output, 2.0), ViewerLink(feature, output, -3.0)]
    document = to_viewer(PAGE, [feature, error, token, output], links)
    validate(document)
    assert [node["node_id"] for node in document["nodes"]] == ["0_1_2", "1_-1_2", "E_1_2", "3_1_2"]
    assert [tuple(link.values()) for link in document["links"]] == [
        ("E_1_2", "0_1_2", 1.0), ("1_-1_2", "3_1_2", 2.0), ("0_1_2", "3_1_2", -3.0),
    ]  # fmt: skip


def test_ids_and_feature_numbers_are_unique_over_everything_that_can_be_drawn():
    rows, columns = [f"mlp_{i}" for i in range(5)], list("abcd")
    nodes = [
        make
        for column in range(4)
        for row in range(5)
        for make in (
            ViewerNode("error", row, column, None),
            *(ViewerNode("feature", row, column, number) for number in range(12)),
        )
    ]
    nodes += [ViewerNode("token", 0, column, 3) for column in range(4)]
    nodes += [ViewerNode("output", 0, 3, token, probability=0.1) for token in range(7)]
    document = to_viewer(replace(PAGE, rows=rows, columns=columns), nodes, [])
    validate(document)
    assert len({node["node_id"] for node in document["nodes"]}) == len(nodes)
    pairs = {
        (n.row, n.number): d["feature"] for n, d in zip(nodes, document["nodes"], strict=True) if n.kind == "feature"
    }
    assert len(set(pairs.values())) == len(pairs) == 60
    for (row, number), paired in pairs.items():  # undone as viewers do it
        diagonal = int(((8 * paired + 1) ** 0.5 - 1) // 2)
        found = paired - diagonal * (diagonal + 1) // 2
        assert (diagonal - found, found) == (row, number)


def test_sites_of_a_feature_circuit_are_rows():
    """Several dictionaries in a block, spans for columns: nothing of it is particular to transcoders."""
    rows = ["embed", "attn_0", "mlp_0", "resid_0"]
    page = ViewerPage("agreement", "pythia", rows, ["subject", "clause", "verb"], "subject clause verb")
    nodes = [ViewerNode("feature", row, 1, 7, label=f"{site}/7") for row, site in enumerate(rows)]
    nodes += [ViewerNode("error", row, 1, None) for row in range(4)]
    document = to_viewer(page, nodes, [ViewerLink(nodes[0], nodes[3], 0.5), ViewerLink(nodes[4], nodes[7], 0.25)])
    validate(document)
    assert document["nodes"][2]["clerp"] == "mlp_0/7" and document["metadata"]["transcoder_list"] == rows


def test_links_that_do_not_resolve_are_refused():
    one, two, absent = (ViewerNode("feature", 0, 0, number) for number in (1, 2, 3))
    with pytest.raises(ViewerError, match="0_1_0 -> 0_3_0 ends at '0_3_0', which is no node"):
        to_viewer(PAGE, [one, two], [ViewerLink(one, absent, 1.0)])
    with pytest.raises(ViewerError, match="2 nodes have the node_id '0_1_0'"):
        to_viewer(PAGE, [one, replace(one, label="again")], [])
    with pytest.raises(ViewerError, match="0_1_0 -> 0_2_0 is there twice"):
        to_viewer(PAGE, [one, two], [ViewerLink(one, two, 1.0)] * 2)
    with pytest.raises(ViewerError, match="from a node to itself"):
        to_viewer(PAGE, [one], [ViewerLink(one, one, 1.0)])


def test_nodes_outside_the_page_are_refused():
    for node, message in (
        (ViewerNode("feature", 2, 0, 1), "row 2 and column 0: the page has 2 rows and 3 columns"),
        (ViewerNode("token", 0, 3, 1), "column 3"),
    ):
        with pytest.raises(ViewerError, match=message):
            to_viewer(PAGE, [node], [])
    for wrong, message in (
        (("error", 0, 0, 1), "errors have none"),
        (("feature", 0, 0, None), "errors have none"),
        (("feature", 0, -1, 1), "column -1"),
    ):
        with pytest.raises(ViewerError, match=message):
            ViewerNode(*wrong)
    with pytest.raises(ViewerError, match=r"slug is '\.\./x'"):
        replace(PAGE, slug="../x")


def edit(document, *path, to):
    changed = copy.deepcopy(document)
    place = changed
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = to
    return changed


def test_the_schema_refuses_what_viewers_cannot_read(document):
    Draft202012Validator.check_schema(schema())
    validate(document)
    logit = next(i for i, node in enumerate(document["nodes"]) if node["feature_type"] == "logit")
    feature = next(i for i, node in enumerate(document["nodes"]) if node["feature_type"] == "cross layer transcoder")
    for changed in (
        edit(document, "nodes", logit, "clerp", to="no probability"),  # the viewer's script stops at this
        edit(document, "nodes", feature, "layer", to=3),
        edit(document, "nodes", feature, "layer", to="E"),
        edit(document, "nodes", feature, "feature", to=-1),
        edit(document, "nodes", feature, "node_id", to="mlp_0/3"),
        edit(document, "nodes", feature, "feature_type", to="attention head"),
        edit(document, "nodes", feature, "ctx_idx", to=99),
        edit(document, "links", 0, "weight", to="1"),
        edit(document, "links", 0, "source", to="7_7_7"),
        edit(document, "metadata", "prompt_tokens", to="abc"),
        edit(document, "metadata", "slug", to="a/b"),
        {key: value for key, value in document.items() if key != "qParams"},
        [],
    ):
        with pytest.raises(ViewerError):
            validate(changed)


def test_an_error_of_the_schema_names_the_place(document):
    with pytest.raises(ViewerError, match=r"^\$\.links\[0\]\.weight: '1' is not of type 'number'$"):
        validate(edit(document, "links", 0, "weight", to="1"))


def test_files_are_what_a_server_of_graphs_lists(tmp_path, document):
    path = write_viewer(document, tmp_path)
    other = graph_to_viewer(random_graph(1), "other", name)
    write_viewer(other, tmp_path)
    write_viewer(document, tmp_path)  # again: listed once
    assert path == tmp_path / "random.json" and read_json(path) == document
    listed = read_json(tmp_path / "graph-metadata.json")
    assert listed == {"graphs": [other["metadata"], document["metadata"]]}
    write_json(tmp_path / "graph-metadata.json", ["something else"])
    with pytest.raises(FileError, match="not a list of graphs"):
        write_viewer(document, tmp_path)


def test_the_schema_lies_inside_the_package():
    import circuits

    path = Path(circuits.__file__).parent / "schemas" / "attribution_graph.schema.json"
    assert json.loads(path.read_text()) == schema()
