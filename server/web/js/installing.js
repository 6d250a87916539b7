/**
 * Let the browser install the page as an app: a service worker keeps its files. Only https and this machine have one.
 */
export async function installable() {
  if (!("serviceWorker" in navigator)) return;
  const wasThere = navigator.serviceWorker.controller !== null;
  try {
    await navigator.serviceWorker.register("web/service-worker.js", { scope: "./" });
  } catch {
    return; // blocked by the browser's settings: the page is a page
  }
  if (wasThere) return;
  const { active } = await navigator.serviceWorker.ready;
  const loaded = performance.getEntriesByType("resource").map(({ name }) => name);
  active?.postMessage({ files: [document.baseURI, ...loaded] });
}
