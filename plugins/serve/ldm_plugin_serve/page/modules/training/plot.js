/* A line plot in SVG: grid, lines, a reading under the pointer or the arrow keys, and a zoom by dragging. */
import { h, id, s } from "../frame/elements.js";

const HEIGHT = 240;
const [LEFT, RIGHT, TOP, BOTTOM] = [56, 12, 12, 26];

/** A number in three digits. */
export const number = (value) => {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e5 || size < 1e-4) return value.toExponential(1).replace("e+", "e").replace(".0e", "e");
  return String(Number(value.toPrecision(3)));
};
const steps = (value) => (value >= 10_000 ? `${Number((value / 1000).toPrecision(4))}k` : String(Math.round(value)));

/** Round numbers between two bounds. */
export function ticks(low, high, count = 5) {
  const rough = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough) ?? power;
  const first = Math.ceil(low / step) * step;
  return Array.from({ length: Math.max(0, Math.floor((high - first) / step + 1e-9) + 1) }, (_, i) => first + i * step);
}

function logTicks(low, high) {
  const found = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++) {
    for (const n of [1, 2, 5]) if (n * 10 ** power >= low && n * 10 ** power <= high) found.push(n * 10 ** power);
  }
  return found.length > 1 ? found.slice(0, 12) : ticks(low, high, 4);
}

/** An exponential mean of the values; 0 leaves them as they are. */
export function smoothed(points, share) {
  if (!share) return points;
  let mean = points[0]?.[1] ?? 0;
  return points.map(([x, y]) => [x, (mean = share * mean + (1 - share) * y)]);
}

export class Plot {
  /** `panel` is {name, log, lines: [{label, points: [[step, value], ...]}]}. */
  constructor(panel) {
    this.span = null; // of steps, if the reader zoomed
    this.share = 0;
    this.log = Boolean(panel.log);
    this.at = null;
    const keys = id("plot");
    this.svg = s("svg", { class: "plot", height: HEIGHT, tabindex: "0", role: "application", "aria-roledescription": "line plot", "aria-describedby": keys });
    this.reading = h("p", { class: "plot-reading number", id: keys, "aria-live": "polite" });
    this.legend = h("ul", { class: "plot-legend" });
    this.element = h("figure", { class: "plot-card" }, h("figcaption", { class: "row spread" }, h("h4", {}, panel.name), this.legend), this.svg, this.reading);
    this.width = 480;
    this.#listen();
    this.update(panel);
    new ResizeObserver(([entry]) => {
      if (!entry.contentRect.width || entry.contentRect.width === this.width) return;
      this.width = entry.contentRect.width;
      this.draw();
    }).observe(this.svg);
  }

  update(panel) {
    this.panel = panel;
    this.svg.setAttribute("aria-label", `${panel.name} over steps`);
    this.draw();
  }

