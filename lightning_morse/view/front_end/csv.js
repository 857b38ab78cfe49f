// Tables as CSV (RFC 4180).

import { html } from "./elements.js";

// rows: lists of text, numbers, and null where nothing is known.
export function csvOf(rows) {
  return rows.map((row) => `${row.map(field).join(",")}\r\n`).join("");
}

function field(value) {
  const text = value === null ? "" : String(value);
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

// Lets the browser save a text as a file.
export function download(name, text) {
  const url = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  const link = html("a", { href: url, download: name });
  link.click();
  // Some browsers read it only after this task.
  window.setTimeout(() => URL.revokeObjectURL(url), 1000);
}
