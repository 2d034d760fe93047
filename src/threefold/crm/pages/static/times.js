// Times in the reader's own zone and words; the server writes them in UTC. Said again each half minute.
(() => {
  "use strict";
  const relative = new Intl.RelativeTimeFormat("en", { numeric: "auto", style: "long" });
  const day = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short", year: "numeric" });
  const short = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short" });
  const full = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short", year: "numeric", hour: "2-digit", minute: "2-digit" });
  const units = [["day", 86400], ["hour", 3600], ["minute", 60]];

  const ago = (at) => {
    const seconds = (at - Date.now()) / 1000;
    if (Math.abs(seconds) < 45) return "just now";
    if (Math.abs(seconds) > 6.5 * 86400) return (at.getFullYear() === new Date().getFullYear() ? short : day).format(at);
    const [unit, size] = units.find(([, size]) => Math.abs(seconds) >= size * 0.95) || units[2];
    return relative.format(Math.round(seconds / size), unit);
  };

  // How long from or until now, without a direction: the words beside it say which.
  const span = (at) => {
    const minutes = Math.max(1, Math.round(Math.abs(at - Date.now()) / 60000));
    if (minutes < 60) return `${minutes} min`;
    if (minutes < 48 * 60) return `${Math.floor(minutes / 60)} h ${minutes % 60 ? `${minutes % 60} min` : ""}`.trim();
    return `${Math.round(minutes / 1440)} days`;
  };

  const say = { ago, in: ago, span, date: (at) => day.format(at), full: (at) => full.format(at) };
  const show = (root = document) => {
    for (const element of root.querySelectorAll("time[data-when]")) {
      const text = element.getAttribute("datetime");
      const at = new Date(text);
      if (Number.isNaN(at.getTime())) continue;
      element.textContent = (text.length > 10 ? say[element.dataset.when] || full.format : say.date)(at);
      element.title = text.length > 10 ? full.format(at) : day.format(at);
    }
    for (const input of root.querySelectorAll("input[data-utc]:not([data-local])")) {
      const at = new Date(`${input.getAttribute("value")}Z`); // browsers allow no zone there
      if (!Number.isNaN(at.getTime())) input.value = new Date(at - at.getTimezoneOffset() * 60000).toISOString().slice(0, 16);
      input.dataset.local = "";
    }
  };

  // What is picked in local time is sent as an instant.
  const toUtc = (form, get, set) => {
    for (const input of form?.querySelectorAll?.("input[data-utc][name]") ?? [])
      if (get(input.name)) set(input.name, new Date(get(input.name)).toISOString());
  };
  document.addEventListener("formdata", ({ target, formData }) => toUtc(target, (name) => formData.get(name), (name, value) => formData.set(name, value)));
  document.addEventListener("htmx:configRequest", ({ detail }) => {
    const form = detail.elt.closest?.("form");
    toUtc(form, (name) => (/Z$/.test(detail.parameters[name]) ? "" : detail.parameters[name]), (name, value) => (detail.parameters[name] = value));
  });

  addEventListener("DOMContentLoaded", () => show());
  document.addEventListener("htmx:afterSettle", (event) => show(event.detail.target?.parentElement || document));
  document.addEventListener("threefold:shown", () => show());
  setInterval(show, 30000);
})();
