// The judging page: one card at a time, verdicts by key, then the freeze and the outcome.

import { ask } from "./api.mjs";
import { cardView } from "./card.mjs";
import { clock, el } from "./dom.mjs";
import { outcomeView } from "./outcome.mjs";

const VERDICTS = { k: ["keep", "Keep"], t: ["trim", "Trim"], u: ["unsure", "Unsure"], m: ["mixed", "Mixed"] };
const MEANING = {
  keep: "the task should use what it detects",
  trim: "the task should not use it",
  unsure: "you cannot tell",
  mixed: "it detects both",
};
const KEYS = [
  ["K", "keep: " + MEANING.keep], ["T", "trim: " + MEANING.trim], ["U", "unsure: " + MEANING.unsure],
  ["M", "mixed: " + MEANING.mixed], ["1 … 5", "confidence, from a guess to certain; 0 takes it away"],
  ["R", "write a reason; Escape leaves the field"], ["Z", "undo your last verdict"],
  ["J or →", "skip"], ["←", "go back"], ["F", "freeze"], ["?", "this help"],
];
const MOVES = ["j", "arrowright", "arrowleft"];
const get = (id) => document.getElementById(id);
const cards = new Map();
let state = null;
let at = 0;
let busy = false;
let view = "";
const work = { item: null, seconds: 0, reason: "", confidence: null };

start();

async function start() {
  try {
    state = await ask("/api/state");
  } catch (error) {
    say(error.message, true);
    return;
  }
  for (const note of state.notes) say(note, true);
  document.addEventListener("keydown", onKey);
  setInterval(tick, 250);
  if (state.frozen) await showOutcome();
  else await show(firstLeft(0) ?? state.items.length - 1);
}

function firstLeft(from) {
  const count = state.items.length;
  for (let step = 0; step < count; step += 1) {
    const i = (from + step) % count;
    if (state.items[i].verdict === null) return i;
  }
  return null;
}

async function show(index) {
  at = Math.min(Math.max(index, 0), state.items.length - 1);
  const item = state.items[at];
  view = "card";
  begin(item);
  drawTop();
  drawVerdict();
  try {
    const card = await fetched(item.name);
    if (state.items[at].name !== item.name || view !== "card") return;
    get("main").replaceChildren(cardView(card));
    window.scrollTo(0, 0);
    document.body.dataset.item = item.name;
  } catch (error) {
    say(error.message, true);
  }
  const next = state.items[at + 1];
  if (next) fetched(next.name).catch(() => {}); // what is wrong is said when it is shown
}

function fetched(name) {
  if (!cards.has(name)) {
    const asked = ask(`/api/cards/${encodeURIComponent(name)}`);
    asked.catch(() => cards.delete(name));
    cards.set(name, asked);
  }
  return cards.get(name);
}

// Time and drafts of a card outlive a reload, but not the tab.
function begin(item) {
  const kept = draft(item.name);
  Object.assign(work, {
    item: item.name,
    seconds: kept.seconds ?? 0,
    reason: kept.reason ?? item.reason ?? "",
    confidence: "confidence" in kept ? kept.confidence : item.confidence, // null: it was taken away
  });
}

function draftKey(name) {
  return `${state.task.name}\n${state.rater}\n${name}`;
}

function draft(name) {
  try {
    return JSON.parse(sessionStorage.getItem(draftKey(name)) ?? "{}");
  } catch {
    return {}; // one that cannot be read is none
  }
}

function keepDraft() {
  if (!work.item) return;
  const { seconds, reason, confidence } = work;
  sessionStorage.setItem(draftKey(work.item), JSON.stringify({ seconds, reason, confidence }));
}

let last = performance.now();
function tick() {
  const now = performance.now();
  if (view === "card" && !document.hidden && !get("dialog").open) {
    work.seconds += Math.min(now - last, 2000) / 1000;
    keepDraft();
    drawTime();
  }
  last = now;
}

