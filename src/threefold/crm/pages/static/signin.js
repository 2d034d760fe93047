// Signing in on a device that is enrolled; one that is not is told how it becomes so.
(() => {
  "use strict";
  const { device, passkeys, words, store } = self.threefold;
  const part = (id) => document.getElementById(id);
  const to = new URLSearchParams(location.search).get("to") || "";

  const fail = (text) => {
    part("signin-error").hidden = !text;
    part("signin-error").firstElementChild.textContent = text;
  };
  const unknown = (text) => {
    part("signin").hidden = true;
    part("signin-unknown").hidden = false;
    if (text) part("signin-why").textContent = text;
  };
  const entered = async (who) => {
    await store.put("notes", who.user.id, "user");
    await self.threefold.enter(to || who.home);
  };

  const attempt = async (run) => {
    fail("");
    const buttons = part("signin").querySelectorAll("button");
    for (const button of buttons) button.disabled = true;
    try {
      await entered(await run());
    } catch (error) {
      if (String(error.problem?.type).endsWith(":unknown-device")) unknown("This device was enrolled once, and is so no longer: somebody revoked it. With a new invitation it can join again.");
      else fail(error.problem ? words(error) : passkeys.explain(error));
    } finally {
      for (const button of buttons) button.disabled = false;
    }
  };

  part("signin-passkey").addEventListener("click", () =>
    attempt(async () => {
      const assertion = await passkeys.get(await device.post("/connect/signin/options"));
      return device.post("/connect/signin", { assertion });
    }),
  );
  part("signin-password").addEventListener("submit", (event) => {
    event.preventDefault();
    const { email, password } = event.target.elements;
    attempt(() => device.post("/connect/signin", { email: email.value.trim(), password: password.value }));
  });
  part("signin-link").addEventListener("submit", (event) => {
    event.preventDefault();
    location.assign(`/join#${self.threefold.tokenIn(event.target.elements.link.value)}`);
  });

  const start = async () => {
    if (!(await device.key())) return unknown();
    part("signin").hidden = false;
    if (!passkeys.available()) {
      part("signin-passkey").hidden = true;
      part("signin-other").open = true;
    }
  };
  start().catch((error) => unknown(`This browser lets the page keep nothing (${error.message}). Use an ordinary window.`));
})();
