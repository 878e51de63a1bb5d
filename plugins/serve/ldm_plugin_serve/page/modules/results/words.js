/* A record and its pictures in words, and as files. */
import { download } from "../frame/elements.js";

const LABELS = { sampler: "sampler", grid: "time grid", steps: "steps", guidance: "guidance", negative: "not wanted", seed: "seed", images: "pictures", size: "size", strength: "strength" };
const ORDER = ["seed", "steps", "guidance", "sampler", "grid", "strength", "negative", "size"];

const shown = (name, value) => {
  if (name === "size" && Array.isArray(value)) return `${value[1]} × ${value[0]}`;
  if (value && typeof value === "object") return value.use ?? JSON.stringify(value);
  return typeof value === "number" && !Number.isInteger(value) ? String(Math.round(value * 1000) / 1000) : String(value);
};

/** [name, words] of all settings of a record, with an image's own seed. */
export function settingsOf(record, image) {
  const all = { ...record.request.settings, ...record.settings };
  if (image?.seed !== undefined) all.seed = image.seed;
  const names = [...ORDER.filter((name) => name in all), ...Object.keys(all).filter((name) => !ORDER.includes(name) && name !== "images")];
  const rows = names.filter((name) => all[name] !== null && all[name] !== undefined && all[name] !== "").map((name) => [LABELS[name] ?? name, shown(name, all[name])]);
  if (record.request.preset) rows.unshift(["preset", record.request.preset]);
  return rows;
}

export const summaryOf = (record) => record.summary || "without inputs";

/** Words for those who do not see a picture. */
export const altOf = (record, index) => `Picture ${index + 1} of ${record.images.length}: ${summaryOf(record)}, seed ${record.images[index].seed}`;

const plain = (text) => text.toLowerCase().normalize("NFKD").replace(/[^a-z0-9]+/g, "-").replace(/^-|-$/g, "").slice(0, 48);

export const fileName = (record, image) => `${[plain(record.name), plain(record.summary), image.seed].filter((part) => part !== "").join("_")}.png`;

/** The PNG as the server wrote it, with its metadata. */
export const downloadImage = (record, image) => download(fileName(record, image), image.blob);

/** One file after the other: browsers drop downloads that begin at the same time. */
export async function downloadAll(picks) {
  for (const { record, image } of picks) {
    downloadImage(record, image);
    await new Promise((resolve) => setTimeout(resolve, 150));
  }
}

const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const day = new Intl.DateTimeFormat(undefined, { weekday: "long", day: "numeric", month: "long" });
export const timeOf = (record) => clock.format(record.created);
export const dayOf = (record) => (new Date(record.created).toDateString() === new Date().toDateString() ? "Today" : day.format(record.created));

export const duration = (seconds) => (seconds >= 90 ? `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s` : `${seconds >= 10 ? Math.round(seconds) : Math.round(seconds * 10) / 10} s`);

/** Small pictures keep their pixels; large ones are smoothed. */
export const pixelated = (size) => size && Math.max(...size) <= 128;

const addresses = new WeakMap();
/** One address a blob, for as long as the page is open. */
export function urlOf(blob) {
  if (!addresses.has(blob)) addresses.set(blob, URL.createObjectURL(blob));
  return addresses.get(blob);
}
