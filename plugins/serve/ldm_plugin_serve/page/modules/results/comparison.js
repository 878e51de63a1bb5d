/* Pictures side by side, the settings in which they differ on top; two may be laid over each other. */
import { button, h, id } from "../frame/elements.js";
import { dialog } from "../frame/dialog.js";
import { pixelated, settingsOf, summaryOf, urlOf } from "./words.js";

const shownPicture = ({ record, image }, alt) => h("img", { src: urlOf(image.blob), alt, class: pixelated(record.size) ? "pixels" : "" });

function rowsOf({ record, image }) {
  return new Map([["model", record.name], ["inputs", summaryOf(record)], ...settingsOf(record, image)]);
}

/** Two pictures of one size in one place; the slider moves their border. */
function overlay(picks) {
  const label = id("border");
  const front = shownPicture(picks[0], "The first picture");
  const slider = h("input", { id: label, type: "range", min: 0, max: 100, value: 50 });
  const cut = () => front.style.setProperty("clip-path", `inset(0 ${100 - slider.value}% 0 0)`);
  slider.addEventListener("input", cut);
  cut();
  const back = shownPicture(picks[1], "The second picture, behind the first");
  return h("div", { class: "overlay" }, h("div", { class: "overlay-pictures" }, back, front), h("label", { for: label, class: "small soft" }, "Border between the first and the second"), slider);
}

function columns(picks, tables, differing) {
  return h(
    "div",
    { class: "columns", style: { "--columns": Math.min(picks.length, 4) } },
    picks.map((pick, index) => {
      const rows = differing.map((name) => [h("dt", {}, name), h("dd", { class: "number" }, tables[index].get(name) ?? "–")]);
      const alt = `Picture ${index + 1}: ${summaryOf(pick.record)}, seed ${pick.image.seed}`;
      return h("figure", {}, shownPicture(pick, alt), h("figcaption", {}, h("dl", { class: "facts" }, rows)));
    }),
  );
}

export function comparison(picks) {
  const tables = picks.map(rowsOf);
  const names = [...new Set(tables.flatMap((table) => [...table.keys()]))];
  const differs = (name) => new Set(tables.map((table) => table.get(name))).size > 1;
  const differing = names.filter(differs);
  const same = names.filter((name) => !differs(name)).map((name) => `${name} ${tables[0].get(name)}`);
  const { body } = dialog(`${picks.length} pictures side by side`, { wide: true });
  const sides = columns(picks, tables, differing);
  const equal = same.length > 0 && h("p", { class: "soft small" }, "The same in all: ", same.join(" · "));
  body.append(...[equal, sides].filter(Boolean));
  if (picks.length !== 2) return;
  const over = overlay(picks);
  over.hidden = true;
  const control = button("Lay them over each other", { "aria-pressed": "false" }, { icon: "sides" });
  control.addEventListener("click", () => {
    over.hidden = !over.hidden;
    sides.hidden = !over.hidden;
    control.setAttribute("aria-pressed", String(!over.hidden));
  });
  body.prepend(h("div", { class: "row" }, control));
  body.append(over);
}
