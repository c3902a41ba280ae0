// Arrow keys (or k and j) go to the page before and the next. The link that skips to the content leaves the address alone,
// which may hold a view. Of a run that is still going the live parts are shown anew; the rest once nobody is reading in it.
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, select, textarea")) return;
  if (event.key.startsWith("Arrow") && event.target.closest(".scroll")) return; // they scroll there
  const rel = { ArrowLeft: "prev", k: "prev", ArrowRight: "next", j: "next" }[event.key];
  const link = rel && document.querySelector(`a[rel="${rel}"]:not([hidden])`);
  if (link) link.click();
});
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  document.querySelector("main").focus();
});
const part = (page, name) => page.querySelector(`[data-live="${name}"]`);
const states = (page) => [...page.querySelectorAll(".stages li")].map((stage) => stage.className).join();
async function renew(began) {
  const answer = await fetch(location.href);
  if (!answer.ok) return;
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  const changed = states(page) !== began;
  if (changed && !document.querySelector("main details[open]") && document.activeElement === document.body) location.reload();
  for (const name of ["stages", "training", "asked"]) {
    const old = part(document, name);
    if (!old.contains(document.activeElement)) old.replaceWith(document.adoptNode(part(page, name)));
  }
  const more = document.querySelector(".more-known");
  if (more) more.hidden = !changed;
}
if (document.querySelector("[data-running]")) {
  const began = states(document);
  setInterval(() => { if (!document.hidden && document.querySelector("[data-running]")) renew(began); }, 10000);
}
// What is open in a page stays open for who comes back to it. Kept beside the history: a change of its state would count
// as going to another page. The last lines, as a browser that keeps nothing stops here.
const parts = () => [...document.querySelectorAll("main details")];
const left = JSON.parse(sessionStorage.getItem(location.href));
if (left?.length === parts().length) parts().forEach((one, i) => { one.open = left[i]; });
document.addEventListener("toggle", () => {
  sessionStorage.setItem(location.href, JSON.stringify(parts().map((one) => one.open)));
}, true);
