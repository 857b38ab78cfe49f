// The header: choice of run, step and theme, and the player. What is chosen is told to its owner.

import { html } from "./elements.js";
import { followTheme } from "./theme.js";

const PLAY_INTERVAL_MS = 700;

export class Controls {
  // on: {run(k), step(at), theme()}, called with the number of a run, or of a step of the run.
  constructor(root, chooser, on) {
    this.root = root;
    this.on = on;
    this.at = this.last = 0;
    this.playing = null;
    this.runs = html("select", { id: "morse-run" });
    this.slider = html("input", { type: "range", min: 0, value: 0, "aria-label": "step" });
    this.when = html("span", { class: "when", role: "status" });
    this.play = html("button", { type: "button" }, "Play");
    this.theme = html("button", { type: "button", class: "theme" });
    this.steps = html("div", { class: "steps" }, this.slider);
    const title = html("h1", {}, "Morse graph of the loss");
    const run = html("label", {}, "run", this.runs);
    const parts = [title, run, chooser, this.play, this.steps, this.when, this.theme];
    this.header = html("header", {}, ...parts);
    this.slider.addEventListener("input", () => on.step(Number(this.slider.value)));
    this.runs.addEventListener("change", () => on.run(this.runs.selectedIndex));
    this.play.addEventListener("click", () => this.togglePlaying());
    this.listenToKeys();
    followTheme(root, this.theme, on.theme);
  }

  offer(runs) {
    this.runs.replaceChildren(...runs.map((r) => html("option", {}, r.label)));
  }

  choose(k) {
    this.runs.selectedIndex = k;
  }

  // steps: summaries of the run; at: the number of the one that is shown.
  show(steps, at) {
    const { step, epoch } = steps[at];
    [this.at, this.last] = [at, steps.length - 1];
    this.play.hidden = this.steps.hidden = steps.length < 2;
    this.slider.max = this.last;
    this.slider.value = at;
    const known = epoch !== null && epoch !== undefined;
    this.when.textContent = `step ${step}${known ? ` · epoch ${epoch + 1}` : ""}`;
    this.slider.setAttribute("aria-valuetext", this.when.textContent);
  }

  togglePlaying() {
    if (this.playing) {
      this.stop();
      return;
    }
    this.play.textContent = "Stop";
    if (this.at === this.last) this.on.step(0);
    this.playing = setInterval(() => {
      if (this.at >= this.last) this.stop();
      else this.on.step(this.at + 1);
    }, PLAY_INTERVAL_MS);
  }

  stop() {
    clearInterval(this.playing);
    this.playing = null;
    this.play.textContent = "Play";
  }

  listenToKeys() {
    this.root.ownerDocument.addEventListener("keydown", (e) => {
      const taken = e.defaultPrevented || ["INPUT", "SELECT"].includes(e.target.tagName);
      if (taken || !this.runs.length) return;
      if (e.key === "ArrowLeft") this.on.step(this.at - 1);
      else if (e.key === "ArrowRight") this.on.step(this.at + 1);
    });
  }
}
