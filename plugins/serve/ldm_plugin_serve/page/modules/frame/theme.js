/* Light or dark: the system's wish until the reader chooses, then the reader's, kept in the browser. */
import { button, sign } from "./elements.js";

const KEY = "ldm-theme";
const dark = matchMedia("(prefers-color-scheme: dark)");

function kept() {
  try {
    return localStorage.getItem(KEY);
  } catch {
    return null; // a browser that keeps nothing
  }
}

function keep(theme) {
  try {
    localStorage.setItem(KEY, theme);
  } catch {
    /* the choice holds until the page is closed */
  }
}

const current = () => document.documentElement.dataset.theme;

/** Put the switch into `place` and the theme onto the page. */
export function theme(place) {
  const control = button("", { class: "plain" }, { icon: "moon", quiet: true });
  const show = (name) => {
    document.documentElement.dataset.theme = name;
    const words = name === "dark" ? "Light colours" : "Dark colours";
    control.replaceChildren(sign(name === "dark" ? "sun" : "moon"));
    control.setAttribute("aria-label", words);
    control.title = words;
    document.dispatchEvent(new CustomEvent("theme"));
  };
  control.addEventListener("click", () => {
    const name = current() === "dark" ? "light" : "dark";
    keep(name);
    show(name);
  });
  dark.addEventListener("change", () => kept() || show(dark.matches ? "dark" : "light"));
  show(kept() ?? (dark.matches ? "dark" : "light"));
  place.append(control);
}
