"""The report's sections on causes: the feature circuit, and the classifier that SHIFT repairs."""

import circuits
from boardgames.othello.rules import square_name
from circuits.circuit import Node
from circuits.labels import Label
from circuits.markup import number, signed, text
from circuits.page import Context, view
from kibitz.report.boards import disc_board
from kibitz.report.data import BoardPosition, Circuit, Position, Shift
from kibitz.report.markup import count, figure, folded, intro, percent, table
from kibitz.report.style import BOARD_PICTURE
from saes.sites import Site

_CELLS = ((0, 0), (0, 1), (1, 0), (1, 1))  # (A, B)


def circuit_section(circuit: Circuit) -> str:
    """The counterfactual pair, the picture, and how much of the behaviour the picture carries."""
    errors = sum(node["feature"] is None for node in circuit["nodes"])
    return (
        intro(
            "A circuit is the part of the model that one behaviour needs: the features that carry it, and the edges by"
            f" which they act on one another. The behaviour here is the <b>{text(circuit['behaviour'])}</b>, so the"
            " rules fix what its cause must be.",
            "Dashed hexagons are <b>error nodes</b>: what the dictionaries failed to explain. Keeping them flatters a"
            " circuit, so read its faithfulness beside the one without them and beside random circuits of the same"
            " size; a circuit no better than random explains nothing.",
        )
        + _pair(circuit)
        + "<h3>The circuit</h3>"
        + _picture(circuit)
        + "<h3>Does it explain the behaviour?</h3>"
        + _numbers(circuit, errors)
        + _nodes_and_edges(circuit)
    )


def _picture(circuit: Circuit) -> str:
    """The nodes with their board properties, and with the positions that activate them most."""
    nodes = {node["id"]: Node(node["site"], node["feature"]) for node in circuit["nodes"]}
    drawn = circuits.Circuit(
        tuple(Site(name, name) for name in circuit["sites"]),
        {nodes[node["id"]]: node["effect"] for node in circuit["nodes"]},
        {(nodes[edge["source"]], nodes[edge["target"]]): edge["weight"] for edge in circuit["edges"]},
        {},
    )
    labels = {nodes[n["id"]]: Label(n["label"], n["f1"]) for n in circuit["nodes"] if n["feature"] is not None}
    contexts = {nodes[node["id"]]: [_shot(position) for position in node["positions"]] for node in circuit["nodes"]}
    return view(
        drawn, labels, contexts, title="The strongest nodes", metric="the behaviour", picture_style=BOARD_PICTURE
    )


def _shot(position: Position) -> Context:
    moved = "Black" if position["mover"] == 1 else "White"
    said = f"{moved} played {square_name(position['last'])}"
    board = disc_board(position["black"], position["white"], last=position["last"], label=said)
    return Context(
        picture=board,
        caption=f"{said}: {number(position['activation'])} (game {position['game']}, move {position['ply'] + 1})",
    )


def _pair(circuit: Circuit) -> str:
    example = circuit["example"]
    marks = {example["changed_from"], example["changed_to"]}

    def board(position: BoardPosition, name: str, move: int) -> str:
        label = f"{name} after {square_name(move)} at move {example['changed_ply'] + 1}"
        picture = disc_board(
            position["black"],
            position["white"],
            last=position["last"],
            target=circuit["target"],
            marks=marks,
            label=label,
        )
        return figure(picture, f"<b>{name}</b>: {square_name(move)} at move {example['changed_ply'] + 1}")

    return (
        f"<h3>One of the {count(circuit['examples'])} counterfactual pairs</h3>"
        '<p class="legend"><span><i class="lr"></i>the square in question: '
        f'{square_name(circuit["target"])}</span><span><i class="ld"></i>the move that differs</span>'
        '<span><i class="ll"></i>last move</span></p><div class="pair">'
        + board(example["clean"], "Clean game", example["changed_from"])
        + board(example["patch"], "Patch game", example["changed_to"])
        + "</div>"
    )


def _numbers(circuit: Circuit, errors: int) -> str:
    rows = [
        [
            "faithfulness",
            number(circuit["faithfulness"]),
            "share of the behaviour left when all else is ablated; 1 is all",
        ],
        [
            "the same, error nodes ablated too",
            number(circuit["faithfulness_without_errors"]),
            "what the features alone carry; far below the line above means that the errors do the work",
        ],
        [
            "random circuits, as many features",
            number(circuit["random_faithfulness"]),
            "same error nodes, random active features; must be well below the first line",
        ],
        [
            "completeness",
            number(circuit["completeness"]),
            "what is left without the circuit; near 0 means little was missed",
        ],
        [
            "error of the attribution's sum",
            number(circuit["ig_sum_error"], 3),
            "integrated gradients must add up to the true effect; this is how far they miss",
        ],
        [
            "nodes",
            count(circuit["node_count"]),
            f"features and error nodes; drawn are the {len(circuit['nodes'])} strongest, {errors} of them error nodes",
        ],
        [
            "edges",
            count(circuit["edge_count"]),
            f"averaged over {count(circuit['examples'])} pairs; drawn are the {len(circuit['edges'])} strongest",
        ],
    ]
    return table(
        ["", "value", "<th>what it means</th>"],
        [[a, f'<td class="n"><b>{b}</b></td>', f"<td>{c}</td>"] for a, b, c in rows],
    )


