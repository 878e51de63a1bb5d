/* The beginning of a blind comparison: the two sides, what they are given, how often. */
import { button, h, id } from "../frame/elements.js";
import { boxes } from "../fields/boxes.js";
import { keep, kept } from "../fields/draft.js";
import { Field, Mistake, title } from "../fields/field.js";
import { labelMap } from "../fields/label_map.js";
import { mask, picture } from "../fields/picture.js";
import { json } from "../fields/text.js";
import { SampleStudy } from "./samples.js";
import { planOf, Study } from "./study.js";

const EDITORS = { boxes, label_map: labelMap, image: picture, mask, json };

/** Prompts, one a line. */
function lines(input) {
  const field = new Field({ key: input.key, label: input.key === "caption" ? "Prompts" : title(input.key), help: "One a line; each is shown in as many pairs as said below.", required: true });
  const area = h("textarea", { class: "control", rows: 3, placeholder: input.example ?? "", ...field.ties });
  const name = `ldm-lines:${input.key}`;
  area.value = kept(name);
  area.addEventListener("input", () => keep(name, area.value));
  field.place.append(area);
  const values = () => area.value.split("\n").map((line) => line.trim()).filter(Boolean).map((value) => ({ value, words: value }));
  return { field, values };
}

/** Any number of classes. */
function classes(input) {
  const field = new Field({ key: input.key, label: "Classes", required: true, group: true });
  const boxes = (input.classes ?? []).map((name, index) => [h("input", { type: "checkbox", checked: index < 10 }), name, index]);
  const all = h("input", { type: "checkbox", checked: boxes.length <= 10, onchange: () => boxes.forEach(([box]) => (box.checked = all.checked)) });
  field.place.append(
    h("label", { class: "check" }, all, "all"),
    h("div", { class: boxes.length > 12 ? "choices long" : "choices" }, boxes.map(([box, name]) => h("label", { class: "choice" }, box, String(name)))),
  );
  return { field, values: () => boxes.filter(([box]) => box.checked).map(([, name, index]) => ({ value: index, words: String(name) })) };
}

/** Values of any other form, by the editor of the page that makes pictures: the one in it, and those kept before. */
function drawn(input, { several, ...context }) {
  const editor = (EDITORS[input.form] ?? json)(input, context);
  const kept = [];
  const list = h("ul", { class: "kept-inputs", "aria-label": `${editor.field.label.textContent}: kept` });
  const now = async () => {
    const value = await editor.value();
    return value === undefined ? null : { value, words: editor.summary(), shown: (await editor.shown?.()) ?? null };
  };
  const put = (one) => {
    const item = h("li", {}, one.shown && h("img", { src: one.shown, alt: "" }), h("span", {}, one.words));
    const away = () => {
      kept.splice(kept.indexOf(one), 1);
      item.remove();
      context.onchange();
    };
    item.append(button(`Take away: ${one.words}`, { class: "plain", onclick: away }, { icon: "close", quiet: true }));
    kept.push(one);
    list.append(item);
  };
  const keep = async () => {
    try {
      const one = await now();
      if (!one) return editor.field.fault("there is nothing to keep yet");
      put(one);
      await editor.set(undefined);
      context.onchange();
    } catch (error) {
      if (!(error instanceof Mistake)) throw error;
      editor.field.fault(error.message);
    }
  };
  if (several) editor.field.place.append(h("div", { class: "row" }, button("Keep it, and make another", { onclick: keep }, { icon: "plus" })), list);
  return { field: editor.field, values: async () => [...kept, await now()].filter(Boolean), editor };
}

/** All combinations of the inputs' values: [{inputs, words, shown}]; `shown` are pictures of them. */
export function combined(parts) {
  return parts.reduce(
    (rows, { key, values }) => rows.flatMap((row) => values.map(({ value, words, shown = null }) => ({ inputs: { ...row.inputs, [key]: value }, words: [row.words, words].filter(Boolean).join("; "), shown: [...row.shown, shown].filter(Boolean) }))),
    [{ inputs: {}, words: "", shown: [] }],
  );
}

/** The keys that a model has to be given. */
const read = (model) => model.inputs.filter((input) => input.required).map((input) => input.key).sort().join();

class Side {
  constructor(name, models, chosen) {
    this.models = models;
    const [model, steps, guidance] = ["model", "steps", "guidance"].map(id);
    this.select = h("select", { id: model, class: "control" }, models.map((each) => h("option", { value: each.id }, each.name)));
    this.select.value = chosen.id;
    this.steps = h("input", { id: steps, class: "control short number", type: "number", min: 1, placeholder: "own" });
    this.guidance = h("input", { id: guidance, class: "control short number", type: "number", step: "any", placeholder: "own" });
    this.element = h(
      "fieldset",
      { class: "side" },
      h("legend", {}, name),
      h("div", { class: "field" }, h("label", { class: "label", for: model }, "Model"), h("div", { class: "field-control" }, this.select)),
      this.fine = h("div", { class: "row" }, h("label", { class: "label", for: steps }, "Steps"), this.steps, h("label", { class: "label", for: guidance }, "Guidance"), this.guidance),
    );
  }

  get model() {
    return this.models.find((each) => each.id === this.select.value);
  }

  get settings() {
    const said = (name) => (this[name].value.trim() === "" ? {} : { [name]: Number(this[name].value) });
    return { ...said("steps"), ...(this.model.settings.guidance ? said("guidance") : {}) };
  }

  get words() {
    return [this.model.name, ...Object.entries(this.settings).map(([name, value]) => `${name} ${value}`)].join(", ");
  }
}

