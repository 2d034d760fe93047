// One's own devices, passkeys, password and sessions: what /connect says, and what can be done with it.
(() => {
  "use strict";
  const { device, passkeys, words } = self.threefold;
  const toast = (text, bad = false) => self.threefold.toast(text, { bad });
  const page = document.querySelector("[data-me]");
  const part = (name) => page.querySelector(`[data-${name}]`);

  const element = (tag, className = "", text = "") => Object.assign(document.createElement(tag), { className, textContent: text });
  const time = (at) => {
    const shown = element("time");
    shown.dateTime = at;
    shown.dataset.when = "ago";
    return shown;
  };
  const button = (text, run, className = "") => {
    const made = element("button", `button small ${className}`, text);
    made.type = "button";
    made.addEventListener("click", () => attempt(run, made));
    return made;
  };
  const attempt = async (run, source = null) => {
    if (source) source.disabled = true;
    try {
      await run();
    } catch (error) {
      toast(error.problem ? words(error) : passkeys.explain(error), true);
    } finally {
      if (source) source.disabled = false;
    }
  };
  const line = (title, detail, badges, buttons) => {
    const item = element("li");
    const about = element("div", "grow");
    const head = element("div", "row");
    head.append(element("span", "strong", title), ...badges.map(([text, tone]) => element("span", `badge tone-${tone}`, text)));
    const small = element("div", "muted small");
    small.append(...detail);
    about.append(head, small);
    const actions = element("div", "row");
    actions.append(...buttons);
    item.append(about, actions);
    return item;
  };
  const fill = (name, lines, empty) => {
    part(name).replaceChildren(...(lines.length ? lines : [element("li", "muted", empty)]));
    document.dispatchEvent(new Event("threefold:shown"));
  };
  const get = async (address) => {
    const response = await device.fetch(address, { headers: { Accept: "application/json" } });
    const said = await response.json().catch(() => ({}));
    if (!response.ok) throw Object.assign(new Error(`the server answered ${response.status}`), { problem: said });
    return said;
  };

  const devices = async () => {
    const found = (await get("/connect/devices")).devices;
    fill("devices", found.map((one) => {
      const gone = Boolean(one.revoked_at);
      const detail = gone ? ["Revoked ", time(one.revoked_at)] : ["Joined ", time(one.enrolled_at), ...(one.seen_at ? [", last used ", time(one.seen_at)] : [])];
      const badges = [...(one.this ? [["This device", "accent"]] : []), ...(gone ? [["Revoked", "red"]] : [])];
      const rename = button("Rename", async () => {
        const name = prompt("Name of the device", one.name)?.trim();
        if (!name) return;
        await device.post(`/connect/devices/${one.id}/name`, { name });
        await devices();
      }, "plain");
      const revoke = button("Revoke", async () => {
        const asked = one.this ? "Revoke this device? You are signed out at once, and need a new invitation to use it again." : `Revoke “${one.name}”? It is signed out at once.`;
        if (!confirm(asked)) return;
        await device.post(`/connect/devices/${one.id}/revoke`);
        if (one.this) location.assign("/signin");
        else await devices();
      }, "plain danger");
      return line(one.name, detail, badges, gone ? [] : [rename, revoke]);
    }), "No devices.");
  };

  const keys = async () => {
    const found = (await get("/connect/passkeys")).passkeys;
    fill("passkeys", found.map((one) => {
      const detail = ["Made ", time(one.created_at), ...(one.used_at ? [", last used ", time(one.used_at)] : [])];
      const remove = button("Remove", async () => {
        if (!confirm(`Remove the passkey “${one.name}”?`)) return;
        await device.post(`/connect/passkeys/${one.id}/remove`);
        await keys();
      }, "plain danger");
      return line(one.name, detail, one.backed_up ? [["Synchronised", "grey"]] : [], [remove]);
    }), "No passkey yet: you sign in with your password.");
  };

  const password = async () => {
    const found = await get("/connect/password");
    part("current").hidden = !found.set;
    part("current").querySelector("input").required = found.set;
    part("password-state").textContent = found.set ? "A new password signs you out everywhere else." : "You have none, and need none: your passkey is safer. Set one only as a way back.";
  };

  const sessions = async () => {
    const found = (await get("/connect/sessions")).sessions;
    fill("sessions", found.map((one) => {
      const how = { password: "With a password, ", passkey: "With a passkey, " }[one.how] || "Since the device joined, ";
      const detail = [how, time(one.created_at), ...(one.seen_at ? [", last seen ", time(one.seen_at)] : [])];
      const end = button("Sign out", async () => {
        await device.post(`/connect/sessions/${one.id}/end`);
        if (one.this) location.assign("/signin");
        else await sessions();
      }, "plain");
      return line(one.device, detail, one.this ? [["Here", "accent"]] : [], [end]);
    }), "Nowhere.");
  };

  part("invite").addEventListener("click", ({ currentTarget }) =>
    attempt(async () => {
      const invited = await device.post("/connect/devices/invitation");
      part("invited").hidden = false;
      const input = part("invited").querySelector("input");
      input.value = invited.url;
      input.select();
    }, currentTarget));

  page.querySelector("[data-copy]").addEventListener("click", () =>
    attempt(async () => {
      await navigator.clipboard.writeText(document.getElementById("invitation").value);
      toast("Copied");
    }));

  part("add-passkey").addEventListener("click", ({ currentTarget }) =>
    attempt(async () => {
      const registration = await passkeys.create(await device.post("/connect/passkeys/options"));
      await device.post("/connect/passkeys", { name: `Passkey of ${new Date().toLocaleDateString()}`, registration });
      await keys();
      toast("Passkey added");
    }, currentTarget));

  part("password").addEventListener("submit", (event) => {
    event.preventDefault();
    const form = event.target;
    attempt(async () => {
      for (const shown of form.querySelectorAll("[data-error]")) shown.textContent = "";
      const asked = { new: form.elements.new.value };
      if (!part("current").hidden) asked.current = form.elements.current.value;
      try {
        await device.post("/connect/password", asked);
      } catch (error) {
        for (const shown of form.querySelectorAll("[data-error]")) shown.textContent = error.problem?.fields?.[shown.dataset.error] || "";
        throw error;
      }
      form.reset();
      toast("Your password is set");
      await Promise.all([password(), sessions()]);
    });
  });

  for (const show of [devices, keys, password, sessions]) attempt(show);
})();
