// How it came out: accuracies with intervals, the four cells, the judge, and what each part of the ablation does.

import { el, number, percent, signed, svg } from "./dom.mjs";

export function outcomeView({ outcome, reliability, verdicts, sha256 }, state, { score, again }) {
  return el(
    "article", { class: "outcome" },
    el("h1", {}, "Outcome"),
    el("p", { class: "soft" }, `The judgements are frozen (SHA-256 ${sha256.slice(0, 12)}…). You said `, said(verdicts), "."),
    outcome ? results(outcome, state.rater) : waiting(state.scoring, score, again),
    rater(reliability),
  );
}

function said(verdicts) {
  const parts = ["keep", "trim", "unsure", "mixed"].filter((v) => verdicts[v]).map((v) => `${v} of ${verdicts[v]}`);
  return parts.length ? `${parts.join(", ")} features` : "nothing";
}

function waiting({ possible, state, error }, score, again) {
  if (state === "running") {
    return el("p", { class: "working", id: "scoring" }, el("i", { class: "spinner" }), "Scoring on the balanced data …");
  }
  return el(
    "section", {},
    state === "failed" ? el("p", { class: "warn", id: "failed" }, `Scoring failed: ${error}`) : null,
    el("p", {}, possible ? "The balanced data can be opened now." : "The outcome is not there yet: run `kibitz shift score` on this folder."),
    possible
      ? el("button", { type: "button", class: "primary", id: "score", onclick: score }, state === "failed" ? "Score again" : "Score")
      : el("button", { type: "button", id: "again", onclick: again }, "Look again"),
  );
}

function results(outcome, rater) {
  return [tiles(outcome), table(outcome.rows), judge(outcome, rater), oneOut(outcome), sideEffects(outcome.side_effects)];
}

function tiles(outcome) {
  const [first, second] = outcome.rows;
  const shown = [
    [percent(first.worst_group), "worst group before", first.name],
    second && [percent(second.worst_group), "worst group after", second.name],
    outcome.trimmed !== undefined && [String(outcome.trimmed), "features trimmed", outcome.candidates === undefined ? "" : `of ${outcome.candidates} candidates`],
    outcome.error_share !== undefined && [percent(outcome.error_share), "of the effect is in error nodes", "nobody can trim it"],
  ].filter(Boolean);
  return el("div", { class: "tiles" }, shown.map(([value, title, note]) => el("div", { class: "tile" }, el("span", {}, title), el("b", {}, value), el("small", {}, note))));
}

function table(rows) {
  return el(
    "section", {},
    el("h2", {}, "Accuracy on balanced data", el("small", {}, "the four cells are intended 0/1 by spurious 0/1")),
    el("div", { class: "rows", role: "table", "aria-label": "Accuracy of every variant" },
      el("div", { class: "row head", role: "row" }, ["", "worst group", "cells", "intended", "spurious"].map((t) => el("span", { role: "columnheader" }, t))),
      rows.map((row) => el(
        "div", { class: "row", role: "row" },
        el("span", { class: "name", role: "rowheader" }, row.name, row.note ? el("small", {}, row.note) : null),
        el("span", { class: "worst", role: "cell" }, bar(row), el("b", {}, percent(row.worst_group))),
        el("span", { role: "cell" }, cells(row.cells)),
        el("span", { class: "acc", role: "cell", "data-title": "intended" }, percent(row.intended_accuracy)),
        el("span", { class: "acc", role: "cell", "data-title": "spurious" }, percent(row.spurious_accuracy)),
      )),
    ),
  );
}

function bar({ name, worst_group: value, worst_group_low: low, worst_group_high: high }) {
  const known = low !== undefined && low !== null && high !== undefined && high !== null;
  const label = `${name}: ${percent(value)}` + (known ? `, interval ${percent(low)} to ${percent(high)}` : "");
  return svg(
    "svg", { class: "accuracy", viewBox: "0 0 100 12", preserveAspectRatio: "none", role: "img", "aria-label": label },
    svg("title", {}, label),
    svg("rect", { class: "track", x: 0, y: 2, width: 100, height: 8 }),
    svg("rect", { class: "bar", x: 0, y: 2, width: Math.max(0, Math.min(100, 100 * value)), height: 8 }),
    svg("path", { class: "half", d: "M50 0v12" }),
    known && svg("path", { class: "whisker", d: `M${100 * low} 6H${100 * high}M${100 * low} 3v6M${100 * high} 3v6` }),
  );
}

function cells(values) {
  return el("span", { class: "cells" }, values.flatMap((pair, intended) => pair.map((value, spurious) => {
    const cell = el("i", { title: `intended ${intended}, spurious ${spurious}: ${percent(value)}` }, String(Math.round(100 * value)));
    cell.style.setProperty("--share", `${Math.round(100 * value)}%`);
    return cell;
  })));
}

// The numbers of the rater whose page it is; else those of another, by name.
function judge({ judge: first, judges = {} }, rater) {
  const whose = Object.hasOwn(judges, rater) ? rater : Object.keys(judges)[0];
  const found = whose === undefined ? first : judges[whose];
  if (!found) return null;
  const against = `against the ${found.reference ?? "reference"}`;
  const title = whose === undefined ? "The judge" : whose === rater ? "You as a judge" : `${whose} as a judge`;
  return el(
    "section", { id: "judge" }, el("h2", {}, title, el("small", {}, against)),
    el("dl", { class: "pairs" },
      el("dt", {}, "precision"), el("dd", {}, percent(found.precision), el("small", {}, "of what was trimmed, the reference trims, too")),
      el("dt", {}, "recall"), el("dd", {}, percent(found.recall), el("small", {}, "of what the reference trims was trimmed")),
    ),
  );
}

function oneOut({ leave_one_out: left, rows }) {
  if (!left?.length) return null;
  const full = rows[1]?.worst_group;
  const sorted = full === undefined ? left : [...left].sort((a, b) => a.worst_group - b.worst_group);
  return el(
    "section", {},
    el("h2", {}, "What each part does", el("small", {}, "worst group if only this, or all but this, is ablated")),
    el("table", { class: "oneout" }, el("tbody", {}, sorted.map((one) => el(
      "tr", {}, el("th", { scope: "row" }, one.name), el("td", { class: "wide" }, bar(one)),
      el("td", { class: "n" }, percent(one.worst_group)),
      el("td", { class: "n soft" }, full === undefined ? "" : `${signed(Number((100 * (one.worst_group - full)).toFixed(1)))} pp`),
    )))),
  );
}

function sideEffects(found) {
  if (!found || !Object.keys(found).length) return null;
  return el(
    "section", {}, el("h2", {}, "Side effects on the language model"),
    el("dl", { class: "pairs" }, Object.entries(found).map(([name, value]) => [
      el("dt", {}, name), el("dd", {}, Array.isArray(value) ? value.map(plain).join(" → ") : plain(value)),
    ])),
  );
}

function plain(value) {
  if (value === null || typeof value === "number") return number(value, 4);
  return typeof value === "string" ? value : JSON.stringify(value);
}

function rater({ consistency, repeats, control_trim_rate: rate, controls }) {
  if (!repeats && !controls) return null;
  return el(
    "section", {}, el("h2", {}, "How reliable you were"),
    el("dl", { class: "pairs" },
      repeats ? [el("dt", {}, "same verdict again"), el("dd", {}, percent(consistency, 0), el("small", {}, `of ${repeats} cards that were shown twice`))] : null,
      controls ? [el("dt", {}, "controls trimmed"), el("dd", {}, percent(rate, 0), el("small", {}, `of ${controls} cards without effect`))] : null,
    ),
  );
}
