/* Requests to the server that sent this page, and to no other. */
import { button, h, id } from "../frame/elements.js";
import { dialog } from "../frame/dialog.js";

/** An answer that says no: its message, the place it is about, what is allowed and how to mend it. */
export class Fault extends Error {
  constructor({ message, where = "", allowed = "", fix = "" }, status = 0) {
    super(message);
    Object.assign(this, { where, allowed, fix, status });
  }

  /** One text of all that is known. */
  get text() {
    const allowed = Array.isArray(this.allowed) ? this.allowed.join(", ") : this.allowed;
    const said = (part) => part && !this.message.includes(part);
    return [this.message, said(allowed) && `allowed: ${allowed}`, said(this.fix) && this.fix].filter(Boolean).join("; ");
  }
}

const KEY = "ldm-token";
const SELF = crypto.randomUUID?.() ?? String(Math.random()); // turns in the server's queue go by tab
let token = "";

function keepToken(value) {
  token = value;
  try {
    sessionStorage.setItem(KEY, value);
  } catch {
    /* held in memory */
  }
}

const printed = /^#token=(.+)$/.exec(location.hash); // the address that the server printed carries it
if (printed) {
  keepToken(decodeURIComponent(printed[1]));
  history.replaceState(null, "", location.pathname);
} else {
  try {
    token = sessionStorage.getItem(KEY) ?? "";
  } catch {
    /* asked for again after a reload */
  }
}
let asking = null; // one question for all requests that wait

function askToken() {
  asking ??= new Promise((resolve) => {
    const field = id("token");
    const input = h("input", { id: field, type: "password", class: "control", autocomplete: "off", required: true });
    const window = dialog("This server wants its token", { onclose: () => resolve(Boolean(token)) });
    const form = h(
      "form",
      { class: "stack", method: "dialog" },
      h("p", { class: "soft" }, "It was printed when the server was started. It is kept until this tab is closed."),
      h("label", { for: field }, "Token"),
      input,
      h("div", { class: "row" }, h("button", { class: "button lead" }, "Go on"), button("Cancel", { onclick: () => window.close() })),
    );
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      keepToken(input.value.trim());
      window.close();
    });
    window.body.append(form);
    input.focus();
  }).finally(() => (asking = null));
  return asking;
}

/** The raw answer; a `Fault` for whatever is no success. */
export async function fetched(path, options = {}, retried = false) {
  const headers = { accept: "application/json", "x-client": SELF, ...options.headers };
  if (token) headers.authorization = `Bearer ${token}`;
  let answer;
  try {
    answer = await fetch(path, { ...options, headers, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Fault({ message: "the server does not answer", fix: "see whether it still runs, then try again" });
  }
  if (answer.status === 401 && !retried) {
    token = "";
    if (await askToken()) return fetched(path, options, true);
  }
  if (answer.ok) return answer;
  const said = await answer.json().catch(() => null);
  const message = `the server answers ${answer.status} ${answer.statusText}`.trim();
  throw new Fault({ message, ...(said?.error ?? {}) }, answer.status);
}

export const get = async (path, options) => (await fetched(path, options)).json();

export const post = async (path, value, options = {}) =>
  (await fetched(path, { method: "POST", body: JSON.stringify(value), ...options, headers: { "content-type": "application/json" } })).json();

/** A PNG's bytes, of which the server reads how it was made. */
export const read = async (blob) =>
  (await fetched("/v1/read", { method: "POST", body: blob, headers: { "content-type": "image/png" } })).json();

/** A picture behind the token, as an address for an <img>. */
export const pictured = async (path, options) => URL.createObjectURL(await (await fetched(path, options)).blob());