export class Setup {
  constructor({ models, onstart }) {
    this.onstart = onstart;
    const alike = (a) => (b) => a !== b && read(a) === read(b);
    const one = models.find((model) => models.some(alike(model))) ?? models[0];
    this.sides = [new Side("One side", models, one), new Side("The other", models, models.find(alike(one)) ?? one)];
    const [times, question] = [id("times"), id("question")];
    this.times = h("input", { id: times, class: "control short number", type: "number", min: 1, max: 100, value: 4 });
    this.timesLabel = h("label", { class: "label", for: times }, "Pairs of each");
    this.question = h("input", { id: question, class: "control", value: "Which picture is better?", maxlength: 120 });
    this.samples = false;
    this.sources = ["Made now", "Samples of the runs"].map((words, index) => h("label", { class: "choice" }, h("input", { type: "radio", class: "unseen", name: "source", checked: index === 0, onchange: () => this.#from(index === 1) }), words));
    this.given = h("div", {});
    this.wrong = h("p", { class: "field-fault", role: "alert", hidden: true });
    this.total = h("span", { class: "soft number", role: "status" });
    this.element = h(
      "form",
      { class: "setup", novalidate: true },
      h("div", { class: "sides" }, this.sides.map((side) => side.element)),
      h("fieldset", { class: "field" }, h("legend", { class: "label" }, "Pictures"), h("div", { class: "choices field-control" }, this.sources)),
      this.given,
      h("div", { class: "setup-last" },
        h("div", { class: "field" }, this.timesLabel, h("div", { class: "field-control" }, this.times)),
        h("div", { class: "field grow" }, h("label", { class: "label", for: question }, "Question"), h("div", { class: "field-control" }, this.question)),
      ),
      this.wrong,
      h("div", { class: "row" }, h("button", { class: "button lead" }, "Begin"), this.total),
    );
    for (const side of this.sides) side.select.addEventListener("change", () => this.#inputs());
    this.element.addEventListener("input", () => this.#count());
    this.element.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#begin();
    });
    this.#inputs();
  }

  #inputs() {
    const [a, b] = this.sides.map((side) => side.model);
    const editors = new Map();
    const size = a.size ?? [64, 64];
    const masked = a.inputs.some((input) => input.required && input.form === "mask"); // a mask belongs to its picture
    this.parts = a.inputs
      .filter((input) => input.required)
      .sort((x, y) => (x.form === "mask") - (y.form === "mask"))
      .map((input) => {
        const part = input.form === "text" ? lines(input) : input.form === "class" && input.classes?.length ? classes(input) : drawn(input, { size, fit: size, onchange: () => this.#count(), of: editors.get(input.of), several: !masked });
        editors.set(input.key, part.editor);
        return { key: input.key, ...part };
      });
    const other = new Set(b.inputs.map((input) => input.key));
    const missing = [...this.parts.filter((part) => !other.has(part.key)).map((part) => part.key), ...b.inputs.filter((input) => input.required && !this.parts.some((part) => part.key === input.key)).map((input) => input.key)];
    this.unequal = missing.length ? `these two do not read the same: ${missing.join(", ")}; choose models of one task` : "";
    this.#fault(this.samples ? "" : this.unequal);
    this.given.replaceChildren(...this.parts.map((part) => part.field.element));
    this.#count();
  }

  /** Take the samples that both runs have in their folders, or make pictures anew. */
  #from(samples) {
    this.samples = samples;
    const [one, other] = this.sides;
    const next = one.models.find((model) => model !== one.model);
    if (samples && one.model === other.model && next) {
      other.select.value = next.id; // a run has one set of samples
      this.#inputs();
    }
    this.given.hidden = samples;
    this.timesLabel.textContent = samples ? "Pairs at most" : "Pairs of each";
    this.times.value = samples ? 40 : 4;
    for (const side of this.sides) side.fine.hidden = samples;
    this.#fault(samples ? "" : this.unequal);
    this.#count();
  }

  async #beginSamples() {
    const names = this.sides.map((side) => side.model.id);
    const study = await SampleStudy.begin({ names, pairs: Number(this.times.value), question: this.#question });
    this.onstart(study);
  }

  get #question() {
    return this.question.value.trim() || "Which picture is better?";
  }

  #fault(words) {
    this.wrong.textContent = words;
    this.wrong.hidden = !words;
  }

  async #rows() {
    const parts = [];
    for (const { key, values, field } of this.parts) {
      field.fault("");
      const found = await values();
      if (!found.length) throw Object.assign(new Mistake("both models need this"), { field });
      parts.push({ key, values: found });
    }
    return combined(parts);
  }

  async #count() {
    if (this.samples) return void (this.total.textContent = "");
    try {
      const count = (await this.#rows()).length * (Number(this.times.value) || 0);
      this.total.textContent = `${count} pairs`;
    } catch {
      this.total.textContent = "";
    }
  }

  async #begin() {
    const [a, b] = this.sides;
    this.#fault("");
    if (this.samples) return this.#beginSamples().catch((error) => this.#fault(error.text ?? String(error)));
    this.#fault(this.unequal);
    if (this.unequal) return;
    if (a.words === b.words) return this.#fault("both sides are the same: choose another model, or other settings for one of them");
    const times = Number(this.times.value);
    if (!Number.isInteger(times) || times < 1 || times > 100) return this.#fault("pairs of each: a whole number from 1 to 100");
    try {
      const plan = planOf(await this.#rows(), times);
      const sides = this.sides.map((side) => ({ name: side.words, model: side.model.id, settings: side.settings }));
      this.onstart(new Study({ sides, plan, question: this.#question }));
    } catch (error) {
      if (!(error instanceof Mistake)) throw error;
      error.field?.fault(error.message);
      error.field?.focus();
    }
  }
}