function drawTop() {
  const { task, rater, items, unjudged } = state;
  const done = items.length - unjudged;
  get("top").replaceChildren(
    el("div", { class: "task" },
      el("p", {}, el("span", {}, "should depend on"), el("b", { class: "keep" }, task.intended)),
      el("p", {}, el("span", {}, "and not on"), el("b", { class: "trim" }, task.spurious)),
    ),
    el("div", { class: "where" },
      el("span", { id: "count" }, view === "card" ? `card ${at + 1} of ${items.length}` : `${items.length} cards`),
      el("span", {}, `${done} judged`),
      el("span", { id: "time" }),
      el("span", { class: "rater" }, rater + (task.blind ? " · blind" : "")),
      view === "card" && el("button", { type: "button", id: "freeze", onclick: askFreeze }, "Freeze …"),
      view === "card" && el("button", { type: "button", id: "help", "aria-label": "Help", onclick: showHelp }, "?"),
    ),
    el("nav", { class: "progress", "aria-label": "Cards" }, items.map((item, i) => {
      const said = `card ${i + 1}: ${item.verdict ?? "not judged"}`;
      return el("button", {
        type: "button", class: item.verdict ?? "open", title: said, "aria-label": said, disabled: view !== "card",
        "aria-current": view === "card" && i === at ? "true" : null, onclick: () => show(i),
      });
    })),
  );
  drawTime();
}

function drawTime() {
  const spent = state.items.reduce((sum, item) => sum + (item.name === work.item && view === "card" ? 0 : item.seconds ?? 0), 0);
  const here = view === "card" ? work.seconds : 0;
  get("time").textContent = view === "card" ? `${clock(here)} · in all ${clock(spent + here)}` : `in all ${clock(spent)}`;
}

function drawVerdict() {
  const item = state.items[at];
  const left = firstLeft(at + 1);
  const reason = el("input", {
    id: "reason", type: "text", maxlength: 4000, placeholder: "reason (R)", "aria-label": "Reason", autocomplete: "off",
    oninput: (event) => { work.reason = event.target.value; keepDraft(); },
  });
  reason.value = work.reason;
  get("verdict").replaceChildren(...[
    el("div", { class: "verdicts" }, Object.entries(VERDICTS).map(([key, [verdict, title]]) => el(
      "button", {
        type: "button", class: verdict, title: MEANING[verdict], "data-verdict": verdict,
        "aria-pressed": String(item.verdict === verdict), onclick: () => judge(verdict),
      }, el("kbd", {}, key.toUpperCase()), title,
    ))),
    el("div", { class: "more" },
      el("fieldset", { class: "confidence" }, el("legend", {}, "confidence"), [1, 2, 3, 4, 5].map((n) => el(
        "button", {
          type: "button", "aria-label": `confidence ${n} of 5`, "aria-pressed": String(work.confidence === n / 5),
          onclick: () => setConfidence(n),
        }, String(n),
      ))),
      reason,
      el("button", { type: "button", id: "back", onclick: () => show(at - 1), disabled: at === 0, "aria-label": "Back" }, "←"),
      el("button", { type: "button", id: "skip", onclick: skip, "aria-label": "Skip" }, "→"),
      el("button", { type: "button", id: "undo", onclick: undo, "aria-label": "Undo" }, el("kbd", {}, "Z"), el("span", {}, "Undo")),
    ),
    left === null && item.verdict !== null
      ? el("p", { class: "all" }, "All cards are judged. ", el("button", { type: "button", onclick: askFreeze }, "Freeze …"))
      : null,
  ].filter(Boolean));
}

function setConfidence(n) {
  work.confidence = n === 0 || work.confidence === n / 5 ? null : n / 5;
  keepDraft();
  drawVerdict();
}

// One request at a time; afterwards the state is the server's, also where it refused, and only then is it said why:
// who reads the reason sees the state that it is about.
async function changing(path, body, then) {
  if (busy) return;
  busy = true;
  try {
    const answer = await ask(path, body);
    state = answer;
    say("");
    await then(answer);
  } catch (error) {
    await reload(error.message);
  } finally {
    busy = false;
  }
}

async function reload(refusal) {
  try {
    state = await ask("/api/state");
  } catch {
    say(refusal, true); // the server does not answer
    return;
  }
  if (state.frozen) {
    say(view === "card" ? "The judgements were frozen in the meantime: no verdict can be added." : refusal, true);
    await showOutcome();
  } else {
    drawTop();
    drawVerdict();
    say(refusal, true);
  }
}

function judge(verdict) {
  if (view !== "card" || document.body.dataset.item !== state.items[at].name) return; // it is not on the screen yet
  tick(); // up to now
  const item = state.items[at];
  const said = {
    item: item.name, verdict, reason: work.reason.trim(), confidence: work.confidence,
    seconds: Math.min(Math.round(work.seconds * 1000) / 1000, 86400), before: item.verdict,
  };
  return changing("/api/verdict", said, async () => {
    sessionStorage.removeItem(draftKey(item.name));
    work.item = null;
    const left = firstLeft(at + 1);
    await show(left ?? at);
    if (left === null) say("All cards are judged: freeze when you are sure.");
  });
}

