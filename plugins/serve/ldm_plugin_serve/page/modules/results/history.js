/* All that this browser has kept, by day, to be searched, restored and taken away. */
import { button, choose, h, sign } from "../frame/elements.js";
import { dialog } from "../frame/dialog.js";
import { altOf, dayOf, pixelated, summaryOf, timeOf, urlOf } from "./words.js";
import { viewer } from "./viewer.js";

const STEP = 60; // records drawn at once

export class History {
  constructor(place, { store, acts, picks, onfile }) {
    Object.assign(this, { store, acts, picks });
    this.most = STEP;
    this.search = h("input", { class: "control search", type: "search", placeholder: "search prompts, models, seeds", "aria-label": "Search the history" });
    this.search.addEventListener("input", () => this.draw());
    this.list = h("div", {});
    this.count = h("p", { class: "soft small", role: "status" });
    const read = button("Restore from a picture", { onclick: async () => onfile((await choose("image/png"))[0]) }, { icon: "upload" });
    const clear = button("Delete all", { class: "fault", onclick: () => this.#clear() }, { icon: "trash" });
    place.append(
      h(
        "header",
        { class: "page-head" },
        h("div", {}, h("h2", { id: "history-title" }, "History"), h("p", {}, "Kept in this browser alone, with all settings. A picture made here brings them back as well: drop its file anywhere on the page.")),
        h("div", { class: "row" }, read, clear),
      ),
      h("div", { class: "row spread history-bar" }, this.search, this.count),
      this.list,
    );
    this.visible = () => !place.hidden;
    picks.addEventListener("changed", () => this.#later());
    for (const name of ["added", "changed", "removed"]) store.addEventListener(name, () => this.#later());
  }

  #later() {
    if (!this.visible() || this.waits) return;
    this.waits = true;
    requestAnimationFrame(() => {
      this.waits = false;
      this.draw();
    });
  }

  #clear() {
    const { body, close } = dialog("Delete the whole history?");
    const sure = button("Delete all", { class: "fault", onclick: async () => { await this.store.clear(); close(); this.draw(); } }, { icon: "trash" });
    body.append(h("p", {}, "The pictures of this browser's history are gone then; downloaded files stay."), h("div", { class: "row" }, sure, button("Keep them", { onclick: close })));
  }

  #found() {
    const words = this.search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const text = (record) => [record.name, summaryOf(record), ...record.images.map((image) => image.seed)].join(" ").toLowerCase();
    return this.store.all.filter((record) => record.images.length && words.every((word) => text(record).includes(word)));
  }

  draw() {
    const found = this.#found();
    const pictures = found.reduce((sum, record) => sum + record.images.length, 0);
    this.count.textContent = `${pictures} ${pictures === 1 ? "picture" : "pictures"}`;
    if (!found.length) {
      const words = this.search.value ? "Nothing kept fits these words." : "Pictures that you make are kept here.";
      return this.list.replaceChildren(h("div", { class: "empty" }, sign("picture"), h("p", {}, words)));
    }
    const parts = [];
    let day = "";
    for (const record of found.slice(0, this.most)) {
      if (dayOf(record) !== day) {
        day = dayOf(record);
        parts.push(h("section", { class: "day" }, h("h3", {}, day), h("ul", { class: "thumbs" })));
      }
      parts.at(-1).lastChild.append(...record.images.map((_, index) => this.#thumb(record, index)));
    }
    if (found.length > this.most) parts.push(button("Show more", { onclick: () => { this.most += STEP; this.draw(); } }));
    this.list.replaceChildren(...parts);
  }

  #thumb(record, index) {
    const shown = h("img", { src: urlOf(record.images[index].blob), alt: `Enlarge picture ${index + 1}, seed ${record.images[index].seed}:`, loading: "lazy", class: pixelated(record.size) ? "pixels" : "" });
    const words = h("span", { class: "thumb-words" }, h("span", {}, summaryOf(record)), h("span", { class: "soft number origin" }, h("span", {}, record.name), ` · ${timeOf(record)}`));
    const open = h("button", { type: "button", class: "thumb", onclick: () => viewer(record, index, this.acts) }, shown, words);
    const pick = h("input", { type: "checkbox", checked: this.picks.has(record, index), "aria-label": `Pick to compare: ${altOf(record, index)}`, onchange: () => this.picks.toggle(record, index) });
    return h("li", {}, open, h("label", { class: "thumb-pick" }, pick));
  }
}
