/* A request on its way: sent, waiting, made step by step, done; or cancelled, or refused. */
import { Fault, fetched, post } from "../server/client.js";
import { events, outcome } from "../server/events.js";
import { address, pngBlob } from "../raster/png.js";
import { say } from "../frame/elements.js";

const running = new Map(); // record key -> AbortController

export const LIVE = new Set(["sending", "queued", "running"]);

/** A new record of a request. */
export const recordOf = (request, { name, summary, size }) => ({
  key: crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}`,
  created: Date.now(),
  name,
  summary,
  size,
  request,
  state: "sending",
  step: 0,
  steps: request.settings.steps ?? 0,
  position: null,
  previews: [],
  images: [],
});

function finished(result) {
  const images = result.images.map(({ png, ...rest }) => ({ ...rest, blob: pngBlob(png) }));
  return { state: "done", images, settings: result.settings, seconds: result.seconds, warnings: result.warnings ?? [], previews: [] };
}

/** Say the place in the queue, and each quarter of the steps; more would drown other words. */
function announce(record, name, { position, step, steps }) {
  if (name === "position" && position) say(`Place ${position} in the queue.`);
  const quarter = name === "progress" && steps ? Math.floor((4 * step) / steps) : 0;
  if (quarter > 0 && quarter < 4 && Math.floor((4 * record.step) / steps) < quarter) say(`${quarter * 25} percent.`);
}

async function take(store, record, { name, data }) {
  announce(record, name, data);
  if (name === "position") return store.change(record, { state: "queued", position: data.position ?? null }, false);
  if (name === "progress") {
    const previews = [...record.previews];
    (data.previews ?? []).forEach((each, place) => (previews[each.image ?? each.index ?? place] = address(each.png ?? each)));
    return store.change(record, { state: "running", step: data.step, steps: data.steps, made: data.images_done ?? 0, previews }, false);
  }
  if (name === "done") {
    const result = finished(await outcome(record.job, data));
    await store.change(record, result);
    return say(`${result.images.length === 1 ? "The picture is" : `${result.images.length} pictures are`} ready.`);
  }
  if (name === "cancelled") return store.change(record, { state: "cancelled", previews: [] });
  if (name === "failed") {
    const fault = new Fault({ message: "the server could not make it", ...(data.error ?? data) });
    return store.change(record, { state: "failed", fault: fault.text, previews: [] });
  }
}

/** Follow a job that the server has, up to its end. */
export async function follow(store, record) {
  const stop = new AbortController();
  running.set(record.key, stop);
  try {
    for await (const event of events(record.job, stop.signal)) await take(store, record, event);
  } catch (error) {
    if (error.name !== "AbortError") {
      if (!(error instanceof Fault)) console.error(error);
      const words = error.status === 404 ? "the server no longer knows this job" : error.text ?? error.message;
      await store.change(record, { state: "failed", fault: words, previews: [] });
    }
  } finally {
    running.delete(record.key);
  }
}

/** Send a record's request; a `Fault` if it is refused, and then no record is left. */
export async function send(store, record) {
  await store.add(record);
  try {
    const answer = await post("/v1/sample?wait=false", record.request);
    await store.change(record, { job: answer.id, state: "queued", position: answer.position ?? null });
  } catch (error) {
    await store.remove(record);
    throw error;
  }
  await follow(store, record);
}

export async function cancel(store, record) {
  if (!record.job) return;
  try {
    await fetched(`/v1/jobs/${record.job}`, { method: "DELETE" });
  } catch (error) {
    if (error.status === 404) await store.change(record, { state: "cancelled", previews: [] });
  }
}

/** Go on with what a closed page left behind. */
export function resume(store) {
  for (const record of store.all) {
    if (!LIVE.has(record.state)) continue;
    if (record.job) follow(store, record);
    else store.change(record, { state: "failed", fault: "the page was closed before the server had it" });
  }
}
