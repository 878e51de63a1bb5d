/* The settings of a model as controls, and its presets. */
import { button, h } from "../frame/elements.js";
import { Mistake } from "./field.js";
import { Choice, Count, Seed, Size, Slider, Words } from "./numbers.js";

const CHANGES = "How much of the given picture changes.";

const MAKERS = {
  images: (b, o) => new Count("images", "Pictures", b, o),
  seed: (b, o) => new Seed("seed", "Seed", b, o),
  steps: (b, o) => new Slider("steps", "Steps", b, { ...o, high: Math.min(b.max ?? 250, Math.max(100, b.default)) }),
  guidance: (b, o) =>
    new Slider("guidance", "Guidance", b, { ...o, step: 0.1, low: b.min ?? 0, high: Math.min(b.max ?? 15, Math.max(10, b.default)), help: "How closely the inputs are followed; 1 is without guidance." }),
  strength: (b, o) => new Slider("strength", "Strength", { ...b, min: b.min ?? 0.01, max: b.max ?? 1 }, { ...o, step: 0.01, low: 0, high: 1, help: CHANGES }),
  negative: (b, o) => new Words("negative", "Not wanted", b, { ...o, help: "The picture moves away from this." }),
  sampler: (b, o) => new Choice("sampler", "Sampler", b, o),
  grid: (b, o) => new Choice("grid", "Time grid", b, o),
  size: (b, o) => new Size("size", "Size", b, o),
};

/** A preset's name and words, as the server may say them. */
const named = (preset) => (typeof preset === "string" ? { name: preset } : preset);

export class Settings {
  constructor(model, { onchange, onsize }) {
    this.controls = {};
    for (const [name, make] of Object.entries(MAKERS)) {
      const bounds = model.settings?.[name];
      const told = name === "size" ? () => { onsize(); onchange(); } : onchange;
      if (bounds) this.controls[name] = make(bounds, { onchange: told });
    }
    this.preset = null;
    this.presets = (model.presets ?? []).map(named);
    this.buttons = [];
  }

  element(name) {
    return this.controls[name]?.field.element;
  }

  /** The presets as a row of buttons, or nothing. */
  presetRow() {
    if (!this.presets.length) return null;
    this.about = h("p", { class: "field-help", "aria-live": "polite" });
    const choices = [{ name: null, words: "own settings" }, ...this.presets.map((preset) => ({ ...preset, words: preset.name }))];
    this.buttons = choices.map(({ name, words }) => button(words, { "aria-pressed": String(name === null), onclick: () => this.choose(name) }));
    return h("div", { class: "field", role: "group", "aria-label": "Preset" }, h("span", { class: "label" }, "Preset"), h("div", { class: "row tight segments" }, this.buttons), this.about);
  }

  choose(name) {
    const preset = this.presets.find((each) => each.name === name);
    this.preset = preset?.name ?? null;
    this.buttons.forEach((each, index) => each.setAttribute("aria-pressed", String((this.presets[index - 1]?.name ?? null) === this.preset)));
    if (this.about) this.about.textContent = preset?.about ?? preset?.help ?? "";
    for (const [key, control] of Object.entries(this.controls)) {
      if (!["steps", "guidance", "sampler", "grid"].includes(key)) continue;
      if (preset && !preset.settings) control.leave();
      else control.reset(preset?.settings?.[key]);
    }
  }

  /** The settings to send: those chosen by the reader, and the seed; a `Mistake` has its control. */
  values({ started }) {
    this.controls.seed?.next();
    const values = {};
    for (const [name, control] of Object.entries(this.controls)) {
      if (name === "strength" && !started) continue;
      try {
        const value = control.value();
        if (value !== undefined && (control.touched || ["seed", "images"].includes(name))) values[name] = value;
      } catch (error) {
        throw Object.assign(error, { control });
      }
    }
    return values;
  }

  /** Where a part of a picture is to be filled, more samplers are fit for it, and it is made from noise alone. */
  fill(on) {
    this.controls.sampler?.fill(on);
    const { strength } = this.controls;
    if (!strength || this.filling === on) return;
    this.filling = on;
    strength.field.help.textContent = on ? "At 1 the part to fill is made anew; less keeps some of what was there." : CHANGES;
    if (!strength.touched) strength.show(on ? 1 : strength.bounds.default);
  }

  /** The settings that the reader changed, but for those half written. */
  written() {
    const values = {};
    for (const [name, control] of Object.entries(this.controls)) {
      try {
        if (name === "seed" ? !control.fresh.checked : control.touched) values[name] = control.value();
      } catch (error) {
        if (!(error instanceof Mistake)) throw error;
      }
    }
    return values;
  }

  set(values = {}, preset = null) {
    this.choose(preset);
    for (const [name, control] of Object.entries(this.controls)) {
      if (control.takes(values[name])) control.set(values[name]);
      else control.reset();
    }
  }

  /** Settings out of the model's bounds go back to its own. */
  heal() {
    for (const control of Object.values(this.controls)) {
      try {
        control.value();
      } catch (error) {
        if (!(error instanceof Mistake)) throw error;
        control.reset();
      }
    }
  }

  get size() {
    try {
      return this.controls.size?.value();
    } catch {
      return undefined; // half written
    }
  }
}
