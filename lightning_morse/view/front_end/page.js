// Entry point of a report: the view, fed by the data that the page holds.

import { mount } from "./main.js";

const data = JSON.parse(document.getElementById("data").textContent);

mount(document.getElementById("view"), {
  runs: async () => data.runs,
  record: async (run, step) => data.records[data.runs.findIndex((r) => r.name === run)][step],
});
