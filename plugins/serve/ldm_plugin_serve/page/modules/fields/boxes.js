/* Boxes with classes on an empty picture: drawn, moved, resized, named and taken away by mouse, touch and keyboard. */
import { above, colours, css } from "../raster/colours.js";
import { button, h, id } from "../frame/elements.js";
import { Field, Mistake, title } from "./field.js";
import { palette } from "./palette.js";

const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const LEAST = 0.02;
const CORNERS = ["nw", "ne", "sw", "se"];
const between = (value, low, high) => Math.max(low, Math.min(high, value));
const percent = (share) => Math.round(share * 100);
const rounded = (share) => Math.round(share * 10_000) / 10_000;

class Boxes {
  constructor(input, { size, onchange }) {
    this.names = input.classes ?? [];
    this.labelled = input.labelled !== false && this.names.length > 0;
    this.most = input.max ?? 30;
    this.onchange = onchange;
    this.shades = colours(this.names, input.palette);
    this.boxes = [];
    this.chosen = null;
    this.current = 0;
    const label = input.key === "boxes" ? "Layout" : title(input.name ?? input.key);
    this.field = new Field({ key: `inputs.${input.key}`, label, required: input.required, group: true });
    this.#build(size, label);
  }

  #build([height, width], label) {
    const keys = id("keys");
    this.canvas = h("div", { class: "layout", "aria-label": `${label}: ${width} by ${height} pixels`, role: "group", "aria-describedby": keys });
    this.resize([height, width]);
    this.hint = h("p", { class: "layout-hint" }, "Drag to draw a box");
    this.list = h("ol", { class: "box-list", "aria-label": "Boxes" });
    this.live = h("span", { class: "unseen", "aria-live": "polite" });
    this.palette = palette(this.names, { label: "Class of the box", swatches: this.shades, chosen: 0, onchoose: (index) => this.name(index) });
    this.more = button("Add a box", { onclick: () => this.add() }, { icon: "plus" });
    const clear = button("Clear", { class: "plain", onclick: () => this.set([]) }, {});
    this.field.place.append(
      ...(this.labelled ? [this.palette.element] : []),
      this.canvas,
      h("div", { class: "row" }, this.more, clear, this.live),
      this.list,
      h("p", { class: "field-help keyboard", id: keys }, "Keys on a box: arrows move it, ", h("kbd", {}, "Shift"), " and arrows resize it, ", h("kbd", {}, "Delete"), " takes it away."),
    );
    this.canvas.append(this.hint);
    this.canvas.addEventListener("pointerdown", (event) => this.#press(event));
  }

  resize([height, width]) {
    this.size = [height, width];
    this.canvas.style.setProperty("aspect-ratio", `${width} / ${height}`);
    this.canvas.style.setProperty("--ratio", width / height);
  }

  /** Give a class to the chosen box and to those drawn from now on. */
  name(index) {
    this.current = index;
    if (this.chosen) {
      this.chosen.class = index;
      this.#paint(this.chosen);
      this.#changed();
    }
  }

  /** A box in the middle, for those who draw by keyboard. */
  add() {
    if (!this.#room()) return;
    const shift = (this.boxes.length % 5) * 0.06;
    const box = this.#make([0.3 + shift, 0.3 + shift, 0.3, 0.3]);
    this.#changed();
    box.element.focus();
  }

  #room() {
    const room = this.boxes.length < this.most;
    this.field.fault(room ? "" : `this model takes at most ${this.most} boxes`);
    return room;
  }

