/* Pictures that the reader has picked, to compare or to save together, in a tray at the foot of the page. */
import { button, h } from "../frame/elements.js";
import { downloadAll, urlOf } from "./words.js";
import { comparison } from "./comparison.js";
import { sheet } from "./sheet.js";

const keyOf = (record, index) => `${record.key}/${index}`;

/** Event "changed" after each change. */
export class Picks extends EventTarget {
  constructor(store, place) {
    super();
    this.items = new Map();
    this.place = place;
    store.addEventListener("removed", ({ detail }) => this.drop(detail));
    this.#draw();
  }

  has(record, index) {
    return this.items.has(keyOf(record, index));
  }

  toggle(record, index) {
    const key = keyOf(record, index);
    if (!this.items.delete(key)) this.items.set(key, { record, image: record.images[index], index });
    this.#changed();
  }

  drop(record) {
    const before = this.items.size;
    for (const key of [...this.items.keys()]) if (key.startsWith(`${record.key}/`)) this.items.delete(key);
    if (this.items.size !== before) this.#changed();
  }

  clear() {
    this.items.clear();
    this.#changed();
  }

  #changed() {
    this.#draw();
    this.dispatchEvent(new Event("changed"));
  }

  #draw() {
    const picks = [...this.items.values()];
    document.body.classList.toggle("with-tray", picks.length > 0);
    if (!picks.length) return this.place.replaceChildren();
    const shown = picks.slice(0, 6).map(({ image }) => h("img", { src: urlOf(image.blob), alt: "" }));
    const bar = h(
      "section",
      { class: "tray", "aria-label": "Picked pictures" },
      h("div", { class: "tray-pictures", "aria-hidden": "true" }, shown),
      h("p", { class: "grow", role: "status" }, `${picks.length} picked`),
      button("Compare", { disabled: picks.length < 2, onclick: () => comparison(picks) }, { icon: "sides" }),
      button("Sheet", { onclick: () => sheet(picks) }, { icon: "sheet" }),
      button("Files", { onclick: () => downloadAll(picks) }, { icon: "download" }),
      button("Clear", { class: "plain", onclick: () => this.clear() }, { icon: "close", quiet: true }),
    );
    this.place.replaceChildren(bar);
  }
}
