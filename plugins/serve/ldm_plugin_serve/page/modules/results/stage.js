/* The place where pictures appear: this visit's requests, newest first; before the first one, a word of how to begin. */
import { button, h, s } from "../frame/elements.js";
import { Card } from "./card.js";
import { LIVE } from "./work.js";

const EARLIER = 3;

/** A picture coming out of noise. */
const drawing = () =>
  s(
    "svg",
    { viewBox: "0 0 120 84", fill: "none", stroke: "currentColor", "stroke-width": "1.5", "aria-hidden": "true" },
    [0, 1, 2].map((step) => {
      const x = 2 + step * 40;
      const dots = Array.from({ length: 26 - step * 11 }, (_, i) => {
        const [a, b] = [Math.sin((i + 1) * 12.9898 + step) * 43758.5453, Math.sin((i + 1) * 78.233 + step) * 12543.123];
        return s("circle", { cx: x + 4 + (a - Math.floor(a)) * 28, cy: 28 + (b - Math.floor(b)) * 28, r: 1.1, fill: "currentColor", stroke: "none", opacity: 0.55 });
      });
      return s("g", {}, s("rect", { x, y: 24, width: 36, height: 36, rx: 5, opacity: 0.5 }), dots, step && s("circle", { cx: x + 18, cy: 42, r: 9, opacity: step === 1 ? 0.35 : 1, fill: step === 2 ? "currentColor" : "none" }));
    }),
  );

export class Stage {
  constructor(place, { store, picks, acts }) {
    Object.assign(this, { place, store, picks, acts });
    this.cards = new Map();
    this.began = Date.now();
    this.empty = h("div", { class: "empty" });
    this.list = h("div", { class: "cards" });
    this.hint = h("p", { class: "soft small stage-hint" }, "Tick pictures to compare them or to put them on one sheet. A picture's file, dropped anywhere on the page, brings its settings back.");
    place.append(this.empty, this.list, this.hint);
    store.addEventListener("added", ({ detail }) => this.#add(detail, true));
    store.addEventListener("changed", ({ detail }) => this.cards.get(detail.key)?.update());
    store.addEventListener("removed", ({ detail }) => this.#leave(detail));
  }

  /** Show the latest of earlier visits, and what still runs. */
  open() {
    const shown = this.store.all.filter((record, index) => LIVE.has(record.state) || (index < EARLIER && record.images.length));
    for (const record of shown.reverse()) this.#add(record, false);
    this.welcome();
  }

  #add(record) {
    const card = new Card(record, this);
    this.cards.set(record.key, card);
    this.list.prepend(card.element);
    this.welcome();
  }

  #leave(record) {
    const card = this.cards.get(record.key);
    const held = card?.element.contains(document.activeElement);
    card?.leave();
    this.cards.delete(record.key);
    if (held && !this.cards.size) this.place.focus(); // else a card beside it took the keys
    this.welcome();
  }

  /** The words on an empty stage, by the model that is chosen. */
  welcome(model = this.model, example = this.example) {
    Object.assign(this, { model, example });
    this.empty.hidden = this.cards.size > 0;
    this.hint.hidden = !this.empty.hidden;
    if (this.cards.size || !model) return;
    const wanted = (model.inputs ?? []).filter((input) => input.required).map((input) => WANTED[input.form] ?? input.key);
    const first = wanted.length ? `Give ${wanted.join(" and ")}, then make pictures.` : "This model needs no input: make pictures at once.";
    const facts = [model.task, model.size && `${model.size[1]} × ${model.size[0]} pixels`].filter(Boolean).join(", ");
    this.empty.replaceChildren(
      ...[
        drawing(),
        h("h2", {}, model.name),
        facts && h("p", {}, `${facts[0].toUpperCase()}${facts.slice(1)}.`),
        h("p", {}, first),
        example && h("div", { class: "row" }, button("Try an example", { onclick: example }, { icon: "dice" })),
      ].filter(Boolean),
    );
  }
}

const WANTED = { text: "a prompt", class: "a class", boxes: "boxes", label_map: "a label map", image: "a picture", mask: "a mask" };
