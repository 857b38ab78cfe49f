// Entry point of the TensorBoard tab: the view, fed by the routes of the plugin.

import { mount } from "./main.js";

const NO_RUNS = `No run here has Morse data.

Add the callback to the Trainer and train with the TensorBoard logger:

    from lightning_morse import MorseMonitor

    trainer = Trainer(callbacks=[MorseMonitor()])

Records appear after the first analysis, at the end of the first epoch.`;

// Of what the plugin serves; the frame itself is a page of TensorBoard.
const at = (path) => new URL(`plugin/morse/${path}`, location.href);

async function ask(url) {
  const answer = await fetch(url);
  const content = await answer.json();
  if (content.error) throw new Error(content.error);
  return content;
}

// Called by TensorBoard in the frame of the tab.
export async function render() {
  const courses = ask(at("courses"));
  courses.catch(() => {}); // told where it is awaited
  await loadStyle();
  document.documentElement.lang = "en";
  document.title = "Morse graph of the loss";
  const root = document.createElement("main");
  root.id = "view";
  document.body.append(root);
  await mount(root, sourceOf(courses));
}

function sourceOf(courses) {
  let known = [], expected = null;
  const about = (path, name, query) => {
    const { run, tag } = known.find((r) => r.name === name), url = at(path);
    url.search = new URLSearchParams({ run, tag, ...query });
    return ask(url);
  };
  const ahead = (name, step) => {
    const answer = about("record", name, { step });
    answer.catch(() => {});
    expected = { name, step, answer };
  };
  return {
    runs: async () => (known = await courses),
    // Of a run the last record is shown first: it is asked for together with the steps.
    steps: async (name) => {
      ahead(name, known.find((r) => r.name === name).course.step.at(-1));
      return (await about("runs", name, {}))[0].steps;
    },
    record: (name, step) => {
      const isExpected = expected?.name === name && expected.step === step;
      const answer = isExpected ? expected.answer : about("record", name, { step });
      expected = null;
      return answer;
    },
    nothing: NO_RUNS,
  };
}

// The view measures what it draws, so the style comes first.
async function loadStyle() {
  const style = document.createElement("link");
  style.rel = "stylesheet";
  style.href = at("static/view.css");
  const loaded = new Promise((resolve) => {
    style.onload = style.onerror = resolve;
  });
  document.head.append(style);
  await loaded;
}
