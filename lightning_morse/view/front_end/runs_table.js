// The table of runs: sorted by any column, filtered, with the course of each run as a small curve.

import { csvOf, download } from "./csv.js";
import { html } from "./elements.js";
import { bound, claims, percent, short } from "./numbers.js";
import { sparkline } from "./sparkline.js";
import { tipOf } from "./terms.js";

const MOST_HPARAMS = 6; // columns of hyper-parameters, of those that differ
const NOTE = "Small curves: the loss (solid) and the floor of its basin (dashed), each run on a "
  + "scale of its own, logarithmic where the loss spans a lot. Losses are of the last analysis.";
const orNull = (v) => v ?? null;

// "exactly 2" or "at least 2"; null in older records, which do not say so here.
const claimed = (last) => /^(exactly|at least) \d+/.exec(last.claim ?? "")?.[0] ?? null;

// Columns of a run: their names, values by which they are sorted, and how these are written.
const COLUMNS = [
  { name: "run", value: (run) => run.label },
  { name: "analyses", value: (run) => run.course.step.length },
  { name: "step", value: (run) => run.course.step.at(-1) ?? null },
  { name: "loss", value: ({ course: { last } }) => orNull(last?.loss), write: short },
  { name: "headroom", value: ({ course: { last } }) => headroomOf(last), write: short },
  { name: "barrier", value: ({ course: { last } }) => orNull(last?.barrier), write: short },
  {
    name: "attractors",
    value: ({ course: { last } }) => orNull(last?.attractors),
    write: (n, { course: { last } }) => claimed(last) ?? String(n),
  },
  {
    name: "mu ≥",
    term: "mu",
    value: ({ course: { last } }) => (last && claims(last) && last.attractors ? last.mu : null),
    write: (mu, { course: { last } }) => bound(last),
  },
  { name: "undecided", value: ({ course: { last } }) => orNull(last?.undecided), write: percent },
];

function headroomOf(last) {
  const known = Number.isFinite(last?.loss) && Number.isFinite(last?.floor);
  return known ? Math.max(last.loss - last.floor, 0) : null;
}

export class RunsTable {
  // onOpen: is told the number of the run that was chosen; null where runs have addresses.
  constructor(onOpen = null) {
    this.onOpen = onOpen;
    this.by = { column: 0, down: false };
    this.filter = html("input", { type: "search", "aria-label": "filter the runs" });
    this.filter.placeholder = "filter, e.g. part of a name";
    this.count = html("span", { class: "note", role: "status" });
    this.save = html("button", { type: "button" }, "CSV");
    this.save.setAttribute("aria-label", "CSV: save the table as a file");
    this.head = html("tr");
    this.body = html("tbody");
    const table = html("table", {}, html("thead", {}, this.head), this.body);
    const name = { class: "scroll", tabindex: 0, role: "region", "aria-label": "runs" };
    const tools = html("div", { class: "tools" }, this.filter, this.count, this.save);
    this.summary = html("summary", {}, "Runs");
    const note = html("p", { class: "note" }, NOTE);
    const parts = [this.summary, tools, html("div", name, table), note];
    this.root = html("details", { class: "card runs" }, ...parts);
    this.filter.addEventListener("input", () => this.list());
    this.save.addEventListener("click", () => this.download());
    this.root.addEventListener("toggle", () => this.list());
  }

  // runs: with a label, a course, and maybe an address and hyper-parameters.
  offer(runs) {
    this.columns = [...COLUMNS, ...columnsOfHparams(runs)];
    this.rows = runs.map((run, number) => {
      const values = this.columns.map((c) => orNull(c.value(run)));
      const cells = this.columns.map(({ write = (v) => String(v) }, k) => {
        return values[k] === null ? "" : write(values[k], run);
      });
      return { run, number, values, cells, text: `${run.name} ${cells.join(" ")}`.toLowerCase() };
    });
    this.root.hidden = runs.length < 2;
    this.summary.textContent = `Runs (${runs.length})`;
    this.drawHead();
    this.list();
  }

  // Marks the run that is shown.
  mark(run) {
    this.shown = run;
    for (const row of this.rows) {
      if (!row.line) continue;
      if (row.run === run) row.line.setAttribute("aria-current", "true");
      else row.line.removeAttribute("aria-current");
    }
  }

  drawHead() {
    const cells = this.columns.map((c, k) => {
      const tip = tipOf(c.term ?? c.name);
      const button = html("button", { type: "button", "data-tip": tip }, c.name);
      button.addEventListener("click", () => this.sortBy(k));
      return html("th", { scope: "col" }, button);
    });
    const curve = html("th", { scope: "col" }, "loss and floor");
    this.head.replaceChildren(cells[0], curve, ...cells.slice(1));
    this.sorted = cells;
  }

  sortBy(column) {
    this.by = { column, down: this.by.column === column && !this.by.down };
    this.list();
  }

  // The rows that the filter lets through, in their order. What is not known comes last.
  chosen() {
    const words = this.filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    const rows = this.rows.filter((row) => words.every((word) => row.text.includes(word)));
    const { column, down } = this.by, of = (row) => row.values[column];
    const [known, unknown] = [(v) => v !== null, (v) => v === null].map((is) => {
      return rows.filter((row) => is(of(row)));
    });
    known.sort((a, b) => (down ? -1 : 1) * compared(of(a), of(b)));
    return [...known, ...unknown];
  }

  list() {
    if (!this.rows || !this.root.open) return;
    const rows = this.chosen();
    for (const row of rows) row.line ??= this.lineOf(row);
    this.body.replaceChildren(...rows.map((row) => row.line));
    this.mark(this.shown);
    this.sorted.forEach((cell, k) => {
      const order = this.by.down ? "descending" : "ascending";
      cell.setAttribute("aria-sort", k === this.by.column ? order : "none");
    });
    const all = rows.length === this.rows.length;
    this.count.textContent = all ? "" : `${rows.length} of ${this.rows.length}`;
  }

  lineOf({ run, number, cells: [name, ...others] }) {
    const open = this.onOpen
      ? html("button", { type: "button", class: "name" }, name)
      : html("a", { href: run.href, class: "name" }, name);
    open.title = run.name;
    if (this.onOpen) open.addEventListener("click", () => this.onOpen(number));
    const curve = html("td", {}, sparkline(run.course));
    return html("tr", {}, html("th", { scope: "row" }, open), curve,
      ...others.map((cell) => html("td", {}, cell)));
  }

  download() {
    const rows = this.chosen().map(({ run, values }) => [run.name, ...values.slice(1)]);
    download("runs.csv", csvOf([this.columns.map((c) => c.name), ...rows]));
  }
}

// Numbers before text.
function compared(a, b) {
  if (typeof a === "number" && typeof b === "number") return a - b;
  if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
  return String(a).localeCompare(String(b), undefined, { numeric: true });
}

function columnsOfHparams(runs) {
  const names = new Set(runs.flatMap((run) => Object.keys(run.hparams ?? {})));
  const differing = [...names].filter((name) => {
    return new Set(runs.map((run) => run.hparams?.[name])).size > 1;
  });
  return differing.slice(0, MOST_HPARAMS).map((name) => ({
    name,
    value: ({ hparams }) => {
      const value = hparams?.[name] ?? null;
      return typeof value === "boolean" ? String(value) : value;
    },
  }));
}
