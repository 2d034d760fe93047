// What a page without a proof runs: start the service worker, then ask for the same page again. It signs what follows.
(() => {
  "use strict";
  const COUNT = "threefold-shell";
  const MOST = 3;

  const trouble = (text) => {
    sessionStorage.removeItem(COUNT);
    document.getElementById("shell-wait").hidden = true;
    document.getElementById("shell-trouble").hidden = false;
    document.getElementById("shell-why").textContent = text;
  };

  const controlled = () =>
    new Promise((resolve, reject) => {
      if (navigator.serviceWorker.controller) return resolve();
      navigator.serviceWorker.addEventListener("controllerchange", resolve, { once: true });
      // Reloaded past the worker (Shift+Reload): it is active, and has the next load again.
      navigator.serviceWorker.ready.then(() => setTimeout(resolve, 1500));
      setTimeout(() => reject(new Error("the service worker did not start in time")), 15000);
    });

  const start = async () => {
    if (!self.isSecureContext || !navigator.serviceWorker || !self.indexedDB) return trouble("This browser gives the page no service worker, or no place to keep a key.");
    if (!(await self.threefold.device.key())) return location.replace(`/signin?to=${encodeURIComponent(location.pathname + location.search)}`);
    const count = Number(sessionStorage.getItem(COUNT)) + 1;
    if (count > MOST) return trouble("The service worker runs, but its proofs do not arrive.");
    sessionStorage.setItem(COUNT, count);
    await navigator.serviceWorker.register("/sw.js");
    await controlled();
    location.reload();
  };

  document.getElementById("shell-again").addEventListener("click", () => location.reload());
  start().catch((error) => trouble(error.message));
})();
