/**
 * Keeps the page's own files, so that the installed page opens while its server does not answer. The network comes first, so
 * that an upgraded server never meets an old page; nothing of the API is ever kept.
 */

const KEPT = "inpaint-page-";
const CACHE = `${KEPT}1`; // another number empties the old one
const SCOPE = new URL(self.registration.scope);

self.addEventListener("install", () => self.skipWaiting());
self.addEventListener("activate", (event) => event.waitUntil(begin()));
self.addEventListener("message", ({ data }) => keep(data.files));
self.addEventListener("fetch", (event) => {
  if (isOurs(event.request)) event.respondWith(newest(event.request));
});

async function begin() {
  const old = (await caches.keys()).filter((name) => name.startsWith(KEPT) && name !== CACHE);
  await Promise.all(old.map((name) => caches.delete(name)));
  await self.clients.claim();
}

/** Keep what the page had loaded before there was a worker. @param {string[]} files URLs */
async function keep(files) {
  const cache = await caches.open(CACHE);
  await cache.addAll(files.filter((url) => isOurs(new Request(url))));
}

/** True for the page and its files; everything else is the API's. @param {Request} request */
function isOurs({ method, url }) {
  const { origin, pathname } = new URL(url);
  const isPage = pathname === SCOPE.pathname || pathname.startsWith(`${SCOPE.pathname}web/`);
  return method === "GET" && origin === SCOPE.origin && isPage;
}

/** @param {Request} request */
async function newest(request) {
  const cache = await caches.open(CACHE);
  try {
    const answer = await fetch(request);
    if (answer.ok) await cache.put(request, answer.clone());
    return answer;
  } catch (error) {
    const kept = await cache.match(request);
    if (!kept) throw error;
    return kept;
  }
}
