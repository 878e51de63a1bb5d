/* The form of one model: an editor for each of its inputs, its settings, and the request that they add up to. */
import { button, h } from "../frame/elements.js";
import { boxes } from "./boxes.js";
import { choice } from "./choice.js";
import { Draft } from "./draft.js";
import { Mistake } from "./field.js";
import { labelMap } from "./label_map.js";
import { mask, picture } from "./picture.js";
import { Settings } from "./settings.js";
import { json, text } from "./text.js";

const EDITORS = { text, class: choice, boxes, label_map: labelMap, image: picture, mask, json };
const START = "init_image";
const LATER = { image: 1, mask: 2 }; // a mask is painted over a picture

export class Form {
  /** `limits` are the server's; `onsend` is called by the button and by Control Enter. */
  constructor(model, { limits = {}, onsend, onchange = () => {} }) {
    Object.assign(this, { model, limits });
    this.editors = new Map();
    this.onchange = () => {
      onchange();
      this.#follow();
    };
    this.settings = new Settings(model, { onchange: this.onchange, onsize: () => this.#resize() });
    this.send = h("button", { type: "submit", class: "button lead" }, "Make pictures");
    this.wrong = h("p", { class: "field-fault", role: "alert", hidden: true });
    this.body = h("div", { class: "panel-body" });
    this.foot = h("div", { class: "panel-foot" }, this.wrong, this.send);
    this.onsubmit = (event) => {
      event.preventDefault();
      onsend();
    };
    this.onkey = (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) onsend();
    };
    this.#build();
    this.turn = Promise.resolve(); // what is put into the form comes one after the other
    this.draft = new Draft(this);
    this.draft.bring();
  }

  get size() {
    return this.settings.size ?? this.model.size ?? [64, 64];
  }

  #editor(input) {
    const masked = this.model.inputs.some((each) => each.form === "mask" && each.of === input.key);
    const own = String(input.size ?? this.model.size) === String(this.model.size);
    const context = {
      size: this.size,
      onchange: this.onchange,
      fit: masked || input.key === START || own ? this.size : null,
      pixels: this.limits.given_pixels ?? 1 << 22,
      of: this.editors.get(input.of),
    };
    const editor = (EDITORS[input.form] ?? json)(input, context);
    this.editors.set(input.key, editor);
    return editor.field.element;
  }

  #build() {
    const inputs = this.#ordered();
    const begins = (input) => input.key === START || input.of === START;
    const main = [];
    for (const input of inputs.filter((each) => !begins(each))) {
      main.push(this.#editor(input));
      if (input.form === "text") main.push(this.settings.element("negative"));
    }
    const start = inputs.filter(begins).map((input) => this.#editor(input));
    const named = (...names) => names.map((name) => this.settings.element(name)).filter(Boolean);
    const finer = named("sampler", "grid", "size");
    this.startPart = start.length > 0 && h("details", { class: "part" }, h("summary", {}, "Begin from a picture"), start, named("strength"));
    this.body.append(
      ...[main, this.startPart, h("hr"), this.settings.presetRow()].flat().filter(Boolean),
      h("div", { class: "pair" }, named("images", "seed")),
      ...named("steps", "guidance"),
      ...(start.length ? [] : named("strength")),
    );
    if (finer.length) this.body.append(h("details", { class: "part" }, h("summary", {}, "Sampler, grid and size"), finer));
    this.body.append(button("Back to the model's own settings", { class: "plain small", onclick: () => this.reset() }, { icon: "undo" }));
    this.#follow();
  }

  /** The inputs, each behind those that it needs. */
  #ordered() {
    const order = (input) => LATER[input.form] ?? 0;
    return [...this.model.inputs].sort((a, b) => order(a) - order(b));
  }

