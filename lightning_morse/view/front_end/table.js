// The table of Morse sets and the list of facts.

import { scalar } from "./data.js";
import { html } from "./elements.js";
import { bound, claims, percent, short } from "./numbers.js";
import { term } from "./terms.js";
import { kind } from "./words.js";

const HEAD = ["set", "type", "index", "loss", "volume", "basin", "mu ≥", "center"];
const MU = HEAD.indexOf("mu ≥");
const TERM = { "mu ≥": "mu" };

export function drawTable(root, record, selected) {
  const some = record.sets.some((m) => m.attractor);
  const shown = (_, k) => some || k !== MU; // a bound belongs to an attractor
  const rows = record.sets.map((m, i) => {
    const cells = [
      i,
      term(kind(record, i)),
      m.index ?? "?",
      m.loss === null ? "?" : Number(m.loss.toPrecision(4)),
      percent(m.volume),
      m.attractor ? percent(m.basin) : "",
      bound(m),
      `(${m.center.map(short).join(", ")})`,
    ];
    const look = { class: i === selected ? "selected" : null };
    return html("tr", look, ...cells.filter(shown).map((c) => html("td", {}, c)));
  });
  const names = HEAD.filter(shown).map((name) => {
    return html("th", { scope: "col" }, term(name, TERM[name]));
  });
  const head = html("tr", {}, ...names);
  const parts = [html("thead", {}, head), html("tbody", {}, ...rows)];
  root.replaceChildren(html("table", {}, ...parts));
}

export function drawFacts(root, record) {
  const f = record.facts, orNull = (v, write) => (v === null ? null : write(v));
  const number = (name) => orNull(scalar(record, name), short);
  // The monitor publishes 0 where it does not know these.
  const known = (name) => (scalar(record, name) === 0 ? "unknown" : number(name));
  const measured = (name) => (scalar(record, name) >= 0 ? number(name) : null);
  const rows = [
    ["mu ≥", claims(f) ? bound(f) : null],
    ["given the model", claims(f) ? f.bound_of_model ?? null : null],
    ["finest", claims(f) ? orNull(f.finest ?? null, percent) : null],
    ["undecided", percent(f.undecided)],
    ["escapes", percent(f.escape)],
    ["loss now", orNull(f.loss_now, short)],
    ["basin now", orNull(scalar(record, "basin_current"), basinText)],
    ["barrier", known("barrier")],
    ["headroom", known("headroom")],
    ["sharpness", known("sharpness")],
    ["switches", number("basin_switches")],
    ["forks", number("basin_forks")],
    ["explained", orNull(scalar(record, "explained"), percent)],
    ["calibration", short(f.calibration)],
    ["flow_length", measured("flow_length")],
    ["flow_angle", measured("flow_angle")],
  ].filter(([, value]) => value !== null);
  const items = rows.flatMap(([name, value]) => {
    return [html("dt", {}, term(name, TERM[name])), html("dd", {}, value)];
  });
  root.replaceChildren(...items);
}

function basinText(basin) {
  if (basin >= 0) return String(basin);
  return basin === -1 ? "undecided" : "leaves the box";
}
