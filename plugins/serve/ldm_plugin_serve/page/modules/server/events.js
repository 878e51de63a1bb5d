/* A job as it goes on: server-sent events, read by fetch so that the token goes along; polled where the stream breaks. */
import { fetched, get } from "./client.js";

const ENDS = new Set(["done", "failed", "cancelled"]);

function parsed(block) {
  let name = "message";
  const data = [];
  for (const line of block.split(/\r\n|\r|\n/)) {
    if (line.startsWith("event:")) name = line.slice(6).trim();
    else if (line.startsWith("data:")) data.push(line.slice(5).replace(/^ /, ""));
  }
  if (!data.length) return null; // a comment that keeps the line open
  return { name, data: JSON.parse(data.join("\n")) };
}

async function* streamed(path, signal) {
  const answer = await fetched(path, { signal, headers: { accept: "text/event-stream" } });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (rest + value).split(/\r\n\r\n|\n\n|\r\r/);
    rest = blocks.pop();
    for (const block of blocks) {
      const event = parsed(block);
      if (event) yield event;
    }
  }
}

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

const PATIENCE = 30; // questions without an answer, two seconds apart, until a server counts as gone

async function asked(job, signal) {
  for (let missed = 0; ; missed++) {
    try {
      return await get(`/v1/jobs/${job}`, { signal });
    } catch (error) {
      if (error.status !== 0 || missed >= PATIENCE) throw error;
      await pause(2000); // also while the page is left, whose requests the browser ends
    }
  }
}

async function* polled(job, signal) {
  for (;;) {
    const state = await asked(job, signal);
    if (ENDS.has(state.state)) return yield { name: state.state, data: state };
    yield { name: state.state === "queued" ? "position" : "progress", data: state };
    await pause(1000);
  }
}

/** Events {name, data} of a job up to its end. */
export async function* events(job, signal) {
  try {
    for await (const event of streamed(`/v1/jobs/${job}/events`, signal)) {
      yield event;
      if (ENDS.has(event.name)) return;
    }
  } catch (error) {
    if (error.name === "AbortError" || error.status === 404) throw error;
  }
  yield* polled(job, signal); // the stream broke: a proxy's time-out, a sleeping laptop
}

/** What a job made, asked for where its last event did not bring it. */
export async function outcome(job, data) {
  if (data?.images) return data;
  if (data?.result?.images) return data.result;
  const state = await get(`/v1/jobs/${job}`);
  return state.result ?? state;
}
