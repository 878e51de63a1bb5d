/* A text: a prompt, with what to avoid below it where the model can; and JSON for a key that nobody knows. */
import { h } from "../frame/elements.js";
import { Field, Mistake, title } from "./field.js";

const GROWS = CSS.supports("field-sizing", "content");

function area(field, { rows, value = "", placeholder = "", onchange, mono = false }) {
  const element = h("textarea", { class: mono ? "control mono" : "control", rows, placeholder, spellcheck: mono ? "false" : "true", ...field.ties });
  const fit = () => {
    if (GROWS) return;
    element.style.setProperty("height", "auto");
    element.style.setProperty("height", `${element.scrollHeight + 2}px`);
  };
  element.value = value;
  element.addEventListener("input", () => {
    field.fault("");
    fit();
    onchange();
  });
  return { element, fit };
}

const typing = (element, fit) => (letters) => {
  element.value = letters;
  fit();
};

/** A prompt. */
export function text(input, { onchange }) {
  const label = input.key === "caption" ? "Prompt" : title(input.name ?? input.key);
  const field = new Field({ key: `inputs.${input.key}`, label, help: input.help, required: input.required });
  const example = typeof input.example === "string" ? input.example : "";
  const { element, fit } = area(field, { rows: 3, placeholder: example && `for example: ${example}`, onchange });
  field.place.append(element);
  const type = typing(element, fit);
  return {
    field,
    value: () => element.value.trim() || undefined,
    set: (value) => type(["string", "number"].includes(typeof value) ? value : ""),
    typed: () => element.value,
    type,
    summary: () => element.value.trim(),
  };
}

/** A value as JSON, checked as it is written. */
export function json(input, { onchange }) {
  const field = new Field({ key: `inputs.${input.key}`, label: title(input.name ?? input.key), help: input.help, required: input.required });
  const example = input.example === undefined || input.example === null ? "" : JSON.stringify(input.example);
  const { element, fit } = area(field, { rows: 3, mono: true, placeholder: example && `for example: ${example}`, onchange });
  const value = () => {
    if (!element.value.trim()) return undefined;
    try {
      return JSON.parse(element.value);
    } catch (error) {
      throw new Mistake(`this is no JSON: ${error.message}`);
    }
  };
  element.addEventListener("blur", () => {
    try {
      value();
      field.fault("");
    } catch (error) {
      field.fault(error.message);
    }
  });
  field.place.append(element);
  const type = typing(element, fit);
  return {
    field,
    value,
    set: (given) => type(given === undefined ? "" : JSON.stringify(given)),
    typed: () => element.value,
    type,
    summary: () => element.value.trim().slice(0, 60),
  };
}
