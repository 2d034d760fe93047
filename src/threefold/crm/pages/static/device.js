// This device's key and its proofs (DPoP, RFC 9449). The private key cannot be read by any script, ours included:
// it can only sign. Shared by pages and the service worker.
(() => {
  "use strict";
  const threefold = (self.threefold ||= {});
  const { store } = threefold;
  const ALGORITHM = { name: "ECDSA", namedCurve: "P-256" };
  let held = null; // {privateKey, jwk}
  let skew = null; // seconds to add to our clock

  const base64url = (bytes) => {
    let text = "";
    for (const byte of new Uint8Array(bytes)) text += String.fromCharCode(byte);
    return btoa(text).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
  };
  const encoded = (value) => base64url(new TextEncoder().encode(JSON.stringify(value)));

  const make = async () => {
    const pair = await crypto.subtle.generateKey(ALGORITHM, false, ["sign", "verify"]);
    const { kty, crv, x, y } = await crypto.subtle.exportKey("jwk", pair.publicKey);
    return { privateKey: pair.privateKey, jwk: { kty, crv, x, y } };
  };

  const key = async () => (held ||= (await store.get("notes", "device")) || null);

  const keep = async (made) => {
    await store.put("notes", made, "device");
    held = made;
  };

  const forget = async () => {
    await store.remove("notes", "device");
    held = null;
  };

  const proof = async (method, address, by) => {
    skew ??= (await store.get("notes", "skew")) || 0;
    const url = new URL(address, self.location.href);
    const head = encoded({ typ: "dpop+jwt", alg: "ES256", jwk: by.jwk });
    const claims = encoded({
      htm: method,
      htu: url.origin + url.pathname,
      iat: Math.floor(Date.now() / 1000) + skew,
      jti: base64url(crypto.getRandomValues(new Uint8Array(18))),
    });
    const words = new TextEncoder().encode(`${head}.${claims}`);
    const signed = await crypto.subtle.sign({ name: "ECDSA", hash: "SHA-256" }, by.privateKey, words);
    return `${head}.${claims}.${base64url(signed)}`;
  };

  // The server did not take the proof: our clock may be off. True: worth one more try.
  const refused = async (response) => {
    if (response.status !== 401) return false;
    const problem = await response.clone().json().catch(() => null);
    if (!String(problem?.type).endsWith(":proof")) return false;
    const said = problem.now ?? response.headers.get("Date");
    const now = typeof said === "number" ? said : Date.parse(said) / 1000;
    if (Number.isFinite(now)) {
      const off = Math.round(now - Date.now() / 1000);
      skew = Math.abs(off) > 30 ? off : 0;
      await store.put("notes", skew, "skew");
    }
    return true;
  };

  // fetch with a proof by `by` (this device's key where none is given). `make` builds the request anew for each try.
  const send = async (make, by = null) => {
    const signer = by || (await key());
    if (!signer) return fetch(make());
    const attempt = async () => {
      const request = make();
      request.headers.set("DPoP", await proof(request.method, request.url, signer));
      return fetch(request);
    };
    const response = await attempt();
    return (await refused(response)) ? attempt() : response;
  };

  const signedFetch = (address, options = {}, by = null) =>
    send(() => new Request(new URL(address, self.location.href), { credentials: "same-origin", ...options }), by);

  const post = async (address, body = {}, by = null) => {
    const headers = { "Content-Type": "application/json", Accept: "application/json" };
    const response = await signedFetch(address, { method: "POST", headers, body: JSON.stringify(body) }, by);
    const said = response.status === 204 ? {} : await response.json().catch(() => ({}));
    if (!response.ok) throw Object.assign(new Error(said.detail || said.title || `the server answered ${response.status}`), { status: response.status, problem: said });
    return said;
  };

  threefold.device = { make, key, keep, forget, send, fetch: signedFetch, post, base64url };
})();
