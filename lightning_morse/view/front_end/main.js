// The view of analyses over training, the same in reports and in the TensorBoard tab.
//
// A source has three methods, and may have a text:
//   runs()            -> Promise of [{name, course}], see course_of() in view/course.py; with
//                        hyper-parameters by name in hparams, where they are known
//   steps(run)        -> Promise of a [summary] of each step, see summary() in view/record.py
//   record(run, step) -> Promise of a record, see encode() in view/encoding.py
//   nothing           -> what to say where there are no runs

import { Comparison } from "./compare.js";
import { Controls } from "./controls.js";
import { openRecord } from "./data.js";
import { html } from "./elements.js";
import { drawGraph } from "./graph.js";
import { History } from "./history.js";
import { drawLegend } from "./legend.js";
import { drawMerge } from "./merge.js";
import { nameBriefly } from "./names.js";
import { RunsTable } from "./runs_table.js";
import { Slice } from "./slice.js";
import { drawFacts, drawTable } from "./table.js";
import { addTips } from "./tips.js";

const FEW_RUNS = 3; // of which the table is folded at first
const HOW_TO_PROBE = "Point at a cell to see what is known about it.";

// Fills root with the view of a source.
export async function mount(root, source) {
  root.classList.add("morse-view");
  await new View(root, source).start();
}

class View {
  constructor(root, source) {
    this.root = root;
    this.source = source;
    this.all = [];
    this.run = null;
    this.at = 0;
    this.selected = null;
    this.record = null;
    this.asked = 0;
    this.comparison = new Comparison(source);
    this.runs = new RunsTable((k) => this.startRun(k));
    this.controls = new Controls(root, this.comparison.chooser, {
      run: (k) => this.startRun(k),
      step: (at) => this.goTo(at),
      theme: () => this.draw(),
    });
    this.build();
    this.showProbe(null);
  }

  build() {
    this.slice = new Slice((probe) => this.showProbe(probe));
    this.claim = html("p", { class: "claim" });
    this.verdict = html("p", { class: "verdict", "aria-live": "polite" });
    this.facts = html("dl");
    this.probe = html("div", { class: "probe", "aria-live": "polite" });
    this.legend = html("ul", { class: "legend" });
    this.graph = html("div", { class: "graph" });
    this.charts = new History();
    this.merge = html("div");
    this.table = html("div");
    this.message = html("div", { class: "card message", role: "alert" });
    this.message.hidden = true;
    this.history = card("Over training", this.charts.root);
    const findings = [this.claim, this.facts, this.probe, this.legend];
    const details = html("section", { class: "card", "aria-label": "findings" }, ...findings);
    const graphs = [card("Morse graph", this.graph), card("Attractors by confidence", this.merge)];
    const middle = html("div", { class: "column" }, ...graphs);
    this.top = html("div", { class: "top" }, this.slice.root, middle, details);
    this.below = html("div", { class: "below" }, this.history, card("Morse sets", this.table));
    const parts = [this.runs.root, this.verdict, this.message, this.comparison.root];
    this.root.replaceChildren(this.controls.header, ...parts, this.top, this.below);
    addTips(this.root);
  }

  async start() {
    this.drawAgainWhenResized();
    try {
      this.all = (await this.source.runs()).filter((run) => run.course.step.length);
    } catch (error) {
      this.tell(`The runs cannot be read.\n${error.message}`);
      return;
    }
    if (!this.all.length) {
      this.tell(this.source.nothing ?? "There is no analysis to show.");
      this.controls.header.hidden = true;
      return;
    }
    nameBriefly(this.all);
    this.comparison.offer(this.all);
    this.controls.offer(this.all);
    this.runs.root.open = this.all.length > FEW_RUNS;
    this.runs.offer(this.all);
    await this.startRun(0);
  }

  // What has been drawn at this width already is not drawn twice, so a page is seen sooner.
  drawAgainWhenResized() {
    new ResizeObserver(() => {
      if (this.root.clientWidth !== this.width) this.draw();
    }).observe(this.root);
  }

  async startRun(k) {
    this.controls.stop();
    const run = this.all[k], ticket = ++this.asked;
    this.controls.choose(k);
    this.runs.mark(run);
    try {
      run.steps ??= await this.source.steps(run.name);
    } catch (error) {
      const why = `The steps of this run cannot be read.\n${error.message}`;
      if (ticket === this.asked) this.tell(why);
      return;
    }
    if (ticket !== this.asked) return; // another one was asked for in the meantime
    this.run = run;
    this.selected = null;
    this.history.hidden = this.run.steps.length < 2;
    await this.goTo(this.run.steps.length - 1);
  }

  async goTo(at) {
    const { run } = this, ticket = ++this.asked;
    this.at = Math.min(Math.max(at, 0), run.steps.length - 1);
    const { step, error } = run.steps[this.at];
    this.controls.show(run.steps, this.at);
    const { record, why } = await this.read(run, step, error);
    if (ticket !== this.asked) return; // another step was asked for in the meantime
    this.comparison.show(step);
    this.record = record;
    if (!record) {
      this.tell(`The record of this step cannot be shown.\n${why}`);
      return;
    }
    if (this.selected !== null && this.selected >= record.sets.length) this.selected = null;
    this.message.hidden = true;
    this.verdict.hidden = false;
    this.top.hidden = this.below.hidden = false;
    this.draw();
    this.root.dataset.shown = `${run.name} ${step}`;
  }

  async read(run, step, error) {
    if (error) return { record: null, why: error };
    try {
      return { record: openRecord(await this.source.record(run.name, step)) };
    } catch (failure) {
      return { record: null, why: failure.message };
    }
  }

  draw() {
    const { record } = this;
    if (!record) return;
    // All widths at once, before anything changes: the browser lays the page out for each question.
    this.width = this.root.clientWidth;
    this.room = this.graph.clientWidth;
    const [merge, charts] = [this.merge.clientWidth, this.charts.root.clientWidth];
    this.slice.measure();
    this.claim.textContent = record.facts.claim;
    this.verdict.textContent = record.facts.verdict ?? "";
    drawFacts(this.facts, record);
    drawLegend(this.legend, record);
    this.drawSelection();
    this.charts.draw(this.run.steps, this.run.steps[this.at].step, charts);
    drawMerge(this.merge, record, merge);
    this.comparison.draw();
  }

  drawSelection() {
    const { record, selected } = this;
    this.slice.show(record, selected);
    const onSelect = (i) => this.select(i);
    drawGraph(this.graph, record, { room: this.room, selected, onSelect });
    drawTable(this.table, record, selected);
  }

  select(i) {
    const focused = this.graph.contains(document.activeElement);
    this.selected = this.selected === i ? null : i;
    this.drawSelection();
    if (focused) this.graph.querySelector(`[data-set="${i}"]`)?.focus();
  }

  showProbe(p) {
    const lines = p ? [p.area, `loss ${p.loss}`, p.set, p.where].filter((t) => t !== null) : [];
    const items = lines.map((line) => html("div", {}, line));
    this.probe.replaceChildren(...(p ? items : [html("span", { class: "note" }, HOW_TO_PROBE)]));
  }

  tell(text) {
    this.message.textContent = text;
    this.message.hidden = false;
    this.verdict.hidden = this.top.hidden = this.below.hidden = true;
  }
}

function card(name, body) {
  return html("section", { class: "card", "aria-label": name }, html("h2", {}, name), body);
}
