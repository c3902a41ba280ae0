// The table of all latents without a server: from latents.js, and from explained/N.js for what the Nth explainer said.
// What is shown has an address, whose part behind # is the query that the server knows: the form's fields, and the page.
"use strict";
const { columns, flags, choices, usual, mostRows, neuronpedia } = window.outcropLatents;
const explainers = choices.explained_by;
const form = document.querySelector(".filters");
const body = document.querySelector("table.latents tbody");
const status = document.querySelector("[role=status]");
const [previous, shownPage, next] = document.querySelectorAll(".pages > *");
const wholeTable = document.querySelector('a[href$=".parquet"]');
const takes = document.querySelectorAll("[data-take]");
const taking = document.querySelector(".taking");
const standing = new Set([...document.querySelectorAll("th[data-sort]")].map((head) => head.dataset.sort));
const asked = document.querySelector("th.asked");  // of what stands in the table only where it is sorted by
const sortable = [...form.elements.sort.options].map((option) => option.value);
const severalCoders = choices.coder.length > 1;
const n = columns.latent.length;
const count = (number) => number.toLocaleString("en");
const several = (number, what) => `${count(number)} ${what}${number === 1 ? "" : "s"}`;
const toldBy = new Map();  // what each explainer said, once it is loaded
let page = 1, told = null, typedIn = null;
let view = null;  // what is shown, to be taken: the rows, whose explanations, and the lines of a metric that is added
let turn = 0;  // of the view shown last: what was loaded for one before it may arrive behind it

const value = (name) => form.elements[name].value;
const ticked = (name) => [...form.querySelectorAll(`[name="${name}"]:checked`)].map((box) => box.value);
const column = (name) => columns[name] ?? told[name];
const explainer = () => explainers.indexOf(value("explained_by") || explainers[0]);
const ascending = () => value("ascending") === "1";

const saidBy = async (by) => {
  if (!toldBy.has(by)) {
    await load(`explained/${by}.js`);
    toldBy.set(by, { ...window.outcropExplained, lines: {} });
  }
  return toldBy.get(by);
};

// A metric that stands in the table only where it is sorted by: its script knows the latents that are explained.
const addMetric = async (said, by, name) => {
  if (name in said) return;
  await load(`explained/${by}.${name}.js`);
  const { rows, value, shown, head, csv, none } = window.outcropMetric;
  const spread = (of, missing) => {
    const all = Array(n).fill(missing);
    rows.forEach((row, i) => { all[row] = of[i]; });
    return all;
  };
  said[name] = spread(value, null);
  said[`shown_${name}`] = spread(shown, null);
  said.lines[name] = { head, csv: spread(csv, none) };
};

// The form as the address has it; an error for what is not there. Of what is there twice the last counts.
const read = () => {
  const query = new URLSearchParams(location.hash.slice(1));
  const given = (name) => query.getAll(name).filter((one) => one !== "");
  const known = new Set(["page", ...[...form.elements].map((field) => field.name).filter(Boolean)]);
  for (const name of query.keys()) if (!known.has(name)) throw new Error(`there is no filter ${name}`);
  whole("size", given("size").at(-1) ?? usual.size, mostRows);
  page = whole("page", given("page").at(-1) ?? usual.page, Infinity);
  const sort = given("sort").at(-1) ?? usual.sort;
  if (!sortable.includes(sort)) throw new Error(`there is no column ${sort} to sort by`);
  for (const name of ["status", "flag"]) {
    const there = [...form.querySelectorAll(`[name="${name}"]`)].map((box) => box.value);
    for (const one of given(name)) if (!there.includes(one)) throw new Error(`there is no ${name} ${one}`);
  }
  for (const field of form.querySelectorAll("[name]")) {
    const { name } = field, asked = given(name).at(-1) ?? usual[name] ?? "";
    if (field.type === "checkbox") {
      field.checked = given(name).includes(field.value);
      continue;
    }
    if (asked && choices[name]?.includes(asked) === false) throw new Error(`there is no ${name} ${asked}; there are ${choices[name].join(", ")}`);
    field.value = name === "explained_by" && asked === explainers[0] ? "" : asked;
    if (asked && field.type === "number" && field.value === "") throw new Error(`${name} is ${asked}; expected a number`);
  }
  if ([...query.keys()].some((name) => !["sort", "ascending", "words", "page", "size"].includes(name) && given(name).length)) form.querySelector("details").open = true;
};

const whole = (name, given, most) => {
  const number = Number(given);
  if (!/^\d+$/.test(given) || number < 1 || number > most) throw new Error(`${name} is ${given}; expected a number from 1 ${most < Infinity ? `to ${count(most)}` : "on"}`);
  return number;
};

const address = (changes = {}) => {
  const query = new URLSearchParams(new FormData(form));
  for (const [name, given] of Object.entries(changes)) query.set(name, given);
  return `#${new URLSearchParams([...query].filter(([name, given]) => given !== "" && given !== usual[name]))}`;
};

