// What every page with a frame needs: toasts, dialogs, keys, keyed changes by htmx, signing out, being offline.
(() => {
  "use strict";
  const threefold = (self.threefold ||= {});

  const toast = (text, { bad = false, action = "", href = "" } = {}) => {
    const region = document.getElementById("toasts");
    if (!region || !text) return;
    const shown = document.createElement("div");
    shown.className = bad ? "toast bad" : "toast";
    const words = document.createElement("span");
    words.textContent = text;
    shown.append(words);
    if (href) {
      const link = Object.assign(document.createElement("a"), { className: "button", href, textContent: action });
      shown.append(link);
    }
    const close = Object.assign(document.createElement("button"), { className: "button", type: "button", textContent: "Close" });
    close.addEventListener("click", () => shown.remove());
    shown.append(close);
    region.append(shown);
    while (region.children.length > 3) region.firstElementChild.remove();
    if (!bad) setTimeout(() => shown.remove(), 7000);
  };
  threefold.toast = toast;

  // A message that outlives going to another page.
  threefold.toastLater = (text) => sessionStorage.setItem("threefold-toast", text);
  addEventListener("DOMContentLoaded", () => {
    const text = sessionStorage.getItem("threefold-toast");
    sessionStorage.removeItem("threefold-toast");
    if (text) toast(text);
  });

  threefold.problemText = (problem, status) =>
    problem?.detail
      ? problem.detail[0].toUpperCase() + problem.detail.slice(1) + (problem.hint ? `: ${problem.hint}` : "") + "."
      : `The server answered ${status}.`;

  document.addEventListener("click", (event) => {
    const opener = event.target.closest?.("[data-dialog]");
    if (opener) document.getElementById(opener.dataset.dialog)?.showModal();
    if (event.target.closest?.("[data-close]")) event.target.closest("dialog")?.close();
    if (event.target instanceof HTMLDialogElement) event.target.close(); // the backdrop
    if (event.target.closest?.("[data-signout]")) signOut();
  });

  const signOut = async () => {
    try {
      await threefold.device.post("/connect/signout");
    } catch (error) {
      if (error.status !== 401) return toast("You could not be signed out: there is no connection. Close the browser, or try again.", { bad: true });
    }
    await threefold.store.remove("notes", "user");
    location.assign("/signin");
  };

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest?.("input, textarea, select, dialog, [contenteditable]")) return;
    const wanted = [...document.querySelectorAll("[data-hotkey]")].find((element) => element.dataset.hotkey === event.key);
    if (!wanted) return;
    event.preventDefault();
    if (wanted.matches("input, textarea, select")) wanted.focus();
    else wanted.click();
  });

  // Each change carries a key that stays the same until the server has answered it, so that sending it again is safe.
  const keys = new WeakMap();
  document.addEventListener("htmx:configRequest", (event) => {
    const { elt, verb, headers } = event.detail;
    if (verb === "get") return;
    if (!keys.has(elt)) keys.set(elt, crypto.randomUUID());
    headers["Idempotency-Key"] = keys.get(elt);
  });
  document.addEventListener("htmx:afterRequest", (event) => {
    const { elt, xhr } = event.detail;
    if (xhr.status && xhr.status < 500) keys.delete(elt);
  });
  // A problem is words and never put in the page's place, whatever its status. In a dialog it is said in its form: a
  // toast would lie under it.
  document.addEventListener("htmx:beforeOnLoad", (event) => {
    const { xhr, elt } = event.detail;
    const isProblem = (xhr.getResponseHeader("Content-Type") || "").startsWith("application/problem+json");
    if (!isProblem && (xhr.status < 400 || xhr.status === 422)) return;
    if (xhr.getResponseHeader("HX-Redirect")) return; // signed out: htmx goes there
    event.preventDefault();
    let problem = null;
    try {
      problem = JSON.parse(xhr.responseText);
    } catch {
      // no problem+json: say the status alone
    }
    const form = elt.closest?.("dialog form");
    if (form) inForm(form, problem, xhr.status);
    else toast(threefold.problemText(problem, xhr.status), { bad: true });
  });
  const inForm = (form, problem, status) => {
    let note = form.querySelector("[data-form-note]");
    if (!note) {
      note = Object.assign(document.createElement("div"), { className: "alert tone-red" });
      note.dataset.formNote = "";
      note.setAttribute("role", "alert");
      form.prepend(note);
    }
    note.hidden = false;
    note.textContent = threefold.problemText(problem, status);
    for (const shown of form.querySelectorAll("[data-error]")) shown.textContent = problem?.fields?.[shown.dataset.error] || "";
    form.querySelector("[data-error]:not(:empty)")?.closest(".field")?.querySelector("input:not([type=hidden]), select, textarea")?.focus();
  };
  for (const lost of ["htmx:sendError", "htmx:timeout"])
    document.addEventListener(lost, () => toast("No connection: nothing was changed. Try again in a moment.", { bad: true }));
  document.addEventListener("htmx:beforeSwap", (event) => {
    const said = event.detail.xhr.getResponseHeader("Threefold-Message");
    if (said) toast(decodeURIComponent(said));
  });

  const online = () => {
    const banner = document.getElementById("offline-banner");
    if (banner) banner.hidden = navigator.onLine;
  };
  addEventListener("online", online);
  addEventListener("offline", online);
  addEventListener("DOMContentLoaded", () => {
    online();
    const user = document.body.dataset.user;
    if (user) threefold.store.put("notes", user, "user");
    navigator.serviceWorker?.register("/sw.js").catch(() => {}); // a later visit tries again
    navigator.serviceWorker?.ready.then((registration) => registration.update().catch(() => {}));
  });
})();
