const NAME = "inpaint";
const VERSION = 2; // 2: orders
// Stores and their keys. Pictures have a store of their own, so that a list of results does not read them all.
/** @type {Record<string, string>} */
const STORES = { workspaces: "id", drafts: "workspace", results: "id", pictures: "id", orders: "key" };
const OF_WORKSPACE = ["results", "orders"]; // listed by it

/**
 * What survives a reload, in this browser alone. Where it has no IndexedDB, or none to spare, it is memory, and
 * `lasting` says so.
 */
export class Database {
  /** @type {?IDBDatabase} */
  #database = null;
  /** @type {Record<string, Map<any, any>>} */
  #memory = Object.fromEntries(Object.keys(STORES).map((name) => [name, new Map()]));

  /** @returns {Promise<Database>} */
  static async open() {
    const made = new Database();
    try {
      made.#database = await openDatabase();
    } catch {
      made.#database = null;
    }
    return made;
  }

  get lasting() {
    return this.#database !== null;
  }

  /** @param {string} store @param {any} key @returns {Promise<any>} */
  async get(store, key) {
    if (!this.#database) return this.#memory[store].get(key);
    return ask(this.#database, store, "readonly", (objects) => objects.get(key));
  }

  /**
   * All of a store, or those of a workspace.
   * @param {string} store @param {string} [workspace] @returns {Promise<any[]>}
   */
  async list(store, workspace) {
    if (!this.#database) {
      const all = [...this.#memory[store].values()];
      return workspace === undefined ? all : all.filter((value) => value.workspace === workspace);
    }
    return ask(this.#database, store, "readonly", (objects) =>
      workspace === undefined ? objects.getAll() : objects.index("workspace").getAll(workspace),
    );
  }

  /** @param {string} store @param {any} value with its key inside */
  async put(store, value) {
    if (!this.#database) this.#memory[store].set(value[STORES[store]], value);
    else await ask(this.#database, store, "readwrite", (objects) => objects.put(value));
  }

  /** @param {string} store @param {any} key */
  async delete(store, key) {
    if (!this.#database) this.#memory[store].delete(key);
    else await ask(this.#database, store, "readwrite", (objects) => objects.delete(key));
  }
}

/**
 * One request in a transaction of its own.
 * @param {IDBDatabase} database @param {string} store @param {IDBTransactionMode} mode
 * @param {(objects: IDBObjectStore) => IDBRequest} action
 * @returns {Promise<any>} its result, once the transaction is written
 */
function ask(database, store, mode, action) {
  return new Promise((resolve, reject) => {
    const transaction = database.transaction(store, mode);
    const request = action(transaction.objectStore(store));
    transaction.commit(); // the page may be on its way out
    transaction.oncomplete = () => resolve(request.result);
    transaction.onerror = transaction.onabort = () => reject(transaction.error ?? request.error);
  });
}

/** @returns {Promise<IDBDatabase>} */
function openDatabase() {
  return new Promise((resolve, reject) => {
    const request = indexedDB.open(NAME, VERSION);
    request.onupgradeneeded = () => {
      for (const [name, keyPath] of Object.entries(STORES)) {
        if (request.result.objectStoreNames.contains(name)) continue;
        const store = request.result.createObjectStore(name, { keyPath });
        if (OF_WORKSPACE.includes(name)) store.createIndex("workspace", "workspace");
      }
    };
    request.onsuccess = () => {
      request.result.onversionchange = () => request.result.close(); // a newer page in another tab
      resolve(request.result);
    };
    request.onerror = request.onblocked = () => reject(request.error);
  });
}
