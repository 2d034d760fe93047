// WebAuthn's options and answers as JSON, also where the browser cannot turn them by itself.
(() => {
  "use strict";
  const threefold = (self.threefold ||= {});
  const { base64url } = threefold.device;

  const bytes = (text) => Uint8Array.from(atob(text.replaceAll("-", "+").replaceAll("_", "/")), (sign) => sign.charCodeAt(0));
  const listed = (list = []) => list.map((entry) => ({ ...entry, id: bytes(entry.id) }));

  const creation = (options) =>
    PublicKeyCredential.parseCreationOptionsFromJSON?.(options) ?? {
      ...options,
      challenge: bytes(options.challenge),
      user: { ...options.user, id: bytes(options.user.id) },
      excludeCredentials: listed(options.excludeCredentials),
    };

  const request = (options) =>
    PublicKeyCredential.parseRequestOptionsFromJSON?.(options) ?? {
      ...options,
      challenge: bytes(options.challenge),
      allowCredentials: listed(options.allowCredentials),
    };

  const told = (credential) => {
    if (credential.toJSON) return credential.toJSON();
    const { response } = credential;
    const fields = {};
    for (const name of ["clientDataJSON", "attestationObject", "authenticatorData", "signature", "userHandle"])
      if (response[name]) fields[name] = base64url(response[name]);
    if (response.getTransports) fields.transports = response.getTransports();
    return { id: credential.id, rawId: base64url(credential.rawId), type: credential.type, response: fields, clientExtensionResults: credential.getClientExtensionResults(), authenticatorAttachment: credential.authenticatorAttachment };
  };

  // What went wrong, for people.
  const explain = (error) => {
    if (error.name === "NotAllowedError") return "The passkey was not confirmed: it was called off, or took too long. Try again, or use a password.";
    if (error.name === "InvalidStateError") return "This device holds a passkey for you already. Sign in with it.";
    if (error.name === "SecurityError") return "Passkeys do not work at this address: open the page at its own name.";
    return self.threefold.words(error);
  };

  threefold.words = (error) => {
    const { problem } = error;
    if (!problem) return error instanceof TypeError ? "There is no connection. Try again in a moment." : error.message;
    const text = problem.detail || problem.title || error.message;
    return text[0].toUpperCase() + text.slice(1) + (problem.hint ? `: ${problem.hint}` : "") + ".";
  };

  threefold.passkeys = {
    available: () => Boolean(self.PublicKeyCredential),
    create: async (options) => told(await navigator.credentials.create({ publicKey: creation(options) })),
    get: async (options) => told(await navigator.credentials.get({ publicKey: request(options) })),
    explain,
  };

  // An address of ours, as the browser itself reads it; whatever leads elsewhere is the start page.
  const ours = (to) => {
    try {
      const url = new URL(to, location.origin);
      return url.origin === location.origin ? url.href : "/";
    } catch {
      return "/";
    }
  };

  // The service worker must be in control before the next page: it signs it.
  threefold.enter = async (to) => {
    await navigator.serviceWorker.register("/sw.js");
    await navigator.serviceWorker.ready;
    location.assign(ours(to || "/"));
  };

  // The token in a pasted link, or in what was copied of it.
  threefold.tokenIn = (text) => text.trim().split("#").pop();
})();
