/* The tool bar of a painter: tools, brush size, undo, redo, clear, and what a painter adds. */
import { button, h, id } from "../frame/elements.js";

const TOOLS = { brush: ["Brush", "brush"], erase: ["Eraser", "eraser"], rectangle: ["Rectangle", "square"], fill: ["Fill", "bucket"] };

/** `tools` are names of TOOLS; `ontool(name)` is told; returns {element, size(n), refresh()}. */
export function toolbar(surface, { tools, ontool, onclear, extra = [] }) {
  const buttons = tools.map((name) => {
    const [words, icon] = TOOLS[name];
    return button(words, { "aria-pressed": "false", "data-tool": name, onclick: () => use(name) }, { icon, quiet: true });
  });
  function use(name) {
    surface.tool = name === "erase" ? "brush" : name;
    for (const each of buttons) each.setAttribute("aria-pressed", String(each.dataset.tool === name));
    ontool(name);
  }
  const label = id("brush");
  const most = Math.max(2, Math.round(Math.min(surface.raster.width, surface.raster.height) / 2));
  const shown = h("output", { class: "number small soft", for: label }, String(surface.size));
  const slider = h("input", { id: label, type: "range", min: 1, max: most, value: surface.size });
  slider.addEventListener("input", () => {
    surface.size = Number(slider.value);
    shown.textContent = slider.value;
  });
  surface.onsize = (size) => {
    surface.size = Math.min(most, size);
    slider.value = surface.size;
    shown.textContent = String(surface.size);
  };
  const undo = button("Undo", { class: "plain", onclick: () => surface.undo() }, { icon: "undo", quiet: true });
  const redo = button("Redo", { class: "plain", onclick: () => surface.redo() }, { icon: "redo", quiet: true });
  const clear = button("Clear", { class: "plain", onclick: onclear }, { icon: "trash", quiet: true });
  const element = h(
    "div",
    { class: "tools" },
    h("div", { class: "row", role: "group", "aria-label": "Tools" }, buttons),
    h("div", { class: "brush-size" }, h("label", { for: label, class: "small soft" }, "Size"), slider, shown),
    h("div", { class: "row tight" }, undo, redo, clear, extra),
  );
  const refresh = () => {
    undo.disabled = !surface.raster.past.length;
    redo.disabled = !surface.raster.future.length;
  };
  use(tools[0]);
  refresh();
  return { element, refresh };
}
