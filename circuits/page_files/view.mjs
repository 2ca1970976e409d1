// The circuit's page: thresholds, search, paths, details. What decides is pure and exported; `start` is the rest.

export const METRIC = "metric";

/** Thresholds that a slider goes through: 0, then every absolute effect, ascending. */
export function steps(items) {
  return [...new Set([0, ...items.map(item => Math.abs(item.effect))])].sort((a, b) => a - b);
}

/** What is left at two thresholds: ids of nodes, the metric among them, and edges between those. */
export function shown(nodes, edges, nodeLeast, edgeLeast) {
  const ids = new Set(nodes.filter(node => Math.abs(node.effect) >= nodeLeast).map(node => node.id));
  ids.add(METRIC);
  const left = edges.filter(e => Math.abs(e.effect) >= edgeLeast && ids.has(e.source) && ids.has(e.target));
  return {nodes: ids, edges: left};
}

/** All that leads to a node and from it along edges: ids upstream and downstream, and the edges on the way. */
export function pathThrough(edges, id) {
  const reach = (from, to) => {
    const byEnd = new Map();
    for (const edge of edges) byEnd.set(edge[from], [...(byEnd.get(edge[from]) ?? []), edge]);
    const met = new Set(), way = [], waiting = [id];
    while (waiting.length) {
      for (const edge of byEnd.get(waiting.pop()) ?? []) {
        way.push(edge);
        if (!met.has(edge[to])) { met.add(edge[to]); waiting.push(edge[to]); }
      }
    }
    return [met, way];
  };
  const [upstream, before] = reach("target", "source"), [downstream, after] = reach("source", "target");
  return {upstream, downstream, edges: new Set([...before, ...after])};
}

/** Ids of the nodes that have every word of the query in their id or label, whatever the case. */
export function matching(nodes, query) {
  const words = query.toLowerCase().split(/\s+/).filter(Boolean);
  const said = node => `${node.id} ${node.label}`.toLowerCase();
  return new Set(nodes.filter(node => words.every(word => said(node).includes(word))).map(node => node.id));
}

/** The other end of the strongest edge at a node, upwards (downstream) or downwards; null if there is none. */
export function strongest(edges, id, upwards) {
  const [from, to] = upwards ? ["source", "target"] : ["target", "source"];
  const mine = edges.filter(edge => edge[from] === id).sort((a, b) => Math.abs(b.effect) - Math.abs(a.effect));
  return mine.length ? mine[0][to] : null;
}

/** '+0.012': three digits that count, with a true minus sign. */
export function amount(value) {
  return (value > 0 ? "+" : "") + String(Number(value.toPrecision(3))).replace(/^-/, "\u2212");
}

