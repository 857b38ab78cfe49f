// Entry point of a report: the view, fed by the data that the page holds.

import { mount } from "./main.js";

const { runs } = JSON.parse(document.getElementById("data").textContent);

// Each record is an element of its own, parsed when it is shown: one that is damaged, or one of
// very many, is no matter for the others.
function recordAt(name, step) {
  const { record } = runs.find((run) => run.name === name).steps.find((s) => s.step === step);
  return JSON.parse(document.getElementById(`record-${record}`).textContent);
}

mount(document.getElementById("view"), {
  runs: async () => runs,
  record: async (name, step) => recordAt(name, step),
});
