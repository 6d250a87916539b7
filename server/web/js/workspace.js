const NAME = "inpaint-workspace";
const ROLL_CALL_MS = 150;

/**
 * A workspace for this tab alone: its own one after a reload, else the last one that no living tab holds, else a
 * new one. Drafts and results belong to it, so that two tabs never see each other's pictures.
 * @param {import("./database.js").Database} database
 * @returns {Promise<string>} its id
 */
export async function claimWorkspace(database) {
  const hold = navigator.locks ? holdLock : await rollCall();
  const own = sessionStorage.getItem(NAME); // a duplicated tab has it too, and the other one holds it
  const known = (await database.list("workspaces")).sort((a, b) => b.usedAt - a.usedAt).map(({ id }) => id);
  for (const id of own ? [own, ...known] : known) {
    if (await hold(id)) return taken(database, id);
  }
  const id = newId();
  await hold(id);
  return taken(database, id);
}

/** Make an unguessable id; `crypto.randomUUID` is missing where the page comes over plain HTTP from another machine. */
export function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** @param {import("./database.js").Database} database @param {string} id */
async function taken(database, id) {
  sessionStorage.setItem(NAME, id);
  await database.put("workspaces", { ...(await database.get("workspaces", id)), id, usedAt: Date.now() });
  return id;
}

/** Hold a workspace until this tab is closed. @param {string} id @returns {Promise<boolean>} whether it was free */
function holdLock(id) {
  return new Promise((resolve, reject) => {
    /** @param {?Lock} lock @returns {?Promise<never>} */
    const held = (lock) => {
      resolve(lock !== null);
      return lock && new Promise(() => {}); // never given back
    };
    navigator.locks.request(`${NAME}-${id}`, { ifAvailable: true }, held).catch(reject);
  });
}

/**
 * The same without locks, which pages over plain HTTP do not have: ask the other tabs which ones they hold. Of two
 * that want the same one at the same moment, the one with the lower number gets it.
 */
async function rollCall() {
  const channel = new BroadcastChannel(NAME);
  const number = newId();
  const taken = new Set();
  /** @type {?string} */
  let own = null;
  channel.addEventListener("message", ({ data }) => {
    if (data.question && own) channel.postMessage({ id: own, number: "" });
    if (data.id && (data.id !== own || data.number < number)) taken.add(data.id);
  });
  channel.postMessage({ question: true });
  await pause();
  /** @param {string} id @returns {Promise<boolean>} whether it was free */
  return async (id) => {
    if (taken.has(id)) return false;
    own = id;
    channel.postMessage({ id, number });
    await pause();
    if (taken.has(id)) own = null;
    return own === id;
  };
}

const pause = () => new Promise((resolve) => setTimeout(resolve, ROLL_CALL_MS));
