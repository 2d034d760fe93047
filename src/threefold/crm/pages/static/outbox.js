// The outbox: writes that could not be sent wait here, on this device, and are sent again. Shared by pages and the
// service worker. Sending twice is harmless: each write has its own Idempotency-Key, which the server keeps together
// with what it did. One write that is refused waits for a person, and never holds up the others.
(() => {
  "use strict";
  const threefold = (self.threefold ||= {});
  const { store, device } = threefold;
  const channel = new BroadcastChannel("threefold-outbox");
  const MOST_WAIT = 5 * 60 * 1000;
  const MOST_CONFLICTS = 8;

  const changed = () => {
    channel.postMessage("changed");
    self.dispatchEvent(new Event("threefold:outbox"));
  };
  channel.onmessage = () => self.dispatchEvent(new Event("threefold:outbox"));

  const all = async () => (await store.all("outbox")).sort((one, other) => one.at - other.at);

  const add = async (entry) => {
    await store.put("outbox", { state: "pending", at: Date.now(), tries: 0, next: 0, problem: null, ...entry });
    changed();
    const registration = await self.navigator.serviceWorker?.getRegistration?.();
    await registration?.sync?.register("outbox").catch(() => {}); // where there is none, the page's own timer does it
  };

  const discard = async (key) => {
    await store.remove("outbox", key);
    changed();
  };

  const body = (fields) => {
    const form = fields.some(([, value]) => value instanceof Blob) ? new FormData() : new URLSearchParams();
    for (const [name, value] of fields) form.append(name, value);
    return form;
  };

  // One write to the server. {outcome: "done" | "refused" | "later" | "away" | "signed-out", ...}
  const write = async ({ key, url, fields }) => {
    let response = null;
    try {
      const headers = { "Idempotency-Key": key, Accept: "application/json", "X-Outbox": "1" };
      response = await device.fetch(url, { method: "POST", headers, body: body(fields) });
    } catch {
      return { outcome: "away", wait: 0 };
    }
    const said = await response.json().catch(() => null);
    const wait = (Number(response.headers.get("Retry-After")) || 0) * 1000;
    if (response.ok && !response.redirected && said) return { outcome: "done", said, deferred: response.status === 202 };
    const unknown = response.status === 403 && String(said?.type).endsWith(":unknown-device"); // it may be enrolled again
    if (response.redirected || response.status === 401 || unknown) return { outcome: "signed-out", problem: said };
    if ([502, 503, 504].includes(response.status)) return { outcome: "away", wait, problem: said };
    if (response.status >= 500 || [408, 425, 429].includes(response.status)) return { outcome: "later", wait, problem: said };
    if (response.status === 409) return { outcome: "conflict", wait, problem: said };
    if (response.ok) return { outcome: "later", wait }; // not our server: a page of some network's own
    return { outcome: "refused", problem: said || { title: `the server answered ${response.status}` } };
  };

  const later = (entry, { wait = 0, problem = null }) => {
    const tries = entry.tries + 1;
    const backoff = Math.min(2000 * 2 ** Math.min(tries, 10), MOST_WAIT) * (0.75 + Math.random() / 2);
    return { ...entry, tries, next: Date.now() + Math.max(wait, backoff), problem };
  };

  const sendOne = async (entry) => {
    const result = await write(entry);
    const kept = await store.get("outbox", entry.key);
    if (!kept) return result; // discarded meanwhile
    if (result.outcome === "done") await store.remove("outbox", entry.key);
    else if (result.outcome === "refused" || (result.outcome === "conflict" && kept.tries >= MOST_CONFLICTS))
      await store.put("outbox", { ...kept, state: "refused", problem: result.problem });
    else await store.put("outbox", later(kept, result));
    changed();
    return result;
  };

  // All that may go now, oldest first; only one tab or worker at a time. `force`: do not wait for the next turn.
  const send = ({ force = false } = {}) =>
    self.navigator.locks.request("threefold-outbox", { ifAvailable: true }, async (lock) => {
      if (!lock) return 0;
      const user = await store.get("notes", "user");
      let sent = 0;
      for (const entry of await all()) {
        if (entry.state !== "pending" || (entry.user && user && entry.user !== user)) continue;
        if (!force && entry.next > Date.now()) continue;
        const { outcome, said } = await sendOne(entry);
        if (outcome === "done") {
          sent += 1;
          self.dispatchEvent(new CustomEvent("threefold:sent", { detail: { entry, said } }));
        }
        if (outcome === "away" || outcome === "signed-out") break; // it would be the same for all
      }
      return sent;
    });

  threefold.outbox = { all, add, discard, write, send, changed };
})();
