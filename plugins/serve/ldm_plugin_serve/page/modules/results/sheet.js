/* Pictures on one sheet with a line below each, as a PNG to keep or to print. */
import { download } from "../frame/elements.js";
import { pixelated, summaryOf } from "./words.js";

const GAP = 24;
const LINE = 22;

function cut(context, text, width) {
  if (context.measureText(text).width <= width) return text;
  let end = text.length;
  while (end > 1 && context.measureText(`${text.slice(0, end)}…`).width > width) end--;
  return `${text.slice(0, end)}…`;
}

/** Draw the picks into a sheet, as square as may be, and download it. */
export async function sheet(picks) {
  const bitmaps = await Promise.all(picks.map(({ image }) => createImageBitmap(image.blob)));
  const largest = Math.max(...bitmaps.map((each) => Math.max(each.width, each.height)));
  const scale = Math.max(1, Math.round(256 / largest)); // small pictures are enlarged by whole numbers
  const [width, height] = [Math.max(...bitmaps.map((b) => b.width)) * scale, Math.max(...bitmaps.map((b) => b.height)) * scale];
  const columns = Math.ceil(Math.sqrt(picks.length));
  const rows = Math.ceil(picks.length / columns);
  const canvas = new OffscreenCanvas(columns * (width + GAP) + GAP, rows * (height + LINE * 2 + GAP) + GAP);
  const context = canvas.getContext("2d");
  context.fillStyle = "#ffffff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.textBaseline = "top";
  bitmaps.forEach((bitmap, index) => {
    const x = GAP + (index % columns) * (width + GAP);
    const y = GAP + Math.floor(index / columns) * (height + LINE * 2 + GAP);
    const { record, image } = picks[index];
    context.imageSmoothingEnabled = !pixelated([bitmap.height, bitmap.width]);
    context.drawImage(bitmap, x, y, bitmap.width * scale, bitmap.height * scale);
    const below = y + bitmap.height * scale + 8;
    context.font = "600 14px system-ui, sans-serif";
    context.fillStyle = "#1d1c1a";
    context.fillText(cut(context, summaryOf(record), width), x, below);
    context.font = "13px system-ui, sans-serif";
    context.fillStyle = "#5c5850";
    context.fillText(cut(context, `${record.name} · seed ${image.seed}`, width), x, below + LINE - 3);
  });
  download(`sheet-${picks.length}.png`, await canvas.convertToBlob({ type: "image/png" }));
}
