/* The page that makes pictures: which model, which view, and what the parts tell each other. */
import { button, h, say, toast } from "./frame/elements.js";
import { theme } from "./frame/theme.js";
import { Form } from "./fields/form.js";
import { Fault, get, read } from "./server/client.js";
import { Watch } from "./server/watch.js";
import { History } from "./results/history.js";
import { Picks } from "./results/picks.js";
import { Stage } from "./results/stage.js";
import { Store } from "./results/store.js";
import { recordOf, resume, send } from "./results/work.js";
import { Training } from "./training/view.js";

const place = (name) => document.getElementById(name);
const VIEWS = ["create", "history", "training"];
const MODEL_KEY = "ldm-model";

class App {
  constructor() {
    this.models = [];
    this.limits = {};
    this.forms = new Map(); // a model's form keeps what was written while another is used
    this.old = new Set(); // models whose form is of weights that others have replaced
    this.watch = new Watch((found, begun, changed) => this.#found(found, begun, changed));
    this.store = new Store();
    this.select = place("model");
    this.panel = place("form");
    theme(place("theme"));
  }

  async open() {
    await this.store.open();
    this.acts = {
      restore: (record, image) => this.restore({ ...record.request, settings: { ...record.request.settings, ...(image ? { seed: image.seed } : {}) } }),
      again: (record) => this.again(record),
      begin: (image) => this.begin(image.blob),
    };
    this.picks = new Picks(this.store, place("tray"));
    this.stage = new Stage(place("stage"), this);
    this.history = new History(place("history"), { store: this.store, acts: this.acts, picks: this.picks, onfile: (file) => this.readFile(file) });
    this.training = new Training(place("training"), { onend: () => this.watch.look() });
    this.#listen();
    await this.load();
    this.stage.open();
    resume(this.store);
    this.#route();
  }

  /** Ask for the models, and put them into the list. */
  async load() {
    try {
      const { models, limits } = await get("/v1/models");
      Object.assign(this, { models, limits: limits ?? {} });
      place("notice").replaceChildren();
    } catch (error) {
      return this.notice(error, () => this.load());
    }
    this.watch.know(this.models);
    const ready = this.#list();
    const kept = localStorage.getItem(MODEL_KEY);
    const first = ready.find((model) => model.id === kept) ?? ready[0];
    if (first) this.use(first.id);
    else this.panel.replaceChildren(h("p", { class: "panel-body soft" }, "No model is ready yet. ", h("a", { href: "#training" }, "Watch its training"), "; the form comes when it has ended."));
  }

  /** Put the models into the list; returns those that are ready. */
  #list() {
    const ready = this.models.filter((model) => model.ready !== false);
    const words = (model) => (model.ready === false ? `${model.name} (in training)` : model.name);
    this.select.replaceChildren(...this.models.map((model) => h("option", { value: model.id, disabled: model.ready === false }, words(model))));
    this.select.disabled = !ready.length;
    this.select.value = this.form?.model.id ?? this.models[0]?.id ?? "";
    this.training.show(this.models);
    return ready;
  }