const kept = () => {
  const words = value("words").toLowerCase(), numbered = /^[0-9]{1,9}$/.test(words) ? Number(words) : null, statuses = ticked("status"), wanted = ticked("flag");
  const same = ["hookpoint", "coder", "layer", "prefix"].filter((name) => value(name)).map((name) => [columns[name], value(name)]);
  const bounds = [["firing_rate", "least_rate", "most_rate"], [value("sort"), "least", "most"]]
    .map(([name, least, most]) => [column(name), value(least), value(most)]);
  const within = (number, least, most) => (least === "" || (number !== null && number >= Number(least))) && (most === "" || (number !== null && number <= Number(most)));
  return (i) =>
    (!words || [told.text[i], columns.trigger[i]].some((text) => text?.toLowerCase().includes(words)) || columns.latent[i] === numbered) &&
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

const line = (i, numbers) => {
  const link = element("a", "", columns.latent[i]);
  link.href = columns.address[i];
  const head = element("th", "", link);
  head.scope = "row";
  const what = element("td", "left what", told.shown_text[i] ?? "");
  if (told.shown_text[i] === null && columns.trigger[i] !== null) what.append(element("q", "token", columns.shown_trigger[i]));
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
  const by = explainer(), perPage = Number(value("size")), sort = value("sort"), added = !standing.has(sort);
  const said = await saidBy(by);
  if (added) await addMetric(said, by, sort);
  if (mine !== turn) return;
  told = said;
  const chosen = order().filter(kept());
  const last = Math.max(1, Math.ceil(chosen.length / perPage));
  page = Math.min(Math.max(page, 1), last);
  asked.hidden = !added;
  asked.dataset.sort = sort;
  asked.querySelector("a").textContent = added ? form.elements.sort.selectedOptions[0].textContent : "";
  const heads = [...document.querySelectorAll("th[data-sort]:not([hidden])")];
  const numbers = heads.map((head) => head.dataset.sort).filter((name) => name !== "latent" && name !== "layer");
  body.replaceChildren(...chosen.slice((page - 1) * perPage, page * perPage).map((i) => line(i, numbers)));
  wholeTable.href = `explained/${by}.parquet`;
  view = { rows: chosen, by, name: explainers[by], added: said.lines[sort] };
  offer();
  status.classList.remove("failure");
  status.textContent = `${count(chosen.length)} of ${count(n)} latents`;
  shownPage.textContent = last > 1 ? `page ${count(page)} of ${count(last)}` : "";
  turning(previous, page - 1, page > 1);
  turning(next, page + 1, page < last);
  for (const head of heads) {
    const [name, link] = [head.dataset.sort, head.querySelector("a")];
    const sorted = name === value("sort"), up = sorted && ascending();
    if (sorted) head.setAttribute("aria-sort", up ? "ascending" : "descending");
    else head.removeAttribute("aria-sort");
    link.href = address(sorted ? { ascending: up ? "" : "1", page: 1 } : { sort: name, ascending: "", least: "", most: "", page: 1 });
    if (sorted) form.elements.least.previousSibling.textContent = `${link.textContent} from `;
  }
};

// Neuronpedia takes latents of one coder, of a layer with a number.
const offer = () => {
  document.querySelector(".offers").hidden = view === null;
  if (view === null) return;
  const { rows } = view, coders = new Set(rows.map((i) => columns.coder[i]));
  const one = coders.size === 1 && neuronpedia[[...coders][0]] !== null;
  document.querySelector(".one-coder").hidden = !one;
  document.querySelector(".several-coders").hidden = coders.size < 2;
  document.querySelector(".unnumbered").hidden = one || coders.size !== 1;
  document.querySelector(".neuronpedia").hidden = !rows.length;
  const nExplained = rows.filter((i) => told.text[i] !== null).length;
  document.querySelector('[data-take="features"]').textContent = several(rows.length, "feature");
  document.querySelector('[data-take="explanations"]').textContent = several(nExplained, "explanation");
  document.querySelector(".explanations").hidden = !nExplained;
};

// Columns grow with their rows: what is found is shown once it is there.
const unveil = () => { document.querySelector(".found").hidden = false; };
const shown = (addressed) => {
  const mine = ++turn;
  return show(addressed, mine).then(unveil, (error) => {
    if (mine !== turn) return;
    body.replaceChildren();
    view = null;
    offer();
    shownPage.textContent = "";
    previous.hidden = next.hidden = true;
    status.textContent = error.message;
    status.classList.add("failure");
    unveil();
  });
};
addEventListener("hashchange", () => { typedIn = null; shown(true); });
for (const button of takes) button.addEventListener("click", async () => {
  if (button.ariaDisabled === "true") return;
  button.ariaDisabled = "true";
  taking.classList.remove("failure");
  try {
    await take(button.dataset.take, view, (done, all) => { taking.textContent = `${count(done)} of ${count(all)} taken`; });
    taking.textContent = "";
  } catch (error) {
    taking.textContent = error.message;
    taking.classList.add("failure");
  } finally {
    button.ariaDisabled = null;
  }
});
for (const link of [previous, next]) link.addEventListener("click", () => scrollTo(0, 0));
form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("input", (event) => {
  page = 1;
  if (event.target.name === "sort") form.elements.least.value = form.elements.most.value = "";
  const going = typedIn === event.target;  // a word is one step back, not one for each letter
  typedIn = event.target.matches('[type="search"], [type="number"]') ? event.target : null;
  history[going ? "replaceState" : "pushState"](null, "", address());
  shown(false);
});
if (location.search) location.replace(`${location.pathname}#${location.search.slice(1)}`);  // an address of the server's
else shown(true);
