/* The served models, looked at again while the page is seen: a training that ended, a model that was trained on. */
import { get } from "./client.js";

const PAUSE = 20_000;
const markOf = (model) => JSON.stringify({ ...model, loaded: null });

export class Watch {
  /** `onchange(answer, begun, changed)` is told of models that became ready, and of ready ones that are others now. */
  constructor(onchange) {
    this.onchange = onchange;
    this.known = new Map();
    setInterval(() => this.look(), PAUSE);
    document.addEventListener("visibilitychange", () => this.look());
  }

  know(models) {
    this.known = new Map(models.map((model) => [model.id, model.ready === false ? null : markOf(model)]));
  }

  async look() {
    if (document.hidden || this.looking || !this.known.size) return;
    this.looking = true;
    const found = await get("/v1/models").catch(() => null); // a server that is away says so at the next request
    this.looking = false;
    const ready = (found?.models ?? []).filter((model) => model.ready !== false && this.known.get(model.id) !== markOf(model));
    if (!ready.length) return;
    const begun = ready.filter((model) => !this.known.get(model.id));
    this.know(found.models);
    this.onchange(found, begun, ready.filter((model) => !begun.includes(model)));
  }
}