  /** True once a part of the picture to begin from is painted over. */
  get #fills() {
    const input = this.model.inputs.find((each) => each.form === "mask" && each.of === START);
    return Boolean(input && this.editors.get(START)?.filled() && this.editors.get(input.key)?.summary());
  }

  /** Let the button and the settings say what the inputs make of them. */
  #follow() {
    if (this.restoring) return;
    this.settings.fill(this.#fills);
    let count = 1;
    try {
      count = this.settings.controls.images?.value() ?? 1;
    } catch {
      /* said beside the number */
    }
    this.send.textContent = count === 1 ? "Make a picture" : `Make ${count} pictures`;
    this.draft?.keep();
  }

  #resize() {
    const size = this.settings.size;
    if (size) for (const editor of this.editors.values()) editor.resize?.(size);
  }

  reset() {
    this.settings.set({});
    this.#resize();
    this.#follow();
  }

  clearFaults() {
    this.wrong.hidden = true;
    for (const editor of this.editors.values()) editor.field.fault("");
    for (const control of Object.values(this.settings.controls)) control.field.fault("");
  }

  #open(field) {
    const part = field.element.closest("details");
    if (part) part.open = true;
  }

  /** Answer a mistake beside its field: `where` is inputs.KEY or settings.NAME; anything else stands above the button. */
  fault(where, words) {
    const [group, name = ""] = String(where ?? "").split(/[.[]/);
    const field = group === "inputs" ? this.editors.get(name)?.field : group === "settings" ? this.settings.controls[name]?.field : undefined;
    if (field) {
      this.#open(field);
      field.fault(words);
      field.focus();
      return;
    }
    this.wrong.textContent = [where, words].filter(Boolean).join(": ");
    this.wrong.hidden = false;
  }

  /** The request, or null where something is missing or wrong, which is then said beside it. */
  async request() {
    await this.turn;
    this.clearFaults();
    const inputs = {};
    for (const input of this.model.inputs) {
      const editor = this.editors.get(input.key);
      try {
        const value = await editor.value();
        if (value === undefined && input.required) throw new Mistake(MISSING[input.form] ?? "the model needs this");
        if (value !== undefined) inputs[input.key] = value;
      } catch (error) {
        if (!(error instanceof Mistake)) throw error;
        this.fault(`inputs.${input.key}`, error.message);
        return null;
      }
    }
    try {
      const settings = this.settings.values({ started: START in inputs });
      return { model: this.model.id, inputs, settings, ...(this.settings.preset ? { preset: this.settings.preset } : {}) };
    } catch (error) {
      if (!(error instanceof Mistake)) throw error;
      this.fault(`settings.${error.control.name}`, `expected ${error.message}`);
      return null;
    }
  }

  /** What was written or chosen, finished or not, as a request; `typed` has its texts, letter by letter. */
  async written() {
    const [inputs, typed] = [{}, {}];
    for (const [key, editor] of this.editors) {
      if (editor.typed) {
        if (editor.typed()) typed[key] = editor.typed();
        continue;
      }
      try {
        const value = await editor.value();
        if (value !== undefined) inputs[key] = value;
      } catch (error) {
        if (!(error instanceof Mistake)) throw error;
      }
    }
    return { inputs, typed, settings: this.settings.written(), preset: this.settings.preset };
  }

  /** Put a request back into the form; what cannot be what the model reads stays out. */
  restore(request) {
    this.turn = this.turn.then(() => this.#restore(request));
    return this.turn;
  }

  async #restore({ inputs = {}, typed = {}, settings = {}, preset = null }) {
    this.clearFaults();
    this.restoring = true; // a sampler for holes comes before the mask
    this.settings.set(settings, preset);
    this.#resize();
    for (const { key } of this.#ordered()) {
      const editor = this.editors.get(key);
      try {
        await editor.set(inputs[key]);
        if (typeof typed[key] === "string") editor.type?.(typed[key]);
      } catch {
        await editor.set(undefined);
      }
    }
    this.restoring = false;
    if (this.startPart && START in inputs) this.startPart.open = true;
    this.#follow();
  }

  /** The inputs in a few words. */
  summary() {
    const parts = [...this.editors.values()].map((editor) => editor.summary()).filter(Boolean);
    return parts.join(" · ");
  }

  /** The editor that takes a picture: the model's own input, else the start. */
  get pictureEditor() {
    const images = this.model.inputs.filter((input) => input.form === "image");
    const input = images.find((each) => each.key !== START) ?? images[0];
    if (!input) return null;
    if (input.key === START && this.startPart) this.startPart.open = true;
    return this.editors.get(input.key);
  }
}

const MISSING = {
  text: "write what the picture is to show",
  class: "choose a class",
  boxes: "draw at least one box",
  label_map: "paint the map, or take one from a file",
  image: "give a picture",
  mask: "paint over the part of the picture that is to be filled",
};
