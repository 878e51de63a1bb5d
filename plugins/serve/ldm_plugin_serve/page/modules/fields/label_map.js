/* A label map: each pixel's class, painted from the palette or taken from a file. */
import { colours } from "../raster/colours.js";
import { dataUrl, greyPng, pngBlob, storedNumbers } from "../raster/png.js";
import { Raster } from "../raster/raster.js";
import { Surface } from "../raster/surface.js";
import { button, choose, h } from "../frame/elements.js";
import { Field, title } from "./field.js";
import { palette } from "./palette.js";
import { toolbar } from "./tools.js";

/** The classes of a file's pixels: stored numbers where they are classes, else the class of the nearest colour. */
async function classesOf(blob, shades, unlabeled) {
  const stored = await storedNumbers(blob);
  const known = (value) => value < shades.length || value === unlabeled;
  if (stored && stored.values.every(known)) return stored;
  const picture = await createImageBitmap(blob, { colorSpaceConversion: "none" });
  const [width, height] = [Math.min(picture.width, 2048), Math.min(picture.height, 2048)];
  const context = new OffscreenCanvas(width, height).getContext("2d");
  context.imageSmoothingEnabled = false;
  context.drawImage(picture, 0, 0, width, height);
  const { data } = context.getImageData(0, 0, width, height);
  const cache = new Map();
  const nearest = (r, g, b) => {
    const distance = (shade) => (shade[0] - r) ** 2 + (shade[1] - g) ** 2 + (shade[2] - b) ** 2;
    return shades.reduce((best, shade, index) => (distance(shade) < distance(shades[best]) ? index : best), 0);
  };
  const values = new Uint8Array(width * height);
  for (let i = 0; i < values.length; i++) {
    const key = (data[i * 4] << 16) | (data[i * 4 + 1] << 8) | data[i * 4 + 2];
    if (!cache.has(key)) cache.set(key, nearest(data[i * 4], data[i * 4 + 1], data[i * 4 + 2]));
    values[i] = cache.get(key);
  }
  return { values, width, height };
}

/** Rows of numbers as a raster's numbers. */
const ofRows = (rows) => ({ values: Uint8Array.from(rows.flat()), width: rows[0].length, height: rows.length });

export function labelMap(input, { size, onchange }) {
  const names = input.classes ?? Array.from({ length: 256 }, (_, i) => `class ${i}`);
  const unlabeled = input.unlabeled ?? 255;
  const shades = colours(names, input.palette);
  const label = input.key === "segmentation" ? "Label map" : title(input.name ?? input.key);
  const field = new Field({ key: `inputs.${input.key}`, label, required: input.required, group: true });
  let raster = new Raster(size[1], size[0], 0);
  let chosen = Math.min(1, names.length - 1);
  let tool = "brush";
  let touched = false;
  let bar = null;
  const nameOf = (value) => (value === unlabeled ? "nothing" : String(names[value] ?? value));
  const surface = new Surface(raster, {
    label: `${label}, ${size[1]} by ${size[0]} pixels`,
    colour: (value) => (value < shades.length ? [...shades[value], 255] : [0, 0, 0, 0]),
    value: () => (tool === "erase" ? raster.background : chosen),
    words: (x, y) => `column ${x + 1}, row ${y + 1}: ${nameOf(raster.at(x, y))}`,
    onchange: () => {
      touched = true;
      field.fault("");
      bar.refresh();
      legend();
      onchange();
    },
  });
  const classes = palette(names, { label: "Class to paint", swatches: shades, chosen, onchoose: (index) => (chosen = index) });
  const upload = button("Take a label map from a file", { class: "plain", onclick: async () => load((await choose("image/*"))[0]) }, { icon: "upload", quiet: true });
  bar = toolbar(surface, {
    tools: ["brush", "rectangle", "fill", "erase"],
    ontool: (name) => (tool = name),
    onclear: () => {
      surface.act((r) => r.values.fill(r.background));
      touched = false;
    },
    extra: [upload],
  });
  async function load(file) {
    if (!file) return false;
    try {
      const found = await classesOf(file, shades, unlabeled);
      surface.act((r) => r.take(found));
    } catch {
      field.fault(`${file.name ?? "the file"} is no picture that this browser can read`);
      return false;
    }
    return true;
  }
  const seen = h("p", { class: "field-help" });
  function legend() {
    const used = [...new Set(raster.values)].sort((a, b) => a - b).map(nameOf);
    seen.textContent = `On the map: ${used.slice(0, 8).join(", ")}${used.length > 8 ? " …" : ""}`;
  }
  surface.element.addEventListener("dragover", (event) => event.preventDefault());
  surface.element.addEventListener("drop", (event) => {
    event.preventDefault();
    event.stopPropagation();
    load(event.dataTransfer.files[0]);
  });
  field.place.append(classes.element, bar.element, surface.element, seen);
  legend();
  return {
    field,
    value: async () => (touched || !raster.blank ? dataUrl(await greyPng(raster.values, raster.width, raster.height)) : undefined),
    set: async (value) => {
      const rows = Array.isArray(value) && Array.isArray(value[0]);
      const taken = rows || (typeof value === "string" && (await load(pngBlob(value))));
      if (rows) surface.act((r) => r.take(ofRows(value)));
      else if (!taken) surface.act((r) => r.values.fill(r.background));
      touched = taken;
    },
    resize: ([height, width]) => {
      if (height === raster.height && width === raster.width) return;
      const next = new Raster(width, height, 0);
      next.take(raster);
      raster = next;
      surface.resize(next);
      bar.refresh();
    },
    shown: () => surface.shown(),
    summary: () => [...new Set(raster.values)].filter((v) => v !== raster.background).map(nameOf).slice(0, 4).join(", "),
  };
}
