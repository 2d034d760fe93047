// What the employees' pages share: undoing from a toast, times and people chosen, regions that follow a change.
(() => {
  "use strict";
  const threefold = (self.threefold ||= {});

  // Where tabs are a strip that is moved along, the one that is shown is in sight.
  const inSight = () => {
    for (const tab of document.querySelectorAll(".tabs [aria-current]")) {
      const strip = tab.parentElement;
      const before = tab.getBoundingClientRect().left - strip.getBoundingClientRect().left;
      strip.scrollLeft += before - (strip.clientWidth - tab.offsetWidth) / 2;
    }
  };
  inSight();

  const refresh = () => {
    for (const region of document.querySelectorAll("[data-live]")) self.htmx?.trigger(region, "live");
  };

  // A toast with a way back. The key is made once, so that pressing twice undoes once.
  const offerUndo = (address) => {
    const toast = document.getElementById("toasts")?.lastElementChild;
    if (!toast) return;
    const key = crypto.randomUUID();
    const button = Object.assign(document.createElement("button"), { className: "button", type: "button", textContent: "Undo" });
    button.addEventListener("click", async () => {
      button.disabled = true;
      const response = await threefold.device
        .fetch(address, { method: "POST", headers: { "Idempotency-Key": key, Accept: "application/json" } })
        .catch(() => null);
      const said = await response?.json().catch(() => null);
      if (!response?.ok) {
        button.disabled = false;
        return threefold.toast(said ? threefold.problemText(said, response.status) : "No connection: it was not undone. Try again.", { bad: true });
      }
      toast.remove();
      threefold.toast(said?.message || "Undone.");
      refresh();
    });
    toast.insertBefore(button, toast.lastElementChild);
  };
  document.addEventListener("htmx:beforeSwap", (event) => {
    const undo = event.detail.xhr.getResponseHeader("Threefold-Undo");
    if (undo) setTimeout(() => offerUndo(undo)); // after app.js has made the toast
  });

  // What is said about a change after which another page is shown, is said there.
  document.addEventListener("htmx:beforeOnLoad", (event) => {
    const { xhr } = event.detail;
    if (!xhr.getResponseHeader("HX-Redirect")) return;
    try {
      const said = JSON.parse(xhr.responseText);
      if (said.message) threefold.toastLater(said.message);
      if (said.undo) sessionStorage.setItem("threefold-undo", said.undo);
    } catch {
      // a redirect without words
    }
  });

  // What was changed here shows elsewhere on the page, with or without the live stream.
  document.addEventListener("threefold:changed", refresh);
  document.addEventListener("threefold:done", refresh); // by the outbox

  // A page that was gone to may have something to undo, too.
  addEventListener("DOMContentLoaded", () => {
    const undo = sessionStorage.getItem("threefold-undo");
    sessionStorage.removeItem("threefold-undo");
    if (undo) setTimeout(() => offerUndo(undo));
  });

  // After a form was put in place, the focus goes where the server says it belongs.
  document.addEventListener("htmx:afterSettle", () => {
    const wanted = document.querySelector("[data-focus]");
    if (!wanted) return;
    wanted.removeAttribute("data-focus");
    wanted.focus();
  });

  // A list with something picked in it stays as it is until that is dealt with.
  document.addEventListener("htmx:beforeRequest", (event) => {
    const { target, requestConfig } = event.detail;
    if (requestConfig.verb === "get" && target?.matches?.("[data-picking]") && target.querySelector("[data-pick]:checked")) event.preventDefault();
  });

  // Whoever chose something from a menu is done with it.
  document.addEventListener("click", ({ target }) => {
    const menu = target.closest?.(".menu a, .menu button")?.closest("[popover]");
    if (menu?.matches(":popover-open")) menu.hidePopover();
  });

  // "Select all", and what is shown only while something is picked.
  const picked = (form) => form.querySelectorAll("[data-pick]:checked").length;
  const showPicked = (form) => {
    const number = picked(form);
    for (const bar of form.querySelectorAll("[data-when-picked]")) bar.hidden = number === 0;
    for (const words of form.querySelectorAll("[data-picked]")) words.textContent = `${number} selected`;
    const all = form.querySelector("[data-pick-all]");
    if (all) {
      all.checked = number > 0 && number === form.querySelectorAll("[data-pick]").length;
      all.indeterminate = number > 0 && !all.checked;
    }
  };
  document.addEventListener("change", ({ target }) => {
    const form = target.closest?.("form[data-picking]");
    if (!form || !target.matches("[data-pick], [data-pick-all]")) return;
    if (target.matches("[data-pick-all]")) for (const box of form.querySelectorAll("[data-pick]")) box.checked = target.checked;
    showPicked(form);
  });

  // One of several parts of a form, by a select's value: data-switch names it, data-case its parts.
  const switched = (select) => {
    for (const part of select.closest("form, dialog, body").querySelectorAll(`[data-case="${select.dataset.switch}"]`)) {
      const shown = part.dataset.for.split(" ").includes(select.value);
      part.hidden = !shown;
      for (const input of part.querySelectorAll("input, select, textarea")) input.disabled = !shown;
    }
  };
  const switchAll = (root = document) => {
    for (const select of root.querySelectorAll("[data-switch]")) switched(select);
  };
  document.addEventListener("change", ({ target }) => target.matches?.("[data-switch]") && switched(target));
  addEventListener("DOMContentLoaded", () => switchAll());
  document.addEventListener("htmx:afterSettle", () => switchAll());
  document.addEventListener("click", ({ target }) => {
    if (target.closest?.("[data-unpick]")) {
      const form = target.closest("form[data-picking]");
      for (const box of form.querySelectorAll("[data-pick]")) box.checked = false;
      showPicked(form);
    }
  });
})();
