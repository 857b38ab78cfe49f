// Entry point of the TensorBoard tab: the view, fed by the routes of the plugin.

import { mount } from "./main.js";

const NO_RUNS = `No run here has Morse data.

Add the callback to the Trainer and train with the TensorBoard logger:

    from lightning_morse import MorseMonitor

    trainer = Trainer(callbacks=[MorseMonitor()])

Records appear after the first analysis, at the end of the first epoch.`;

const at = (path) => new URL(path, import.meta.url);

async function ask(url) {
  const answer = await fetch(url);
  const content = await answer.json();
  if (content.error) throw new Error(content.error);
  return content;
}

// Called by TensorBoard in the frame of the tab.
export async function render() {
  await loadStyle();
  const root = document.createElement("main");
  root.id = "view";
  document.body.append(root);
  let known = [];
  await mount(root, {
    runs: async () => (known = await ask(at("../runs"))),
    record: (name, step) => {
      const { run, tag } = known.find((r) => r.name === name);
      const url = at("../record");
      url.search = new URLSearchParams({ run, tag, step });
      return ask(url);
    },
    nothing: NO_RUNS,
  });
}

// The view measures what it draws, so the style comes first.
async function loadStyle() {
  const style = document.createElement("link");
  style.rel = "stylesheet";
  style.href = at("view.css");
  const loaded = new Promise((resolve) => {
    style.onload = style.onerror = resolve;
  });
  document.head.append(style);
  await loaded;
}
