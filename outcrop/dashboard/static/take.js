// The latents that a folder's table shows, as the server gives them: CSV, and what Neuronpedia takes.
// Lines come from explained/N.lines.js, features from features/*.js; a file is put together here.
"use strict";
const lines = new Map();  // what the Nth explainer said, as lines, once they are loaded

const linesOf = async (by) => {
  if (!lines.has(by)) {
    await load(`explained/${by}.lines.js`);
    lines.set(by, window.outcropLines);
  }
  return lines.get(by);
};

const takers = {
  csv: async ({ rows, by, name, added }) => {
    const { head, csv } = await linesOf(by);
    const line = (i) => (added ? `${csv[i].slice(0, -1)},${added.csv[i]}` : csv[i]);
    const first = added ? `${head.slice(0, -1)},${added.head}` : head;
    return [`latents-${name.replace(/[^A-Za-z0-9]/g, "-")}.csv`, [first, ...rows.map(line)]];
  },
  features: async ({ rows }, tell) => {
    const { columns, neuronpedia } = window.outcropLatents;
    const parts = [JSON.stringify(neuronpedia[columns.coder[rows[0]]]).slice(0, -1), ',"features":['];
    for (const [at, i] of [...rows].sort((a, b) => columns.latent[a] - columns.latent[b]).entries()) {
      await load(columns.feature[i]);
      parts.push(at ? "," : "", JSON.stringify(window.outcropFeature));
      if ((at + 1) % 100 === 0) tell(at + 1, rows.length);
    }
    return ["batch-0.json", [...parts, "]}"]];
  },
  explanations: async ({ rows, by }) => {
    const { explanations } = await linesOf(by);
    return ["explanations.jsonl", rows.map((i) => explanations[i]).filter((line) => line !== null)];
  },
};

// `view` is what the table shows; `tell` is told how many rows are done.
const take = async (kind, view, tell) => {
  const [file, parts] = await takers[kind](view, tell);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob(parts));
  link.download = file;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);  // by then it is being written
};
