/* PNG files of one byte a pixel, for label maps and masks: a canvas would write four, and show colours for palettes. */
const SIGNATURE = [137, 80, 78, 71, 13, 10, 26, 10];

const TABLE = Uint32Array.from({ length: 256 }, (_, n) => {
  let c = n;
  for (let k = 0; k < 8; k++) c = c & 1 ? 0xedb88320 ^ (c >>> 1) : c >>> 1;
  return c;
});

function crc(bytes) {
  let c = 0xffffffff;
  for (const byte of bytes) c = TABLE[(c ^ byte) & 255] ^ (c >>> 8);
  return (c ^ 0xffffffff) >>> 0;
}

const through = async (bytes, transform) =>
  new Uint8Array(await new Response(new Blob([bytes]).stream().pipeThrough(transform)).arrayBuffer());

function chunk(type, data) {
  const body = new Uint8Array(4 + data.length);
  body.set([...type].map((letter) => letter.charCodeAt(0)));
  body.set(data, 4);
  const out = new Uint8Array(body.length + 8);
  const view = new DataView(out.buffer);
  view.setUint32(0, data.length);
  out.set(body, 4);
  view.setUint32(4 + body.length, crc(body));
  return out;
}

/** Bytes (height * width) -> a grey PNG, as a Blob. */
export async function greyPng(values, width, height) {
  const lines = new Uint8Array((width + 1) * height); // each line begins with its filter, 0
  for (let y = 0; y < height; y++) lines.set(values.subarray(y * width, (y + 1) * width), y * (width + 1) + 1);
  const head = new Uint8Array(13);
  const view = new DataView(head.buffer);
  view.setUint32(0, width);
  view.setUint32(4, height);
  head.set([8, 0, 0, 0, 0], 8);
  const data = await through(lines, new CompressionStream("deflate"));
  return new Blob([new Uint8Array(SIGNATURE), chunk("IHDR", head), chunk("IDAT", data), chunk("IEND", new Uint8Array())], { type: "image/png" });
}

function paeth(a, b, c) {
  const [pa, pb, pc] = [Math.abs(b - c), Math.abs(a - c), Math.abs(a + b - 2 * c)];
  return pa <= pb && pa <= pc ? a : pb <= pc ? b : c;
}

function unfiltered(lines, width, height) {
  const out = new Uint8Array(width * height); // of whole bytes, each with one or more pixels
  for (let y = 0; y < height; y++) {
    const filter = lines[y * (width + 1)];
    for (let x = 0; x < width; x++) {
      const at = y * width + x;
      const left = x ? out[at - 1] : 0;
      const up = y ? out[at - width] : 0;
      const corner = x && y ? out[at - width - 1] : 0;
      const guess = [0, left, up, (left + up) >> 1, paeth(left, up, corner)][filter] ?? 0;
      out[at] = lines[y * (width + 1) + 1 + x] + guess;
    }
  }
  return out;
}

/** Pixels of 1, 2 or 4 bits, packed from the left into lines of whole bytes -> one byte each. */
function unpacked(bytes, width, height, depth) {
  if (depth === 8) return bytes;
  const [across, each] = [Math.ceil((width * depth) / 8), 8 / depth];
  return Uint8Array.from({ length: width * height }, (_, i) => {
    const x = i % width;
    const byte = bytes[Math.floor(i / width) * across + Math.floor(x / each)];
    return (byte >> (8 - depth * ((x % each) + 1))) & (2 ** depth - 1);
  });
}

/**
 * The stored numbers of a PNG with up to one byte a pixel, grey or with a palette: {values, width, height}.
 * null for any other file, whose colours the browser has to read.
 */
export async function storedNumbers(blob) {
  const bytes = new Uint8Array(await blob.arrayBuffer());
  if (SIGNATURE.some((value, index) => bytes[index] !== value) || bytes.length < 33) return null;
  const view = new DataView(bytes.buffer);
  const [width, height] = [view.getUint32(16), view.getUint32(20)];
  const [depth, kind, , , interlaced] = bytes.subarray(24, 29);
  if (depth > 8 || ![0, 3].includes(kind) || interlaced || width * height > 1 << 26) return null;
  const parts = [];
  for (let at = 8; at + 8 < bytes.length; ) {
    const length = view.getUint32(at);
    const type = String.fromCharCode(...bytes.subarray(at + 4, at + 8));
    if (type === "IDAT") parts.push(bytes.subarray(at + 8, at + 8 + length));
    at += length + 12;
  }
  try {
    const lines = await through(await new Blob(parts).arrayBuffer(), new DecompressionStream("deflate"));
    const across = Math.ceil((width * depth) / 8);
    if (lines.length < (across + 1) * height) return null;
    return { values: unpacked(unfiltered(lines, across, height), width, height, depth), width, height };
  } catch {
    return null;
  }
}

export const dataUrl = (blob) =>
  new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });

/** Base64, bare or a data URL -> a Blob. */
export function pngBlob(text) {
  const letters = atob(text.slice(text.indexOf(",") + 1));
  return new Blob([Uint8Array.from(letters, (letter) => letter.charCodeAt(0))], { type: "image/png" });
}

export const address = (text) => (text.startsWith("data:") ? text : `data:image/png;base64,${text}`);
