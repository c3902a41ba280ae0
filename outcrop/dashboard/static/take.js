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
  csv: async (rows, by, name) => {
    const { head, csv } = await linesOf(by);
    return [`latents-${name.replace(/[^A-Za-z0-9]/g, "-")}.csv`, [head, ...rows.map((i) => csv[i])]];
  },
  features: async (rows) => {
    const { columns, neuronpedia } = window.outcropLatents;
    const parts = [JSON.stringify(neuronpedia[columns.coder[rows[0]]]).slice(0, -1), ',"features":['];
    for (const [at, i] of [...rows].sort((a, b) => columns.latent[a] - columns.latent[b]).entries()) {
      await load(columns.feature[i]);
      parts.push(at ? "," : "", JSON.stringify(window.outcropFeature));
    }
    return ["batch-0.json", [...parts, "]}"]];
  },
  explanations: async (rows, by) => {
    const { explanations } = await linesOf(by);
    const told = rows.map((i) => explanations[i]).filter((line) => line !== null);
    return ["explanations.jsonl", told];
  },
};

const take = async (kind, rows, by, name) => {
  const [file, parts] = await takers[kind](rows, by, name);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob(parts));
  link.download = file;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);  // by then it is being written
};
