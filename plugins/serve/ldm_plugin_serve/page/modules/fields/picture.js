/* A picture given to the model: dropped, chosen, pasted or taken from a result; with a mask to paint on it, if asked. */
import { dataUrl, greyPng, pngBlob } from "../raster/png.js";
import { Raster } from "../raster/raster.js";
import { Surface } from "../raster/surface.js";
import { button, choose, h, sign } from "../frame/elements.js";
import { Field, Mistake, title } from "./field.js";
import { toolbar } from "./tools.js";

const TITLES = { init_image: "Picture to begin from", image: "Picture", mask: "Mask" };
const titled = (input) => (input.of === "init_image" ? "Part to fill" : TITLES[input.key] ?? title(input.name ?? input.key));

/** A bitmap cut to a size from its middle, as the model's data are, as a PNG. */
async function fitted(bitmap, [height, width]) {
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  const scale = Math.max(width / bitmap.width, height / bitmap.height);
  const [w, hgt] = [width / scale, height / scale];
  context.drawImage(bitmap, (bitmap.width - w) / 2, (bitmap.height - hgt) / 2, w, hgt, 0, 0, width, height);
  return canvas.convertToBlob({ type: "image/png" });
}

async function whole(bitmap, pixels) {
  const scale = Math.min(1, Math.sqrt(pixels / (bitmap.width * bitmap.height)));
  return fitted(bitmap, [Math.max(1, Math.floor(bitmap.height * scale)), Math.max(1, Math.floor(bitmap.width * scale))]);
}

/** `fit` is the size that the picture is cut to, or null for a picture of any size. */
export function picture(input, { fit, onchange, pixels = 1 << 24 }) {
  const field = new Field({ key: `inputs.${input.key}`, label: titled(input), required: input.required, group: true });
  const state = { blob: null, url: "", given: null };
  const watchers = new Set();
  const zone = h("div", { class: "drop" });
  const pick = async () => take((await choose("image/png,image/jpeg,image/webp,image/gif,image/bmp,image/avif"))[0]);
  const image = h("img", { alt: "The given picture", class: "drop-picture" });
  const size = h("span", { class: "soft small number" });
  const invite = h(
    "button",
    { type: "button", class: "drop-invite", onclick: pick },
    sign("picture"),
    h("span", {}, h("strong", {}, "Choose a picture"), h("span", { class: "soft" }, " or drop one here, or paste it")),
  );
  const filled = h(
    "div",
    { class: "drop-filled", hidden: true },
    image,
    h("div", { class: "row tight" }, button("Another", { onclick: pick }, {}), button("Take away", { class: "plain", onclick: () => show(null) }, {}), size),
  );
  zone.append(invite, filled);
  const show = (blob, note = "") => {
    if (state.url) URL.revokeObjectURL(state.url);
    Object.assign(state, { blob, url: blob ? URL.createObjectURL(blob) : "" });
    if (blob) image.src = state.url;
    invite.hidden = Boolean(blob);
    filled.hidden = !blob;
    size.textContent = note;
    field.fault("");
    for (const watcher of watchers) watcher(state.url);
    onchange();
  };
  async function take(file) {
    if (!file) return;
    let bitmap;
    state.given = file;
    try {
      bitmap = await createImageBitmap(file);
    } catch {
      field.fault(`${file.name || "that"} is no picture that this browser can read; PNG, JPEG and WebP are`);
      return;
    }
    const made = fit ? await fitted(bitmap, fit) : await whole(bitmap, pixels);
    const given = `${bitmap.width} × ${bitmap.height}`;
    image.classList.toggle("pixels", Math.max(...(fit ?? [bitmap.height, bitmap.width])) <= 128);
    show(made, fit && given !== `${fit[1]} × ${fit[0]}` ? `${given}, cut to ${fit[1]} × ${fit[0]}` : given);
  }
  zone.addEventListener("dragover", (event) => {
    event.preventDefault();
    zone.classList.add("over");
  });
  zone.addEventListener("dragleave", () => zone.classList.remove("over"));
  zone.addEventListener("drop", (event) => {
    event.preventDefault();
    event.stopPropagation();
    zone.classList.remove("over");
    take(event.dataTransfer.files[0]);
  });
  field.place.append(zone);
  return {
    field,
    take,
    filled: () => Boolean(state.blob),
    onpicture: (watcher) => watchers.add(watcher),
    value: async () => (state.blob ? dataUrl(state.blob) : undefined),
    set: async (value) => (typeof value === "string" ? take(pngBlob(value)) : show(null)),
    resize: async (next) => {
      if (!fit || String(next) === String(fit)) return;
      fit = next;
      if (state.blob) await take(state.given);
    },
    shown: async () => (state.blob ? dataUrl(state.blob) : null),
    summary: () => (state.blob ? "picture" : ""),
  };
}

/** A mask over the picture of another field; white, here the accent's colour, is what will be filled. */
export function mask(input, { size, onchange, of }) {
  const field = new Field({ key: `inputs.${input.key}`, label: titled(input), required: input.required, group: true, help: "Paint over what is to be made anew." });
  let raster = new Raster(size[1], size[0], 0);
  let erase = false;
  let bar = null;
  const surface = new Surface(raster, {
    label: `Mask, ${size[1]} by ${size[0]} pixels`,
    colour: (value) => (value ? [232, 62, 140, 150] : [0, 0, 0, 0]),
    value: () => (erase ? 0 : 255),
    words: (x, y) => `column ${x + 1}, row ${y + 1}: ${raster.at(x, y) ? "to be filled" : "kept"}`,
    onchange: () => {
      field.fault("");
      bar.refresh();
      onchange();
    },
  });
  bar = toolbar(surface, {
    tools: ["brush", "rectangle", "erase"],
    ontool: (name) => (erase = name === "erase"),
    onclear: () => surface.act((r) => r.values.fill(0)),
  });
  const under = h("img", { alt: "", hidden: true, class: Math.max(...size) <= 128 ? "pixels" : "" });
  surface.under.append(under);
  const body = h("div", { class: "stack" }, bar.element, surface.element);
  const wait = h("p", { class: "field-help" }, "Give a picture first; the mask is painted over it.");
  of?.onpicture((url) => {
    if (url) under.src = url;
    under.hidden = !url;
    body.hidden = !url;
    wait.hidden = Boolean(url);
  });
  body.hidden = Boolean(of);
  wait.hidden = !of;
  field.place.append(wait, body);
  return {
    field,
    value: async () => {
      if (of && !of.filled()) return undefined;
      if (raster.blank) {
        if (input.required) throw new Mistake("paint over the part of the picture that is to be filled");
        return undefined;
      }
      return dataUrl(await greyPng(raster.values, raster.width, raster.height));
    },
    set: async (value) => {
      if (typeof value !== "string") return surface.act((r) => r.values.fill(0));
      const bitmap = await createImageBitmap(pngBlob(value));
      const context = new OffscreenCanvas(raster.width, raster.height).getContext("2d");
      context.drawImage(bitmap, 0, 0, raster.width, raster.height);
      const { data } = context.getImageData(0, 0, raster.width, raster.height);
      surface.act((r) => r.values.forEach((_, i) => (r.values[i] = data[i * 4] > 127 ? 255 : 0)));
    },
    resize: ([height, width]) => {
      if (height === raster.height && width === raster.width) return;
      const next = new Raster(width, height, 0);
      next.take(raster);
      raster = next;
      surface.resize(next);
      bar.refresh();
    },
    shown: () => surface.shown(under.hidden ? null : under),
    summary: () => (raster.blank ? "" : "mask"),
  };
}
