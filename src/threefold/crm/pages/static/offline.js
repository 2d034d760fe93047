// The page for being away looks every few seconds whether there is a way back; it takes it unless somebody is writing.
(() => {
  "use strict";
  const shown = location.pathname !== "/offline" ? location.href : "/";
  document.querySelector("#back-state a").href = shown;
  let wait = 2000;

  const writing = () => [...document.querySelectorAll("form[data-outbox] input, form[data-outbox] textarea")].some((input) => !["hidden", "radio"].includes(input.type) && input.value.trim() !== "");

  const look = async () => {
    let found = false;
    try {
      const response = await fetch("/connect/me", { cache: "no-store" });
      found = response.status < 500;
    } catch {
      found = false;
    }
    if (!found) {
      wait = Math.min(wait * 1.5, 30000);
      return setTimeout(look, wait);
    }
    document.getElementById("away-state").hidden = true;
    document.getElementById("back-state").hidden = false;
    await self.threefold.outbox.send({ force: true });
    self.threefold.outbox.changed();
    if (!writing()) location.replace(shown);
  };

  addEventListener("online", () => {
    wait = 2000;
    look();
  });
  setTimeout(look, wait);
})();
