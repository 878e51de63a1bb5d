/* One of a model's classes: radio buttons with names and colours, to be searched where they are many. */
import { css } from "../raster/colours.js";
import { h, id } from "../frame/elements.js";

const MANY = 12;

/** `onchoose(index)` is told; `swatches` are RGB triples, or none. */
export function palette(names, { label, swatches, onchoose, chosen = null }) {
  const group = id("palette");
  const count = id("count");
  const inputs = [];
  const items = names.map((name, index) => {
    const input = h("input", { type: "radio", class: "unseen", name: group, value: index, checked: index === chosen });
    input.addEventListener("change", () => onchoose(index));
    inputs.push(input);
    const swatch = swatches && h("span", { class: "swatch", style: { background: css(swatches[index]) } });
    return h("label", { class: "choice" }, input, swatch, h("span", {}, String(name)));
  });
  const list = h("div", { class: names.length > MANY ? "choices long" : "choices" }, items);
  const search = h("input", { class: "control search", type: "search", placeholder: `search ${names.length} classes`, "aria-label": `Search: ${label}`, "aria-describedby": count });
  const found = h("p", { id: count, class: "unseen", "aria-live": "polite" });
  search.addEventListener("input", () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    items.forEach((item, index) => {
      const fits = words.every((word) => String(names[index]).toLowerCase().includes(word) || String(index) === word);
      item.hidden = !fits;
      shown += fits;
    });
    found.textContent = `${shown} of ${names.length}`;
  });
  search.addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return;
    event.preventDefault(); // the first that fits, without leaving the keyboard
    const first = items.findIndex((item) => !item.hidden);
    if (first >= 0) inputs[first].click();
  });
  const element = h("fieldset", { class: "palette" }, h("legend", { class: "unseen" }, label), names.length > MANY && [search, found], list);
  const choose = (index) => {
    inputs.forEach((input, i) => (input.checked = i === index));
    const item = items[index];
    if (item && list.scrollHeight > list.clientHeight) list.scrollTop = item.offsetTop - list.offsetTop - list.clientHeight / 2;
  };
  return { element, choose, inputs };
}
