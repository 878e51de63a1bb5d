/* A control with its label, its help and the place where a mistake is answered. */
import { h, id } from "../frame/elements.js";

/** A mistake found in the page, before anything is sent. */
export class Mistake extends Error {}

const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1);

/** The words of a key: "class_label" -> "Class label". */
export const title = (key) => sentence(String(key).replaceAll("_", " "));

export class Field {
  /** `group` is for several controls under one label; then the label names the group and no single control. */
  constructor({ key, label, help = "", required = false, group = false, aside }) {
    this.key = key;
    this.ids = { control: id("control"), help: id("help"), fault: id("fault"), label: id("label") };
    const words = [h("span", {}, label), !required && h("span", { class: "optional" }, "optional")];
    this.label = group ? h("span", { class: "label", id: this.ids.label }, words) : h("label", { class: "label", id: this.ids.label, for: this.ids.control }, words);
    this.place = h("div", { class: "field-control" });
    this.help = h("p", { class: "field-help", id: this.ids.help, hidden: !help }, help);
    this.wrong = h("p", { class: "field-fault", id: this.ids.fault, role: "alert", hidden: true });
    const roles = group ? { role: "group", "aria-labelledby": this.ids.label, "aria-describedby": `${this.ids.help} ${this.ids.fault}` } : {};
    this.element = h(
      "div",
      { class: "field", "data-key": key, ...roles },
      h("div", { class: "row spread" }, this.label, aside),
      this.place,
      this.help,
      this.wrong,
    );
  }

  /** Attributes that tie a control to its label, help and fault. */
  get ties() {
    return { id: this.ids.control, "aria-describedby": `${this.ids.help} ${this.ids.fault}` };
  }

  fault(text) {
    this.wrong.textContent = text ? sentence(text) : "";
    this.wrong.hidden = !text;
    this.element.classList.toggle("faulty", Boolean(text));
    const control = this.element.querySelector(`#${this.ids.control}`);
    if (control) control.setAttribute("aria-invalid", text ? "true" : "false");
  }

  focus() {
    const first = "input:not([type=hidden]):not(:disabled), textarea, select, button, [tabindex]";
    const control = this.element.querySelector(`#${this.ids.control}`) ?? [...this.place.querySelectorAll(first)].find((each) => each.checkVisibility());
    control?.focus({ preventScroll: true });
    this.element.scrollIntoView({ block: "center", behavior: "smooth" });
  }
}
