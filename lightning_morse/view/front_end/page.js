// Entry point of a report: the view, fed by the data that the page holds.

import { mount } from "./main.js";

const { runs } = JSON.parse(document.getElementById("data").textContent);

// The script stands before most of the records, so that a page of many is seen at once.
const isRead = new Promise((resolve) => {
  document.addEventListener("DOMContentLoaded", resolve, { once: true });
});

const stepsOf = (name) => runs.find((run) => run.name === name).steps;

// Each record is an element of its own, parsed when it is shown: one that is damaged, or one of
// very many, is no matter for the others.
async function recordAt(name, step) {
  const { record, error } = stepsOf(name).find((s) => s.step === step);
  if (error) throw new Error(error);
  const id = `record-${record}`;
  if (!document.getElementById(id)) await isRead;
  return JSON.parse(document.getElementById(id).textContent);
}

mount(document.getElementById("view"), {
  runs: async () => runs.map(({ name, course, hparams }) => ({ name, course, hparams })),
  steps: async (name) => stepsOf(name),
  record: recordAt,
});
