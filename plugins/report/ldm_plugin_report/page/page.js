"use strict";
// Enhances a page that is readable without it: charts with hover and zoom, large pictures, sliders.
(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const LEFT = 46, RIGHT = 10, TOP = 10, BOTTOM = 22, HEIGHT = 200;
  const charts = JSON.parse(document.getElementById("charts").textContent);
  const zooms = new Map(); // group of charts -> [first step, last step]
  const drawn = [];
  document.documentElement.classList.add("js");

  const make = (name, attributes = {}, ...children) => {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) {
      if (key in made && key !== "list") made[key] = value; else made.setAttribute(key, value);
    }
    made.append(...children);
    return made;
  };
  const shape = (name, attributes, text) => {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    return made;
  };
  const number = (value) => {
    const size = Math.abs(value);
    if (value && (size < 1e-3 || size >= 1e5)) return value.toExponential(2).replace("e+", "e");
    return String(Number(value.toPrecision(4)));
  };
  const steps = (value) => Math.round(value).toLocaleString("en");
  const tick = (value) => {
    const size = Math.abs(value);
    if (value && (size < 1e-4 || size >= 1e5)) return value.toExponential(1).replace(".0e", "e").replace("e+", "e");
    return String(Number(value.toPrecision(4)));
  };
  const count = (value) => value >= 1e6 ? `${Number((value / 1e6).toPrecision(4))}M`
    : value >= 1e4 ? `${Number((value / 1e3).toPrecision(4))}k` : steps(value);

  const ticks = (low, high, most, whole = false) => {
    if (!(high > low)) return [low];
    const raw = Math.max((high - low) / most, whole ? 1 : 0), power = 10 ** Math.floor(Math.log10(raw));
    const step = power * ((whole ? [1, 2, 5, 10] : [1, 2, 2.5, 5, 10]).find((t) => power * t >= raw * 0.999) ?? 10);
    const found = [];
    for (let at = Math.ceil(low / step - 1e-9) * step; at <= high + step * 1e-9 && found.length < 20; at += step) found.push(at + 0);
    return found;
  };
  const logTicks = (low, high) => {
    const first = Math.floor(Math.log10(low)), last = Math.ceil(Math.log10(high));
    const times = last - first > 3 ? [1] : [1, 2, 5], every = Math.max(1, Math.floor((last - first + 1) / 6));
    const found = [];
    for (let power = first; power <= last; power += every) for (const t of times) found.push(t * 10 ** power);
    return found.filter((value) => value >= low && value <= high);
  };
  const smoothed = (points) => { // the mean of a window of a tenth of the points
    const reach = Math.max(1, Math.round(points.length / 20));
    return points.map(([step], i) => {
      const part = points.slice(Math.max(0, i - reach), i + reach + 1);
      return [step, part.reduce((sum, p) => sum + p[1], 0) / part.length];
    });
  };

  class Chart {
    constructor(figure, data) {
      this.figure = figure; this.data = data; this.log = data.log; this.smooth = false;
      this.svg = figure.querySelector("svg");
      this.cross = null; this.drag = null;
      const every = data.lines.flatMap((line) => line.points);
      this.all = [Math.min(...every.map((p) => p[0])), Math.max(...every.map((p) => p[0]))];
      this.positive = every.every((p) => p[1] > 0);
      this.tip = make("div", { className: "tip", hidden: true });
      figure.append(this.tip);
      this.tools();
      this.listen();
      this.draw();
    }

    tools() {
      const button = (text, title, work) => {
        const made = make("button", { type: "button", className: "small", textContent: text, title });
        made.setAttribute("aria-label", title);
        made.addEventListener("click", () => { work(made); });
        return made;
      };
      const bar = make("span", { className: "tools" });
      if (this.positive) {
        const log = button("log", "logarithmic axis", (own) => { this.log = !this.log; own.setAttribute("aria-pressed", this.log); this.draw(); });
        log.setAttribute("aria-pressed", this.log);
        bar.append(log);
      }
      if (this.data.lines.some((line) => line.points.length > 30)) {
        const smooth = button("smooth", "moving mean", (own) => { this.smooth = !this.smooth; own.setAttribute("aria-pressed", this.smooth); this.draw(); });
        smooth.setAttribute("aria-pressed", false);
        bar.append(smooth);
      }
      if (this.all[1] > this.all[0]) {
        bar.append(button("+", "zoom in", () => this.zoom(0.5)), button("−", "zoom out", () => this.zoom(2)));
      }
      this.figure.querySelector(".chart-head").append(bar);
    }

    range() { return zooms.get(this.data.group) ?? this.all; }

    set(range) {
      const [first, last] = range;
      const whole = first <= this.all[0] && last >= this.all[1];
      if (whole) zooms.delete(this.data.group);
      else if (last - first >= 1) zooms.set(this.data.group, [Math.max(first, this.all[0]), Math.min(last, this.all[1])]);
      for (const other of drawn) if (other.data.group === this.data.group) other.draw();
    }

    zoom(times) {
      const [first, last] = this.range();
      const middle = this.cross ?? (first + last) / 2, reach = (last - first) * times / 2;
      this.set([middle - reach, middle + reach]);
    }

    visible(line) {
      const [first, last] = this.range(), points = line.points;
      const from = Math.max(0, points.findIndex((p) => p[0] >= first) - 1);
      const upTo = points.findIndex((p) => p[0] > last);
      return points.slice(from, upTo < 0 ? points.length : upTo + 1);
    }

    draw() {
      const svg = this.svg;
      if (!svg) return;
      const width = Math.max(240, Math.round(this.figure.clientWidth || 380));
      const [first, last] = this.range();
      const shown = this.data.lines.map((line) => ({ ...line, part: this.visible(line) }));
      const inside = shown.flatMap((line) => line.part.filter((p) => p[0] >= first && p[0] <= last).map((p) => p[1]));
      const values = inside.length ? inside : shown.flatMap((line) => line.part.map((p) => p[1]));
      let low = values.reduce((a, b) => Math.min(a, b), Infinity), high = values.reduce((a, b) => Math.max(a, b), -Infinity);
      if (this.log) { const room = Math.max(1.05, (high / low) ** 0.05); low /= room; high *= room; }
      else if (this.data.zero && low >= 0) { low = 0; high = high * 1.08 || 1; }
      else { const room = (high - low) * 0.06 || Math.abs(high) * 0.1 || 1; low -= room; high += room; }
      const put = this.log ? Math.log10 : (value) => value;
      this.x = (step) => LEFT + (last > first ? (step - first) / (last - first) : 0.5) * (width - LEFT - RIGHT);
      this.step = (x) => first + (x - LEFT) / (width - LEFT - RIGHT) * (last - first);
      this.y = (value) => TOP + (put(high) - put(value)) / (put(high) - put(low)) * (HEIGHT - TOP - BOTTOM);
      this.width = width;
      svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
      svg.replaceChildren();
      for (const value of this.log ? logTicks(low, high) : ticks(low, high, 5)) {
        const y = this.y(value).toFixed(1);
        svg.append(shape("line", { x1: LEFT, x2: width - RIGHT, y1: y, y2: y, class: "grid" }));
        svg.append(shape("text", { x: LEFT - 6, y: Number(y) + 3.5, "text-anchor": "end" }, tick(value)));
      }
      for (const value of ticks(first, last, Math.max(2, Math.round(width / 70)), true)) {
        const x = this.x(value);
        svg.append(shape("text", { x: x.toFixed(1), y: HEIGHT - 6, "text-anchor": x > width - 30 ? "end" : x < LEFT + 8 ? "start" : "middle" }, count(value)));
      }
      const id = `clip${drawn.indexOf(this) < 0 ? drawn.length : drawn.indexOf(this)}`;
      const clip = shape("clipPath", { id });
      clip.append(shape("rect", { x: LEFT - 3, y: 0, width: width - LEFT - RIGHT + 6, height: HEIGHT - BOTTOM + 6 }));
      const lines = shape("g", { "clip-path": `url(#${id})` });
      for (const line of shown) this.line(lines, line);
      this.over = shape("g", {});
      svg.append(clip, lines, this.over);
    }

    line(into, line) {
      const path = (points, style) => {
        const d = points.map(([s, v]) => `${this.x(s).toFixed(1)} ${this.y(v).toFixed(1)}`).join("L");
        into.append(shape("path", { d: `M${d}`, class: `line ${line.style} ${style}` }));
      };
      const smooth = this.smooth && line.part.length > 30;
      if (line.part.length > 1) path(line.part, smooth ? "faint" : "");
      if (smooth) path(smoothed(line.part), "");
      if (line.style.includes("held") || line.part.length === 1) {
        for (const [s, v] of line.part.slice(0, 200)) into.append(shape("circle", { cx: this.x(s).toFixed(1), cy: this.y(v).toFixed(1), r: 2.4, class: line.style }));
      }
    }

    place(event) {
      const box = this.svg.getBoundingClientRect();
      return Math.min(this.width - RIGHT, Math.max(LEFT, (event.clientX - box.left) / box.width * this.width));
    }

    listen() {
      const svg = this.svg;
      if (!svg) return;
      svg.addEventListener("pointerdown", (event) => {
        if (event.button === 0 && event.pointerType === "mouse") { this.drag = this.place(event); svg.setPointerCapture(event.pointerId); event.preventDefault(); }
        else this.hover(this.step(this.place(event)), null); // a tap moves nothing
      });
      svg.addEventListener("pointermove", (event) => this.hover(this.step(this.place(event)), this.drag === null ? null : this.place(event)));
      svg.addEventListener("pointerup", (event) => {
        const from = this.drag, to = this.place(event);
        this.drag = null;
        if (from !== null && Math.abs(to - from) > 8) this.set([this.step(Math.min(from, to)), this.step(Math.max(from, to))]);
      });
      svg.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") this.leave(); }); // a finger leaves when it lifts
      document.addEventListener("pointerdown", (event) => { if (!this.figure.contains(event.target)) this.leave(); });
      svg.addEventListener("blur", () => this.leave());
      svg.addEventListener("dblclick", () => this.set(this.all));
      svg.addEventListener("keydown", (event) => {
        const every = this.known(), at = this.cross ?? every[every.length - 1];
        const near = every.reduce((best, s, i) => Math.abs(s - at) < Math.abs(every[best] - at) ? i : best, 0);
        const moves = { ArrowLeft: near - 1, ArrowRight: near + 1, Home: 0, End: every.length - 1 };
        if (event.key in moves) { this.hover(every[Math.min(every.length - 1, Math.max(0, moves[event.key]))], null); event.preventDefault(); }
        else if (event.key === "+" || event.key === "-") this.zoom(event.key === "+" ? 0.5 : 2);
        else if (event.key === "Escape" || event.key === "0") this.set(this.all);
      });
    }

    known() {
      const [first, last] = this.range();
      const every = new Set(this.data.lines.flatMap((line) => line.points.map((p) => p[0])));
      return [...every].filter((s) => s >= first && s <= last).sort((a, b) => a - b);
    }

    leave() { this.cross = null; this.over?.replaceChildren(); this.tip.hidden = true; }

    hover(step, to) {
      const near = this.data.lines.map((line) => {
        const best = line.points.reduce((a, b) => Math.abs(b[0] - step) < Math.abs(a[0] - step) ? b : a);
        return { line, step: best[0], value: best[1] };
      });
      const best = near.reduce((a, b) => Math.abs(b.step - step) < Math.abs(a.step - step) ? b : a);
      this.cross = best.step;
      const x = this.x(best.step);
      this.over.replaceChildren(shape("line", { x1: x, x2: x, y1: TOP, y2: HEIGHT - BOTTOM, class: "cross" }));
      if (to !== null && this.drag !== null) {
        this.over.append(shape("rect", { x: Math.min(to, this.drag), width: Math.abs(to - this.drag), y: TOP, height: HEIGHT - TOP - BOTTOM, class: "band" }));
      }
      this.tip.replaceChildren(make("b", { textContent: `${this.data.axis} ${steps(best.step)}` }), make("br"));
      const reach = (this.range()[1] - this.range()[0]) / 10;
      for (const each of near.filter((n) => Math.abs(n.step - best.step) <= reach).sort((a, b) => b.value - a.value).slice(0, 12)) {
        this.over.append(shape("circle", { cx: this.x(each.step), cy: this.y(each.value), r: 3.2, class: each.line.style }));
        const label = near.length > 1 ? `${each.line.label}: ` : "";
        this.tip.append(make("div", { className: "key" }, make("i", { className: `dot ${each.line.style}` }), `${label}${number(each.value)}`), make("br"));
      }
      this.tip.hidden = false;
      const box = this.svg.getBoundingClientRect(), scale = box.width / this.width, wide = this.tip.offsetWidth;
      const left = x * scale + (x * scale + wide + 16 > box.width ? -wide - 10 : 10);
      this.tip.style.left = `${Math.max(0, left)}px`;
      this.tip.style.top = `${this.svg.offsetTop + 6}px`;
    }
  }

  for (const figure of document.querySelectorAll("figure[data-chart]")) {
    if (figure.querySelector("svg")) drawn.push(new Chart(figure, charts[Number(figure.dataset.chart)]));
  }
  for (const details of document.querySelectorAll("details.more")) {
    details.addEventListener("toggle", () => drawn.filter((chart) => details.contains(chart.figure)).forEach((chart) => chart.draw()));
  }
  let waiting = 0;
  window.addEventListener("resize", () => { cancelAnimationFrame(waiting); waiting = requestAnimationFrame(() => drawn.forEach((chart) => chart.draw())); });

  // Large pictures
  const cards = [...document.querySelectorAll(".card")].filter((card) => card.querySelector(".enlarge"));
  const dialog = make("dialog"), big = make("div", { className: "big" }), said = make("div", { className: "said" });
  dialog.setAttribute("aria-label", "picture");
  const turn = make("div", { className: "turn" });
  let current = 0;
  const show = (index) => {
    current = (index + cards.length) % cards.length;
    const card = cards[current], img = card.querySelector("img").cloneNode();
    big.className = card.closest(".sheet, .frame") ? "big sheetlike" : "big";
    big.replaceChildren(img);
    const words = [...card.querySelectorAll("figcaption span")].map((span) => span.textContent);
    said.replaceChildren(make("h3", { textContent: words[0] ?? "" }), make("pre", { textContent: [...words.slice(1), card.dataset.more ?? ""].join("\n") }));
  };
  const step = (text, by) => { const made = make("button", { type: "button", className: "small", textContent: text }); made.addEventListener("click", () => by ? show(current + by) : dialog.close()); return made; };
  turn.append(step("← before", -1), step("close", 0), step("next →", 1));
  dialog.append(big, said, turn);
  document.body.append(dialog);
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  dialog.addEventListener("keydown", (event) => { if (event.key === "ArrowLeft") show(current - 1); if (event.key === "ArrowRight") show(current + 1); });
  cards.forEach((card, index) => card.querySelector(".enlarge").addEventListener("click", () => { show(index); dialog.showModal(); }));

  // Pictures over time
  for (const film of document.querySelectorAll(".film")) {
    const frames = [...film.children];
    const range = make("input", { type: "range", min: 0, max: frames.length - 1, step: 1, value: frames.length - 1 });
    range.setAttribute("aria-label", `step of ${film.dataset.name}`);
    const told = make("output");
    const play = make("button", { type: "button", className: "small", textContent: "play" });
    let timer = 0;
    const at = (index) => {
      frames.forEach((frame, i) => frame.classList.toggle("on", i === index));
      told.textContent = `step ${steps(Number(frames[index].dataset.step))}`;
      range.value = index;
    };
    const stop = () => { clearInterval(timer); timer = 0; play.textContent = "play"; };
    play.addEventListener("click", () => {
      if (timer) { stop(); return; }
      let index = Number(range.value) === frames.length - 1 ? 0 : Number(range.value);
      at(index);
      play.textContent = "stop";
      timer = setInterval(() => { if (index >= frames.length - 1) stop(); else at(++index); }, 500);
    });
    range.addEventListener("input", () => { stop(); at(Number(range.value)); });
    at(frames.length - 1);
    if (frames.length > 1) film.before(make("div", { className: "slider" }, play, range, told));
  }

  // Reconstructions
  for (const recon of document.querySelectorAll(".recon")) {
    const pairs = recon.querySelector(".pairs");
    const range = make("input", { type: "range", min: 0, max: 100, value: 50 });
    range.setAttribute("aria-label", "border between original and reconstruction");
    const move = (share) => { pairs.style.setProperty("--at", `${share}%`); range.value = share; };
    range.addEventListener("input", () => move(Number(range.value)));
    const follow = (event) => {
      const pair = event.target.closest(".pair");
      if (!pair) return;
      const box = pair.getBoundingClientRect();
      move(Math.min(100, Math.max(0, (event.clientX - box.left) / box.width * 100)));
    };
    pairs.addEventListener("pointerdown", follow);
    pairs.addEventListener("pointermove", follow);
    pairs.before(make("div", { className: "slider" }, make("span", { textContent: "original" }), range, make("span", { textContent: "reconstruction" })));
  }
})();
