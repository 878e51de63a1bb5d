/* A modal dialog on the browser's own element: focus stays inside, Escape closes, focus returns. */
import { button, h, id } from "./elements.js";

/** Open a dialog with a title; returns {element, body, close}. `onclose` is told when it is gone. */
export function dialog(title, { wide = false, onclose } = {}) {
  const name = id("dialog");
  const body = h("div", { class: "dialog-body" });
  const close = () => element.close();
  const element = h(
    "dialog",
    { class: wide ? "dialog wide" : "dialog", "aria-labelledby": name },
    h("header", { class: "dialog-head" }, h("h2", { id: name }, title), button("Close", { class: "plain", onclick: close }, { icon: "close", quiet: true })),
    body,
  );
  element.addEventListener("click", (event) => event.target === element && close());
  element.addEventListener("close", () => {
    element.remove();
    onclose?.();
  });
  document.body.append(element);
  element.showModal();
  return { element, body, close, title: element.querySelector("h2") };
}
