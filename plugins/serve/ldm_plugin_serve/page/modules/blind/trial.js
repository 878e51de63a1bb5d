/* One pair after the other: two pictures, a question, an answer by key or button. */
import { button, h, say } from "../frame/elements.js";
import { Fault } from "../server/client.js";
import { pixelated } from "../results/words.js";

const KEYS = { ArrowLeft: "left", ArrowRight: "right", ArrowDown: "tie", 1: "left", 2: "right", 0: "tie" };

export class Trial {
  constructor(study, { onend }) {
    Object.assign(this, { study, onend });
    this.images = ["Left picture", "Right picture"].map((alt) => h("img", { alt }));
    this.choices = {
      left: h("button", { type: "button", class: "button answer", onclick: () => this.answer("left") }, h("kbd", {}, "←"), " Left"),
      tie: h("button", { type: "button", class: "button answer", onclick: () => this.answer("tie") }, h("kbd", {}, "↓"), " No difference"),
      right: h("button", { type: "button", class: "button answer", onclick: () => this.answer("right") }, "Right ", h("kbd", {}, "→")),
    };
    this.bar = h("progress", { max: study.plan.length, "aria-label": "Answered pairs" });
    this.count = h("p", { class: "soft small number" });
    this.words = h("p", { class: "trial-words" });
    this.given = h("div", { class: "trial-given" });
    this.back = button("Undo", { class: "plain", onclick: () => this.undo() }, { icon: "undo" });
    this.wrong = h("div", {});
    const stop = button("Stop here", { class: "plain", onclick: () => this.leave() });
    this.element = h(
      "section",
      { class: "trial", "aria-label": "Pairs" },
      h("header", { class: "trial-head" }, h("div", { class: "row spread" }, this.count, h("div", { class: "row tight" }, this.back, stop)), this.bar),
      h("div", { class: "trial-question" }, h("h2", {}, study.question), this.words, this.given),
      this.wrong,
      h("div", { class: "trial-pictures" }, this.images.map((image) => h("div", { class: "trial-picture" }, image))),
      h("div", { class: "trial-answers", role: "group", "aria-label": "Answer" }, Object.values(this.choices)),
    );
    this.onkey = (event) => {
      const choice = KEYS[event.key];
      if (event.target.matches?.("input, textarea, select") || event.ctrlKey || event.metaKey || event.altKey) return;
      if (choice && this.ready) {
        event.preventDefault();
        this.answer(choice);
      } else if (event.key === "Backspace") this.undo();
    };
    addEventListener("keydown", this.onkey);
    this.show();
  }

  async show() {
    const { study } = this;
    const index = study.index;
    this.ready = false;
    for (const each of Object.values(this.choices)) each.disabled = true;
    this.back.disabled = !index;
    this.bar.value = index;
    this.count.textContent = `Pair ${index + 1} of ${study.plan.length}`;
    this.words.textContent = study.plan[index].words;
    this.given.replaceChildren(...(study.plan[index].shown ?? []).map((src) => h("img", { src, alt: "The input" })));
    this.element.classList.add("loading");
    this.wrong.replaceChildren();
    try {
      const blobs = await study.pictures(index);
      if (index !== study.index) return;
      await Promise.all(blobs.map((blob, side) => this.#picture(this.images[side], blob)));
    } catch (error) {
      return this.#fault(error);
    }
    this.words.textContent = study.plan[index].words; // known with the pictures, if they come from the runs
    this.element.classList.remove("loading");
    for (const each of Object.values(this.choices)) each.disabled = false;
    this.ready = true;
    this.since = performance.now();
    say(`Pair ${index + 1} of ${study.plan.length} is shown.`);
  }

  async #picture(image, blob) {
    if (image.src) URL.revokeObjectURL(image.src);
    image.src = URL.createObjectURL(blob);
    await image.decode().catch(() => {});
    image.classList.toggle("pixels", pixelated([image.naturalHeight, image.naturalWidth]));
  }

  async answer(choice) {
    if (!this.ready) return;
    this.ready = false;
    try {
      await this.study.answer(choice, (performance.now() - this.since) / 1000);
    } catch (error) {
      this.study.undo();
      return this.#fault(error);
    }
    if (this.study.done) this.leave();
    else this.show();
  }

  #fault(error) {
    const words = error instanceof Fault ? error.text : String(error);
    this.wrong.replaceChildren(h("div", { class: "notice row spread", role: "alert" }, h("p", {}, words), button("Try again", { onclick: () => this.show() })));
  }

  undo() {
    if (!this.study.index) return;
    this.study.undo();
    this.show();
  }

  leave() {
    removeEventListener("keydown", this.onkey);
    this.onend(this.study);
  }
}
