// Entry point of the TensorBoard tab: the view, fed by the routes of the plugin.
import { mount } from "./view.js";

const at = (path) => new URL(path, import.meta.url);

async function ask(url) {
  const answer = await fetch(url);
  const content = await answer.json();
  if (content.error) throw new Error(content.error);
  return content;
}

export async function render() {
  const style = document.createElement("link");
  style.rel = "stylesheet";
  style.href = at("view.css");
  const loaded = new Promise((resolve) => {
    style.onload = style.onerror = resolve;
  });
  document.head.append(style);
  await loaded;
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
    nothing: "No run here has Morse data.\n\nAdd the callback to the Trainer and train with the TensorBoard logger:\n\n    from lightning_morse import MorseMonitor\n\n    trainer = Trainer(callbacks=[MorseMonitor()])\n\nRecords appear after the first analysis, at the end of the first epoch.",
  });
}
