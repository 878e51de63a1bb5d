/* Number settings: a slider with its number, a number with minus and plus, the seed with its dice, the size. */
import { button, h, id } from "../frame/elements.js";
import { Field, Mistake } from "./field.js";

/** A number out of a control; undefined if it is empty, a `Mistake` if it is none or out of its bounds. */
function numberOf(element, { min = -Infinity, max = Infinity, whole = false }) {
  if (element.value.trim() === "" && !element.validity.badInput) return undefined;
  const value = Number(element.value);
  const kind = whole ? "a whole number" : "a number";
  const low = Number.isFinite(min) ? ` from ${min}` : "";
  const high = Number.isFinite(max) ? ` to ${max}` : "";
  const fits = !element.validity.badInput && Number.isFinite(value) && value >= min && value <= max && (!whole || Number.isInteger(value));
  if (!fits) throw new Mistake(`${kind}${low}${high}`);
  return value;
}

/** What all controls of one setting share: `touched` says if the reader has chosen the value. */
class Setting {
  constructor(name, label, bounds, { help = "", onchange, aside }) {
    Object.assign(this, { name, bounds, onchange, touched: false });
    this.field = new Field({ key: `settings.${name}`, label, help, required: true, aside });
    this.field.element.classList.add("setting");
  }

  changed() {
    this.touched = true;
    this.field.element.classList.remove("left");
    try {
      this.value();
      this.field.fault("");
    } catch (error) {
      this.field.fault(error.message);
    }
    this.onchange();
  }

  /** Back to the model's own, or to a preset's, which is shown and not sent. */
  reset(value = this.bounds.default) {
    this.touched = false;
    this.field.element.classList.remove("left");
    this.show(value);
    this.field.fault("");
  }

  /** True for a value of the right kind, in or out of the bounds. */
  takes(value) {
    return Number.isFinite(value);
  }

  set(value) {
    this.show(value);
    this.touched = true;
  }

  /** Leave the value to the preset, which does not say it. */
  leave() {
    this.reset("");
    this.field.element.classList.add("left");
  }
}

/** A slider beside the number that it stands for. `low`, `high` bound the slider where the number may go further. */
export class Slider extends Setting {
  constructor(name, label, bounds, { step = 1, low = bounds.min, high = bounds.max, ...rest }) {
    super(name, label, bounds, rest);
    this.whole = step === 1;
    this.number = h("input", { class: "control short number", type: "number", step: this.whole ? 1 : "any", min: bounds.min, max: bounds.max, inputmode: "decimal", placeholder: "preset", ...this.field.ties });
    this.slider = h("input", { type: "range", min: low, max: high, step, "aria-label": `${label}, slider`, tabindex: "0" });
    this.slider.addEventListener("input", () => {
      this.number.value = this.slider.value;
      this.#fill();
      this.changed();
    });
    this.number.addEventListener("input", () => {
      this.slider.value = this.number.value;
      this.#fill();
      this.changed();
    });
    this.field.label.after(this.number);
    this.field.place.append(this.slider);
    this.reset();
  }

  #fill() {
    const { min, max, value } = this.slider;
    this.slider.style.setProperty("--filled", `${(100 * (value - min)) / (max - min || 1)}%`);
  }

  show(value) {
    this.number.value = value ?? "";
    this.slider.value = value === "" || value === undefined ? this.bounds.default : value;
    this.#fill();
  }

  value() {
    return numberOf(this.number, { ...this.bounds, whole: this.whole });
  }
}

/** A small whole number with minus and plus. */
export class Count extends Setting {
  constructor(name, label, bounds, options) {
    super(name, label, bounds, options);
    this.number = h("input", { class: "control short number", type: "number", step: 1, min: bounds.min, max: bounds.max, inputmode: "numeric", oninput: () => this.changed(), ...this.field.ties });
    const by = (step) => () => {
      const value = (Number(this.number.value) || 0) + step;
      this.number.value = Math.max(bounds.min ?? 1, Math.min(bounds.max ?? Infinity, value));
      this.changed();
    };
    const less = button("Fewer", { onclick: by(-1) }, { icon: "minus", quiet: true });
    const more = button("More", { onclick: by(1) }, { icon: "plus", quiet: true });
    this.field.place.append(h("div", { class: "count" }, less, this.number, more));
    this.reset();
  }

  show(value) {
    this.number.value = value ?? "";
  }

  value() {
    return numberOf(this.number, { ...this.bounds, whole: true });
  }
}

