// What was taken while the database was away: shown as pending beside the outbox until it is filed, and what could not
// be filed until its author has seen it. The server tells; this device only remembers what it has said already.
(() => {
  "use strict";
  const { store, device } = self.threefold;
  const EVERY = 3000;
  let timer = null;

  const element = (tag, className, text) => Object.assign(document.createElement(tag), { className, textContent: text || "" });

  const line = (each) => {
    const rejected = each.state === "rejected";
    const item = element("li", "");
    item.dataset.intake = each.id;
    const words = element("div", "grow");
    const head = element("div", "row");
    head.append(element("span", "strong", each.title || "Without a title"), element("span", `pill tone-${rejected ? "red" : "amber"}`, rejected ? "Could not be filed" : "Will be filed"));
    const at = element("time", "");
    at.dateTime = each.taken_at;
    at.dataset.when = "ago";
    const detail = element("p", "muted small");
    detail.append("Taken ", at);
    words.append(head, detail);
    if (rejected) words.append(element("p", "small", self.threefold.problemText(each.problem)));
    item.append(words);
    if (rejected) {
      const seen = element("button", "button small plain", "I have seen it");
      seen.type = "button";
      seen.addEventListener("click", () => dismiss(each.id));
      item.append(seen);
    }
    return item;
  };

  const dismiss = async (id) => {
    await store.put("notes", { ...(await known()), [id]: "seen" }, "intake");
    look();
  };

  const known = async () => (await store.get("notes", "intake").catch(() => null)) || {};

  const show = (items) => {
    const waiting = items.filter(({ state }) => state === "waiting");
    for (const list of document.querySelectorAll("[data-intake-list]")) {
      list.replaceChildren(...items.map(line));
      list.closest("[data-intake-card]")?.toggleAttribute("hidden", items.length === 0);
    }
    for (const count of document.querySelectorAll("[data-intake-count]")) count.textContent = items.length;
    const badge = document.getElementById("intake-badge");
    if (badge) {
      badge.hidden = items.length === 0;
      badge.title = waiting.length ? `${waiting.length} taken, not filed yet` : "Something could not be filed";
      badge.querySelector(".badge").className = `badge tone-${waiting.length < items.length ? "red" : "amber"}`;
    }
    document.dispatchEvent(new Event("threefold:shown"));
  };

  // Filed since we last looked: said once, and shown where it belongs.
  const tell = (items, before) => {
    let filed = 0;
    for (const { id, state, title, link } of items) {
      if (before[id] !== "waiting" || state === "waiting") continue;
      filed += 1;
      const href = link && !link.startsWith("/api/") ? link : "";
      if (state === "applied") self.threefold.toast?.(`Filed: ${title || "what you sent"}`, href ? { action: "Open", href } : {});
      else self.threefold.toast?.(`Could not be filed: ${title || "what you sent"}`, { bad: true });
    }
    if (filed) for (const region of document.querySelectorAll("[data-live]")) self.htmx?.trigger(region, "live");
  };

  const look = async () => {
    clearTimeout(timer);
    if (!document.querySelector(".frame") || document.hidden) return;
    let response = null;
    try {
      response = await device.fetch("/api/v1/intake?mine=true", { headers: { Accept: "application/json" } });
      if (!response.ok) throw new Error(String(response.status));
      const { items } = await response.json();
      const before = await known();
      const now = Object.fromEntries(items.filter(({ id, state }) => state === "waiting" || before[id]).map(({ id, state }) => [id, before[id] === "seen" ? "seen" : state]));
      await store.put("notes", now, "intake");
      tell(items, before);
      const shown = items.filter(({ id, state }) => state === "waiting" || (state === "rejected" && now[id] !== "seen"));
      show(shown);
      if (shown.some(({ state }) => state === "waiting")) timer = setTimeout(look, EVERY);
    } catch {
      if (response?.status !== 401 && response?.status !== 403) timer = setTimeout(look, EVERY * 2);
    }
  };

  document.addEventListener("threefold:done", () => setTimeout(look, 0));
  document.addEventListener("htmx:afterRequest", ({ detail: { xhr } }) => xhr.status === 202 && look());
  addEventListener("threefold:sent", ({ detail: { said } }) => said?.state === "waiting" && look());
  document.addEventListener("threefold:connected", look);
  document.addEventListener("threefold:site", look);
  document.addEventListener("visibilitychange", () => document.hidden || look());
  addEventListener("DOMContentLoaded", look);
})();
