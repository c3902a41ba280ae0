// The table of all latents without a server: from latents.js, and from explained/N.js for what the Nth explainer said.
// What is shown has an address, whose part behind # is the query that the server knows.
"use strict";
const { columns, flags, explainers, perPage, sortBy } = window.outcropLatents;
const form = document.querySelector(".filters");
const body = document.querySelector("table.latents tbody");
const status = document.querySelector("[role=status]");
const [previous, shownPage, next] = document.querySelectorAll(".pages > *");
const heads = [...document.querySelectorAll("th[data-sort]")];
const sortable = heads.map((head) => head.dataset.sort);
const numbers = sortable.filter((name) => name !== "latent" && name !== "layer");
const severalCoders = form.elements.coder !== undefined;
const n = columns.latent.length;
const count = (number) => number.toLocaleString("en");
const toldBy = new Map();  // what each explainer said, once it is loaded
let page = 1, told = null;
let turn = 0;  // of the view shown last: what was loaded for one before it may arrive behind it

const value = (name) => form.elements[name]?.value ?? "";
const ticked = (name) => [...form.querySelectorAll(`[name="${name}"]:checked`)].map((box) => box.value);
const column = (name) => columns[name] ?? told[name];
const explainer = () => value("explained_by") || explainers[0];
const ascending = () => value("ascending") === "1";

// The form as the address has it; an error for what is not there.
const read = () => {
  const query = new URLSearchParams(location.hash.slice(1));
  const known = new Set([...new FormData(form).keys(), "status", "flag", "page"]);
  for (const name of query.keys()) if (!known.has(name)) throw new Error(`there is no filter ${name}`);
  if (!sortable.includes(query.get("sort") ?? sortBy)) throw new Error(`there is no column ${query.get("sort")} to sort by`);
  for (const field of form.querySelectorAll("[name]")) {
    const given = query.getAll(field.name);
    if (field.type === "checkbox") {
      field.checked = given.includes(field.value);
      continue;
    }
    field.value = given[0] ?? { sort: sortBy, explained_by: explainers[0] }[field.name] ?? "";
    if (given[0] && field.value !== given[0]) throw new Error(`there is no ${field.name} ${given[0]}`);
  }
  for (const name of ["status", "flag"]) {
    const there = [...form.querySelectorAll(`[name="${name}"]`)].map((box) => box.value);
    for (const given of query.getAll(name)) if (!there.includes(given)) throw new Error(`there is no ${name} ${given}`);
  }
  page = Number(query.get("page") ?? 1);
  if (!Number.isInteger(page) || page < 1) throw new Error(`page is ${query.get("page")}; expected a number from 1 on`);
  if (![...query.keys()].every((name) => ["sort", "ascending", "words", "page"].includes(name))) form.querySelector("details").open = true;
};

const address = (changes = {}) => {
  const query = new URLSearchParams(new FormData(form));
  for (const [name, given] of Object.entries(changes)) query.set(name, given);
  const usual = { sort: sortBy, explained_by: explainers[0], page: "1" };
  return `#${new URLSearchParams([...query].filter(([name, given]) => given !== "" && given !== usual[name]))}`;
};

const kept = () => {
  const words = value("words").toLowerCase(), statuses = ticked("status"), wanted = ticked("flag");
  const same = ["coder", "layer", "prefix"].filter((name) => value(name)).map((name) => [columns[name], value(name)]);
  const bounds = [["firing_rate", "least_rate", "most_rate"], [value("sort"), "least", "most"]]
    .map(([name, least, most]) => [column(name), value(least), value(most)]);
  const within = (number, least, most) => (least === "" || (number !== null && number >= Number(least))) && (most === "" || (number !== null && number <= Number(most)));
  return (i) =>
    (!words || (told.text[i] ?? "").toLowerCase().includes(words)) &&
    same.every(([of, asked]) => String(of[i]) === asked) &&
    (!statuses.length || statuses.includes(columns.status[i])) &&
    wanted.every((flag) => columns[flag][i]) &&
    bounds.every(([of, least, most]) => within(of[i], least, most));
};