function undo() {
  return changing("/api/undo", {}, async (answer) => {
    const { item: name, ...said } = answer.undone;
    const since = draft(name);
    const seconds = (said.seconds ?? 0) + (since.seconds ?? 0);
    sessionStorage.setItem(draftKey(name), JSON.stringify({ ...said, ...since, seconds }));
    const index = state.items.findIndex((item) => item.name === name);
    await show(index < 0 ? at : index);
    say(`Your verdict on card ${index + 1} is taken back.`);
  });
}

function skip() {
  return show(at + 1 < state.items.length ? at + 1 : 0);
}

async function askFreeze() {
  if (busy) return;
  try {
    state = await ask("/api/state"); // what is still open is said as it is now
  } catch (error) {
    say(error.message, true);
    return;
  }
  if (state.frozen) {
    await reload("");
    return;
  }
  const { unjudged, items, others } = state;
  const open = items.map((item, i) => [item, i + 1]).filter(([item]) => item.verdict === null).map(([, n]) => n);
  const rest = Object.entries(others).map(([name, count]) => `${name} has judged ${count}`);
  openDialog(
    el("h2", {}, "Freeze the judgements?"),
    unjudged
      ? el("p", { class: "warn" }, `${unjudged} of ${items.length} cards are not judged: ${brief(open)}. What nobody judged is kept.`)
      : el("p", {}, `All ${items.length} cards are judged.`),
    rest.length ? el("p", {}, `${rest.join(", ")}. The freeze ends their judging, too.`) : null,
    el("p", {}, "After the freeze no verdict can be added, changed or undone; the balanced data may be opened then."),
    el("p", { class: "buttons" },
      el("button", { type: "button", onclick: () => get("dialog").close() }, "Go on judging"),
      el("button", { type: "button", id: "confirm", class: "primary", onclick: () => freeze(unjudged) }, "Freeze"),
    ),
  );
}

function brief(numbers) {
  return numbers.length <= 12 ? numbers.join(", ") : `${numbers.slice(0, 12).join(", ")}, …`;
}

function freeze(unjudged) {
  get("dialog").close();
  return changing("/api/freeze", { unjudged }, showOutcome);
}

function showHelp() {
  openDialog(
    el("h2", {}, "Keys"),
    el("dl", { class: "keys" }, KEYS.map(([key, what]) => [el("dt", {}, el("kbd", {}, key)), el("dd", {}, what)])),
    el("p", { class: "soft" }, "A card is a feature, or several that detect the same: one verdict counts for all of them. Some cards come twice, and some do nothing; they look like the others."),
    el("p", { class: "buttons" }, el("button", { type: "button", onclick: () => get("dialog").close() }, "Close")),
  );
}

function openDialog(...children) {
  const dialog = get("dialog");
  dialog.replaceChildren(...children.filter(Boolean));
  if (!dialog.open) dialog.showModal();
}

async function showOutcome() {
  view = "outcome";
  delete document.body.dataset.item;
  get("verdict").replaceChildren();
  drawTop();
  try {
    const outcome = await ask("/api/outcome");
    get("main").replaceChildren(outcomeView(outcome, state, { score, again: showOutcome }));
    if (state.scoring.state === "running") setTimeout(pollScore, 700);
  } catch (error) {
    say(error.message, true);
  }
}

function score() {
  return changing("/api/score", {}, showOutcome);
}

async function pollScore() {
  try {
    state = await ask("/api/state");
  } catch (error) {
    say(error.message, true);
    return;
  }
  if (state.scoring.state === "running") setTimeout(pollScore, 700);
  else await showOutcome();
}

function say(text, bad = false) {
  const status = get("status");
  status.textContent = text;
  status.className = bad ? "bad" : "";
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || get("dialog").open || view !== "card") return;
  if (event.target.id === "reason") {
    if (event.key === "Escape" || event.key === "Enter") event.target.blur();
    return;
  }
  const key = event.key.toLowerCase();
  const actions = {
    z: undo, j: skip, arrowright: skip, arrowleft: () => show(at - 1), f: askFreeze, "?": showHelp,
    r: () => get("reason").focus(),
  };
  if (event.repeat && !MOVES.includes(key)) return; // a key that is held down judges, or undoes, one card
  if (key in VERDICTS) judge(VERDICTS[key][0]);
  else if (/^[0-5]$/.test(key)) setConfidence(Number(key));
  else if (key in actions) actions[key]();
  else return;
  event.preventDefault();
}
