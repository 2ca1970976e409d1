"""What other tools read is the same circuit, whatever its labels and places are called."""

import re
import shutil
import subprocess

import networkx as nx
import pytest

from circuits.circuit import CircuitError
from circuits.export import to_dot, to_graphml, to_viewer_json
from circuits.labels import Label, ids
from circuits.markup import printable
from circuits.viewer_json import ViewerError, validate
from tests.circuits.circuits_for_tests import HOSTILE, circuit_of

PLACES = ("all", HOSTILE, 'a "quoted" \\', "subject")


@pytest.fixture(scope="module")
def circuit():
    return circuit_of(60, 150, places=PLACES)


@pytest.fixture(scope="module")
def labels(circuit):
    words = [HOSTILE, "c3 mine", "\\", '"', "\\N \\G", "", "<b>bold</b>", "a -> b; }"]
    return {node: Label(words[i % len(words)], 0.5 if i % 2 else None) for i, node in enumerate(circuit.nodes)}


def test_graphml_read_back_is_the_circuit(circuit, labels):
    graph, names = nx.parse_graphml(to_graphml(circuit, labels)), ids(circuit)
    assert {n: graph.nodes[n]["effect"] for n in graph} == {names[n]: e for n, e in circuit.nodes.items()}
    assert {(u, d): e for u, d, e in graph.edges(data="effect")} == {
        (names[u], names[d]): e for (u, d), e in circuit.edges.items()
    }
    for node, name in names.items():
        said = graph.nodes[name]
        assert said["site"] == node.site and said["place"] == printable(node.place)
        assert said.get("feature") == node.feature and said["kind"] == ("error" if node.feature is None else "feature")
        assert said["label"] == printable(labels[node].text) and said.get("f1") == labels[node].f1


def unquoted(word: str) -> str:
    return word[1:-1].replace('\\"', '"')


def statements(dot: str) -> tuple[dict[str, str], dict[tuple[str, str], str]]:
    """Nodes and edges of the DOT text with their attributes; fails on any token that the language does not have."""
    tokens, at = [], 0
    token = re.compile(r'\s+|("(?:[^"\\]|\\.)*"|->|[][{}=;,]|[A-Za-z_]\w*|-?\d+(?:\.\d+)?)')
    while at < len(dot):
        match = token.match(dot, at)
        assert match, dot[at : at + 80]
        at = match.end()
        if match[1]:
            tokens.append(match[1])
    assert tokens[0] == "digraph" and tokens[2] == "{" and tokens[-1] == "}" and tokens.count("{") == tokens.count("}")
    nodes, edges = {}, {}
    for i, word in enumerate(tokens[3:], 3):
        if word == "[" and tokens[i - 1].startswith('"'):
            inside = " ".join(tokens[i + 1 : tokens.index("]", i)])
            if tokens[i - 2] == "->":
                edges[unquoted(tokens[i - 3]), unquoted(tokens[i - 1])] = inside
            else:
                nodes[unquoted(tokens[i - 1])] = inside
    return nodes, edges


def in_dot(name: str) -> str:
    return printable(name).replace("\\", "\\\\").replace("\n", "\\n")


def test_dot_read_back_has_the_nodes_and_edges(circuit, labels):
    nodes, edges = statements(to_dot(circuit, labels, title=HOSTILE))
    names = {node: in_dot(name) for node, name in ids(circuit).items()}
    assert set(nodes) == set(names.values()) and set(edges) == {(names[u], names[d]) for u, d in circuit.edges}
    assert {name for name, said in nodes.items() if "hexagon" in said} == {
        names[node] for node in circuit.nodes if node.feature is None
    }


@pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz is not installed")
def test_graphviz_reads_the_dot(circuit, labels):
    ran = subprocess.run(
        ["dot", "-Tplain"], input=to_dot(circuit, labels, title=HOSTILE).encode(), capture_output=True, timeout=50
    )
    assert ran.returncode == 0 and not ran.stderr, ran.stderr
    lines = ran.stdout.decode().replace("\\\n", "").splitlines()
    assert sum(line.startswith("node ") for line in lines) == len(circuit.nodes)
    assert sum(line.startswith("edge ") for line in lines) == len(circuit.edges)


def test_the_viewers_document_has_every_node_and_edge_once(circuit, labels):
    document = to_viewer_json(circuit, "a-circuit", labels)
    validate(document)
    assert len({n["node_id"] for n in document["nodes"]}) == len(document["nodes"]) == len(circuit.nodes) + 1
    assert len(document["links"]) == len(circuit.edges) + len(circuit.outputs())
    weights = sorted(link["weight"] for link in document["links"])
    assert weights == sorted([*circuit.edges.values(), *(circuit.nodes[node] for node in circuit.outputs())])
    by_id = {n["node_id"]: n for n in document["nodes"]}
    for node in circuit.nodes:
        row = [site.name for site in circuit.sites].index(node.site)
        number = -1 if node.feature is None else node.feature
        shown = by_id[f"{row}_{number}_{PLACES.index(node.place)}"]
        assert shown["feature_type"] == (
            "mlp reconstruction error" if node.feature is None else "cross layer transcoder"
        )
    shares = [n["influence"] for n in document["nodes"] if n["influence"] is not None]
    assert max(shares) == pytest.approx(1) and len(shares) == len(circuit.nodes)
    strongest = max(circuit.nodes, key=lambda node: abs(circuit.nodes[node]))
    assert min(shares) == pytest.approx(abs(circuit.nodes[strongest]) / sum(map(abs, circuit.nodes.values())))


def test_what_the_provenance_says_names_model_and_metric():
    said = {"model": {"type": "gpt2"}, "metric": {"name": "log-odds"}}
    document = to_viewer_json(circuit_of(6, 4, **said), "c")
    assert document["metadata"]["scan"] == "gpt2"
    assert [n["clerp"] for n in document["nodes"] if n["feature_type"] == "logit"] == ['Output "log-odds" (p=0.000)']


@pytest.mark.parametrize("nodes", [0, 1])
def test_almost_nothing_can_be_exported(nodes):
    small = circuit_of(nodes, 0)
    assert len(nx.parse_graphml(to_graphml(small))) == nodes and len(statements(to_dot(small))[0]) == nodes
    validate(to_viewer_json(small, "small"))


def test_names_that_cannot_be_used():
    with pytest.raises(ViewerError, match="slug is"):
        to_viewer_json(circuit_of(3, 1), "../up")
    alike = circuit_of(40, 1, places=("a", "a\x00"))
    nodes = {n: 1.0 for n in alike.nodes} | {type(n)(n.site, n.feature, "a\x00"): 1.0 for n in alike.nodes}
    with pytest.raises(CircuitError, match="control characters"):
        to_graphml(type(alike)(alike.sites, nodes, {}, {}, alike.places))
