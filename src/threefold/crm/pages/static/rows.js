// Rows by keys: j and k go down and up, Enter opens (the row's link has the focus), t takes a case, x picks a row.
(() => {
  "use strict";
  const free = (event) =>
    !(event.ctrlKey || event.metaKey || event.altKey || event.target.closest?.("input:not([type=checkbox]), textarea, select, dialog, [contenteditable]"));
  const links = () => [...document.querySelectorAll("[data-rows] a.over")];

  document.addEventListener("keydown", (event) => {
    if (!free(event) || !["j", "k", "t", "x"].includes(event.key)) return;
    const all = links();
    const row = document.activeElement?.closest?.("[data-rows] > *");
    const at = row ? all.findIndex((link) => row.contains(link)) : -1;
    if (event.key === "j" || event.key === "k") {
      const next = all[event.key === "j" ? Math.min(at + 1, all.length - 1) : Math.max(at - 1, 0)];
      if (!next) return;
      next.focus();
      next.scrollIntoView({ block: "nearest" });
    } else {
      const button = row?.querySelector(event.key === "t" ? "[data-take]" : "[data-pick]");
      if (!button) return;
      button.click();
    }
    event.preventDefault();
  });
})();
