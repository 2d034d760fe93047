// Forms that survive the loss of the connection (data-outbox), the badge, and the list of what waits.
(() => {
  "use strict";
  const { store, device, outbox } = self.threefold;
  const toast = (...words) => self.threefold.toast?.(...words);

  // UUIDv7: the record's id is known before the server has seen it, and stays the same however often it is sent.
  const uuid7 = () => {
    const bytes = crypto.getRandomValues(new Uint8Array(16));
    const now = BigInt(Date.now());
    for (let at = 0; at < 6; at += 1) bytes[at] = Number((now >> BigInt(40 - 8 * at)) & 255n);
    bytes[6] = (bytes[6] & 0x0f) | 0x70;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    const hex = [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
    return hex.replace(/(.{8})(.{4})(.{4})(.{4})(.{12})/, "$1-$2-$3-$4-$5");
  };

  // A key lives with its form until the server has answered for good; then the next write gets another.
  const renew = (form) => {
    form.dataset.key = crypto.randomUUID();
    for (const input of form.querySelectorAll("input[data-new-id]")) input.value = uuid7();
  };

  const showErrors = (form, problem) => {
    const fields = problem?.fields || {};
    for (const shown of form.querySelectorAll("[data-error]")) {
      const text = fields[shown.dataset.error] || "";
      shown.textContent = text ? text[0].toUpperCase() + text.slice(1) : "";
      const input = form.elements[shown.dataset.error];
      if (input instanceof Element) text ? input.setAttribute("aria-invalid", "true") : input.removeAttribute("aria-invalid");
    }
    const first = form.querySelector("[aria-invalid='true']");
    if (first) first.focus();
    const known = [...form.querySelectorAll("[data-error]")].map((shown) => shown.dataset.error);
    const rest = Object.entries(fields).filter(([name]) => !known.includes(name)).map(([name, text]) => `${name}: ${text}`);
    note(form, problem && (!first || rest.length) ? [self.threefold.problemText(problem), ...rest].join(" ") : "", "red");
  };

  const note = (form, text, tone = "amber", href = "", action = "") => {
    let shown = form.querySelector("[data-form-note]");
    if (!shown) {
      shown = document.createElement("div");
      shown.dataset.formNote = "";
      form.prepend(shown);
    }
    shown.className = `alert tone-${tone}`;
    shown.setAttribute("role", "alert");
    shown.hidden = !text;
    const words = Object.assign(document.createElement("p"), { textContent: text });
    shown.replaceChildren(words);
    if (href) {
      words.append(" ");
      words.append(Object.assign(document.createElement("a"), { href, textContent: action }));
    }
  };

  // What the form calls its fields, for when they are shown without it.
  const labels = (form) =>
    Object.fromEntries([...form.elements].filter(({ name, labels }) => name && labels?.length).map(({ name, labels }) => [name, labels[0].firstChild.textContent.trim()]));

  const submit = async (form, submitter) => {
    if (form.dataset.busy) return;
    form.dataset.key ||= crypto.randomUUID();
    const data = new FormData(form, submitter);
    const fields = [...data].filter(([, value]) => !(value instanceof File) || value.size > 0);
    const title = form.dataset.outboxTitle ? String(data.get(form.dataset.outboxTitle) || "") : "";
    const entry = {
      key: form.dataset.key,
      url: new URL(form.action).pathname,
      fields,
      what: form.dataset.outboxWhat || "Change",
      title: title.slice(0, 120),
      labels: labels(form),
      page: form.dataset.outboxPage || location.pathname,
      user: document.body.dataset.user || (await store.get("notes", "user").catch(() => "")) || "",
    };
    form.dataset.busy = "1";
    form.setAttribute("aria-busy", "true");
    for (const button of form.querySelectorAll("[type='submit']")) button.setAttribute("aria-disabled", "true");
    try {
      const mended = form.dataset.mends;
      const result = await outbox.write(entry);
      if (result.outcome === "done") {
        if (mended) await outbox.discard(mended); // only now: until then the device holds the words
        done(form, result);
      } else if (result.outcome === "refused" || result.outcome === "conflict") {
        showErrors(form, result.problem);
        if (result.outcome === "refused") form.dataset.key = crypto.randomUUID(); // another body needs another key
      } else await keep(form, entry, result, mended);
    } catch (error) {
      note(form, `This could not be kept on this device: ${error.message}. Copy your text before you leave the page.`, "red");
    } finally {
      delete form.dataset.busy;
      form.removeAttribute("aria-busy");
      for (const button of form.querySelectorAll("[type='submit']")) button.removeAttribute("aria-disabled");
    }
  };

  const done = (form, { said, deferred }) => {
    delete form.dataset.mends;
    const text = deferred ? said.message || "Kept safe: it will be entered as soon as the system is back." : said.message;
    form.reset();
    showErrors(form, null);
    renew(form);
    form.dispatchEvent(new CustomEvent("threefold:done", { bubbles: true, detail: said }));
    if (said.goto && !deferred) {
      if (text) self.threefold.toastLater?.(text);
      location.assign(said.goto);
    } else if (deferred) note(form, text, "green");
    else toast(text);
  };

  const keep = async (form, entry, { outcome, problem }, mended) => {
    await outbox.add({ ...entry, problem });
    if (mended && mended !== entry.key) await outbox.discard(mended); // only now: until then it alone holds the words
    delete form.dataset.mends;
    form.reset();
    showErrors(form, null);
    renew(form);
    const told = outcome === "away" && problem?.detail ? `${problem.detail[0].toUpperCase()}${problem.detail.slice(1)}.` : "";
    const why = outcome === "signed-out" ? "You are signed out." : told || (outcome === "away" ? "There is no connection." : "The server could not take it now.");
    note(form, `${why} What you wrote is kept on this device and is sent as soon as it can be.`, "amber", "/outbox", "See what waits");
    form.querySelector("[data-form-note]").scrollIntoView({ block: "nearest" });
  };

  document.addEventListener("submit", (event) => {
    const form = event.target;
    if (form.matches("[data-outbox]")) {
      event.preventDefault();
      submit(form, event.submitter);
    } else if (form.method === "post" && !form.matches("[hx-post], [hx-put], [hx-patch], [hx-delete], [data-script]")) {
      event.preventDefault(); // a navigation never changes anything: the service worker signs none
      toast("This form cannot be sent that way.", { bad: true });
    }
  });

  // What is wrong with a field is said until somebody does something about it.
  document.addEventListener("input", ({ target }) => {
    const shown = target.name && target.form?.querySelector(`[data-error="${CSS.escape(target.name)}"]`);
    if (!shown) return;
    shown.textContent = "";
    target.removeAttribute("aria-invalid");
  });

  // ---- The list and the badge.

  const element = (tag, className, text) => Object.assign(document.createElement(tag), { className, textContent: text || "" });

  const action = (text, className, run) => {
    const button = element("button", `button small ${className}`, text);
    button.type = "button";
    button.addEventListener("click", run);
    return button;
  };

  const line = (entry) => {
    const item = element("li", "");
    item.dataset.entry = entry.key;
    const words = element("div", "grow");
    const head = element("div", "row");
    const refused = entry.state === "refused";
    head.append(element("span", "strong", entry.title || entry.what), element("span", `pill tone-${refused ? "red" : "amber"}`, refused ? "Refused" : "Waiting"));
    const at = element("time", "muted small");
    at.dateTime = new Date(entry.at).toISOString();
    at.dataset.when = "ago";
    const detail = element("div", "muted small");
    detail.append(`${entry.what}, written `, at);
    words.append(head, detail);
    if (entry.problem) {
      const fields = Object.entries(entry.problem.fields || {}).map(([name, text]) => ` ${entry.labels?.[name] || name}: ${text}.`);
      words.append(element("p", "small", self.threefold.problemText(entry.problem) + fields.join("")));
    }
    const actions = element("div", "row");
    if (refused) actions.append(action("Mend", "", () => mend(entry)));
    else actions.append(action("Send now", "", () => flush({ force: true, told: true })));
    actions.append(action("Discard", "plain danger", () => confirm(`Discard “${entry.title || entry.what}”? It was not sent, and will be gone.`) && outbox.discard(entry.key)));
    item.append(words, actions);
    return item;
  };

  const mend = (entry) => {
    const form = [...document.querySelectorAll("form[data-outbox]")].find((found) => new URL(found.action).pathname === entry.url);
    if (form) fill(form, entry);
    else location.assign(`${entry.page}#mend=${entry.key}`);
  };

  const fill = (form, entry) => {
    form.reset();
    for (const [name, value] of entry.fields) {
      const input = form.elements[name];
      if (!input || value instanceof Blob) continue;
      if (input instanceof RadioNodeList || input.type !== "checkbox") input.value = value;
      else input.checked = true;
    }
    form.dataset.mends = entry.key;
    form.dataset.key = crypto.randomUUID();
    showErrors(form, entry.problem);
    form.scrollIntoView({ block: "start" });
  };

  let shownAs = "";
  const show = async () => {
    const entries = await outbox.all().catch(() => []);
    for (const count of document.querySelectorAll("[data-outbox-count]")) count.textContent = entries.length;
    const badge = document.getElementById("outbox-badge");
    if (badge) {
      badge.hidden = entries.length === 0;
      badge.title = `${entries.length} waiting on this device`;
      badge.querySelector(".badge").className = `badge tone-${entries.some(({ state }) => state === "refused") ? "red" : "amber"}`;
    }
    const now = JSON.stringify(entries.map(({ key, state, tries }) => [key, state, tries]));
    if (now !== shownAs)
      for (const list of document.querySelectorAll("[data-outbox-list]")) {
        list.replaceChildren(...entries.map(line));
        list.closest("[data-outbox-card]")?.toggleAttribute("hidden", entries.length === 0);
      }
    for (const empty of document.querySelectorAll("[data-outbox-empty]")) empty.hidden = entries.length > 0;
    shownAs = now;
    document.dispatchEvent(new Event("threefold:shown"));
    plan(entries);
  };

  // ---- When to send: at the start, when the network or the reader comes back, and by a timer while something waits.

  let timer = null;
  const plan = (entries) => {
    clearTimeout(timer);
    const next = entries.filter(({ state }) => state === "pending").map((entry) => entry.next);
    if (next.length) timer = setTimeout(flush, Math.max(1000, Math.min(...next) - Date.now()));
  };

  const flush = async ({ force = false, told = false } = {}) => {
    if (!(await device.key().catch(() => null))) return;
    const sent = await outbox.send({ force }).catch(() => 0);
    if (told && !sent) toast("It could not be sent yet; it stays here and is tried again.");
    show();
  };

  addEventListener("threefold:outbox", show);
  addEventListener("threefold:sent", ({ detail: { entry, said } }) => {
    toast(`Sent: ${entry.title || entry.what}`, said?.goto ? { action: "Open", href: said.goto } : {});
    for (const region of document.querySelectorAll("[data-live]")) self.htmx?.trigger(region, "live");
  });
  addEventListener("online", () => flush({ force: true }));
  document.addEventListener("threefold:connected", () => flush({ force: true }));
  document.addEventListener("threefold:site", () => flush({ force: true })); // changes are taken again, or deferred
  document.addEventListener("visibilitychange", () => document.hidden || flush({ force: true }));
  addEventListener("focus", () => flush());

  addEventListener("DOMContentLoaded", async () => {
    for (const form of document.querySelectorAll("form[data-outbox]")) renew(form);
    await show();
    const key = /^#mend=(.+)$/.exec(location.hash)?.[1];
    const entry = key && (await store.get("outbox", key).catch(() => null));
    if (entry) {
      history.replaceState(null, "", location.pathname + location.search);
      const form = [...document.querySelectorAll("form[data-outbox]")].find((found) => new URL(found.action).pathname === entry.url);
      if (form) fill(form, entry);
    }
    flush({ force: true });
  });
  // What this page just sent is shown where it belongs, without waiting for the stream.
  document.addEventListener("threefold:done", () => {
    for (const region of document.querySelectorAll("[data-live]")) self.htmx?.trigger(region, "live");
  });
  document.addEventListener("htmx:afterSettle", () => {
    for (const form of document.querySelectorAll("form[data-outbox]:not([data-key])")) renew(form);
  });
})();
