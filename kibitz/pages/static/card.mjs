// A card (docs/cards.md) as elements: where the feature fires, and what is measured of it.

import { heat, histogram, position } from "./boards.mjs";
import { el, number, percent, signed } from "./dom.mjs";

const TITLES = {
  top: ["Where it fires most", "the strongest first; of positions that look alike one"],
  quantiles: ["Across its range", "from strong to weak, among the positions where it fires"],
  random: ["Positions at random", "drawn before anything was known of the feature"],
};

export function cardView(card, { open = null, effect = ["Effect of removing it", "on the classifier's margin"] } = {}) {
  const shown = Object.entries(TITLES).map(([kind, titles]) => section(card, card.showings[kind] ?? [], kind, titles));
  return el(
    "article",
    { class: `card kind-${card.kind ?? "none"}` },
    el("div", { class: "shown" }, shown, legend(card)),
    el("aside", { class: "facts" }, facts(card, open, effect)),
  );
}

function section(card, showings, kind, [title, note]) {
  if (!showings.length) {
    return kind === "top" ? el("section", {}, el("h2", {}, title), el("p", { class: "soft" }, "It fires nowhere here.")) : null;
  }
  const most = Math.max(...Object.values(card.showings).flat().map((s) => s.activation), 1e-12);
  const each = card.kind === "text" ? (s) => context(s, most) : (s) => boardFigure(card.kind, s, most);
  const list = card.kind === "text" ? "contexts" : "boards";
  return el("section", {}, el("h2", {}, title, el("small", {}, note)), el("div", { class: list }, showings.map(each)));
}

function boardFigure(game, showing, most) {
  const note = showing.quantile == null ? "" : ` · stronger than ${Math.round(100 * showing.quantile)} %`;
  const share = Math.max(0, showing.activation) / most;
  const meter = el("i", { class: "meter" }, el("i"));
  meter.firstChild.style.width = `${100 * share}%`;
  return el(
    "figure", { title: `${showing.caption}${note}` },
    position(game, showing),
    el("figcaption", {}, showing.turn ? el("i", { class: `disc ${showing.turn}` }) : null, meter, el("span", {}, number(showing.activation))),
  );
}

function context(showing, most) {
  const words = showing.tokens.map((token, i) => {
    const value = showing.activations[i];
    const word = el("span", { class: i === showing.at ? "token here" : "token", title: number(value) }, visible(token));
    word.style.setProperty("--share", `${Math.round(100 * Math.min(Math.max(value / most, 0), 1))}%`);
    return word;
  });
  return el("p", { class: "context" }, el("b", {}, number(showing.activation)), el("span", {}, words));
}

// Line breaks are tokens like others, and may be where a feature fires.
function visible(token) {
  return token.replaceAll("\n", "↵").replaceAll("\t", "⇥");
}

function legend(card) {
  if (card.kind === "text") {
    return el("p", { class: "legend" }, "The underlined token is the position; the deeper a token's colour, the larger its activation.");
  }
  if (card.kind === "othello") {
    return el(
      "p", { class: "legend" },
      el("span", {}, el("i", { class: "disc mine" }), "mine: the side that has just moved"),
      el("span", {}, el("i", { class: "disc yours" }), "yours"),
      el("span", {}, el("i", { class: "disc lastdot" }), "last move"),
      el("span", {}, el("i", { class: "disc flipring" }), "flipped by it"),
    );
  }
  return card.kind === "chess" ? el("p", { class: "legend" }, "The square of the last move is framed; the disc has the colour of the side to move. White is below.") : null;
}

function facts(card, open, effect) {
  return [property(card), effects(card, effect), heatMaps(card), distribution(card), logits(card), neighbours(card, open)];
}

function property(card) {
  const found = card.property;
  if (!found) return null;
  return el(
    "section", { class: "property" },
    el("h2", {}, "Best-matching property"),
    el("p", { class: "said" }, el("b", {}, found.name), ` F1 ${number(found.f1, 2)}`),
    el("p", { class: "soft" }, `precision ${number(found.precision, 2)}, recall ${number(found.recall, 2)}`),
  );
}

function effects(card, [title, note]) {
  const known = card.features.filter((f) => f.effect !== undefined && f.effect !== null);
  if (!known.length) return null;
  const most = Math.max(...known.map((f) => Math.abs(f.effect)), 1e-12);
  return el(
    "section", {},
    el("h2", {}, title, el("small", {}, note)),
    el("table", { class: "effects" }, el("tbody", {}, known.map((f) => {
      const bar = el("i", { class: f.effect < 0 ? "effect minus" : "effect plus" });
      bar.style.width = `${100 * Math.abs(f.effect) / most}%`;
      return el("tr", {}, el("th", { scope: "row" }, `${f.site}/${f.feature}`), el("td", { class: "wide" }, known.length > 1 ? bar : null), el("td", { class: "n" }, signed(f.effect)));
    }))),
  );
}

function heatMaps(card) {
  if (!card.heat?.length) return null;
  const scale = Math.max(...card.heat.flatMap((h) => h.values).filter((v) => v !== null).map(Math.abs), 0);
  return el(
    "section", {},
    el("h2", {}, "Mean activation", el("small", {}, `by what a square is; full colour: ${number(scale)}`)),
    el("div", { class: "heats" }, card.heat.map((h) => el(
      "figure", {}, heat(card.kind, h.values, scale, `Mean activation where a square is ${h.state}`), el("figcaption", {}, h.state),
    ))),
  );
}

function distribution(card) {
  if (card.density === null || card.density === undefined) return null;
  const drawn = card.histogram?.counts?.length ? histogram(card.histogram) : null;
  return el(
    "section", {},
    el("h2", {}, "Activations", el("small", {}, `fires on ${percent(card.density, 2)} of ${card.positions ?? "?"} positions; logarithmic`)),
    drawn,
  );
}

function logits(card) {
  if (!card.logits) return null;
  const squares = card.logits.squares?.length ? card.logits.squares : null;
  const scale = squares ? Math.max(...squares.filter((v) => v !== null).map(Math.abs)) : 0;
  const list = (title, tokens, kind) => el(
    "div", {}, el("h3", {}, title),
    el("ul", { class: "tokens" }, tokens.map((t) => el("li", { class: kind, title: signed(t.value) }, visible(t.token)))),
  );
  return el(
    "section", {},
    el("h2", {}, "What it writes to the output", el("small", {}, "directly, through the last norm")),
    el(
      "div", { class: squares ? "logits drawn" : "logits" },
      squares && el("figure", {}, heat(card.kind, squares, scale, "Direct effect on the logit of each square")),
      el("div", {}, list("likelier", card.logits.top, "plus"), list("less likely", card.logits.bottom, "minus")),
    ),
  );
}

function neighbours(card, open) {
  if (!card.neighbours?.length) return null;
  const site = card.features[0].site;
  return el(
    "section", {},
    el("h2", {}, "Neighbours", el("small", {}, "largest cosine of decoder directions")),
    el("table", {}, el("tbody", {}, card.neighbours.map((n) => {
      const name = `${site}/${n.feature}`;
      const shown = open ? el("a", { href: open(n.feature) }, name) : name;
      return el("tr", {}, el("th", { scope: "row" }, shown), el("td", { class: "n" }, number(n.cosine, 2)), el("td", { class: "wide" }, n.property ?? ""));
    }))),
  );
}
