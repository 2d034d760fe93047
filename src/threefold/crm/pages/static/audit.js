// The audit, as the edge keeps it: newest first, older entries on demand. What is filtered by stands in the address.
(() => {
  "use strict";
  const { edge } = self.threefold;
  const { element } = edge;
  const form = document.querySelector("[data-audit]");
  const rows = document.querySelector("[data-entries]");
  const more = document.querySelector("[data-more]");
  const wrong = document.querySelector("[data-audit-wrong]");
  const said = document.querySelector("[data-audit-said]");
  const what = Object.fromEntries([...form.elements.what.options].map((option) => [option.value, option.textContent]));
  const kinds = JSON.parse(form.dataset.kinds);
  const id = /[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}/gi;
  let next = null;
  let asked = 0;

  const cell = (label, ...parts) => {
    const made = element("td", label ? "" : "main-cell strong");
    if (label) made.dataset.label = label;
    made.append(...parts);
    return made;
  };
  // Records have pages; people have the administrators' one; devices have none.
  const address = ({ kind, record_id: record }) => (kind === "users" ? `/admin/people/${record}` : `/records/${kind}/${record}`);
  const about = (entry, names) => {
    const { kind, record_id: record } = entry;
    const one = kinds[kind] || kind;
    if (!record) return one ? [one] : [];
    const place = element("span", "bin-words");
    if (kind === "devices") {
      place.append(element("span", "cut", entry.about || "A device"));
      if (entry.owner) place.append(element("span", "muted small", `Device of ${entry.owner}`));
      return [place];
    }
    const link = element("a", "cut", names[record] || `${record.slice(0, 8)}…`);
    link.href = address(entry);
    place.append(link, element("span", "muted small", one));
    return [place];
  };
  const row = (entry, names) => {
    const made = element("tr");
    const from = element("span", "bin-words");
    if (entry.device) from.append(element("span", "cut", entry.device));
    if (entry.address) from.append(element("span", "muted small", entry.address));
    made.append(
      cell("", entry.name || (entry.user_id || entry.what === "signin-failed" ? "Somebody unknown" : "The CRM itself")),
      cell("What", what[entry.what] || entry.what),
      cell("Of what", ...about(entry, names)),
      cell("When", edge.time(entry.at, "full")),
      cell("From", ...(from.childNodes.length ? [from] : [])),
    );
    return made;
  };

  const query = () => {
    const chosen = new URLSearchParams();
    for (const name of ["user", "what"]) if (form.elements[name].value) chosen.set(name, form.elements[name].value);
    // Days are the reader's own, the last one included.
    const [first, last] = ["since", "until"].map((name) => form.elements[name].value);
    if (first) chosen.set("since", first);
    if (last) chosen.set("until", last);
    const record = form.elements.record.value.trim();
    const found = record.match(id);
    wrong.hidden = !record || Boolean(found);
    if (found) chosen.set("record", found.at(-1).toLowerCase());
    else if (record) {
      wrong.textContent = "That is no record: paste its address or its id.";
      return null;
    }
    return chosen;
  };

  // As the edge asks for it: days become the instants that they begin at.
  const askedOf = (chosen) => {
    const sent = new URLSearchParams(chosen);
    if (sent.has("since")) sent.set("since", new Date(`${sent.get("since")}T00:00`).toISOString());
    if (sent.has("until")) {
      const day = new Date(`${sent.get("until")}T00:00`);
      day.setDate(day.getDate() + 1);
      sent.set("until", day.toISOString());
    }
    return sent;
  };

  const show = async (after = null) => {
    const chosen = query();
    if (!chosen) return;
    history.replaceState(null, "", `${location.pathname}${chosen.size ? `?${chosen}` : ""}`);
    const mine = ++asked;
    await edge.attempt(async () => {
      const found = await edge.get(`/connect/audit?${new URLSearchParams([...askedOf(chosen), ["limit", "50"], ...(after ? [["after", after]] : [])])}`);
      const wanted = new Set(found.entries.filter((entry) => entry.record_id).map((entry) => `${entry.kind}:${entry.record_id}`));
      const names = wanted.size ? await edge.get(`/admin/audit/names?${new URLSearchParams([...wanted].map((one) => ["id", one]))}`).catch(() => ({})) : {};
      if (mine !== asked) return; // another filter was chosen meanwhile
      const made = found.entries.map((entry) => row(entry, names));
      if (!after && !made.length) {
        const empty = element("tr");
        empty.append(Object.assign(element("td", "muted", "Nothing of that kind."), { colSpan: 5 }));
        made.push(empty);
      }
      if (after) rows.append(...made);
      else rows.replaceChildren(...made);
      said.textContent = after ? `${found.entries.length} older entries` : "";
      next = found.next;
      more.hidden = next === null;
      edge.said();
    }, after ? more : null);
  };

  form.addEventListener("change", () => show());
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    show();
  });
  more.addEventListener("click", () => show(next));
  show();
})();
