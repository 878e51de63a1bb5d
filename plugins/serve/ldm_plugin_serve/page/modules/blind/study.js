/* A blind comparison: pairs of pictures of one input and one seed by two sides, in random order; and its answers. */
import { download } from "../frame/elements.js";
import { pngBlob } from "../raster/png.js";
import { post } from "../server/client.js";

const AHEAD = 3;
const KEY = "ldm-blind";

const random = () => crypto.getRandomValues(new Uint32Array(1))[0];

function shuffled(items) {
  for (let i = items.length - 1; i > 0; i--) {
    const j = random() % (i + 1);
    [items[i], items[j]] = [items[j], items[i]];
  }
  return items;
}

/** The pairs of a study: each input `times` times with seeds of its own, all in random order, left and right by chance. */
export function planOf(inputs, times) {
  const pairs = inputs.flatMap((input) => Array.from({ length: times }, () => ({ ...input, seed: random() % 1_000_000, swapped: random() % 2 === 1 })));
  return shuffled(pairs);
}

/** A cell of CSV; a text that a spreadsheet would take for a formula gets a quote in front. */
const guarded = (value) => (/^[=+\-@\t\r]/.test(String(value)) ? `'${value}` : String(value));
const quoted = (value) => (/[",\n\r]/.test(String(value)) ? `"${String(value).replaceAll('"', '""')}"` : String(value));

export class Study {
  /** `sides` are two of {name, model, settings}; `plan` as of `planOf`. */
  constructor({ sides, plan, question, answers = [] }) {
    Object.assign(this, { sides, plan, question, answers });
    this.made = new Map();
  }

  /** One that was begun before, or null. */
  static kept() {
    try {
      const found = JSON.parse(sessionStorage.getItem(KEY) ?? "null");
      return found && found.answers.length < found.plan.length ? new Study(found) : null;
    } catch {
      return null;
    }
  }

  keep() {
    const { sides, plan, question, answers } = this;
    try {
      sessionStorage.setItem(KEY, JSON.stringify({ sides, plan, question, answers }));
    } catch {
      /* too large for the browser: it lives as long as the page */
    }
  }

  static forget() {
    sessionStorage.removeItem(KEY);
  }

  get index() {
    return this.answers.length;
  }

  get done() {
    return this.index >= this.plan.length;
  }

  async #picture(side, { inputs, seed }) {
    const body = { model: side.model, inputs, settings: { ...side.settings, seed, images: 1 } };
    const { images } = await post("/v1/sample", body);
    return pngBlob(images[0].png);
  }

  /** The pictures of a pair, [left, right]; those of the next ones are asked for as well. */
  pictures(index = this.index) {
    for (let i = index; i < Math.min(index + AHEAD, this.plan.length); i++) {
      if (this.made.has(i)) continue;
      const pair = this.plan[i];
      const sides = pair.swapped ? [this.sides[1], this.sides[0]] : this.sides;
      const both = Promise.all(sides.map((side) => this.#picture(side, pair)));
      both.catch(() => this.made.delete(i)); // asked for again when its turn comes
      this.made.set(i, both);
    }
    return this.made.get(index);
  }

  /** `choice` is left, right or tie. */
  answer(choice, seconds) {
    const pair = this.plan[this.index];
    const first = choice === (pair.swapped ? "right" : "left");
    const preferred = choice === "tie" ? "tie" : first ? "first" : "second";
    this.answers.push({ choice, preferred, seconds: Math.round(seconds * 100) / 100, at: new Date().toISOString() });
    this.keep();
  }

  undo() {
    this.answers.pop();
    this.keep();
  }

  async reveal() {} // the answers are known here

  csv() {
    const head = ["pair", "input", "seed", "left", "right", "choice", "preferred", "seconds", "at"];
    const names = this.sides.map((side) => side.name);
    const rows = this.answers.map((answer, index) => {
      const pair = this.plan[index];
      const [left, right] = pair.swapped ? [names[1], names[0]] : names;
      const preferred = { first: names[0], second: names[1], tie: "tie" }[answer.preferred];
      return [index + 1, pair.words, pair.seed, left, right, answer.choice, preferred, answer.seconds, answer.at];
    });
    return [head, ...rows].map((row) => row.map(guarded).map(quoted).join(",")).join("\r\n") + "\r\n";
  }

  save() {
    download("blind-test.csv", new Blob([this.csv()], { type: "text/csv" }));
  }
}
