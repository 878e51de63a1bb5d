/* Elements made in one call: h("button", {class: "button", onclick}, "text", child, [children]). */
const SVG = "http://www.w3.org/2000/svg";
const PROPERTIES = new Set(["value", "checked", "disabled", "hidden", "indeterminate", "open"]);

function fill(element, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") for (const [key, text] of Object.entries(value)) element.style.setProperty(key, text);
    else if (PROPERTIES.has(name) && name in element) element[name] = value;
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false) element.setAttribute(name, value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== undefined && child !== null && child !== false));
  return element;
}

export const h = (tag, properties = {}, ...children) => fill(document.createElement(tag), properties, children);
export const s = (tag, properties = {}, ...children) => fill(document.createElementNS(SVG, tag), properties, children);

let count = 0;
/** An id of its own, for labels and descriptions. */
export const id = (stem) => `${stem}-${++count}`;

const SHAPES = {
  download: "M12 4v11m0 0 4.5-4.5M12 15l-4.5-4.5M5 19h14",
  dice: "M5 5h14v14H5zM9 9h.01M15 9h.01M12 12h.01M9 15h.01M15 15h.01",
  close: "M6 6l12 12M18 6 6 18",
  trash: "M5 7h14M10 7V5h4v2m-7 0 1 12h8l1-12",
  undo: "M9 7 5 11l4 4M5 11h9a5 5 0 0 1 0 10h-3",
  redo: "M15 7l4 4-4 4m4-4h-9a5 5 0 0 0 0 10h3",
  brush: "M14 6l4 4-8 8H6v-4zM12 8l4 4",
  eraser: "M8 19h11M5 15l8-9 6 5-7 8H8z",
  bucket: "M4 12l7-7 7 7-7 7zM11 5 9 3m11 12c1 1.6 1.5 2.4 1.5 3.2a1.5 1.5 0 0 1-3 0c0-.8.5-1.6 1.5-3.2",
  square: "M5 6h14v12H5z",
  upload: "M12 16V5m0 0L7.5 9.5M12 5l4.5 4.5M5 19h14",
  plus: "M12 5v14M5 12h14",
  minus: "M5 12h14",
  sun: "M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8zM12 2v2m0 16v2M2 12h2m16 0h2M5 5l1.4 1.4M17.6 17.6 19 19M19 5l-1.4 1.4M6.4 17.6 5 19",
  moon: "M19 14.5A8 8 0 0 1 9.5 5 7.5 7.5 0 1 0 19 14.5z",
  picture: "M4 5h16v14H4zM4 16l5-5 4 4 3-3 4 4M15 9h.01",
  again: "M5 12a7 7 0 0 1 12-5l2 2m0-5v5h-5M19 12a7 7 0 0 1-12 5l-2-2m0 5v-5h5",
  sheet: "M4 4h7v7H4zM13 4h7v7h-7zM4 13h7v7H4zM13 13h7v7h-7z",
  sides: "M4 5h16v14H4zM12 5v14",
  left: "M15 5l-7 7 7 7",
  right: "M9 5l7 7-7 7",
};

/** A drawn sign of 24 units; it says nothing to a screen reader, its button has the words. */
export const sign = (name) =>
  s(
    "svg",
    { viewBox: "0 0 24 24", fill: "none", stroke: "currentColor", "stroke-width": "1.8", "stroke-linecap": "round", "stroke-linejoin": "round", "aria-hidden": "true" },
    s("path", { d: SHAPES[name] }),
  );

/** A button with a sign and words; `quiet` shows the sign alone and keeps the words for its name and its hint. */
export function button(words, properties = {}, { icon = "", quiet = false } = {}) {
  const { class: extra = "", ...rest } = properties;
  const names = quiet ? { "aria-label": words, title: words } : {};
  const looks = ["button", quiet ? "icon" : "", extra].filter(Boolean).join(" ");
  return h("button", { type: "button", class: looks, ...names, ...rest }, icon && sign(icon), !quiet && h("span", {}, words));
}

/** Say something to screen readers alone. */
export function say(text) {
  const status = document.getElementById("status");
  if (status && status.textContent !== text) status.textContent = text;
}

/** Say something to everyone, for some seconds. */
export function toast(text, seconds = 5) {
  const place = document.getElementById("toasts");
  const element = h("div", { class: "toast" }, text);
  place.append(element);
  setTimeout(() => element.remove(), seconds * 1000);
}

/** A file's name and bytes as a download. */
export function download(name, blob) {
  const url = URL.createObjectURL(blob);
  const link = h("a", { href: url, download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

/** Ask for a file; resolves with an array of files, empty if none was chosen. */
export function choose(accept, multiple = false) {
  return new Promise((resolve) => {
    const input = h("input", { type: "file", accept, multiple });
    input.addEventListener("change", () => resolve([...input.files]));
    input.addEventListener("cancel", () => resolve([]));
    input.click();
  });
}
