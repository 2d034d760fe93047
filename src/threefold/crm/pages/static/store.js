// What this device keeps, in IndexedDB: its key, small notes, and the outbox. Shared by pages and the service worker.
(() => {
  "use strict";
  const threefold = (self.threefold ||= {});
  let opened = null;

  const open = () =>
    (opened ||= new Promise((resolve, reject) => {
      const asked = indexedDB.open("threefold", 1);
      asked.onupgradeneeded = () => {
        asked.result.createObjectStore("notes"); // "device": the key pair; "skew": seconds; "user": who signed in last
        asked.result.createObjectStore("outbox", { keyPath: "key" });
      };
      asked.onsuccess = () => {
        asked.result.onclose = asked.result.onversionchange = () => {
          asked.result.close();
          opened = null;
        };
        resolve(asked.result);
      };
      asked.onerror = () => {
        opened = null;
        reject(asked.error);
      };
    }));

  // Resolves when the transaction is complete, not when the request is: only then is it kept.
  const run = async (store, mode, ask) => {
    const database = await open();
    return new Promise((resolve, reject) => {
      const transaction = database.transaction(store, mode, { durability: "strict" });
      const asked = ask(transaction.objectStore(store));
      transaction.oncomplete = () => resolve(asked.result);
      transaction.onabort = transaction.onerror = () => reject(transaction.error || asked.error);
    });
  };

  threefold.store = {
    get: (store, key) => run(store, "readonly", (open) => open.get(key)),
    all: (store) => run(store, "readonly", (open) => open.getAll()),
    put: (store, value, key) => run(store, "readwrite", (open) => open.put(value, key)),
    remove: (store, key) => run(store, "readwrite", (open) => open.delete(key)),
  };
})();
