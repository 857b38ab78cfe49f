// The card with the Morse graph.

import { ink } from "./colors.js";
import { DIVERGED, attractorsOf, isMap } from "./data.js";
import { html, svg, svgText } from "./elements.js";
import { layered, shownGraph } from "./graph_layout.js";
import { percent, short } from "./numbers.js";
import { kind } from "./words.js";

const LEAST_WIDTH = 280, NARROWEST_NODE = 24, PADDING = 6;
// Pixels of an edge that passes a row: where there is room, and where there is none.
const BEND_WIDTH = 14, NARROWEST_BEND = 4;
// Pixels between rows: as many as the height of the slice leaves, within these bounds.
const LEAST_GAP = 46, LARGEST_GAP = 120;
// Pixels of the window that headings and the diagram below take: fixed, and per attractor.
const HEIGHT_OF_THE_REST = 440, HEIGHT_OF_A_LANE = 26, MAX_LANES = 12, LEAST_HEIGHT = 300;
const LINE_HEIGHT = 15.5;
// Pixels per node from which it has three lines of full, of shorter and of brief text, else its
// number only.
const ROOM_FOR_TEXT = 140, ROOM_FOR_SHORTER_TEXT = 100, ROOM_FOR_BRIEF_TEXT = 52;

// room: pixels across. onSelect: is told the Morse set that was clicked.
export function drawGraph(root, record, { room, selected, onSelect }) {
  root.replaceChildren();
  if (!record.sets.length) {
    root.append(html("p", { class: "message" }, `No Morse set: ${whyNone(record)}.`));
    return;
  }
  const page = Math.max(LEAST_WIDTH, room), graph = shownGraph(record);
  const { rows, ways } = layered(record, graph, Math.floor(page / NARROWEST_NODE));
  // What is wider than the card is scrolled: no row is narrower than its nodes and bends.
  const width = Math.max(page, ...rows.map(leastWidth));
  const { boxes, height } = placed(rows, width, attractorsOf(record).length);
  const look = { width, height, role: "group", "aria-label": "Morse graph, downhill" };
  const drawing = svg("svg", look, svg("defs", {}, arrowHead()));
  drawing.append(...ways.map((way) => edge(way, boxes, selected)));
  const isIt = (n) => n === selected;
  drawing.append(...graph.shown.map((n) => node(record, n, boxes.get(n), isIt(n), onSelect)));
  const note = html("p", { class: "note" }, notes(record, graph.hidden));
  root.append(html("div", { class: "wide" }, drawing), note);
}

function whyNone(record) {
  if (record.facts.escape !== 1) return "nothing is certain";
  // Older records of maps say of the unknown, too, that trajectories leave there.
  const unknown = isMap(record) && record.field.includes(DIVERGED);
  return unknown ? "nothing is certain" : "every trajectory leaves the box";
}

function notes(record, hidden) {
  const said = ["Arrows point downhill. Select a set to highlight its cells and its basin."];
  const open = record.sets.some((m) => !m.resolved);
  if (open) said.push("Dashed: may hide a minimum.");
  const sets = hidden === 1 ? "Morse set is" : "Morse sets are";
  if (hidden) said.push(`${hidden} more ${sets} not drawn: none has a higher barrier.`);
  return said.join(" ");
}

const isNode = (n) => typeof n === "number";

function leastWidth(row) {
  const nodes = row.filter(isNode).length;
  return NARROWEST_NODE * nodes + NARROWEST_BEND * (row.length - nodes);
}

// Pixels of each bend of a row: fewer where there would be none for its nodes.
function bendWidth(row, width) {
  const nodes = row.filter(isNode).length, bends = Math.max(1, row.length - nodes);
  const left = (width - NARROWEST_NODE * nodes) / bends;
  return Math.min(BEND_WIDTH, Math.max(NARROWEST_BEND, left));
}

// Middle, top and style of each node and bend, and the height of all.
function placed(rows, width, attractors) {
  const bends = rows.map((row) => bendWidth(row, width));
  const styles = rows.map((row, r) => {
    const nodes = row.filter(isNode).length;
    return nodeStyle((width - bends[r] * (row.length - nodes)) / nodes);
  });
  const tall = styles.reduce((sum, style) => sum + style.high, 0);
  const below = HEIGHT_OF_THE_REST + HEIGHT_OF_A_LANE * Math.min(attractors, MAX_LANES);
  const available = Math.max(LEAST_HEIGHT, window.innerHeight - below);
  const wish = (available - tall) / Math.max(1, rows.length - 1);
  const gap = Math.min(LARGEST_GAP, Math.max(LEAST_GAP, wish));
  const boxes = new Map();
  let top = PADDING;
  rows.forEach((row, r) => {
    const room = row.map((n) => (isNode(n) ? styles[r].wide : bends[r]));
    const space = (width - room.reduce((a, b) => a + b, 0)) / row.length;
    let at = space / 2;
    row.forEach((n, k) => {
      boxes.set(n, { ...styles[r], x: at + room[k] / 2, top, bend: !isNode(n) });
      at += room[k] + space;
    });
    top += styles[r].high + gap;
  });
  return { boxes, height: top + PADDING - gap };
}

