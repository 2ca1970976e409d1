"""The report's sections on the model, the dictionary's training, its board metrics and its best features."""

from boardgames.othello.rules import square_name
from circuits.markup import NONE, number, text
from kibitz.report.boards import disc_board, heat_board, owner_board
from kibitz.report.charts import Rule, bar_chart, line_chart
from kibitz.report.data import Board, Feature, Games, LanguageModel, Position, Training
from kibitz.report.markup import count, figure, intro, percent, table

_WHO = {"mine": "“Mine” is the side that has just moved.", "yours": "“Yours” is the other side."}


def model_section(games: Games, model: LanguageModel) -> str:
    """Where the games come from, and how well the language model plays them."""
    gap = model["cross_entropy"] - model["ideal_cross_entropy"]
    by_ply = [(ply + 1.0, rate) for ply, rate in enumerate(model["legal_move_rate_by_ply"])]
    lowest = min([0.9, *model["legal_move_rate_by_ply"]])
    chart = line_chart(by_ply, label="Legal-move rate by move number", x_name="moves played", y_range=(lowest, 1.0))
    facts = facts_list(
        [
            ("games played for this run", count(games["count"])),
            ("positions to train on", count(games["positions"])),
            ("source", text(games["source"])),
            ("unseen games scored", count(model["games"])),
            ("first choice is legal", percent(model["legal_move_rate"], 2)),
            ("probability on legal moves", percent(model["legal_mass"], 2)),
            ("cross-entropy, model", f"{number(model['cross_entropy'], 3)} nats"),
            ("cross-entropy, ideal player", f"{number(model['ideal_cross_entropy'], 3)} nats"),
        ]
    )
    return (
        intro(
            "The language model has only ever seen lists of moves, never a board. It predicts the next move; if its"
            " first choice is nearly always legal, it must keep track of the board somewhere inside, and that is what"
            " the rest of this page looks for.",
            "Below about 95 % legal moves there would be little to find. In random games nobody can predict"
            " <em>which</em> legal move comes, so the best possible cross-entropy is the mean log of the number of"
            f" legal moves; this model is {number(gap, 3)} nats above it.",
        )
        + f'<div class="cols">{facts}'
        + figure(
            f'<p class="head">First choice legal, by moves played</p>{chart}', "A dip shows where in the game it errs."
        )
        + "</div>"
    )


def training_section(training: Training) -> str:
    """Curves of the dictionary that this run trained."""
    records = training["records"]

    def curve(head: str, key: str, caption: str, y_range: tuple[float, float] | None = None) -> str:
        points = [(float(record["step"]), record[key]) for record in records]
        chart = line_chart(points, label=f"{head} during training", x_name="step", y_range=y_range)
        return figure(f'<p class="head">{head}</p>{chart}', caption)

    facts = facts_list(
        [
            ("site", text(training["site"])),
            ("features", count(training["features"])),
            ("tokens seen", count(training["tokens"])),
            ("L0", number(training["l0"], 1)),
            ("variance explained", percent(training["variance_explained"], 1)),
            ("loss recovered", percent(training["loss_recovered"], 1)),
            ("features alive", percent(training["alive"], 1)),
            ("final p", number(training["p_final"])),
        ]
    )
    p_range = (0.0, max([1.0, *(record["p"] for record in records)]))
    return (
        intro(
            f"A sparse autoencoder rewrites each activation vector at <code>{text(training['site'])}</code> as a sum of"
            " a few features out of many. <b>L0</b> counts how many are active at once (fewer is easier to read);"
            " <b>variance explained</b> and <b>loss recovered</b> say how much of the vector, and of the model's"
            " predictions, survives.",
            "Bad would be an L0 in the hundreds, many features that never fire, or variance explained that falls far"
            " while L0 falls (sparsity bought with accuracy). The penalty starts as an L1 norm (p = 1) and is annealed"
            f" towards counting features (p = {number(training['p_final'], 1)}).",
        )
        + '<div class="cols three">'
        + curve("L0: active features", "l0", "Lower is sparser.")
        + curve("Variance explained", "variance_explained", "1 would be a perfect copy.")
        + curve("Loss", "loss", "Not comparable across values of p.")
        + curve("p of the penalty", "p", "From L1 towards L0.", p_range)
        + curve("Penalty coefficient", "coefficient", "Rescaled at each drop of p, so that the penalty does not jump.")
        + facts
        + "</div>"
    )