  #make(place, kind = this.current) {
    const box = { class: kind, box: place };
    const corners = CORNERS.map((corner) => h("span", { class: `handle ${corner}`, "data-corner": corner }));
    box.words = h("span", { class: "box-name" });
    box.element = h("button", { type: "button", class: "box" }, box.words, corners);
    box.element.addEventListener("keydown", (event) => this.#key(event, box));
    box.element.addEventListener("focus", () => this.#choose(box));
    box.item = this.#item(box);
    this.boxes.push(box);
    this.canvas.append(box.element);
    this.list.append(box.item);
    this.#paint(box);
    this.#choose(box);
    return box;
  }

  #item(box) {
    box.line = h("span", { class: "grow" });
    box.dot = h("span", { class: "swatch" });
    const pick = h("button", { type: "button", class: "box-pick", onclick: () => box.element.focus() }, box.dot, box.line);
    box.bin = button("Delete", { class: "plain", onclick: () => this.#remove(box, true) }, { icon: "trash", quiet: true });
    return h("li", {}, pick, box.bin);
  }

  #paint(box) {
    const [x, y, w, height] = box.box;
    const shade = this.shades[box.class] ?? [90, 90, 90];
    const look = box.element.style;
    for (const [name, share] of Object.entries({ left: x, top: y, width: w, height })) look.setProperty(name, `${share * 100}%`);
    look.setProperty("--shade", css(shade));
    look.setProperty("--on-shade", above(shade));
    box.dot.style.setProperty("background", css(shade));
    const name = this.labelled ? String(this.names[box.class] ?? box.class) : "box";
    const place = `${percent(x)}, ${percent(y)}, ${percent(w)} × ${percent(height)} %`;
    box.words.textContent = name;
    box.words.classList.toggle("below", y < 0.12);
    box.line.replaceChildren(name, h("span", { class: "soft number" }, ` ${place}`));
    box.bin.setAttribute("aria-label", `Delete ${name}`);
    box.element.setAttribute("aria-label", `${name}: left ${percent(x)}, top ${percent(y)}, width ${percent(w)}, height ${percent(height)} percent`);
  }

  #choose(box) {
    this.chosen = box;
    for (const each of this.boxes) {
      each.element.classList.toggle("chosen", each === box);
      each.item.classList.toggle("chosen", each === box);
    }
    if (box) {
      this.current = box.class;
      this.palette.choose(box.class);
    }
  }

