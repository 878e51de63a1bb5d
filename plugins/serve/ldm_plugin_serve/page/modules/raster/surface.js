/* A canvas to paint a raster on, by mouse, pen, touch and keyboard. */
import { h, id } from "../frame/elements.js";

const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const limit = (value, most) => Math.max(0, Math.min(most - 1, value));

export class Surface {
  /**
   * `colour(value)` gives [r, g, b, a] of a cell, `value()` the number that the tools paint, `words(x, y)` a cell in
   * words; `onchange` is told after each stroke, `onsize` when the brush changes by a key.
   */
  constructor(raster, { label, colour, value, words, onchange, onsize }) {
    Object.assign(this, { raster, colour, value, words, onchange, onsize });
    this.tool = "brush";
    this.size = Math.max(1, Math.round(Math.min(raster.width, raster.height) / 10));
    this.cursor = [Math.floor(raster.width / 2), Math.floor(raster.height / 2)];
    this.last = null; // the cell that a stroke or a rectangle has come from
    const help = id("keys");
    this.canvas = h("canvas", { class: "surface-canvas", tabindex: "0", role: "application", "aria-label": label, "aria-describedby": help });
    this.ring = h("div", { class: "surface-ring", hidden: true });
    this.under = h("div", { class: "surface-under" });
    this.live = h("span", { class: "unseen", "aria-live": "polite" });
    this.element = h(
      "div",
      { class: "surface" },
      h("div", { class: "surface-frame" }, this.under, this.canvas, this.ring),
      h("p", { id: help, class: "unseen" }, "Arrow keys move, with Shift by eight; Space paints; square brackets change the brush; Control Z undoes."),
      this.live,
    );
    this.#listen();
    this.resize();
  }

  /** Follow a raster of another size. */
  resize(raster = this.raster) {
    this.raster = raster;
    this.canvas.width = raster.width;
    this.canvas.height = raster.height;
    this.cursor = [limit(this.cursor[0], raster.width), limit(this.cursor[1], raster.height)];
    const frame = this.canvas.parentElement.style;
    frame.setProperty("aspect-ratio", `${raster.width} / ${raster.height}`);
    frame.setProperty("--ratio", raster.width / raster.height);
    this.draw();
  }

  draw() {
    const { width, height, values } = this.raster;
    const context = this.canvas.getContext("2d");
    const image = context.createImageData(width, height);
    for (let i = 0; i < values.length; i++) image.data.set(this.colour(values[i]), i * 4);
    context.putImageData(image, 0, 0);
  }

  /** The raster over what lies under it, as a small picture. */
  shown(under = null) {
    const { width, height } = this.raster;
    const canvas = h("canvas", { width, height });
    const context = canvas.getContext("2d");
    if (under) context.drawImage(under, 0, 0, width, height);
    context.drawImage(this.canvas, 0, 0);
    return canvas.toDataURL();
  }

  undo() {
    if (this.raster.undo()) this.#changed();
  }

  redo() {
    if (this.raster.redo()) this.#changed();
  }

  /** Do something to the raster as one step that can be undone. */
  act(change) {
    this.raster.keep();
    change(this.raster);
    this.#changed();
  }

  #changed() {
    this.draw();
    this.onchange?.();
  }

  #cell(event) {
    const place = this.canvas.getBoundingClientRect();
    const x = Math.floor(((event.clientX - place.left) / place.width) * this.raster.width);
    const y = Math.floor(((event.clientY - place.top) / place.height) * this.raster.height);
    return [limit(x, this.raster.width), limit(y, this.raster.height)];
  }

  #show([x, y]) {
    const { width, height } = this.raster;
    const from = this.tool === "rectangle" && this.last ? this.last : [x, y];
    const size = this.tool === "brush" ? this.size : 1;
    const back = this.tool === "brush" ? Math.floor(size / 2) : 0;
    const [left, top] = [Math.min(from[0], x) - back, Math.min(from[1], y) - back];
    const percent = (value, whole) => `${(100 * value) / whole}%`;
    const spot = this.ring.style;
    spot.setProperty("left", percent(left, width));
    spot.setProperty("top", percent(top, height));
    spot.setProperty("width", percent(Math.abs(from[0] - x) + size, width));
    spot.setProperty("height", percent(Math.abs(from[1] - y) + size, height));
    this.ring.classList.toggle("round", this.tool === "brush" && size > 2);
    this.ring.hidden = false;
  }

  #begin([x, y]) {
    if (this.tool === "rectangle") {
      this.last = [x, y];
      return;
    }
    this.raster.keep();
    if (this.tool === "fill") this.raster.fill(x, y, this.value());
    else this.raster.dot(x, y, this.size, this.value());
    this.last = [x, y];
    this.draw();
  }

  #go([x, y]) {
    if (this.tool !== "brush" || !this.last) return;
    this.raster.stroke(...this.last, x, y, this.size, this.value());
    this.last = [x, y];
  }

  #end([x, y]) {
    if (!this.last) return;
    if (this.tool === "rectangle") {
      this.raster.keep();
      this.raster.rectangle(...this.last, x, y, this.value());
    }
    this.last = null;
    this.#changed();
  }

  #listen() {
    const canvas = this.canvas;
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      canvas.setPointerCapture(event.pointerId);
      this.cursor = this.#cell(event);
      this.#begin(this.cursor);
      this.#show(this.cursor);
    });
    canvas.addEventListener("pointermove", (event) => {
      const drawn = canvas.hasPointerCapture(event.pointerId);
      if (drawn) {
        for (const each of event.getCoalescedEvents?.() ?? []) this.#go(this.#cell(each));
        this.#go(this.#cell(event));
        this.draw();
      }
      this.#show(this.#cell(event));
    });
    canvas.addEventListener("pointerup", (event) => this.#end(this.#cell(event)));
    canvas.addEventListener("pointercancel", () => {
      this.last = null;
      this.#changed();
    });
    canvas.addEventListener("pointerleave", () => (this.ring.hidden = document.activeElement !== canvas));
    canvas.addEventListener("focus", () => canvas.matches(":focus-visible") && this.#show(this.cursor));
    canvas.addEventListener("blur", () => (this.ring.hidden = true));
    canvas.addEventListener("keydown", (event) => this.#key(event));
  }

  #key(event) {
    const step = STEPS[event.key];
    const held = event.ctrlKey || event.metaKey;
    if (step) {
      const by = event.shiftKey ? 8 : 1;
      this.cursor = [limit(this.cursor[0] + step[0] * by, this.raster.width), limit(this.cursor[1] + step[1] * by, this.raster.height)];
      this.live.textContent = this.words(...this.cursor);
    } else if (event.key === " " || event.key === "Enter") {
      if (this.tool === "rectangle" && this.last) this.#end(this.cursor);
      else {
        this.#begin(this.cursor);
        if (this.tool !== "rectangle") this.#end(this.cursor);
      }
      this.live.textContent = `painted; ${this.words(...this.cursor)}`;
    } else if (held && event.key.toLowerCase() === "z") {
      if (event.shiftKey) this.redo();
      else this.undo();
    } else if (held && event.key.toLowerCase() === "y") this.redo();
    else if (event.key === "[" || event.key === "]") {
      this.size = Math.max(1, this.size + (event.key === "]" ? 1 : -1));
      this.onsize?.(this.size);
      this.live.textContent = `brush of ${this.size}`;
    } else return;
    event.preventDefault();
    this.#show(this.cursor);
  }
}