def board_section(board: Board) -> str:
    """Coverage and reconstruction against floor, ceiling, neurons and probe; F1 of every square."""
    rows = board["rows"]
    rules = (Rule(board["floor"], "floor"), Rule(board["ceiling"], "ceiling"))
    coverage = bar_chart([(r["name"], r["coverage"]) for r in rows], label="Coverage", rules=rules)
    rebuilt = bar_chart([(r["name"], r["reconstruction"]) for r in rows], label="Board reconstruction")
    listed = [
        [
            f"<b>{text(r['name'])}</b>" if i == 0 else text(r["name"]),
            number(r["coverage"], 3),
            number(r["reconstruction"], 3),
            count(r["features"]),
            number(r["l0"], 1),
        ]
        for i, r in enumerate(rows)
    ]
    listed += [
        ["floor: a feature that always fires", number(board["floor"], 3), NONE, NONE, NONE],
        ["ceiling: a perfect detector", number(board["ceiling"], 3), NONE, NONE, NONE],
    ]
    heat = ""
    for name, key in (("mine", "f1_mine"), ("yours", "f1_yours")):
        if board[key]:
            mean = sum(board[key]) / len(board[key])
            heat += figure(
                f'<p class="head">F1 of the best feature for “{name}”</p>'
                + heat_board(board[key], label=f"Best F1 per square for {name}"),
                f"Mean over the 64 squares: <b>{number(mean)}</b>. {_WHO[name]}",
            )
    return (
        intro(
            "Because the rules give the true board, the features can be marked like an exam. <b>Coverage</b> asks of"
            " each of 128 statements (“c3 is mine”, “c3 is yours”, …) how well the best single feature detects it, as"
            " an F1 score, and averages. <b>Reconstruction</b> rebuilds whole boards from features that are right at"
            " least 95 % of the time.",
            "Read coverage between its floor and its ceiling: a useless feature that always fires already scores"
            f" {number(board['floor'])}. Bad would be a bar at the floor, or one far below the raw neurons, which come"
            " for free. The linear probe is told the answers in training, so it shows how much the site holds. Features"
            " are chosen on one set of games and scored on another.",
        )
        + '<div class="cols">'
        + figure(f'<p class="head">Coverage</p>{coverage}')
        + figure(f'<p class="head">Board reconstruction</p>{rebuilt}')
        + "</div>"
        + table(["", "coverage", "reconstruction", "features", "L0"], listed)
        + (f'<div class="pair">{heat}</div>' if heat else "")
    )


def features_section(features: list[Feature]) -> str:
    """Each good feature as a card: its score, its mean board, positions that activate it."""
    opening = intro(
        "Each card is one feature of the trained dictionary. The first board pools every position in which it is"
        " active: blue squares are mostly <em>mine</em> (the side that has just moved), orange ones mostly"
        " <em>yours</em>, pale ones mixed or empty. The green boards are the positions, one a game, that activate it"
        " most.",
        "A good feature has one vivid square where the ring is, and the same owner there in every position, whichever"
        " colour that is. Bad would be a feature that is precise but misses most cases (low recall), or one that is"
        " active nearly everywhere.",
    )
    opening += (
        '<p class="legend"><span><i class="lp"></i>mine</span><span><i class="lm"></i>yours</span>'
        '<span><i class="lr"></i>the square it stands for</span><span><i class="ll"></i>last move</span></p>'
    )
    if not features:
        return opening + "<p>No feature was good enough to show.</p>"
    return opening + "".join(_feature_card(feature) for feature in features)


def _feature_card(feature: Feature) -> str:
    name = f"feature {feature['feature']}, {feature['column']}"
    mean = ""
    if feature["mean_mine"] and feature["mean_yours"]:
        mean = figure(
            owner_board(
                feature["mean_mine"], feature["mean_yours"], label=f"Mean board of {name}", target=feature["square"]
            ),
            "every position in which it is active",
        )
    shots = "".join(_shot(position, feature) for position in feature["positions"])
    return (
        '<article class="feature"><header>'
        f"<h3>{text(feature['column'])}</h3><p>feature {feature['feature']}</p>"
        f"<p>F1 <b>{number(feature['f1'])}</b> · precision <b>{number(feature['precision'])}</b> · recall"
        f" <b>{number(feature['recall'])}</b> · active in <b>{percent(feature['density'], 1)}</b> of positions, above"
        f" <b>{percent(feature['threshold'])}</b> of its maximum</p>"
        f'</header>{mean}<div class="strip">{shots}</div></article>'
    )


def _shot(position: Position, feature: Feature) -> str:
    moved = "Black" if position["mover"] == 1 else "White"
    where = square_name(position["last"])
    return figure(
        disc_board(
            position["black"],
            position["white"],
            last=position["last"],
            target=feature["square"],
            label=f"Game {position['game']} after {position['ply'] + 1} moves; {moved} has just played {where}",
        ),
        f"{moved} played {where} · <b>{number(position['activation'])}</b><br>"
        f"game {position['game']}, move {position['ply'] + 1}",
    )


def facts_list(facts: list[tuple[str, str]]) -> str:
    """Names (plain) and values (markup) in two columns."""
    return '<dl class="facts">' + "".join(f"<dt>{text(k)}</dt><dd>{v}</dd>" for k, v in facts) + "</dl>"
