// The live stream: regions with data-live="kind:id" (or "kind") ask for themselves again when that record changed.
// Open only while the page is seen: a browser grants a site few connections, and many tabs share them.
(() => {
  "use strict";
  const threefold = (self.threefold ||= {});
  let stream = null;
  let wait = 2000;
  let missed = false; // something may have changed while nobody listened
  const due = new Map();

  const typing = (region) => {
    const active = document.activeElement;
    return active && region.contains(active) && active.matches("input, textarea, select, [contenteditable]");
  };

  const refresh = (region) => {
    if (typing(region)) {
      region.addEventListener("focusout", () => setTimeout(() => region.isConnected && refresh(region)), { once: true });
      return;
    }
    clearTimeout(due.get(region));
    due.set(region, setTimeout(() => { // changes come in bunches: ask once
      due.delete(region);
      if (region.isConnected) self.htmx?.trigger(region, "live");
    }, 120));
  };

  const regions = (...names) => {
    const wanted = new Set(names);
    return [...document.querySelectorAll("[data-live]")].filter((region) => region.dataset.live.split(/\s+/).some((name) => wanted.has(name)));
  };

  let writes = "";
  const showSite = (site) => {
    if (writes && writes !== site.writes) document.dispatchEvent(new Event("threefold:site"));
    writes = site.writes;
    for (const chip of document.querySelectorAll("[data-site]")) {
      chip.dataset.state = site.state;
      chip.textContent = site.words;
    }
    for (const banner of document.querySelectorAll("[data-site-banner]")) {
      banner.hidden = !site.line;
      banner.querySelector("[data-site-line]").textContent = site.line;
    }
    for (const banner of document.querySelectorAll("[data-lacking]")) {
      banner.hidden = !site.lacking;
      banner.querySelector("[data-lacking-line]").textContent = site.lacking;
    }
  };

  const out = () => location.assign(`/signin?to=${encodeURIComponent(location.pathname + location.search)}`);

  // The stream was refused, not interrupted: find out whether we are still let in.
  const ask = async () => {
    const response = await threefold.device.fetch("/connect/me").catch(() => null);
    if (response && (response.status === 401 || response.status === 403)) return out();
    wait = Math.min(wait * 2, 60000);
    setTimeout(connect, wait * (0.75 + Math.random() / 2));
  };

  const connect = () => {
    if (stream || document.hidden || !document.querySelector(".frame")) return;
    stream = new EventSource("/live");
    stream.onopen = () => {
      wait = 2000;
      if (missed) document.querySelectorAll("[data-live]").forEach(refresh);
      missed = false;
      document.dispatchEvent(new Event("threefold:connected"));
    };
    stream.onmessage = (event) => {
      const { kind, id } = JSON.parse(event.data);
      regions(kind, `${kind}:${id}`).forEach(refresh);
    };
    stream.addEventListener("all", () => document.querySelectorAll("[data-live]").forEach(refresh));
    stream.addEventListener("site", (event) => showSite(JSON.parse(event.data)));
    stream.addEventListener("signed-out", () => {
      close();
      out();
    });
    stream.onerror = () => {
      missed = true;
      if (stream?.readyState === EventSource.CLOSED) {
        close();
        ask();
      }
    };
  };

  const close = () => {
    stream?.close();
    stream = null;
  };

  addEventListener("DOMContentLoaded", connect);
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) {
      close();
      missed = true;
    } else connect();
  });
  addEventListener("pagehide", close);
  addEventListener("pageshow", (event) => event.persisted && connect());
})();
