// The audit, as the edge keeps it; newest first, older ones on demand.
(() => {
  "use strict";
  const { device } = self.threefold;
  const form = document.querySelector("[data-audit]");
  const rows = document.querySelector("[data-entries]");
  const more = document.querySelector("[data-more]");
  const names = Object.fromEntries([...form.elements.what.options].map((option) => [option.value, option.textContent]));
  const kinds = form.dataset.kinds.split(" ");
  let next = null;
  let asked = 0;

  const cell = (label, ...parts) => {
    const made = document.createElement("td");
    if (label) made.dataset.label = label;
    else made.className = "main-cell strong";
    made.append(...parts);
    return made;
  };
  const row = (entry) => {
    const made = document.createElement("tr");
    const at = Object.assign(document.createElement("time"), { dateTime: entry.at });
    at.dataset.when = "full";
    let about = "";
    if (entry.kind && entry.record_id) about = `${entry.kind}, ${entry.record_id.slice(-6)}`;
    else if (entry.kind) about = entry.kind;
    if (entry.record_id && kinds.includes(entry.kind)) {
      const href = entry.kind === "users" ? `/admin/people/${entry.record_id}` : `/records/${entry.kind}/${entry.record_id}`;
      about = Object.assign(document.createElement("a"), { href, textContent: about });
    }
    made.append(cell("", entry.name || "Nobody who is known"), cell("What", names[entry.what] || entry.what), cell("Of what", about), cell("When", at), cell("From", entry.address || ""));
    return made;
  };

  const show = async (after = null) => {
    const mine = ++asked;
    const query = new URLSearchParams([...new FormData(form)].filter(([, value]) => value));
    query.set("limit", "50");
    if (after) query.set("after", after);
    const response = await device.fetch(`/connect/audit?${query}`, { headers: { Accept: "application/json" } }).catch(() => null);
    const said = await response?.json().catch(() => null);
    if (mine !== asked) return; // another filter was chosen meanwhile
    if (!response?.ok) return self.threefold.toast(said ? self.threefold.problemText(said, response.status) : "No connection. Try again in a moment.", { bad: true });
    const made = said.entries.map(row);
    if (!after && !made.length) {
      const empty = document.createElement("tr");
      empty.append(Object.assign(document.createElement("td"), { className: "muted", colSpan: 5, textContent: "Nothing of that kind." }));
      made.push(empty);
    }
    if (after) rows.append(...made);
    else rows.replaceChildren(...made);
    next = said.next;
    more.hidden = next === null;
    document.dispatchEvent(new Event("threefold:shown"));
  };

  form.addEventListener("change", () => show());
  form.addEventListener("submit", (event) => event.preventDefault());
  more.addEventListener("click", () => show(next));
  show();
})();
