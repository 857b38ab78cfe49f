// Writes d3.js, the parts of D3 that the front end uses, as one module: `npm run vendor`.

import { readFileSync } from "node:fs";
import { build } from "esbuild";

const root = new URL("./", import.meta.url).pathname;
const versionOf = (name) => {
  return JSON.parse(readFileSync(`${root}node_modules/${name}/package.json`)).version;
};
const licenceOf = (name) => readFileSync(`${root}node_modules/${name}/LICENSE`, "utf8").trim();

const notices = ["d3-array"].map((name) => {
  return `Parts of ${name} ${versionOf(name)}.\n${licenceOf(name)}`;
});

await build({
  stdin: {
    contents: 'export { ticks } from "d3-array";\n',
    resolveDir: root,
  },
  bundle: true,
  format: "esm",
  legalComments: "none",
  banner: { js: `/*\n${notices.join("\n\n")}\n*/` },
  outfile: new URL("lightning_morse/view/front_end/vendor/d3.js", import.meta.url).pathname,
});
