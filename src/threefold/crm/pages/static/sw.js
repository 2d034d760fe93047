// The service worker: adds this device's proof to what the browser asks of us, keeps the shell (never data), and shows
// the page for being away when there is no connection. PARTS and SHELL stand before this text (pages/public.py).
//
// Invariant: no navigation but a GET is ever signed. Another site can make a browser navigate with a POST, and a
// request that passes through here counts as our own; changes are made by fetch, which only our pages can do.
"use strict";
importScripts(...PARTS);

const { device, outbox } = self.threefold;
const CACHE = `shell-${SHELL.map((address) => address.split("=").pop()).join("").slice(0, 200)}`;
const OPEN = ["/sw.js", "/manifest.webmanifest", "/favicon.ico", "/join", "/signin"];

self.addEventListener("install", (event) => {
  event.waitUntil(
    caches.open(CACHE)
      .then((cache) => cache.addAll([...SHELL, new Request("/offline", { cache: "reload" })]))
      .then(() => self.skipWaiting()),
  );
});

self.addEventListener("activate", (event) => {
  event.waitUntil(
    caches.keys()
      .then((names) => Promise.all(names.filter((name) => name !== CACHE).map((name) => caches.delete(name))))
      .then(() => self.clients.claim()),
  );
});

self.addEventListener("fetch", (event) => {
  const { request } = event;
  const url = new URL(request.url);
  if (url.origin !== self.location.origin || request.headers.has("DPoP")) return;
  if (url.pathname.startsWith("/static/")) event.respondWith(kept(request));
  else if (url.pathname === "/offline") event.respondWith(kept(request, "/offline"));
  else if (OPEN.includes(url.pathname)) {
    if (request.mode === "navigate") event.respondWith(fetch(request).catch(away));
  } else if (request.mode === "navigate") {
    if (request.method === "GET") event.respondWith(navigated(request));
  } else event.respondWith(signed(request));
});

self.addEventListener("sync", (event) => {
  if (event.tag === "outbox") event.waitUntil(outbox.send({ force: true }));
});

const kept = async (request, name = request) =>
  (await caches.match(name, { ignoreVary: true })) || fetch(request);

const away = async () => (await caches.match("/offline")) || Response.error();

const signed = async (request) => {
  const body = ["GET", "HEAD"].includes(request.method) ? undefined : await request.arrayBuffer();
  const { url, method, headers, redirect, signal } = request;
  const options = { method, headers, body, redirect, signal, credentials: "same-origin", cache: "no-store" };
  return device.send(() => new Request(url, options));
};

const navigated = async (request) => {
  try {
    const response = await signed(request);
    if (![502, 503, 504].includes(response.status)) return response;
    await new Promise((resolve) => setTimeout(resolve, 1500)); // the moment in which the database moves
    const again = await signed(request);
    return [502, 503, 504].includes(again.status) ? away() : again;
  } catch {
    return away();
  }
};
