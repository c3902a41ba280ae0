// The table of all latents, searched, filtered and sorted without a server, from the rows in latents.js.
"use strict";
const { columns, rows, perPage } = window.outcropLatents;
const place = Object.fromEntries(columns.map((name, i) => [name, i]));
const form = document.querySelector(".filters");
const body = document.querySelector("table.latents tbody");
const severalCoders = document.querySelector("th[data-coder]") !== null;
const heads = [...document.querySelectorAll("th[data-sort]")];
const [before, shown, further] = document.querySelectorAll(".pages > *");
let sort = form.dataset.sort, ascending = false, page = 0;

const wanted = () => {
  const words = form.elements.words.value.toLowerCase();
  const layer = form.elements.layer?.value ?? "";
  const coder = form.elements.coder?.value ?? "";
  const statuses = [...form.querySelectorAll('[name="status"]:checked')].map((box) => box.value);
  return (row) =>
    (!words || row[place.text].toLowerCase().includes(words)) &&
    (!layer || String(row[place.layer]) === layer) &&
    (!coder || row[place.coder] === coder) &&
    (!statuses.length || statuses.includes(row[place.status]));
};

// Missing values last, whatever the direction.
const order = (a, b) => {
  const [x, y] = [a[place[sort]], b[place[sort]]];
  if (x === null || y === null) return (x === null) - (y === null);
  return (x < y ? -1 : x > y ? 1 : 0) * (ascending ? 1 : -1);
};

const count = (n) => n.toLocaleString("en");

const cell = (content, kind = "") => {
  const td = document.createElement("td");
  if (kind) td.className = kind;
  td.append(...content);
  return td;
};

const swatch = (status) => {
  const mark = document.createElement("i");
  mark.className = `swatch ${status.replaceAll(" ", "-")}`;
  return mark;
};

const line = (row) => {
  const tr = document.createElement("tr");
  const th = document.createElement("th");
  const link = document.createElement("a");
  link.href = row[place.address];
  link.textContent = row[place.latent];
  th.scope = "row";
  th.append(link);
  const what = cell([row[place.shown_text]], "left what");
  what.dir = "auto";
  const coder = severalCoders ? [cell([row[place.shown_coder]], "left")] : [];
  tr.append(th, ...coder, what, cell([String(row[place.layer])]), cell([swatch(row[place.status]), row[place.status]], "left"));
  tr.append(...heads.slice(2).map((head) => cell([row[place[`shown_${head.dataset.sort}`]]])));
  return tr;
};

const show = () => {
  const chosen = rows.filter(wanted()).sort(order);
  const last = Math.max(0, Math.ceil(chosen.length / perPage) - 1);
  page = Math.min(Math.max(page, 0), last);
  body.replaceChildren(...chosen.slice(page * perPage, (page + 1) * perPage).map(line));
  document.querySelector("[role=status]").textContent = `${count(chosen.length)} of ${count(rows.length)} latents`;
  shown.textContent = `page ${count(page + 1)} of ${count(last + 1)}`;
  before.disabled = page === 0;
  further.disabled = page === last;
  for (const head of heads) {
    const mine = head.dataset.sort === sort;
    if (mine) head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
    else head.removeAttribute("aria-sort");
  }
};

const turned = (by) => () => { page += by; show(); };
before.addEventListener("click", turned(-1));
further.addEventListener("click", turned(1));
form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("input", () => { page = 0; show(); });
for (const head of heads) {
  head.querySelector("button").addEventListener("click", () => {
    ascending = sort === head.dataset.sort && !ascending;
    sort = head.dataset.sort;
    page = 0;
    show();
  });
}
show();
