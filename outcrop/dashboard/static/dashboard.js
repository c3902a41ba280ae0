// Arrow keys (or k and j) go to the page before and the next; a run that is still going is shown anew.
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea, button, summary, .scroll")) return;
  const rel = { ArrowLeft: "prev", k: "prev", ArrowRight: "next", j: "next" }[event.key];
  const link = rel && document.querySelector(`a[rel="${rel}"]:not([hidden])`);
  if (link) location.assign(link.href);
});
if (document.querySelector("[data-running]")) {
  setInterval(() => { if (!document.hidden) location.reload(); }, 10000);
}
