/* A request as a card: the pictures as they come, their progress, and all that can be done with them. */
import { button, h } from "../frame/elements.js";
import { cancel, LIVE } from "./work.js";
import { altOf, downloadAll, downloadImage, duration, pixelated, settingsOf, summaryOf, urlOf } from "./words.js";
import { viewer } from "./viewer.js";

const KEPT_CHIPS = new Set(["seed", "steps", "guidance", "sampler", "strength", "preset"]);

function stateWords(record) {
  const { state, position, step, steps } = record;
  if (state === "sending") return "sending …";
  if (state === "queued") return position > 0 ? `waiting; place ${position} in the queue` : "waiting for its turn";
  const made = record.made ? `${record.made} of ${record.request.settings.images} done; ` : ""; // many are made in parts
  if (state === "running") return `${made}step ${step} of ${steps}`;
  if (state === "cancelled") return "cancelled";
  if (state === "failed") return "failed";
  return "";
}

export class Card {
  /** `acts`: {restore, again, begin?}; see the view that makes pictures. */
  constructor(record, { store, picks, acts }) {
    Object.assign(this, { record, store, picks, acts });
    this.state = h("p", { class: "soft small number" });
    this.bar = h("progress", { max: 1, value: 0, "aria-label": "Progress" });
    this.progress = h("div", { class: "card-progress" }, this.state, this.bar);
    this.grid = h("ul", { class: "tiles" });
    this.note = h("p", { class: "field-fault" });
    this.head = h("div", { class: "row tight card-acts" });
    this.chips = h("ul", { class: "chips", "aria-label": "Settings" });
    this.element = h(
      "article",
      { class: "card", "aria-label": summaryOf(record) },
      h("header", { class: "card-head" }, h("h3", { class: "grow" }, summaryOf(record)), this.head),
      this.chips,
      this.progress,
      this.grid,
      this.note,
    );
    this.onpick = () => this.#marks();
    picks.addEventListener("changed", this.onpick);
    this.update();
  }

  /** Let go of the picks; the card is taken off the page. */
  leave() {
    this.picks.removeEventListener("changed", this.onpick);
    const beside = this.element.contains(document.activeElement) && (this.element.nextElementSibling ?? this.element.previousElementSibling);
    this.element.remove();
    if (beside) beside.querySelector("button")?.focus();
  }

  update() {
    const { record } = this;
    const live = LIVE.has(record.state);
    this.element.dataset.state = record.state;
    this.state.textContent = stateWords(record);
    this.progress.hidden = record.state === "done";
    this.bar.hidden = !live;
    if (record.state === "running") this.bar.value = record.steps ? record.step / record.steps : 0;
    else this.bar.removeAttribute("value"); // it waits, nobody knows how long
    if (this.drawn !== record.state) this.#parts(live);
    if (live) this.#previews();
    this.drawn = record.state;
  }

  #parts(live) {
    const { record, acts } = this;
    const chips = settingsOf(record).filter(([name]) => KEPT_CHIPS.has(name));
    const ends = [record.seconds && duration(record.seconds)].filter(Boolean);
    this.chips.replaceChildren(...[record.name, ...chips.map(([name, words]) => `${name} ${words}`), ...(live ? [] : ends)].map((words) => h("li", {}, words)));
    this.note.textContent = record.fault ? record.fault : (record.warnings ?? []).map((each) => each.message ?? each).join("; ");
    this.note.classList.toggle("mild", !record.fault);
    this.note.hidden = !this.note.textContent;
    const tail = [
      button("Use settings", { class: "plain worded", title: "Use settings: put inputs and settings back into the form", onclick: () => acts.restore(record) }, { icon: "undo" }),
      button("New seed", { class: "plain worded", title: "New seed: make it again with another seed", onclick: () => acts.again(record) }, { icon: "again" }),
      record.images.length > 0 && button("Download all", { class: "plain", onclick: () => downloadAll(record.images.map((image) => ({ record, image }))) }, { icon: "download", quiet: true }),
      button("Delete", { class: "plain", onclick: () => this.store.remove(record) }, { icon: "trash", quiet: true }),
    ];
    const held = this.head.contains(document.activeElement); // the button that was pressed goes: its place is kept
    this.head.replaceChildren(...(live ? [button("Cancel", { onclick: () => cancel(this.store, record) }, { icon: "close" })] : tail.filter(Boolean)));
    if (held) this.head.querySelector("button")?.focus();
    this.grid.dataset.count = Math.min(4, record.images.length || record.request.settings.images || 1);
    if (!live) this.grid.replaceChildren(...record.images.map((_, index) => this.#tile(index)));
    else if (!this.grid.childElementCount) this.grid.replaceChildren(...Array.from({ length: record.request.settings.images ?? 1 }, () => this.#waiting()));
    this.grid.hidden = !live && !record.images.length;
    this.#marks();
  }

  #shape() {
    const [height, width] = this.record.settings?.size ?? this.record.request.settings.size ?? this.record.size ?? [1, 1];
    return { "aspect-ratio": `${width} / ${height}` };
  }

  #waiting() {
    return h("li", { class: "tile waiting", style: this.#shape() }, h("img", { alt: "", hidden: true, class: pixelated(this.record.size) ? "pixels" : "" }));
  }

  #previews() {
    const places = [...this.grid.children];
    this.record.previews.forEach((source, index) => {
      const image = places[index]?.querySelector("img");
      if (!image || !source) return;
      image.src = source;
      image.hidden = false;
      image.alt = "Estimate of the picture so far";
    });
  }

  #tile(index) {
    const { record } = this;
    const image = record.images[index];
    const alt = altOf(record, index);
    const shown = h("img", { src: urlOf(image.blob), alt, loading: "lazy", class: pixelated(record.size) ? "pixels" : "" });
    const open = h("button", { type: "button", class: "tile-open", "aria-label": `Enlarge: ${alt}`, onclick: () => viewer(record, index, this.acts) }, shown);
    const pick = h("input", { type: "checkbox", title: "Pick to compare", "aria-label": `Pick picture ${index + 1} to compare`, onchange: () => this.picks.toggle(record, index) });
    const under = h(
      "div",
      { class: "tile-acts" },
      h("label", { class: "pick" }, pick, h("span", { class: "number" }, `${image.seed}`)),
      button("Download with metadata", { class: "plain", onclick: () => downloadImage(record, image) }, { icon: "download", quiet: true }),
    );
    return h("li", { class: "tile" }, h("div", { class: "tile-picture", style: this.#shape() }, open), under);
  }

  #marks() {
    [...this.grid.children].forEach((tile, index) => {
      const box = tile.querySelector("input[type=checkbox]");
      if (!box) return;
      box.checked = this.picks.has(this.record, index);
      tile.classList.toggle("picked", box.checked);
    });
  }
}