  #remove(box, refocus) {
    const at = this.boxes.indexOf(box);
    this.boxes.splice(at, 1);
    box.element.remove();
    box.item.remove();
    if (this.chosen === box) this.#choose(null);
    this.live.textContent = "deleted";
    this.#changed();
    if (refocus) (this.boxes[at] ?? this.boxes[at - 1])?.element.focus() ?? this.more.focus();
  }

  #changed() {
    this.hint.hidden = this.boxes.length > 0;
    this.more.disabled = this.boxes.length >= this.most;
    if (this.boxes.length) this.field.fault("");
    this.onchange();
  }

  #key(event, box) {
    const step = STEPS[event.key];
    if (event.key === "Delete" || event.key === "Backspace") this.#remove(box, true);
    else if (event.key === "Escape") this.more.focus();
    else if (step) {
      const by = event.altKey ? 0.005 : 0.02;
      const [x, y, w, hgt] = box.box;
      const [dx, dy] = [step[0] * by, step[1] * by];
      if (event.shiftKey) box.box = [x, y, between(w + dx, LEAST, 1 - x), between(hgt + dy, LEAST, 1 - y)];
      else box.box = [between(x + dx, 0, 1 - w), between(y + dy, 0, 1 - hgt), w, hgt];
      this.#paint(box);
      this.live.textContent = box.element.getAttribute("aria-label");
      this.#changed();
    } else return;
    event.preventDefault();
  }

  #share(event) {
    const place = this.canvas.getBoundingClientRect();
    return [between((event.clientX - place.left) / place.width, 0, 1), between((event.clientY - place.top) / place.height, 0, 1)];
  }

  #press(event) {
    if (event.button) return;
    event.preventDefault();
    const from = this.#share(event);
    const touched = this.boxes.find((box) => box.element.contains(event.target));
    const corner = event.target.dataset?.corner ?? "";
    if (!touched && !this.#room()) return;
    const box = touched ?? this.#make([...from, 0, 0]);
    const start = [...box.box];
    box.element.focus({ preventScroll: true });
    this.#choose(box);
    const move = (next) => {
      box.box = moved(start, from, this.#share(next), touched ? corner : "new");
      this.#paint(box);
    };
    const end = () => {
      this.canvas.removeEventListener("pointermove", move);
      if (box.box[2] < LEAST || box.box[3] < LEAST) this.#remove(box, false); // a click draws nothing
      else this.#changed();
    };
    this.canvas.setPointerCapture(event.pointerId);
    this.canvas.addEventListener("pointermove", move);
    this.canvas.addEventListener("pointerup", end, { once: true });
  }

  set(value) {
    for (const box of this.boxes) {
      box.element.remove();
      box.item.remove();
    }
    this.boxes = [];
    this.chosen = null;
    for (const { class: kind, box } of Array.isArray(value) ? value.slice(0, this.most + 1) : []) {
      const index = this.names.indexOf(kind) >= 0 ? this.names.indexOf(kind) : Number(kind ?? 0);
      const known = !this.labelled || index in this.names;
      if (known && Array.isArray(box) && box.length === 4 && box.every(Number.isFinite)) this.#make([...box], index);
    }
    this.#choose(null);
    this.#changed();
  }

  value() {
    if (!this.boxes.length) return undefined;
    if (this.boxes.length > this.most) throw new Mistake(`this model takes at most ${this.most} boxes`);
    if (!this.labelled) return this.boxes.map(({ box }) => ({ box: box.map(rounded) }));
    return this.boxes.map(({ class: kind, box }) => ({ class: this.names[kind] ?? kind, box: box.map(rounded) }));
  }

  /** The boxes as a picture, each with its class. */
  shown() {
    const [height, width] = [0, 1].map((axis) => Math.round((320 * this.size[axis]) / Math.max(...this.size)));
    const canvas = h("canvas", { width, height });
    const context = canvas.getContext("2d");
    Object.assign(context, { fillStyle: "#f4f3ef", lineWidth: 3, font: "15px sans-serif", textBaseline: "top" });
    context.fillRect(0, 0, width, height);
    for (const { class: kind, box } of this.boxes) {
      const [x, y, w, high] = [box[0] * width, box[1] * height, box[2] * width, box[3] * height];
      context.strokeStyle = css(this.shades[kind] ?? [60, 60, 60]);
      context.fillStyle = "#1d1c1a";
      context.strokeRect(x, y, w, high);
      if (this.labelled) context.fillText(String(this.names[kind] ?? kind), x + 5, y + 5, Math.max(20, w - 10));
    }
    return canvas.toDataURL();
  }

  summary() {
    if (!this.labelled) return this.boxes.length ? `${this.boxes.length} boxes` : "";
    return this.boxes.map((box) => this.names[box.class] ?? box.class).join(", ");
  }
}

/** A box after the pointer went from one point to another: drawn, moved whole, or pulled at a corner. */
function moved([x, y, w, height], from, to, corner) {
  if (corner === "new") return [Math.min(from[0], to[0]), Math.min(from[1], to[1]), Math.abs(to[0] - from[0]), Math.abs(to[1] - from[1])];
  const [dx, dy] = [to[0] - from[0], to[1] - from[1]];
  if (!corner) return [between(x + dx, 0, 1 - w), between(y + dy, 0, 1 - height), w, height];
  let [left, top, right, bottom] = [x, y, x + w, y + height];
  if (corner.includes("w")) left = between(left + dx, 0, right - LEAST);
  else right = between(right + dx, left + LEAST, 1);
  if (corner.includes("n")) top = between(top + dy, 0, bottom - LEAST);
  else bottom = between(bottom + dy, top + LEAST, 1);
  return [left, top, right - left, bottom - top];
}

export function boxes(input, context) {
  const editor = new Boxes(input, context);
  return {
    field: editor.field,
    value: () => editor.value(),
    set: (value) => editor.set(value),
    shown: () => editor.shown(),
    summary: () => editor.summary(),
    resize: (size) => editor.resize(size),
  };
}