def _nodes_and_edges(circuit: Circuit) -> str:
    nodes = sorted(circuit["nodes"], key=lambda n: (-abs(n["effect"]), n["id"]))
    edges = sorted(circuit["edges"], key=lambda e: (-abs(e["weight"]), e["source"], e["target"]))
    f1 = {n["id"]: number(n["f1"]) for n in nodes}
    labels = {n["id"]: "error" if n["feature"] is None else n["label"] for n in nodes}
    return folded(
        f"All {len(nodes)} nodes",
        table(
            ["node", "matches best", "F1", "effect"],
            [[text(n["id"]), text(labels[n["id"]]), f1[n["id"]], signed(n["effect"], 3)] for n in nodes],
            words=2,
        ),
    ) + folded(
        f"All {len(edges)} edges",
        table(
            ["from", "matches", "to", "matches", "weight"],
            [
                [
                    text(e["source"]),
                    text(labels[e["source"]]),
                    text(e["target"]),
                    text(labels[e["target"]]),
                    signed(e["weight"], 4),
                ]
                for e in edges
            ],
            words=4,
        ),
    )


def shift_section(shift: Shift) -> str:
    """Four cells for every row, and what the judge decided."""
    header = ["classifier", *(_cell_name(a, b) for a, b in _CELLS), "worst group", "scored as A", "scored as B"]
    rows = [
        [
            text(row["name"]),
            *(_accuracy(row["cells"][a][b]) for a, b in _CELLS),
            f"<b>{percent(row['worst_group'], 1)}</b>",
            percent(row["intended_accuracy"], 1),
            percent(row["spurious_accuracy"], 1),
        ]
        for row in shift["rows"]
    ]
    return (
        intro(
            f"A probe at <code>{text(shift['site'])}</code> should learn A, the <b>{text(shift['intended'])}</b>, but"
            f" in its {count(shift['ambiguous_games'])} training games B, the <b>{text(shift['spurious'])}</b>, always"
            " agrees with it, so nothing tells it which to use. SHIFT lists the features the probe leans on, lets a"
            " judge strike those that are about B, and cuts them out. Only then is a balanced test set made, in which A"
            " and B are independent.",
            "The cells where A and B disagree (≠) give the game away: a probe that leans on B fails there. The <b>worst"
            " group</b> is the lowest of the four cells; 50 % is a coin toss. Scored as B, a repaired probe should be"
            " near 50 %. Bad would be a repair that is no better than cutting random features.",
        )
        + table(header, rows)
        + '<p class="legend"><span><i class="lp"></i>better than a coin toss</span>'
        '<span><i class="lm"></i>worse than one</span></p>'
        + f"<p>{count(shift['candidates'])} candidate features were judged and {count(shift['trimmed'])} were cut;"
        f" the test set has {count(shift['balanced_games'])} games.</p>" + _judgements(shift)
    )


def _cell_name(a: int, b: int) -> str:
    mark = "" if a == b else " ≠"
    return f"A={a} B={b}{mark}"


def _accuracy(value: float) -> str:
    side = "" if value >= 0.5 else " low"
    depth = min(abs(value - 0.5) * 2, 1) * 55
    return f'<td class="cell{side}" style="--deep:{depth:.0f}%">{percent(value, 1)}</td>'


def _judgements(shift: Shift) -> str:
    if not shift["judgements"]:
        return "<p>No feature was judged.</p>"
    counts = {v: sum(j["verdict"] == v for j in shift["judgements"]) for v in ("trim", "keep", "mixed", "unsure")}
    ranked = sorted(shift["judgements"], key=lambda j: (-abs(j["effect"]), j["site"], j["feature"]))
    rows = [
        [
            f"{text(j['site'])}/{j['feature']}",
            text(j["label"]),
            f'<span class="verdict {j["verdict"]}">{j["verdict"]}</span>',
            number(j["f1"]),
            signed(j["effect"], 3),
        ]
        for j in ranked
    ]
    summary = " · ".join(f"{n} {v}" for v, n in counts.items() if n)
    return folded(
        f"All {len(rows)} judgements ({summary})",
        table(["feature", "matches best", "verdict", "F1", "effect"], rows, words=3),
    )
