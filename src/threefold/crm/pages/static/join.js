// Joining with an invitation: a new key for this device, a passkey or a password for the person, in one go.
(() => {
  "use strict";
  const { device, passkeys, words } = self.threefold;
  const part = (id) => document.getElementById(id);
  const form = part("join");
  let token = location.hash.slice(1);
  let key = null;

  const deviceName = () => {
    const agent = navigator.userAgentData;
    const brand = agent?.brands?.find(({ brand }) => !/Not.?A|Chromium/i.test(brand))?.brand || (/Firefox/.test(navigator.userAgent) ? "Firefox" : /Safari/.test(navigator.userAgent) && !/Chrom/.test(navigator.userAgent) ? "Safari" : "Browser");
    const system = agent?.platform || /iPhone|iPad|Android|Windows|Mac OS|Linux/.exec(navigator.userAgent)?.[0] || "";
    return system ? `${brand} on ${system}` : brand;
  };

  const show = (id) => {
    for (const name of ["join-wait", "join-no", "join"]) part(name).hidden = name !== id;
  };
  const fail = (text, field = "") => {
    part("join-error").hidden = !text;
    part("join-error").firstElementChild.textContent = text;
    for (const shown of form.querySelectorAll("[data-error]")) shown.textContent = "";
    if (text && field) form.elements[field]?.focus();
  };

  const look = async () => {
    show("join-wait");
    history.replaceState(null, "", "/join"); // the token is a secret: not in the history, nor on the screen
    if (!token) return refuse("A link to join ends in a long code after #, and this one has none.");
    if (!self.isSecureContext || !navigator.serviceWorker || !self.indexedDB) return refuse("This browser gives the page no place to keep a key. Use an ordinary window of an up-to-date browser.");
    try {
      const invitation = await device.post("/connect/invitation", { token }, (key ||= await device.make()));
      form.querySelector("[data-name]").textContent = invitation.name.split(" ")[0];
      form.querySelector("[data-email]").textContent = invitation.email;
      form.querySelector("[data-role]").textContent = invitation.role;
      form.querySelector("[data-expires]").textContent = new Date(invitation.expires_at).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
      form.elements.device.value ||= deviceName();
      const known = invitation.methods?.length > 0;
      part("join-known").hidden = !known;
      part("join-new").hidden = known;
      if (!passkeys.available()) {
        form.querySelector("[data-how='passkey']").hidden = true;
        part("join-password").open = true;
      }
      show("join");
    } catch (error) {
      refuse(words(error));
    }
  };

  const refuse = (text) => {
    part("join-why").textContent = text;
    show("join-no");
  };

  const join = async (how) => {
    const asked = { token, device: form.elements.device.value.trim() };
    if (how === "passkey") asked.registration = await passkeys.create(await device.post("/connect/enrol/options", { token }, key));
    if (how === "password") asked.password = form.elements.password.value;
    const who = await device.post("/connect/enrol", asked, key);
    await device.keep(key);
    await self.threefold.store.put("notes", who.user.id, "user");
    await self.threefold.enter(who.home);
  };

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const how = event.submitter?.dataset.how || (part("join-known").hidden ? "passkey" : "known");
    fail("");
    if (how === "password" && form.elements.password.value.length < 12) return fail("The password needs at least 12 characters.", "password");
    form.setAttribute("aria-busy", "true");
    for (const button of form.querySelectorAll("button")) button.disabled = true;
    try {
      await join(how);
    } catch (error) {
      const fields = error.problem?.fields || {};
      for (const shown of form.querySelectorAll("[data-error]")) shown.textContent = fields[shown.dataset.error] || "";
      fail(passkeys.explain(error), Object.keys(fields)[0]);
      if ([404, 410].includes(error.status)) refuse(words(error));
    } finally {
      form.removeAttribute("aria-busy");
      for (const button of form.querySelectorAll("button")) button.disabled = false;
    }
  });

  part("join-paste").addEventListener("submit", (event) => {
    event.preventDefault();
    token = self.threefold.tokenIn(event.target.elements.link.value);
    look();
  });

  addEventListener("hashchange", () => {
    if (location.hash.length < 2) return;
    token = location.hash.slice(1);
    look();
  });

  look();
})();
