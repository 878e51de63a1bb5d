/* The records of what was made, kept in this browser's IndexedDB; in memory where it keeps nothing. */
const NAME = "ldm-history";
const STORE = "records";
const MOST = 500;

const asked = (request) =>
  new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });

async function opened() {
  const request = indexedDB.open(NAME, 1);
  request.onupgradeneeded = () => request.result.createObjectStore(STORE, { keyPath: "key" });
  return asked(request);
}

/** Events: "added", "changed", "removed", each with `detail` a record. */
export class Store extends EventTarget {
  constructor() {
    super();
    this.records = new Map();
    this.base = null;
  }

  /** Read what earlier visits kept. */
  async open() {
    try {
      this.base = await opened();
      const kept = await asked(this.base.transaction(STORE).objectStore(STORE).getAll());
      for (const record of kept.sort((a, b) => a.created - b.created)) this.records.set(record.key, { ...record, previews: [] });
    } catch {
      this.base = null; // a private window
    }
    return this;
  }

  /** Newest first. */
  get all() {
    return [...this.records.values()].sort((a, b) => b.created - a.created);
  }

  #tell(name, record) {
    this.dispatchEvent(new CustomEvent(name, { detail: record }));
  }

  async #write(change) {
    if (!this.base) return;
    try {
      await asked(change(this.base.transaction(STORE, "readwrite").objectStore(STORE)));
    } catch {
      /* the disk is full; the record lives as long as the page */
    }
  }

  async #keep(record) {
    const { previews, ...kept } = record; // previews are of this moment
    await this.#write((store) => store.put(kept));
  }

  async add(record) {
    this.records.set(record.key, record);
    this.#tell("added", record);
    await this.#keep(record);
    for (const old of this.all.slice(MOST)) await this.remove(old);
  }

  /** Change a record and tell; `lasting` false for what the next moment replaces. */
  async change(record, values, lasting = true) {
    Object.assign(record, values);
    if (!this.records.has(record.key)) return;
    this.#tell("changed", record);
    if (lasting) await this.#keep(record);
  }

  async remove(record) {
    if (!this.records.delete(record.key)) return;
    this.#tell("removed", record);
    await this.#write((store) => store.delete(record.key));
  }

  async clear() {
    for (const record of this.all) await this.remove(record);
  }
}
