/* A class, chosen from its names. */
import { Field, Mistake, title } from "./field.js";
import { h } from "../frame/elements.js";
import { palette } from "./palette.js";

export function choice(input, { onchange }) {
  const names = input.classes ?? [];
  const label = /class/.test(input.key) ? "Class" : title(input.name ?? input.key);
  let chosen = null;
  const field = new Field({ key: `inputs.${input.key}`, label, help: names.length ? "" : input.help, required: input.required, group: names.length > 0 });
  const number = !names.length && h("input", { class: "control", type: "number", min: 0, step: 1, ...field.ties, oninput: onchange });
  const list =
    names.length > 0 &&
    palette(names, {
      label,
      onchoose: (index) => {
        chosen = index;
        field.fault("");
        onchange();
      },
    });
  field.place.append(number || list.element);
  return {
    field,
    value: () => {
      if (!number) return chosen ?? undefined;
      if (number.value === "") return undefined;
      if (!Number.isInteger(Number(number.value))) throw new Mistake("a class is a whole number");
      return Number(number.value);
    },
    set: (value) => {
      const first = Array.isArray(value) ? value[0] : value;
      if (number) return void (number.value = first ?? "");
      chosen = first === undefined || first === null ? null : names.indexOf(first) >= 0 ? names.indexOf(first) : Number(first);
      if (chosen !== null && !(chosen in names)) chosen = null;
      list.choose(chosen);
    },
    summary: () => (number ? number.value : chosen === null ? "" : String(names[chosen])),
  };
}
