// 8 x 8 boards as SVG. Othello has row a at the top and column 1 at the left, square = 8 * row + column;
// chess has a1 at the lower left, square = 8 * (rank - 1) + file.

import { number, signed, svg } from "./dom.mjs";

const CELL = 10;
const EDGE = 6;
const SIDE = 8 * CELL;
const GLYPHS = { k: "♚", q: "♛", r: "♜", b: "♝", n: "♞", p: "♟" };
const NAMES = { X: "mine", O: "yours" };

export function squareName(game, square) {
  const [row, column] = [Math.floor(square / 8), square % 8];
  return game === "chess" ? `${"abcdefgh"[column]}${row + 1}` : `${"abcdefgh"[row]}${column + 1}`;
}

function corner(game, square) {
  const [row, column] = [Math.floor(square / 8), square % 8];
  return [EDGE + CELL * column, EDGE + CELL * (game === "chess" ? 7 - row : row)];
}

function frame(game, kind, label, children) {
  const rows = game === "chess" ? "87654321" : "abcdefgh";
  const columns = game === "chess" ? "abcdefgh" : "12345678";
  const places = [...Array(8).keys()];
  const coords = places.flatMap((i) => [
    svg("text", { x: EDGE / 2, y: EDGE + CELL * (i + 0.5) }, rows[i]),
    svg("text", { x: EDGE + CELL * (i + 0.5), y: EDGE / 2 }, columns[i]),
  ]);
  const size = EDGE + SIDE + 1;
  return svg(
    "svg",
    { class: `board ${kind}`, viewBox: `0 0 ${size} ${size}`, role: "img", "aria-label": label },
    svg("g", { class: "coords" }, coords),
    children,
  );
}

function grid() {
  const lines = [...Array(9).keys()].map((i) => `M${EDGE + CELL * i} ${EDGE}v${SIDE}M${EDGE} ${EDGE + CELL * i}h${SIDE}`);
  return svg("path", { class: "grid", d: lines.join("") });
}

// A position: {board, last, flips, caption}.
export function position(game, showing) {
  return game === "chess" ? chessPosition(showing) : othelloPosition(showing);
}

function othelloPosition({ board, last, flips, caption }) {
  const parts = [svg("rect", { class: "felt", x: EDGE, y: EDGE, width: SIDE, height: SIDE }), grid()];
  [...board].forEach((sign, square) => {
    if (sign === ".") return;
    const [x, y] = corner("othello", square);
    const [cx, cy] = [x + CELL / 2, y + CELL / 2];
    parts.push(svg("circle", { class: NAMES[sign], cx, cy, r: 3.9 }));
    if (flips.includes(square)) parts.push(svg("circle", { class: "flip", cx, cy, r: 2 }));
    if (square === last) parts.push(svg("circle", { class: "last", cx, cy, r: 1.5 }));
  });
  return frame("othello", "discs", `Position: ${caption}, last move ${squareName("othello", last)}`, parts);
}

function chessPosition({ board, last, caption }) {
  const parts = [];
  for (let square = 0; square < 64; square += 1) {
    const [x, y] = corner("chess", square);
    const dark = (Math.floor(square / 8) + square) % 2 === 0;
    parts.push(svg("rect", { class: dark ? "dark" : "light", x, y, width: CELL, height: CELL }));
    if (square === last) parts.push(svg("rect", { class: "lastsquare", x: x + 0.5, y: y + 0.5, width: CELL - 1, height: CELL - 1 }));
    const sign = board[square];
    if (sign === ".") continue;
    const side = sign === sign.toUpperCase() ? "whitepiece" : "blackpiece";
    parts.push(svg("text", { class: `piece ${side}`, x: x + CELL / 2, y: y + CELL / 2 + 0.3 }, `${GLYPHS[sign.toLowerCase()]}\ufe0e`));
  }
  return frame("chess", "pieces", `Position: ${caption}`, parts);
}

// One number a square, null where there is none; `scale` is the number of full colour. Both signs have their colour.
export function heat(game, values, scale, label) {
  const parts = [];
  values.forEach((value, square) => {
    const [x, y] = corner(game, square);
    const name = squareName(game, square);
    if (value === null) {
      const title = svg("title", {}, `${name}: too rare`);
      parts.push(svg("rect", { class: "none", x, y, width: CELL, height: CELL }, title));
      return;
    }
    const share = scale > 0 ? Math.min(Math.abs(value) / scale, 1) : 0;
    const kind = value < 0 ? "minus" : "plus";
    parts.push(
      svg("rect", { class: kind, x, y, width: CELL, height: CELL, "fill-opacity": share.toFixed(3) },
        svg("title", {}, `${name}: ${signed(value)}`)),
    );
  });
  return frame(game, "heatmap", label, [...parts, grid()]);
}

// Bars of how many positions have which activation, on a logarithmic scale.
export function histogram({ edges, counts }) {
  const [width, height, base] = [240, 70, 58];
  const most = Math.log1p(Math.max(...counts));
  const bars = counts.map((count, i) => {
    const tall = most > 0 ? (base - 4) * (Math.log1p(count) / most) : 0;
    const wide = width / counts.length;
    return svg("rect", { class: "bar", x: i * wide + 0.5, y: base - tall, width: wide - 1, height: tall },
      svg("title", {}, `${number(edges[i])} to ${number(edges[i + 1])}: ${count} positions`));
  });
  const label = `Histogram of activations up to ${number(edges.at(-1))}`;
  return svg(
    "svg", { class: "histogram", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label },
    svg("path", { class: "axis", d: `M0 ${base}h${width}` }),
    bars,
    svg("text", { x: 0, y: height - 4, class: "start" }, "0"),
    svg("text", { x: width, y: height - 4, class: "end" }, number(edges.at(-1))),
  );
}