function made(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

function contextOf(context, style) {
  const most = Math.max(...context.activations.map(Math.abs), 1e-30);
  const words = made("p", {}, ...context.tokens.map((token, i) => {
    const word = made("span", {class: "token", title: amount(context.activations[i])}, token);
    word.style.setProperty("--heat-share", `${Math.round(70 * Math.abs(context.activations[i]) / most)}%`);
    return word;
  }));
  const parts = context.tokens.length ? [words] : [];
  if (context.picture) {  // as an image, in which no script runs
    const styled = context.picture.replace(/^<svg[^>]*>/, tag => `${tag}<style>${style}</style>`);
    const source = "data:image/svg+xml;charset=utf-8," + encodeURIComponent(styled);
    parts.push(made("img", {src: source, alt: context.caption || "what the feature fires on"}));
  }
  if (context.caption) parts.push(made("small", {}, context.caption));
  return made("div", {class: "context"}, ...parts);
}

export function start(root) {
  const data = JSON.parse(root.querySelector('script[type="application/json"]').textContent);
  const find = selector => root.querySelector(selector);
  const svg = find(".graph svg"), details = find(".details"), status = find(".status"), search = find(".search");
  const drawn = new Map([...svg.querySelectorAll(".node")].map(g => [g.dataset.id, g]));
  const key = (source, target) => JSON.stringify([source, target]);
  const lines = new Map([...svg.querySelectorAll(".edge[data-source]")]
    .map(path => [key(path.dataset.source, path.dataset.target), path]));
  const nodes = new Map(data.nodes.map(node => [node.id, node]));
  const called = id => id === METRIC ? data.metric : nodes.get(id).label || id;
  const idle = [...details.childNodes];
  const place = id => { const b = drawn.get(id).getBBox(); return [b.y, b.x]; };
  const order = [...drawn.keys()].sort((a, b) => place(a)[0] - place(b)[0] || place(a)[1] - place(b)[1]);
  const sliders = {node: steps(data.nodes), edge: steps(data.edges)};
  let now = shown(data.nodes, data.edges, 0, 0), chosen = null;
  find(".graph").classList.toggle("small", svg.viewBox.baseVal.width < 900);

  function least(kind) {
    const slider = find(`.${kind}-least`), value = sliders[kind][Number(slider.value)];
    const said = amount(value).replace("+", "");
    find(`.${kind}-said`).textContent = said;
    slider.setAttribute("aria-valuetext", said);
    return value;
  }

  function threshold() {
    now = shown(data.nodes, data.edges, least("node"), least("edge"));
    const kept = new Set(now.edges.map(e => key(e.source, e.target)));
    for (const [id, g] of drawn) g.classList.toggle("off", !now.nodes.has(id));
    for (const [name, path] of lines) path.classList.toggle("off", !kept.has(name));
    if (chosen !== null && !now.nodes.has(chosen)) choose(null);
    if (![...drawn.values()].some(g => g.tabIndex === 0 && now.nodes.has(g.dataset.id))) rove(METRIC);
    isolate(chosen);
    seek();
  }

  function tell(more = "") {
    const query = search.value.trim(), left = now.nodes.size - 1;
    const hits = query ? ` ${[...matching(data.nodes, query)].filter(id => now.nodes.has(id)).length} match.` : "";
    status.textContent = `${left} of ${data.nodes.length} nodes and ${now.edges.length} of ${data.edges.length}`
      + ` edges are shown, those into the metric among them.${hits}${more}`;
  }

  function isolate(id) {
    svg.classList.toggle("isolating", id !== null);
    for (const element of [...drawn.values(), ...lines.values()]) element.classList.remove("lit");
    if (id === null) { tell(); return; }
    const path = pathThrough(now.edges, id);
    for (const other of [id, ...path.upstream, ...path.downstream]) drawn.get(other).classList.add("lit");
    for (const edge of path.edges) lines.get(key(edge.source, edge.target)).classList.add("lit");
    tell(` ${called(id)}: ${path.upstream.size} nodes lead to it, ${path.downstream.size} follow.`);
  }

  function rove(id) {
    for (const [other, g] of drawn) g.setAttribute("tabindex", other === id ? "0" : "-1");
  }

  function choose(id) {
    chosen = id;
    for (const [other, g] of drawn) {
      g.classList.toggle("chosen", other === id);
      g.setAttribute("aria-pressed", String(other === id));
    }
    details.replaceChildren(...(id === null ? idle : described(id)));
    details.scrollTop = 0;
    if (id !== null) rove(id);
    isolate(id);
  }

  function described(id) {
    const node = nodes.get(id);
    const parts = [made("h2", {}, called(id))];
    if (node) {
      const facts = [["effect", amount(node.effect)], ["site", node.site], ["place", node.place],
        ["feature", node.feature === null ? "error node" : String(node.feature)]];
      if (node.f1 !== null) facts.push(["F1", node.f1.toFixed(2)]);
      parts.push(made("dl", {}, ...facts.flatMap(([k, v]) => [made("dt", {}, k), made("dd", {}, v)])));
    }
    for (const [said, end, other] of [["From", "target", "source"], ["To", "source", "target"]]) {
      const mine = now.edges.filter(e => e[end] === id).sort((a, b) => Math.abs(b.effect) - Math.abs(a.effect));
      if (!mine.length) continue;
      parts.push(made("h3", {}, `${said} (${mine.length})`), made("ul", {}, ...mine.slice(0, 8).map(edge => {
        const effect = made("span", {class: edge.effect < 0 ? "amount" : "amount plus"}, amount(edge.effect));
        const button = made("button", {type: "button"}, made("span", {}, called(edge[other])), effect);
        button.title = edge[other];
        button.addEventListener("click", () => choose(edge[other]));
        return made("li", {}, button);
      })));
    }
    if (node?.contexts.length) parts.push(made("h3", {}, "Where it fires"), 
      ...node.contexts.map(context => contextOf(context, data.picture_style)));
    return parts;
  }

  function seek() {
    const query = search.value.trim(), hits = matching(data.nodes, query);
    svg.classList.toggle("searching", query !== "");
    for (const [id, g] of drawn) g.classList.toggle("found", query !== "" && hits.has(id));
    tell();
  }

  function moved(id, arrow) {
    if (arrow === "ArrowUp" || arrow === "ArrowDown") return strongest(now.edges, id, arrow === "ArrowUp");
    const row = order.filter(other => now.nodes.has(other));
    return row[row.indexOf(id) + (arrow === "ArrowRight" ? 1 : -1)] ?? null;
  }

  for (const [id, g] of drawn) {
    g.setAttribute("role", "button");
    g.setAttribute("aria-label", g.querySelector("title").textContent);
    g.addEventListener("pointerenter", e => { if (e.pointerType === "mouse") isolate(id); });
    g.addEventListener("pointerleave", e => { if (e.pointerType === "mouse") isolate(chosen); });
    g.addEventListener("focus", () => { if (g.matches(":focus-visible")) isolate(id); });
    g.addEventListener("blur", () => isolate(chosen));
    g.addEventListener("click", e => { e.stopPropagation(); choose(chosen === id ? null : id); });
    g.addEventListener("keydown", e => {
      if (e.key === "Enter" || e.key === " ") choose(chosen === id ? null : id);
      else if (e.key.startsWith("Arrow")) {
        const next = moved(id, e.key);
        if (next !== null) { rove(next); drawn.get(next).focus(); }
      } else return;
      e.preventDefault();
    });
  }
  svg.addEventListener("click", () => choose(null));
  root.addEventListener("keydown", e => { if (e.key === "Escape") choose(null); });
  for (const kind of ["node", "edge"]) {
    const slider = find(`.${kind}-least`);
    slider.max = sliders[kind].length - 1;
    slider.value = 0;  // a browser may remember where it stood
    slider.addEventListener("input", threshold);
  }
  search.value = "";
  search.addEventListener("input", seek);
  search.addEventListener("keydown", e => {
    if (e.key !== "Enter") return;
    const hits = matching(data.nodes, search.value);
    const first = order.find(id => hits.has(id) && now.nodes.has(id));
    if (first !== undefined) { choose(first); drawn.get(first).focus(); }
  });
  find(".reset").addEventListener("click", () => {
    for (const kind of ["node", "edge"]) find(`.${kind}-least`).value = 0;
    search.value = "";
    choose(null);
    threshold();
  });
  rove(METRIC);
  choose(null);
  threshold();
}

if (typeof document !== "undefined") for (const root of document.querySelectorAll(".circuit-view")) start(root);
