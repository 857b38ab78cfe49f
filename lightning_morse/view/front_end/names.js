// Names of runs.

// The folders that all runs share are left out of their labels.
export function nameBriefly(runs) {
  const parts = runs.map((run) => run.name.split("/")), [first] = parts;
  const common = (k) => parts.every((p) => k < p.length - 1 && p[k] === first[k]);
  let shared = 0;
  while (runs.length > 1 && common(shared)) shared++;
  runs.forEach((run, k) => (run.label = parts[k].slice(shared).join("/")));
}
