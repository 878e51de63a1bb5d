/* A blind comparison of the samples that two runs already have; the server draws the order and counts the votes. */
import { download } from "../frame/elements.js";
import { pngBlob } from "../raster/png.js";
import { fetched, get, post } from "../server/client.js";

/** The rows of a CSV text as objects. */
export function rowsOf(text) {
  const rows = [[""]];
  let quoted = false;
  for (let i = 0; i < text.length; i++) {
    const letter = text[i];
    const row = rows.at(-1);
    if (quoted && letter === '"' && text[i + 1] === '"') row[row.length - 1] += text[++i];
    else if (letter === '"') quoted = !quoted;
    else if (!quoted && letter === ",") row.push("");
    else if (!quoted && letter === "\n") rows.push([""]);
    else if (quoted || letter !== "\r") row[row.length - 1] += letter;
  }
  const [head, ...body] = rows;
  return body.filter((row) => row.length === head.length).map((row) => Object.fromEntries(head.map((name, i) => [name, row[i]])));
}

/** As `Study`, with pictures and votes on the server. */
export class SampleStudy {
  static async begin({ names, pairs, question }) {
    const [a, b] = names;
    const found = await post("/v1/compare", { a, b, pairs });
    return Object.assign(new SampleStudy(), {
      id: found.id,
      question,
      sides: names.map((name) => ({ name })),
      plan: Array.from({ length: found.count }, () => ({ words: found.shared ? "" : "The runs share no input: their pictures in the order of their files." })),
      answers: [],
      asked: new Map(),
    });
  }

  keep() {} // the server has it

  get index() {
    return this.answers.length;
  }

  get done() {
    return this.index >= this.plan.length;
  }

  /** The pictures of a pair, [left, right]; its prompt is known with them. */
  pictures(index = this.index) {
    for (let i = index; i < Math.min(index + 2, this.plan.length); i++) {
      if (this.asked.has(i)) continue;
      const both = get(`/v1/compare/${this.id}/pairs/${i}`).then(({ left, right, prompt }) => {
        if (prompt) this.plan[i].words = prompt;
        return [left, right].map(pngBlob);
      });
      both.catch(() => this.asked.delete(i));
      this.asked.set(i, both);
    }
    return this.asked.get(index);
  }

  async answer(choice) {
    const pair = this.index;
    this.answers.push({ choice });
    await post(`/v1/compare/${this.id}/votes`, { pair, choice });
  }

  undo() {
    this.answers.pop(); // the next vote on the pair takes its place
  }

  /** Learn from the server's table which side each answer preferred. */
  async reveal() {
    this.table = await (await fetched(`/v1/compare/${this.id}/votes.csv`)).text();
    const [a, b] = this.sides.map((side) => side.name);
    this.answers = rowsOf(this.table).map(({ preferred, choice }) => ({ choice, preferred: preferred === a ? "first" : preferred === b ? "second" : "tie" }));
  }

  save() {
    download("blind-test.csv", new Blob([this.table], { type: "text/csv" }));
  }
}
