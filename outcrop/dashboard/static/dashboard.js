// Arrow keys (or k and j) go to the page before and the next; a run that is still going is shown anew. The link that skips
// to the content leaves the address alone, which may hold a view.
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, select, textarea, .scroll")) return;
  const rel = { ArrowLeft: "prev", k: "prev", ArrowRight: "next", j: "next" }[event.key];
  const link = rel && document.querySelector(`a[rel="${rel}"]:not([hidden])`);
  if (link) link.click();
});
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  document.querySelector("main").focus();
});
if (document.querySelector("[data-running]")) {
  setInterval(() => { if (!document.hidden) location.reload(); }, 10000);
}
