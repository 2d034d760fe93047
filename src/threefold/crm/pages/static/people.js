// People and their devices, as the edge keeps them: asked for at /connect, and changed there.
(() => {
  "use strict";
  const { device } = self.threefold;
  const toast = (text, bad = false) => self.threefold.toast(text, { bad });
  const element = (tag, className = "", text = "") => Object.assign(document.createElement(tag), { className, textContent: text });
  const time = (at) => {
    const shown = element("time");
    shown.dateTime = at;
    shown.dataset.when = "ago";
    return shown;
  };
  const get = async (address) => {
    const response = await device.fetch(address, { headers: { Accept: "application/json" } });
    const said = await response.json().catch(() => ({}));
    if (!response.ok) throw Object.assign(new Error(), { problem: said, status: response.status });
    return said;
  };
  const attempt = async (run, source = null) => {
    if (source) source.disabled = true;
    try {
      return await run();
    } catch (error) {
      toast(error.status ? self.threefold.problemText(error.problem, error.status) : "No connection. Try again in a moment.", true);
    } finally {
      if (source) source.disabled = false;
    }
  };
  const said = () => document.dispatchEvent(new Event("threefold:shown"));
  const button = (text, run) => {
    const made = element("button", "button small", text);
    made.type = "button";
    made.addEventListener("click", () => attempt(run, made));
    return made;
  };
  const line = (title, detail, badges, actions) => {
    const item = element("li");
    const words = element("div", "grow bin-words");
    const small = element("span", "muted small");
    small.append(...detail);
    words.append(element("span", "strong cut", title), small);
    item.append(words, ...badges.map(([text, tone]) => element("span", `badge tone-${tone}`, text)), ...actions);
    return item;
  };

  // Ask before what cannot be taken back; resolves to whether it is meant.
  const sure = (text) =>
    new Promise((resolve) => {
      const dialog = document.getElementById("sure");
      dialog.querySelector("[data-sure-text]").textContent = text;
      let meant = false;
      const yes = () => {
        meant = true;
        dialog.close();
      };
      dialog.querySelector("[data-sure]").addEventListener("click", yes, { once: true });
      dialog.addEventListener("close", () => {
        dialog.querySelector("[data-sure]").removeEventListener("click", yes);
        resolve(meant);
      }, { once: true });
      dialog.showModal();
    });

  const devices = async (list) => {
    const user = list.dataset.personDevices;
    const found = (await get(`/connect/people/${user}/devices`)).devices;
    const lines = found.map((one) => {
      const gone = Boolean(one.revoked_at);
      const detail = gone ? ["Revoked ", time(one.revoked_at)] : ["Joined ", time(one.enrolled_at), ...(one.seen_at ? [", last used ", time(one.seen_at)] : [])];
      const revoke = button("Revoke", async () => {
        if (!(await sure(`“${one.name}” is signed out at once, and can only come back with a new invitation.`))) return;
        await device.post(`/connect/people/${user}/devices/${one.id}/revoke`);
        toast("The device is out.");
        await devices(list);
      });
      revoke.setAttribute("aria-label", `Revoke: ${one.name}`);
      return line(one.name, detail, [...(one.this ? [["This device", "accent"]] : []), ...(gone ? [["Revoked", "red"]] : [])], gone ? [] : [revoke]);
    });
    list.replaceChildren(...(lines.length ? lines : [element("li", "muted", "No device yet.")]));
    said();
  };

  const invitations = async (list) => {
    const found = (await get("/connect/invitations")).invitations.filter((one) => one.state === "open");
    const lines = found.map((one) => {
      const withdraw = button("Withdraw", async () => {
        await device.post(`/connect/invitations/${one.id}/withdraw`);
        await invitations(list);
      });
      withdraw.setAttribute("aria-label", `Withdraw: the invitation of ${one.name}`);
      const detail = [`${one.email} · ${one.role} · made `, time(one.made_at)];
      return line(one.name, detail, [], [withdraw]);
    });
    list.replaceChildren(...(lines.length ? lines : [element("li", "muted", "None.")]));
    said();
  };

  const seen = async () => {
    for (const one of (await get("/connect/people")).people) {
      const place = document.querySelector(`[data-seen="${one.id}"]`);
      if (!place) continue;
      place.replaceChildren(one.devices ? `${one.devices} device${one.devices === 1 ? "" : "s"}` : "no device", ...(one.seen_at ? [", ", time(one.seen_at)] : []));
    }
    said();
  };

  document.addEventListener("submit", (event) => {
    const form = event.target.closest?.("form[data-invite]");
    if (!form) return;
    event.preventDefault();
    for (const shown of form.querySelectorAll("[data-error]")) shown.textContent = "";
    const values = Object.fromEntries([...new FormData(form)].filter(([, value]) => value));
    attempt(async () => {
      try {
        const invited = await device.post("/connect/invitations", values);
        const place = form.parentElement.querySelector("[data-invited]");
        form.hidden = true;
        place.hidden = false;
        const input = place.querySelector("input");
        input.value = invited.url;
        input.focus();
        input.select();
      } catch (error) {
        for (const shown of form.querySelectorAll("[data-error]")) shown.textContent = error.problem?.fields?.[shown.dataset.error] || "";
        throw error;
      }
      for (const list of document.querySelectorAll("[data-invitations]")) await invitations(list);
    }, form.querySelector("[type=submit]"));
  });
  document.addEventListener("click", (event) => {
    const copy = event.target.closest?.("[data-copy-link]");
    if (copy)
      attempt(async () => {
        await navigator.clipboard.writeText(copy.closest("[data-invited]").querySelector("input").value).catch(() => {
          throw Object.assign(new Error(), { status: 1, problem: { detail: "the link could not be copied", hint: "it is selected: copy it with the keyboard" } });
        });
        toast("Copied.");
      });
    const all = event.target.closest?.("[data-revoke-all]");
    if (all)
      attempt(async () => {
        if (!(await sure(`All devices of ${all.dataset.name} are signed out at once, and open invitations are withdrawn.`))) return;
        const done = await device.post(`/connect/people/${all.dataset.revokeAll}/revoke`);
        toast(`${done.devices} devices and ${done.sessions} sessions ended.`);
        for (const list of document.querySelectorAll("[data-person-devices]")) await devices(list);
      }, all);
  });

  for (const list of document.querySelectorAll("[data-person-devices]")) attempt(() => devices(list));
  for (const list of document.querySelectorAll("[data-invitations]")) attempt(() => invitations(list));
  if (document.querySelector("[data-seen]")) attempt(seen);
})();
