// Entry point of the index of a report of many pages: the table of its runs.

import { html } from "./elements.js";
import { nameBriefly } from "./names.js";
import { RunsTable } from "./runs_table.js";
import { followTheme } from "./theme.js";
import { addTips } from "./tips.js";

const { runs, about } = JSON.parse(document.getElementById("data").textContent);
const root = document.getElementById("index"), table = new RunsTable();
const theme = html("button", { type: "button", class: "theme" });
nameBriefly(runs);
root.classList.add("morse-view");
followTheme(root, theme, () => {});
const header = html("header", {}, html("h1", {}, document.title), theme);
root.replaceChildren(header, html("p", { class: "note" }, about), table.root);
addTips(root);
table.root.open = true;
table.offer(runs);
table.root.hidden = false;
