// Sets the reader's theme before anything is painted; without a choice the system's holds.
(() => {
  "use strict";
  const key = "threefold-theme";
  const words = { "": "Theme: as the system", light: "Theme: light", dark: "Theme: dark" };
  const chosen = () => {
    try {
      return localStorage.getItem(key) || "";
    } catch {
      return ""; // storage is closed to us: the system's then
    }
  };
  const show = () => {
    const theme = chosen();
    if (theme) document.documentElement.dataset.theme = theme;
    else delete document.documentElement.dataset.theme;
    for (const word of document.querySelectorAll("[data-theme-word]")) word.textContent = words[theme];
  };
  show();
  document.addEventListener("DOMContentLoaded", show);
  document.addEventListener("click", (event) => {
    if (!event.target.closest?.("[data-theme-switch]")) return;
    const names = Object.keys(words);
    try {
      localStorage.setItem(key, names[(names.indexOf(chosen()) + 1) % names.length]);
    } catch {
      return;
    }
    show();
  });
  addEventListener("storage", (event) => event.key === key && show());
})();