/** The seed: drawn anew for each request until it is held. */
export class Seed extends Setting {
  constructor(name, label, bounds, options) {
    super(name, label, bounds, options);
    this.number = h("input", { class: "control number", type: "number", step: 1, min: 0, max: bounds.max, inputmode: "numeric", ...this.field.ties });
    this.number.addEventListener("input", () => {
      this.fresh.checked = false;
      this.changed();
    });
    const dice = button("Draw a new seed", { onclick: () => this.draw() }, { icon: "dice", quiet: true });
    const each = id("fresh");
    this.fresh = h("input", { type: "checkbox", id: each, checked: true });
    this.field.place.append(
      h("div", { class: "row tight nowrap" }, this.number, dice),
      h("label", { class: "check", for: each }, this.fresh, "a new one each time"),
    );
    this.draw();
  }

  draw() {
    this.number.value = crypto.getRandomValues(new Uint32Array(1))[0] % 1_000_000;
    this.field.fault("");
  }

  reset() {
    this.fresh.checked = true;
  }

  show(value) {
    this.fresh.checked = false;
    this.number.value = value ?? 0;
  }

  /** The seed of the request that is about to be sent. */
  next() {
    if (this.fresh.checked) this.draw();
  }

  value() {
    return numberOf(this.number, { min: 0, max: this.bounds.max ?? 2 ** 53 - 1, whole: true }) ?? 0;
  }
}

/** Height and width in pixels, multiples of what the model can make. */
export class Size extends Setting {
  constructor(name, label, bounds, options) {
    super(name, label, bounds, options);
    this.multiple = bounds.multiple ?? 1;
    const side = (words, ties) =>
      h("input", { class: "control short number", type: "number", "aria-label": words, step: this.multiple, min: this.multiple, inputmode: "numeric", oninput: () => this.changed(), ...ties });
    this.height = side("Height in pixels", this.field.ties);
    this.width = side("Width in pixels", {});
    this.field.label.removeAttribute("for");
    const times = h("span", { class: "soft", "aria-hidden": "true" }, "×");
    const own = button("The model's own", { class: "plain", onclick: () => { this.reset(); this.onchange(); } });
    this.field.place.append(h("div", { class: "row tight" }, this.width, times, this.height, own), h("p", { class: "field-help" }, `Width × height, multiples of ${this.multiple}.`));
    this.reset();
  }

  takes(value) {
    return Array.isArray(value) && value.length === 2 && value.every(Number.isFinite);
  }

  show([height, width]) {
    this.height.value = height;
    this.width.value = width;
  }

  value() {
    const read = (element) => numberOf(element, { min: this.multiple, whole: true });
    const size = [read(this.height), read(this.width)];
    if (size.some((side) => side === undefined || side % this.multiple)) throw new Mistake(`multiples of ${this.multiple}`);
    const most = this.bounds.max_pixels;
    if (most && size[0] * size[1] > most) throw new Mistake(`at most ${most} pixels in all`);
    return size;
  }
}

/** One of several names. */
export class Choice extends Setting {
  constructor(name, label, bounds, options) {
    super(name, label, bounds, options);
    const words = (choice) => (choice === bounds.default ? `${choice} (the model's own)` : String(choice));
    const left = h("option", { value: "", hidden: true }, "by the preset");
    const some = (choices) => choices.map((choice) => h("option", { value: choice }, words(choice)));
    this.filling = h("optgroup", { label: "to fill a part of a picture", disabled: true }, some(bounds.filling ?? []));
    this.select = h("select", { class: "control", onchange: () => this.changed(), ...this.field.ties }, left, some(bounds.choices ?? [bounds.default]));
    if (bounds.filling?.length) this.select.append(this.filling);
    this.field.place.append(this.select);
    this.reset();
  }

  takes(value) {
    return typeof value === "string";
  }

  show(value) {
    this.select.value = value;
  }

  /** Offer what is fit to fill a part of a picture alone. */
  fill(on) {
    this.filling.disabled = !on;
    if (!on && this.select.selectedOptions[0]?.parentElement === this.filling) this.reset();
  }

  set(value) {
    super.set(value);
    if (!this.select.value) this.reset(); // another model's
  }

  value() {
    return this.select.value || undefined;
  }
}

/** A text that may be empty. */
export class Words extends Setting {
  constructor(name, label, bounds, options) {
    super(name, label, bounds, options);
    this.area = h("textarea", { class: "control", rows: 1, maxlength: bounds.max, oninput: () => this.changed(), ...this.field.ties });
    this.field.place.append(this.area);
  }

  takes(value) {
    return typeof value === "string";
  }

  show(value) {
    this.area.value = value ?? "";
  }

  value() {
    return this.area.value.trim() || undefined;
  }
}
