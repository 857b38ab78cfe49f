// Slices of chosen runs side by side, each at its last analysis up to the step that is shown.

import { openRecord } from "./data.js";
import { html } from "./elements.js";
import { claimBound, short } from "./numbers.js";
import { Slice } from "./slice.js";

export class Comparison {
  constructor(source) {
    this.source = source;
    this.panes = new Map();
    this.asked = 0;
    this.list = html("div", { class: "choices" });
    this.same = html("input", { type: "checkbox", id: "morse-same" });
    const same = html("label", {}, this.same, "same axes (for slices of the same subspace)");
    const menu = html("div", { class: "menu" }, this.list, same);
    this.chooser = html("details", { class: "chooser" }, html("summary", {}, "Compare"), menu);
    this.root = html("section", { class: "beside", "aria-label": "runs side by side" });
    this.root.hidden = true;
    this.same.addEventListener("change", () => this.draw());
    this.chooser.addEventListener("keydown", (e) => {
      if (e.key === "Escape") this.chooser.open = false;
    });
  }

  offer(runs) {
    this.runs = runs;
    this.chooser.hidden = runs.length < 2;
    this.list.replaceChildren(...runs.map((run, k) => {
      const box = html("input", { type: "checkbox", value: k });
      box.addEventListener("change", () => this.show(this.step));
      return html("label", {}, box, run.label);
    }));
  }

  async show(step) {
    this.step = step;
    const ticket = ++this.asked, boxes = [...this.list.querySelectorAll("input:checked")];
    const chosen = boxes.map((box) => this.runs[box.value]);
    const found = await Promise.all(chosen.map((run) => this.find(run, step)));
    if (ticket !== this.asked) return; // another step was asked for in the meantime
    const before = this.panes;
    this.panes = new Map(found.map(({ run, record, why }) => {
      const pane = before.get(run) ?? makePane(run);
      return [run, Object.assign(pane, { record, why })];
    }));
    this.root.replaceChildren(...[...this.panes.values()].map((pane) => pane.slice.root));
    this.root.hidden = !this.panes.size;
    this.draw();
  }

  async find(run, step) {
    const past = run.course.step.filter((s) => s <= step).pop();
    if (past === undefined) return { run, why: "no analysis up to this step" };
    const kept = this.panes.get(run)?.record;
    if (kept?.step === past) return { run, record: kept };
    try {
      return { run, record: openRecord(await this.source.record(run.name, past)) };
    } catch (error) {
      return { run, why: error.message };
    }
  }

  draw() {
    const panes = [...this.panes.values()];
    const records = panes.map((pane) => pane.record).filter(Boolean);
    const dim = records[0]?.shape.length;
    const alike = records.length > 1 && records.every((r) => r.shape.length === dim);
    this.same.disabled = !alike;
    const frame = alike && this.same.checked ? commonFrame(records) : null;
    for (const pane of panes) drawPane(pane, frame);
  }
}

function commonFrame(records) {
  const around = (name, pick) => {
    return records[0][name].map((_, k) => pick(...records.map((r) => r[name][k])));
  };
  return { lower: around("lower", Math.min), upper: around("upper", Math.max) };
}

function makePane(run) {
  const said = html("p", { class: "note" }), probe = html("p", { class: "note" });
  const slice = new Slice((p) => {
    const parts = p ? [p.area, `loss ${p.loss}`, p.set] : [];
    probe.textContent = parts.filter(Boolean).join(" · ");
  }, run.label);
  slice.root.setAttribute("aria-label", `slice of ${run.name}`);
  slice.root.append(said, probe);
  return { slice, said };
}

function drawPane({ slice, said, record, why }, frame) {
  slice.box.hidden = !record;
  if (!record) {
    slice.controls.hidden = true;
    said.textContent = why;
    return;
  }
  const { claim, loss_now: loss } = record.facts;
  const now = loss === null ? "" : ` · loss ${short(loss)}`;
  const facts = `step ${record.step} · ${claim}${claimBound(record.facts)}${now}`;
  said.textContent = [facts, record.facts.verdict].filter(Boolean).join(" · ");
  slice.show(record, null, frame);
}
