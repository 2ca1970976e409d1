// The features of a run: a list to search and sort, and the card of one of them. The address says which: #KEY/FEATURE.

import { ask } from "./api.mjs";
import { cardView } from "./card.mjs";
import { el, number, percent, signed } from "./dom.mjs";

const ORDERS = {
  f1: ["F1", (f) => -(f.f1 ?? -1)],
  density: ["density", (f) => -f.density],
  effect: ["effect", (f) => -Math.abs(f.effect ?? 0)],
  feature: ["number", (f) => f.feature],
};
const PAGE = 200;
const get = (id) => document.getElementById(id);
const lists = new Map();
let overview = null;
let order = "f1";
let query = "";
let limit = PAGE;

start();

async function start() {
  try {
    overview = await ask("/api/overview");
  } catch (error) {
    say(error.message, true);
    return;
  }
  window.addEventListener("hashchange", show);
  document.addEventListener("keydown", onKey);
  await show();
}

function place() {
  const [key, feature] = location.hash.slice(1).split("/");
  const known = overview.dictionaries.some((d) => d.key === key);
  return { key: known ? key : overview.dictionaries[0].key, feature: /^\d+$/.test(feature ?? "") ? Number(feature) : null };
}

async function show() {
  const { key, feature } = place();
  drawTop(key);
  document.body.classList.toggle("reading", feature !== null);
  if (!lists.has(key)) {
    get("main").replaceChildren(el("p", { class: "working" }, el("i", { class: "spinner" }), "Looking at all features …"));
    try {
      lists.set(key, (await ask(`/api/dictionaries/${key}`)).features);
    } catch (error) {
      say(error.message, true);
      return;
    }
    if (place().key !== key) return;
  }
  if (order === "f1" && !lists.get(key).some((f) => f.f1 !== null)) order = "density"; // nothing was matched
  if (!document.querySelector(`.list[data-key="${key}"]`)) drawMain(key);
  drawRows();
  await drawCard(key, feature);
}

function drawTop(key) {
  get("top").replaceChildren(
    el("h1", {}, overview.title || "Features"),
    el("select", { id: "dictionary", "aria-label": "Dictionary", onchange: (event) => { location.hash = event.target.value; } },
      overview.dictionaries.map((d) => el("option", { value: d.key, selected: d.key === key }, `${d.name} · ${d.site} · ${d.features} features`))),
    ...(overview.pages.length
      ? [el("div", { class: "pictures" }, "Pages of this run:", overview.pages.map((page) => el(
        "a", { href: `/pages/${page.split("/").map(encodeURIComponent).join("/")}`, target: "_blank", rel: "noopener" }, page,
      )))]
      : []),
  );
}

function drawMain(key) {
  const search = el("input", {
    id: "search", type: "search", placeholder: "property, token or number ( / )", "aria-label": "Search",
    oninput: (event) => { query = event.target.value; limit = PAGE; drawRows(); },
  });
  search.value = query;
  const sort = el("select", { id: "order", "aria-label": "Sort by", onchange: (event) => { order = event.target.value; drawRows(); } },
    Object.entries(ORDERS).map(([name, [title]]) => el("option", { value: name, selected: name === order }, title)));
  get("main").replaceChildren(
    el("div", { class: "list", "data-key": key },
      overview.notes.map((note) => el("p", { class: "note" }, note)),
      el("div", { class: "tools" }, search, sort),
      el("p", { class: "soft", id: "found" }),
      el("div", { class: "rows", id: "rows" })),
    el("div", { id: "card" }),
  );
}

function matching(features) {
  const wanted = query.trim().toLowerCase();
  if (!wanted) return features;
  return features.filter((f) => String(f.feature) === wanted || (f.property ?? "").toLowerCase().includes(wanted)
    || f.tokens.some((token) => token.trim().toLowerCase() === wanted));
}

function drawRows() {
  const { key, feature } = place();
  const found = matching(lists.get(key)).toSorted((a, b) => ORDERS[order][1](a) - ORDERS[order][1](b) || a.feature - b.feature);
  get("found").textContent = `${found.length} of ${lists.get(key).length} features`;
  get("rows").replaceChildren(
    ...found.slice(0, limit).map((f) => el(
      "a", { class: "feature", href: `#${key}/${f.feature}`, "aria-current": f.feature === feature ? "true" : null },
      el("b", {}, String(f.feature)),
      el("span", { title: f.tokens.join(" ") }, titled(f)),
      el("span", {}, said(f)),
    )),
    ...(found.length > limit
      ? [el("button", { type: "button", onclick: () => { limit += PAGE; drawRows(); } }, "More")]
      : []),
  );
}

function titled(f) {
  if (f.property !== null) return f.property;
  if (f.tokens.length) return `→ ${f.tokens.map((t) => t.trim() || "␣").join(" ")}`;
  return f.density === 0 ? "never fires" : "–";
}

function said(f) {
  if (order === "density") return percent(f.density, 2);
  if (order === "effect") return f.effect === null ? "–" : signed(f.effect);
  return f.f1 === null ? percent(f.density, 2) : number(f.f1, 2);
}

async function drawCard(key, feature) {
  const target = get("card");
  if (feature === null) {
    target.replaceChildren(el("p", { class: "soft" }, "Choose a feature."));
    return;
  }
  target.replaceChildren(el("p", { class: "working" }, el("i", { class: "spinner" }), "Drawing …"));
  try {
    const card = await ask(`/api/dictionaries/${key}/${feature}`);
    if (place().key !== key || place().feature !== feature) return;
    const site = card.features[0].site;
    target.replaceChildren(
      el("p", {}, el("a", { class: "close", href: `#${key}` }, "← all features")),
      el("h1", {}, `${site}/${feature}`),
      cardView(card, { open: (n) => `#${key}/${n}`, effect: ["Effect in a circuit", "of this run: patch minus clean"] }),
    );
    document.body.dataset.item = `${site}/${feature}`;
    say("");
  } catch (error) {
    target.replaceChildren();
    say(error.message, true);
  }
}

function onKey(event) {
  if (event.key === "/" && !["INPUT", "SELECT"].includes(event.target.tagName) && get("search")) {
    event.preventDefault();
    get("search").focus();
  }
}

function say(text, bad = false) {
  get("status").textContent = text;
  get("status").className = bad ? "bad" : "";
}