// Size and text of the nodes of a row, by the pixels that each has.
function nodeStyle(slot) {
  if (slot >= ROOM_FOR_TEXT) {
    return { wide: 134, high: 54, lines: ({ name, loss, what }) => [name, `loss ${loss}`, what] };
  }
  if (slot >= ROOM_FOR_SHORTER_TEXT) {
    const lines = ({ name, loss, shorter }) => [name, `loss ${loss}`, shorter];
    return { wide: 96, high: 54, lines };
  }
  if (slot >= ROOM_FOR_BRIEF_TEXT) {
    const lines = ({ name, loss, brief }) => [name, loss, brief];
    return { wide: slot - 6, high: 50, font: slot < 62 ? 10 : 11, lines };
  }
  const wide = Math.max(14, Math.min(40, slot - 4));
  return { wide, high: 26, font: slot < 26 ? 9 : 11, lines: ({ name }) => [name] };
}

function arrowHead() {
  const size = { viewBox: "0 0 10 10", markerWidth: 7, markerHeight: 7 };
  const place = { refX: 9, refY: 5, orient: "auto" };
  const head = svg("path", { d: "M0 1L10 5L0 9z", fill: "context-stroke" });
  return svg("marker", { id: "morse-arrow", ...size, ...place }, head);
}

function edge(way, boxes, selected) {
  const u = way[0], v = way[way.length - 1], from = boxes.get(u);
  const pieces = way.slice(1).map((n, k) => {
    const before = boxes.get(way[k]), after = boxes.get(n);
    const start = before.top + before.high, bend = 0.45 * (after.top - start);
    const through = after.bend ? `V${after.top + after.high}` : "";
    const aim = `${after.x} ${after.top - bend} ${after.x} ${after.top}`;
    return `C${before.x} ${start + bend} ${aim}${through}`;
  });
  const d = `M${from.x} ${from.top + from.high}${pieces.join("")}`;
  const touched = selected === u || selected === v ? " touched" : "";
  return svg("path", { class: `edge${touched}`, "marker-end": "url(#morse-arrow)", d });
}

function node(record, n, box, isSelected, onSelect) {
  const m = record.sets[n], { wide, high } = box;
  const facts = factsOf(record, n);
  const said = `Morse set ${n}, ${kind(record, n)}, loss ${facts.loss}, ${facts.what}`;
  const face = svg("rect", { width: wide, height: high, rx: Math.min(8, wide / 4) });
  if (m.attractor) face.style.fill = m.color;
  // The title is its name, too: one that is given otherwise must begin with the lines below.
  const group = svg("g", {
    class: `node${m.resolved ? "" : " open"}${isSelected ? " selected" : ""}`,
    "data-set": n,
    tabindex: 0,
    role: "button",
    "aria-pressed": isSelected,
    transform: `translate(${box.x - wide / 2} ${box.top})`,
  }, svg("title", {}, said), face);
  const written = box.lines(facts);
  written.forEach((line, k) => {
    const y = high / 2 + 4.5 + LINE_HEIGHT * (k - (written.length - 1) / 2);
    const look = { "text-anchor": "middle", "font-weight": k ? 400 : 700 };
    const text = svgText(wide / 2, y, line, look);
    if (box.font) text.style.fontSize = `${box.font}px`;
    if (m.attractor) text.style.fill = ink(m.color);
    group.append(text);
  });
  group.addEventListener("click", () => onSelect(n));
  group.addEventListener("keydown", (e) => {
    if (e.key !== "Enter" && e.key !== " ") return;
    e.preventDefault();
    onSelect(n);
  });
  return group;
}

function factsOf(record, n) {
  const m = record.sets[n], name = String(n), loss = short(m.loss);
  if (m.attractor) {
    const what = `${percent(m.basin)} of box`;
    return { name, loss, what, shorter: what, brief: percent(m.basin) };
  }
  if (!m.resolved) {
    return { name, loss, what: kind(record, n), shorter: "minimum?", brief: "minimum?" };
  }
  const what = m.index === null ? "saddle or top" : kind(record, n);
  return { name, loss, what, shorter: what, brief: m.index === null ? "saddle?" : what };
}
