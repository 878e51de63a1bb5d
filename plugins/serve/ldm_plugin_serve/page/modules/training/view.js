/* The training of the served runs: curves that grow while it goes on, and pictures from on the way. */
import { button, h, id, sign } from "../frame/elements.js";
import { get, pictured } from "../server/client.js";
import { stagesOf } from "./panels.js";
import { number, Plot } from "./plot.js";

const PAUSE = 5000;
const FIRST = 4; // plots of a stage that are seen at once
const TITLES = { first_stage: "First stage", denoiser: "Denoiser" };
const titleOf = (stage) => TITLES[stage] ?? stage.charAt(0).toUpperCase() + stage.slice(1).replaceAll("_", " ");
const factOf = (lines) => lines.map(({ label, points }) => `${lines.length > 1 ? `${label}: ` : ""}${number(points[0][1])}`).join(", ");
const STATES = { training: "in training", finished: "finished", stopped: "stopped before its end", killed: "ended without a word: its process is gone", nothing: "not begun" };

/** Seconds in words. */
const spell = (seconds) => (seconds < 90 ? `${Math.max(1, Math.round(seconds))} s` : seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${Number((seconds / 3600).toPrecision(2))} h`);

export class Training {
  /** `onend` is called when a training that was watched has ended. */
  constructor(place, { onend }) {
    this.onend = onend;
    this.plots = new Map();
    this.pictures = new Map();
    this.active = false;
    const name = id("run");
    this.select = h("select", { id: name, class: "control" });
    this.select.addEventListener("change", () => {
      this.chosen = true;
      this.#restart();
    });
    const smooth = id("smooth");
    this.smooth = h("input", { id: smooth, type: "range", min: 0, max: 0.98, step: 0.02, value: 0 });
    this.smooth.addEventListener("input", () => this.#each((plot) => (plot.share = Number(this.smooth.value))));
    this.log = button("Logarithmic", { "aria-pressed": "false", onclick: () => this.#logs() });
    this.state = h("p", { role: "status" });
    this.body = h("div", {});
    place.append(
      h("header", { class: "page-head" }, h("div", {}, h("h2", { id: "training-title" }, "Training"), this.state), h("div", { class: "field inline" }, h("label", { class: "label", for: name }, "Run"), this.select)),
      h("div", { class: "row plot-bar" }, h("label", { for: smooth, class: "small soft" }, "Smoothing"), this.smooth, this.log, button("Whole range", { onclick: () => this.#each((plot) => (plot.span = null)) }), h("span", { class: "soft small grow by-mouse" }, "Drag over a plot to zoom; arrow keys read it."), h("span", { class: "soft small grow by-touch" }, "Touch a plot to read it.")),
      this.body,
    );
  }

  #each(change) {
    for (const plot of this.plots.values()) {
      change(plot);
      plot.draw();
    }
  }

  #logs() {
    const on = this.log.getAttribute("aria-pressed") !== "true";
    this.log.setAttribute("aria-pressed", String(on));
    this.#each((plot) => (plot.log = on));
  }

  /** The runs that may be looked at; one in training comes first. */
  show(models) {
    this.models = models;
    const chosen = this.select.value;
    this.select.replaceChildren(...models.map((model) => h("option", { value: model.id }, model.name)));
    this.select.value = models.some((model) => model.id === chosen) ? chosen : (models.find((model) => model.ready === false) ?? models[0])?.id ?? "";
  }

  /** Ask for new measurements as long as the view is seen; of `model`, unless one trains or another was chosen here. */
  run(active, model) {
    if (model && !this.chosen && !this.models?.some((each) => each.ready === false)) this.select.value = model;
    const began = active && !this.active;
    this.active = active;
    if (began) this.#restart();
    else if (!active) clearTimeout(this.timer);
  }

  #restart() {
    clearTimeout(this.timer);
    this.plots.clear();
    this.pictures.clear();
    this.first = this.was = null; // a measurement to tell the time left by; the last state
    this.body.replaceChildren(h("p", { class: "soft" }, "loading …"));
    this.#turn();
  }

  async #turn() {
    const name = this.select.value;
    if (!name || !this.active) return;
    let training = false;
    try {
      const found = await get(`/v1/runs/${encodeURIComponent(name)}/curves`);
      found.previews ??= (await get(`/v1/runs/${encodeURIComponent(name)}/previews`)).previews;
      if (name !== this.select.value || !this.active) return;
      training = found.training;
      this.#draw(name, found, training);
      const known = this.models.find((model) => model.id === name);
      if (!training && (this.was || (found.ready && known?.ready === false))) this.onend();
      this.was = training;
    } catch (error) {
      this.state.textContent = "";
      this.body.replaceChildren(h("p", { class: "notice" }, error.text ?? error.message));
    }
    this.timer = setTimeout(() => this.#turn(), training ? PAUSE : PAUSE * 6);
  }

  #draw(name, found, training) {
    const stages = stagesOf(found);
    const said = STATES[found.state] ?? (found.ready ? "finished" : "not finished");
    const last = stages.filter(({ stage }) => found.steps?.[stage]).at(-1) ?? stages.at(-1); // it has steps, measurements have none
    const whole = last && found.steps?.[last.stage];
    const step = last ? `${titleOf(last.stage)}, step ${last.step}${whole ? ` of ${whole}` : ""}` : "";
    const left = training && whole ? this.#left(last, found.time, whole) : "";
    this.state.replaceChildren(h("span", { class: `dot ${training ? "live" : ""}` }), [said, step, left].filter(Boolean).join("; "));
    if (!stages.length) {
      this.body.replaceChildren(h("div", { class: "empty" }, sign("picture"), h("p", {}, "This run holds no measurements.")));
      return;
    }
    const parts = [...stages].reverse().map((stage) => this.#stage(stage));
    const strip = this.#strip(name, found.previews ?? []);
    const fresh = [parts[0], strip, ...parts.slice(1)].filter(Boolean);
    const changed = fresh.length !== this.body.children.length || fresh.some((part, i) => part !== this.body.children[i]);
    if (changed) this.body.replaceChildren(...fresh);
  }

  /** The time left of a stage, by the steps since the view was opened. */
  #left({ stage, step }, time, whole) {
    if (this.first?.stage !== stage) this.first = { stage, step, time };
    const done = step - this.first.step;
    if (step >= whole) return "the last pictures are made";
    return done > 0 && time > this.first.time ? `about ${spell(((whole - step) * (time - this.first.time)) / done)} left` : "";
  }

  #stage({ stage, panels }) {
    const parts = this.#parts(stage);
    const curves = panels.filter((panel) => panel.lines.some((line) => line.points.length > 1));
    curves.forEach((panel, index) => {
      const name = `${stage} ${panel.name}`;
      const plot = this.plots.get(name);
      if (plot) return plot.update(panel);
      const made = new Plot(panel);
      this.plots.set(name, made);
      (index < FIRST ? parts.first : parts.others).append(made.element);
    });
    parts.more.hidden = curves.length <= FIRST;
    parts.more.firstChild.textContent = `${curves.length - FIRST} more plots`;
    const single = panels.filter((panel) => !curves.includes(panel));
    parts.facts.hidden = !single.length;
    parts.facts.replaceChildren(...single.flatMap(({ name, lines }) => [h("dt", {}, name), h("dd", { class: "number" }, factOf(lines))]));
    return parts.section;
  }

  /** The section of a stage: its first plots, the others in a part to open, and numbers measured once. */
  #parts(stage) {
    const key = `stage ${stage}`;
    if (this.pictures.has(key)) return this.pictures.get(key);
    const [first, others, facts] = [h("div", { class: "plots" }), h("div", { class: "plots" }), h("dl", { class: "facts" })];
    const more = h("details", { class: "more-plots" }, h("summary", {}), others);
    const section = h("section", { class: "stage-plots" }, h("h3", {}, titleOf(stage)), first, facts, more);
    const parts = { section, first, others, facts, more };
    this.pictures.set(key, parts);
    return parts;
  }

  /** Pictures from on the way, the latest large, with a slider through all. */
  #strip(name, previews) {
    if (!previews.length) return null;
    const kept = this.pictures.get("strip");
    if (kept) {
      kept.update(previews);
      return kept.element;
    }
    const slider = h("input", { type: "range", min: 0, max: previews.length - 1, step: 1, "aria-label": "Preview" });
    const image = h("img", { alt: "", class: "preview" });
    image.addEventListener("load", () => image.classList.toggle("pixels", image.naturalWidth < 400)); // captions stay smooth
    const words = h("p", { class: "soft small number", "aria-live": "polite" });
    const strip = { all: previews, follows: true };
    const show = async (index) => {
      const preview = strip.all[index];
      const step = preview.step === undefined || preview.step === null ? "" : `step ${preview.step}`;
      const text = [preview.kind, step].filter(Boolean).join(", ");
      words.textContent = text;
      image.alt = `Picture of the run: ${text}`;
      preview.address ??= await pictured(`/v1/runs/${encodeURIComponent(name)}/previews/${preview.n ?? index}`).catch(() => "");
      if (strip.all[slider.value]?.address) image.src = strip.all[slider.value].address;
    };
    slider.addEventListener("input", () => {
      strip.follows = Number(slider.value) === strip.all.length - 1;
      show(Number(slider.value));
    });
    strip.update = (next) => {
      if (next.length === strip.all.length) return;
      const kept = new Map(strip.all.map((each) => [each.name ?? each.n, each.address]));
      strip.all = next.map((each) => ({ ...each, address: kept.get(each.name ?? each.n) }));
      slider.hidden = false;
      slider.max = next.length - 1;
      if (strip.follows) slider.value = next.length - 1;
      show(Number(slider.value));
    };
    slider.value = previews.length - 1;
    slider.hidden = previews.length === 1;
    show(previews.length - 1);
    strip.element = h("section", { class: "stage-plots" }, h("h3", {}, "Pictures of the run"), h("div", { class: "preview-strip" }, image, slider, words));
    this.pictures.set("strip", strip);
    return strip.element;
  }
}