  #bounds(lines) {
    const points = lines.flatMap((line) => line.points);
    const xs = points.map(([x]) => x);
    const [least, most] = [Math.min(...xs), Math.max(...xs)];
    const [low, high] = this.span ?? [least > 0 && least < most * 0.05 ? 0 : least, most]; // most runs begin at step 1
    const ys = points.filter(([x]) => x >= low && x <= high).map(([, y]) => y);
    let [bottom, top] = [Math.min(...ys), Math.max(...ys)];
    if (this.log) return { low, high, bottom: bottom / 1.08, top: top * 1.08 };
    const margin = (top - bottom || Math.abs(top) || 1) * 0.06;
    if (bottom >= 0 && bottom - margin < 0) return { low, high, bottom: 0, top: top + margin };
    return { low, high, bottom: bottom - margin, top: top + margin };
  }

  draw() {
    const usable = ([x, y]) => Number.isFinite(x) && Number.isFinite(y) && (!this.log || y > 0);
    this.lines = this.panel.lines.map((line) => ({ ...line, points: smoothed(line.points.filter(usable), this.share) })).filter((line) => line.points.length);
    if (!this.lines.length) return this.svg.replaceChildren();
    this.svg.setAttribute("viewBox", `0 0 ${this.width} ${HEIGHT}`);
    const bounds = this.#bounds(this.lines);
    const curve = this.log ? Math.log10 : (value) => value;
    const across = bounds.high - bounds.low || 1;
    const [floor, up] = [curve(bounds.bottom), curve(bounds.top) - curve(bounds.bottom) || 1];
    this.x = (step) => LEFT + ((step - bounds.low) / across) * (this.width - LEFT - RIGHT);
    this.y = (value) => HEIGHT - BOTTOM - ((curve(value) - floor) / up) * (HEIGHT - TOP - BOTTOM);
    this.step = (x) => bounds.low + ((x - LEFT) / (this.width - LEFT - RIGHT)) * across;
    this.bounds = bounds;
    const rows = (this.log ? logTicks(bounds.bottom, bounds.top) : ticks(bounds.bottom, bounds.top, 4)).map((value) => [
      s("line", { class: "plot-grid", x1: LEFT, x2: this.width - RIGHT, y1: this.y(value), y2: this.y(value) }),
      s("text", { class: "plot-tick", x: LEFT - 8, y: this.y(value) + 4, "text-anchor": "end" }, number(value)),
    ]);
    const columns = ticks(bounds.low, bounds.high, 5).map((step) => s("text", { class: "plot-tick", x: this.x(step), y: HEIGHT - 6, "text-anchor": "middle" }, steps(step)));
    const clip = id("clip");
    const frame = s("clipPath", { id: clip }, s("rect", { x: LEFT - 4, y: TOP - 6, width: this.width - LEFT - RIGHT + 8, height: HEIGHT - TOP - BOTTOM + 12 }));
    const path = (points) => points.map(([a, b], i) => `${i ? "L" : "M"}${this.x(a).toFixed(1)} ${this.y(b).toFixed(1)}`).join("");
    const drawn = this.lines.map((line, i) => {
      const dots = line.points.length < 30 ? line.points.map(([a, b]) => s("circle", { class: `plot-dot line-${i % 6}`, cx: this.x(a), cy: this.y(b), r: 2.5 })) : [];
      return [s("path", { class: `plot-line line-${i % 6}`, d: path(line.points) }), dots];
    });
    this.marks = s("g", { class: "plot-marks" });
    this.zoomed = s("rect", { class: "plot-zoom", y: TOP, height: HEIGHT - TOP - BOTTOM, visibility: "hidden" });
    this.svg.replaceChildren(frame, ...rows.flat(), ...columns, s("g", { "clip-path": `url(#${clip})` }, drawn), this.zoomed, this.marks);
    this.legend.replaceChildren(...(this.lines.length > 1 ? this.lines.map((line, i) => h("li", {}, h("span", { class: `plot-key line-${i % 6}` }), line.label)) : []));
    this.read(this.at);
  }

  /** Show the values at a step; null shows the last ones. */
  read(step) {
    this.at = step;
    const near = (points) => points.reduce((best, point) => (Math.abs(point[0] - step) < Math.abs(best[0] - step) ? point : best));
    const found = this.lines.map((line) => [line, step === null ? line.points.at(-1) : near(line.points)]);
    const many = this.lines.length > 1;
    const words = found.map(([line, point]) => `${many ? `${line.label} ` : ""}${number(point[1])}`).join(" · ");
    const at = step === null ? Math.max(...found.map(([, point]) => point[0])) : found[0][1][0];
    this.reading.replaceChildren(h("span", { class: "soft plot-step" }, `step ${Math.round(at)}`), words);
    this.marks.replaceChildren();
    if (step === null) return;
    const x = this.x(at);
    this.marks.append(s("line", { class: "plot-cross", x1: x, x2: x, y1: TOP, y2: HEIGHT - BOTTOM }));
    found.forEach(([, point], i) => this.marks.append(s("circle", { class: `plot-dot line-${i % 6}`, cx: this.x(point[0]), cy: this.y(point[1]), r: 4 })));
  }

  zoom(span) {
    this.span = span;
    this.draw();
  }

  #listen() {
    const at = (event) => {
      const place = this.svg.getBoundingClientRect();
      return Math.max(LEFT, Math.min(this.width - RIGHT, ((event.clientX - place.left) / place.width) * this.width));
    };
    let from = null;
    this.svg.addEventListener("pointerdown", (event) => {
      if (event.pointerType !== "mouse") this.step && this.read(this.step(at(event))); // a tap moves nothing
      else if (!event.button) from = at(event);
    });
    this.svg.addEventListener("pointermove", (event) => {
      if (!this.step) return;
      this.read(this.step(at(event)));
      if (from === null) return;
      this.zoomed.setAttribute("x", Math.min(from, at(event)));
      this.zoomed.setAttribute("width", Math.abs(at(event) - from));
      this.zoomed.setAttribute("visibility", "visible");
    });
    this.svg.addEventListener("pointerup", (event) => {
      const [a, b] = [from, at(event)];
      from = null;
      this.zoomed?.setAttribute("visibility", "hidden");
      if (a !== null && Math.abs(a - b) > 10) this.zoom([this.step(Math.min(a, b)), this.step(Math.max(a, b))]);
    });
    this.svg.addEventListener("pointerleave", (event) => {
      from = null;
      if (event.pointerType === "mouse" && this.lines.length) this.read(null); // a finger leaves when it lifts
    });
    this.svg.addEventListener("dblclick", () => this.zoom(null));
    this.svg.addEventListener("keydown", (event) => this.#key(event));
  }

  #key(event) {
    const { low, high } = this.bounds ?? {};
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (low === undefined) return;
    if (by) this.read(Math.max(low, Math.min(high, (this.at ?? high) + (by * (high - low)) / 50)));
    else if (event.key === "Home" || event.key === "End") this.read(event.key === "Home" ? low : high);
    else if (event.key === "+" || event.key === "-") {
      const middle = this.at ?? (low + high) / 2;
      const half = ((high - low) / 2) * (event.key === "+" ? 0.5 : 2);
      this.zoom([middle - half, middle + half]);
    } else if (event.key === "Escape" && this.span) this.zoom(null);
    else return;
    event.preventDefault();
  }
}