  /** Models were trained meanwhile: a new one may be used; the form of a changed one is made anew when asked. */
  #found({ models, limits }, begun, changed) {
    Object.assign(this, { models, limits: limits ?? {} });
    for (const { id } of changed) if (this.forms.has(id)) this.old.add(id);
    this.#list();
    if (!this.form && begun.length) this.use(begun[0].id);
    if (begun.length) toast(`${begun.map((model) => model.name).join(", ")}: trained, and ready to make pictures.`, 8);
    this.#changed();
  }

  /** Say that the model in use has new weights. */
  #changed() {
    const name = this.form?.model.id;
    if (!this.old.has(name)) return place("notice").replaceChildren();
    const reload = button("Reload", { onclick: () => this.reload(name) }, { icon: "again" });
    const words = h("p", {}, h("strong", {}, this.form.model.name), " was trained on. The next pictures are made by its new weights; the form has the settings of the old ones.");
    place("notice").replaceChildren(h("div", { class: "notice news row spread", role: "status" }, words, reload));
  }

  /** The form of the model as it is now, with what was written into the last one. */
  async reload(name) {
    const written = await this.forms.get(name).written();
    this.old.delete(name);
    this.forms.delete(name);
    this.use(name);
    await this.form.restore(written);
    toast("The settings are those of the new weights; what was written stays.");
  }

  notice(error, again) {
    const retry = again && button("Try again", { onclick: again });
    place("notice").replaceChildren(h("div", { class: "notice row spread", role: "alert" }, h("p", {}, error instanceof Fault ? error.text : String(error)), retry));
  }

  use(name) {
    const model = this.models.find((each) => each.id === name && each.ready !== false);
    if (!model) return false;
    this.select.value = name;
    localStorage.setItem(MODEL_KEY, name);
    if (!this.forms.has(name)) this.forms.set(name, new Form(model, { limits: this.limits, onsend: () => this.make() }));
    const form = this.forms.get(name);
    if (this.form !== form) {
      if (this.form) {
        this.panel.removeEventListener("submit", this.form.onsubmit);
        this.panel.removeEventListener("keydown", this.form.onkey);
      }
      this.form = form;
      this.panel.addEventListener("submit", form.onsubmit);
      this.panel.addEventListener("keydown", form.onkey);
      this.panel.replaceChildren(form.body, form.foot);
    }
    const texts = model.inputs.filter((input) => ["text", "class", "boxes", "label_map"].includes(input.form) && input.example !== undefined && input.example !== null);
    const can = texts.length > 0 && model.inputs.every((input) => !input.required || texts.includes(input));
    this.stage.welcome(model, can ? () => this.example(texts) : null);
    document.title = `${model.name} · ldm`;
    this.#changed();
    return true;
  }

  async example(inputs) {
    const given = Object.fromEntries(inputs.map((input) => [input.key, input.example]));
    await this.form.restore({ inputs: given });
    await this.make();
  }

  /** Send what the form says. */
  async make() {
    const form = this.form;
    if (!form || form.busy) return;
    form.busy = true;
    try {
      const request = await form.request();
      if (request) this.#send(form, request, form.summary());
    } finally {
      form.busy = false;
    }
  }

  async #send(form, request, summary) {
    const { model } = form;
    const record = recordOf(request, { name: model.name, summary, size: request.settings.size ?? model.size });
    say("Sent.");
    const sent = send(this.store, record);
    if (matchMedia("(max-width: 860px)").matches) place("stage").scrollIntoView({ behavior: "smooth" });
    else scrollTo(0, 0); // the new card stands above those that were scrolled to
    try {
      await sent;
    } catch (error) {
      if (!(error instanceof Fault)) throw error;
      if (this.form === form) form.fault(error.where, error.text.replace(`${error.where}: `, ""));
      else toast(error.text, 10);
    }
  }

  async again(record) {
    if (!this.use(record.request.model)) return toast("That model is not served now.");
    const seed = crypto.getRandomValues(new Uint32Array(1))[0] % 1_000_000;
    this.#send(this.form, { ...record.request, settings: { ...record.request.settings, seed } }, record.summary);
  }

  /** Put a request into the form of its model. */
  async restore(request, note = "The settings are back in the form.") {
    location.hash = "create";
    if (request.model && !this.use(request.model)) toast(`The model ${request.model} is not served now; its settings go to this one.`, 8);
    await this.form.restore(request);
    this.panel.scrollIntoView({ block: "nearest" });
    this.panel.scrollTop = 0;
    toast(note);
  }

  async begin(blob) {
    const editor = this.form.pictureEditor;
    if (!editor) return toast("This model takes no picture.");
    location.hash = "create";
    await editor.take(blob);
    editor.field.focus();
  }

  /** A dropped or pasted file: one of ours brings its settings back; any other picture goes to the form. */
  async readFile(file) {
    if (!file) return;
    try {
      const found = await read(file);
      const left = (this.models.find((model) => model.id === found.model)?.inputs ?? []).filter((input) => input.required && found.inputs?.[input.key] === undefined);
      const note = found.note ?? (left.length ? `The settings are back; the file does not hold ${left.map((input) => input.key).join(", ")}.` : undefined);
      await this.restore(found, note);
    } catch (error) {
      if (!(error instanceof Fault)) throw error;
      if (file.type.startsWith("image/") && this.form?.pictureEditor) return this.begin(file);
      toast(`${file.name}: ${error.text}`, 8);
    }
  }

  #route() {
    const view = VIEWS.includes(location.hash.slice(1)) ? location.hash.slice(1) : "create";
    for (const name of VIEWS) place(name).hidden = name !== view;
    for (const link of document.querySelectorAll("[data-view]")) {
      if (link.dataset.view === view) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
    if (view === "history") this.history.draw();
    this.training.run(view === "training", this.form?.model.id);
    scrollTo(0, 0);
  }

  #listen() {
    addEventListener("hashchange", () => this.#route());
    this.select.addEventListener("change", () => this.use(this.select.value));
    const files = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
    addEventListener("dragover", (event) => files(event) && event.preventDefault());
    addEventListener("drop", (event) => {
      if (!files(event)) return;
      event.preventDefault();
      this.readFile(event.dataTransfer.files[0]);
    });
    addEventListener("paste", (event) => {
      const file = [...(event.clipboardData?.files ?? [])].find((each) => each.type.startsWith("image/"));
      const editor = file && this.form?.pictureEditor;
      if (!editor) return;
      event.preventDefault();
      editor.take(file);
    });
  }
}

new App().open();
