"""The report is one whole file that fetches nothing, draws everything once, escapes everything, and never varies."""

import copy
import json
import math
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from kibitz.report import ReportDataError, write_report
from kibitz.report.boards import disc_board
from kibitz.report.charts import ticks
from tests.kibitz.synthetic_report import report_data

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = "</script><script>alert(\"1\")</script><img src=x onerror='x'> & \x00]]>"


@pytest.fixture(scope="module")
def data() -> dict[str, Any]:
    return report_data()


def page(data: dict[str, Any], folder: Path) -> str:
    write_report(data, folder / "report.html")
    return (folder / "report.html").read_text(encoding="utf-8")


def pictures(html: str) -> list[ET.Element]:
    return [ET.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", html, re.S)]


def circuit_of(html: str) -> ET.Element:
    return next(svg for svg in pictures(html) if svg.get("class") == "circuit")


class _Balance(HTMLParser):
    """Fails on a tag that is closed out of turn."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "br", "img", "link", "input"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def parsed(html: str) -> _Balance:
    parser = _Balance()
    parser.feed(html)
    assert parser.open == []
    return parser


def test_fetches_nothing(data, tmp_path):
    html = page(data, tmp_path)
    assert not re.findall(r"https?://|@import|url\(", html.replace("http://www.w3.org/2000/svg", ""))
    for tag, attributes in parsed(html).tags:
        assert tag not in ("link", "img", "iframe", "object", "use", "image", "base")
        assert "src" not in attributes
        assert attributes.get("href", "#").startswith("#")


def test_every_link_has_its_section(data, tmp_path):
    tags = parsed(page(data, tmp_path)).tags
    ids = {attributes["id"] for tag, attributes in tags if tag == "section"}
    assert {str(attributes["href"])[1:] for tag, attributes in tags if tag == "a"} == ids
    assert len(ids) == 7


def test_pictures_are_well_formed_and_all_there(data, tmp_path):
    kinds = [svg.get("class") for svg in pictures(page(data, tmp_path))]
    shots = sum(len(feature["positions"]) for feature in data["features"])
    assert kinds.count("board discs") == shots + 2  # and the counterfactual pair
    assert kinds.count("board heatmap") == len(data["features"]) + 2  # and F1 for mine and for yours
    assert kinds.count("chart lines") == 6
    assert kinds.count("chart bars") == 2
    assert kinds.count("circuit") == 1


def test_every_node_and_edge_is_drawn_once(data, tmp_path):
    svg, circuit = circuit_of(page(data, tmp_path)), data["circuit"]
    groups = [g for g in svg.iter(f"{SVG}g") if "node" in str(g.get("class")).split()]
    assert sorted(str(g.get("data-id")) for g in groups) == sorted(
        ["metric", *(node["id"] for node in circuit["nodes"])]
    )
    errors = {g.get("data-id") for g in groups if g.find(f"{SVG}polygon") is not None}
    assert errors == {node["id"] for node in circuit["nodes"] if node["feature"] is None}
    paths = [p for p in svg.iter(f"{SVG}path") if p.get("data-source")]
    drawn = {(p.get("data-source"), p.get("data-target")): p for p in paths}
    into = {(n["id"], "metric") for n in circuit["nodes"] if n["site"] == circuit["sites"][-1]}
    assert len(paths) == len(drawn) == len(circuit["edges"]) + len(into) and into <= drawn.keys()
    for edge in circuit["edges"]:
        path = drawn[edge["source"], edge["target"]]
        assert path.get("class") == ("edge plus" if edge["weight"] >= 0 else "edge minus")


def test_the_boards_of_a_circuits_nodes_travel_as_pictures(data, tmp_path):
    html = page(data, tmp_path)
    said = json.loads(re.findall(r'<script type="application/json">(.*?)</script>', html, re.S)[0])
    by_id = {node["id"]: node for node in said["nodes"]}
    assert set(by_id) == {node["id"] for node in data["circuit"]["nodes"]}
    for node in data["circuit"]["nodes"]:
        pictures = [ET.fromstring(context["picture"]) for context in by_id[node["id"]]["contexts"]]
        assert len(pictures) == len(node["positions"])
        for svg, position in zip(pictures, node["positions"], strict=True):
            discs = [c for c in svg.iter(f"{SVG}circle") if c.get("class") in ("black", "white")]
            assert len(discs) == len(position["black"]) + len(position["white"])
    assert ".board .felt" in said["picture_style"] and ET.fromstring(f"<style>{said['picture_style']}</style>").text


def test_discs_stand_where_the_board_says():
    svg = ET.fromstring(disc_board([0, 63], [18], last=18, target=63, label="x"))
    discs = [(c.get("class"), c.get("cx"), c.get("cy")) for c in svg.iter(f"{SVG}circle")]
    a1, h8, c3 = ("33", "33"), ("243", "243"), ("93", "93")  # 18 of margin, then squares of 30
    assert discs == [("black", *a1), ("black", *h8), ("white", *c3), ("last", *c3)]
    column_8_of_row_a = ET.fromstring(disc_board([7], [], label="x")).find(f"{SVG}circle")
    assert column_8_of_row_a is not None
    assert (column_8_of_row_a.get("cx"), column_8_of_row_a.get("cy")) == ("243", "33")


def test_hostile_text_is_escaped_everywhere(data, tmp_path):
    plain = parsed(page(data, tmp_path)).tags

    def poison(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {k: poison(v, k) for k, v in value.items()}
        if isinstance(value, list):
            return [poison(v, key) for v in value]
        return value + HOSTILE if isinstance(value, str) and key != "verdict" else value

    html = page(poison(data), tmp_path)
    assert HOSTILE not in html and "<img" not in html and "\x00" not in html
    assert [tag for tag, _ in parsed(html).tags] == [tag for tag, _ in plain]
    assert all(not name.startswith("on") for _, attributes in parsed(html).tags for name in attributes)
    assert len(pictures(html)) == len([tag for tag, _ in plain if tag == "svg"])


def test_same_data_same_bytes_and_data_untouched(data, tmp_path):
    before = copy.deepcopy(data)
    assert page(data, tmp_path / "a") == page(copy.deepcopy(data), tmp_path / "b")
    assert data == before


def test_shows_the_numbers(data, tmp_path):
    html = page(data, tmp_path)
    said = re.sub(r"<[^>]+>", " ", html).replace("\u202f", " ")
    for expected in (
        "98.4 %",
        "0.641",
        "floor 0.41",
        "39 % → 82 %",
        "0.42 without error nodes",
        "14 were cut",
        "0.013",
    ):
        assert expected in said
    assert 'style="--deep:9%">42.0' in html.replace("cell low", "cell").replace("\u202f", "")  # |0.42 - 0.5| * 2 * 55 %


def test_a_failed_write_leaves_the_old_report(data, tmp_path, monkeypatch):
    old = page(data, tmp_path)
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk is full")))
    with pytest.raises(OSError, match="full"):
        write_report(data | {"title": "new"}, tmp_path / "report.html")
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == old


def test_empty_lists_and_missing_numbers_are_no_fault(data, tmp_path):
    bare = copy.deepcopy(data)
    bare["features"], bare["timings"], bare["versions"] = [], [], {}
    bare["language_model"]["legal_move_rate_by_ply"] = []
    bare["training"]["records"] = []
    bare["board"] |= {"rows": [], "f1_mine": [], "f1_yours": []}
    bare["circuit"] |= {"nodes": [], "edges": [], "faithfulness": math.nan}
    bare["shift"] |= {"rows": [], "judgements": []}
    html = page(bare, tmp_path)
    parsed(html)
    assert pictures(html)
    assert "nan" not in re.sub(r"<style>.*?</style>|<script.*?</script>", "", html, flags=re.S)


def _without(data: dict[str, Any], *path: str) -> dict[str, Any]:
    data = copy.deepcopy(data)
    inner: Any = data
    for key in path[:-1]:
        inner = inner[int(key)] if isinstance(inner, list) else inner[key]
    del inner[path[-1]]
    return data


@pytest.mark.parametrize(
    ("path", "said"),
    [
        (("title",), "data lacks 'title'"),
        (("training", "loss_recovered"), r"data\.training lacks 'loss_recovered'"),
        (("circuit", "example", "patch", "last"), r"data\.circuit\.example\.patch lacks 'last'"),
        (("shift", "judgements", "3", "verdict"), r"data\.shift\.judgements\[3\] lacks 'verdict'"),
    ],
)
def test_a_missing_key_is_named_and_writes_nothing(data, tmp_path, path, said):
    with pytest.raises(ReportDataError, match=said):
        write_report(_without(data, *path), tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []


def test_wrong_values_are_named(data, tmp_path):
    def refused(said: str, **changes: Any) -> None:
        with pytest.raises(ReportDataError, match=said):
            write_report(data | changes, tmp_path / "report.html")

    circuit = data["circuit"]
    refused("data.seconds is 'long'; expected a number", seconds="long")
    refused("f1_mine has 3 values", board=data["board"] | {"f1_mine": [0.1] * 3})
    refused(
        "'nowhere/1', which is no node", circuit=circuit | {"edges": [circuit["edges"][0] | {"target": "nowhere/1"}]}
    )
    refused("two circuit nodes", circuit=circuit | {"nodes": circuit["nodes"] * 2})
    refused("64 is no square", circuit=circuit | {"target": 64})


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1, [0, 0.25, 0.5, 0.75, 1]), (0.9, 1.0, [0.9, 0.925, 0.95, 0.975, 1.0]), (3, 3, [3, 4, 5, 6])],
)
def test_ticks_are_round_and_enclose(low, high, expected):
    assert ticks(float(low), float(high)) == pytest.approx(expected)
