/* The end of a blind comparison: the share of preferences with its interval, and the answers as CSV. */
import { button, h, s } from "../frame/elements.js";
import { counts, wilson } from "./interval.js";

const percent = (share) => `${Math.round(share * 100)} %`;

/** The share and its interval over a line from 0 to 100 percent. */
function scale({ share, low, high }) {
  const x = (value) => 20 + value * 560;
  const marks = [0, 0.25, 0.5, 0.75, 1].map((value) => [
    s("line", { class: value === 0.5 ? "scale-half" : "scale-mark", x1: x(value), x2: x(value), y1: value === 0.5 ? 8 : 26, y2: 42 }),
    s("text", { class: "scale-text", x: x(value), y: 60, "text-anchor": "middle" }, percent(value)),
  ]);
  return s(
    "svg",
    { viewBox: "0 0 600 66", class: "scale", role: "img", "aria-label": `${percent(share)}, interval from ${percent(low)} to ${percent(high)}` },
    s("line", { class: "scale-line", x1: x(0), x2: x(1), y1: 34, y2: 34 }),
    ...marks.flat(),
    s("line", { class: "scale-interval", x1: x(low), x2: x(high), y1: 34, y2: 34 }),
    s("circle", { class: "scale-share", cx: x(share), cy: 34, r: 8 }),
  );
}

export function outcome(study, { onagain, oncontinue }) {
  const { first, second, tie } = counts(study.answers);
  const count = study.answers.length;
  const found = wilson(first, first + second);
  const [a, b] = study.sides.map((side) => side.name);
  const clear = found.low > 0.5 ? `${a} is preferred.` : found.high < 0.5 ? `${b} is preferred.` : "The interval holds 50 %: these answers show no difference.";
  const row = (name, value) => h("tr", {}, h("th", { scope: "row" }, name), h("td", { class: "number" }, String(value)), h("td", { class: "number" }, count ? percent(value / count) : "–"));
  return h(
    "section",
    { class: "outcome", "aria-label": "Result" },
    h("h2", {}, first + second ? `${a}: ${percent(found.share)}` : count ? "No pair was decided" : "No answers yet"),
    h("p", { class: "soft" }, `of the decided pairs against ${b}; 95 % interval ${percent(found.low)} to ${percent(found.high)} (Wilson); ${count} of ${study.plan.length} pairs were answered.`),
    scale(found),
    h("p", {}, h("strong", {}, count ? clear : "")),
    h("table", { class: "votes" }, h("thead", {}, h("tr", {}, ["Preferred", "Pairs", "Share"].map((name) => h("th", { scope: "col" }, name)))), h("tbody", {}, row(a, first), row(b, second), row("no difference", tie))),
    h("div", { class: "row" },
      button("Download as CSV", { onclick: () => study.save(), disabled: !count }, { icon: "download" }),
      !study.done && button("Go on", { onclick: oncontinue }, {}),
      button("Another test", { class: "plain", onclick: onagain }, { icon: "again" }),
    ),
  );
}
