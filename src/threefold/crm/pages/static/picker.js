// Choosing one record of very many: a combobox (WAI-ARIA), its options asked for while one types.
(() => {
  "use strict";
  const threefold = (self.threefold ||= {});
  const parts = (box) => ({
    input: box.querySelector("[role=combobox]"),
    list: box.querySelector("[role=listbox]"),
    id: box.querySelector("input[type=hidden]"),
  });
  const waits = new WeakMap();

  const close = (box) => {
    const { input, list } = parts(box);
    list.hidden = true;
    input.setAttribute("aria-expanded", "false");
    input.removeAttribute("aria-activedescendant");
  };

  const mark = (box, option) => {
    const { input, list } = parts(box);
    for (const each of list.querySelectorAll("[role=option]")) each.setAttribute("aria-selected", String(each === option));
    if (option) {
      input.setAttribute("aria-activedescendant", option.id);
      option.scrollIntoView({ block: "nearest" });
    } else input.removeAttribute("aria-activedescendant");
  };

  const choose = (box, option) => {
    const { input, id } = parts(box);
    id.value = option?.dataset.id ?? "";
    input.value = option?.dataset.title ?? "";
    input.dataset.title = input.value;
    id.dispatchEvent(new Event("change", { bubbles: true }));
    close(box);
  };

  const ask = async (box) => {
    const { input, list } = parts(box);
    const text = input.value === (input.dataset.title ?? input.defaultValue) ? "" : input.value;
    const response = await threefold.device.fetch(`${box.dataset.picker}?q=${encodeURIComponent(text)}`).catch(() => null);
    if (!response?.ok || document.activeElement !== input) return;
    list.innerHTML = await response.text(); // our own server's, escaped there
    for (const option of list.querySelectorAll("[role=option]")) option.id = `${list.id}-${option.dataset.id}`;
    list.hidden = false;
    input.setAttribute("aria-expanded", "true");
  };

  document.addEventListener("input", ({ target }) => {
    const box = target.matches?.("[role=combobox]") && target.closest("[data-picker]");
    if (!box) return;
    if (!target.value) choose(box, null);
    clearTimeout(waits.get(box));
    waits.set(box, setTimeout(() => ask(box), 180));
  });
  document.addEventListener("focusin", ({ target }) => {
    const box = target.matches?.("[role=combobox]") && target.closest("[data-picker]");
    if (!box) return;
    target.dataset.title ??= target.defaultValue;
    target.select();
    ask(box);
  });
  document.addEventListener("focusout", ({ target }) => {
    const box = target.matches?.("[role=combobox]") && target.closest("[data-picker]");
    if (!box) return;
    target.value = target.dataset.title ?? ""; // what was typed and not chosen is nothing
    close(box);
  });
  document.addEventListener("keydown", (event) => {
    const box = event.target.matches?.("[role=combobox]") && event.target.closest("[data-picker]");
    if (!box) return;
    const { list } = parts(box);
    const options = [...list.querySelectorAll("[role=option]")];
    const at = options.findIndex((option) => option.getAttribute("aria-selected") === "true");
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      if (list.hidden) ask(box);
      else mark(box, options[(at + (event.key === "ArrowDown" ? 1 : -1) + options.length) % options.length]);
    } else if (event.key === "Enter" && !list.hidden) {
      if (options.length) choose(box, options[Math.max(at, 0)]);
    } else if (event.key === "Escape" && !list.hidden) {
      close(box);
    } else return;
    event.preventDefault();
    event.stopPropagation();
  });
  document.addEventListener("pointerdown", (event) => {
    const option = event.target.closest?.("[data-picker] [role=option]");
    if (!option) return;
    event.preventDefault(); // the field keeps the focus
    choose(option.closest("[data-picker]"), option);
  });
})();