// Missing values last, whatever the direction: those of scored latents first.
const order = () => {
  const of = column(value("sort"));
  const known = [], missing = [];
  for (let i = 0; i < n; i++) (of[i] === null ? missing : known).push(i);
  known.sort((a, b) => of[a] - of[b]);
  if (!ascending()) known.reverse();
  const scored = (i) => columns.status[i] === "scored";
  return [...known, ...missing.filter(scored), ...missing.filter((i) => !scored(i))];
};

const element = (tag, kind, ...content) => {
  const made = document.createElement(tag);
  if (kind) made.className = kind;
  made.append(...content);
  return made;
};

const number = (name, i) => {
  const shown = column(`shown_${name}`)[i];
  if (typeof shown === "string") return element("td", "", shown);
  if (shown === null) return element("td");
  return element("td", "", element("span", "v", shown[0]), " ", element("span", "ci", shown[1]));
};

const line = (i) => {
  const link = element("a", "", columns.latent[i]);
  link.href = columns.address[i];
  const head = element("th", "", link);
  head.scope = "row";
  const what = element("td", "left what", told.shown_text[i] ?? "");
  what.dir = "auto";
  const state = columns.status[i];
  const pills = flags.filter((flag) => columns[flag][i] && flag !== state).flatMap((flag) => [" ", element("span", "pill", flag.replaceAll("_", " "))]);
  const coder = severalCoders ? [element("td", "left", columns.shown_coder[i])] : [];
  const standing = element("td", "left", element("i", `swatch ${state.replaceAll(" ", "-")}`), state, ...pills);
  return element("tr", "", head, what, ...coder, element("td", "", columns.layer[i]), standing, ...numbers.map((name) => number(name, i)));
};

const turning = (link, to, there) => {
  link.hidden = !there;
  link.href = address({ page: to });
};

const show = async (addressed, mine) => {
  if (addressed) read();
  const by = explainer();
  if (!toldBy.has(by)) {
    await load(`explained/${explainers.indexOf(by)}.js`);
    toldBy.set(by, window.outcropExplained);
    if (mine !== turn) return;
  }
  told = toldBy.get(by);
  const chosen = order().filter(kept());
  const last = Math.max(1, Math.ceil(chosen.length / perPage));
  page = Math.min(Math.max(page, 1), last);
  body.replaceChildren(...chosen.slice((page - 1) * perPage, page * perPage).map(line));
  status.textContent = `${count(chosen.length)} of ${count(n)} latents`;
  shownPage.textContent = last > 1 ? `page ${count(page)} of ${count(last)}` : "";
  turning(previous, page - 1, page > 1);
  turning(next, page + 1, page < last);
  for (const head of heads) {
    const [name, link] = [head.dataset.sort, head.querySelector("a")];
    const sorted = name === value("sort"), up = sorted && ascending();
    if (sorted) head.setAttribute("aria-sort", up ? "ascending" : "descending");
    else head.removeAttribute("aria-sort");
    link.href = address({ sort: name, ascending: sorted && !up ? "1" : "", page: 1 });
    if (sorted) form.elements.least.previousSibling.textContent = `${link.textContent} from `;
  }
};

const shown = (addressed) => {
  const mine = ++turn;
  return show(addressed, mine).catch((error) => {
    if (mine !== turn) return;
    body.replaceChildren();
    shownPage.textContent = "";
    previous.hidden = next.hidden = true;
    status.textContent = error.message;
  });
};
addEventListener("hashchange", () => shown(true));
form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("input", (event) => {
  page = 1;
  const typed = event.target.matches('[type="search"], [type="number"]');  // no step for each letter
  history[typed ? "replaceState" : "pushState"](null, "", address());
  shown(false);
});
shown(true);
