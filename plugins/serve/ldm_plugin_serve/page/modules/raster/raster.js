/* A raster of bytes with brush, fill and rectangle, and a memory of what was there before. */
const KEPT = 60;
const KEPT_BYTES = 64 << 20;

export class Raster {
  constructor(width, height, background = 0) {
    Object.assign(this, { width, height, background });
    this.values = new Uint8Array(width * height).fill(background);
    this.past = [];
    this.future = [];
  }

  at(x, y) {
    return this.values[y * this.width + x];
  }

  /** Keep the present state, to come back to. */
  keep() {
    this.past.push(this.values.slice());
    this.future = [];
    const most = Math.max(2, Math.min(KEPT, Math.floor(KEPT_BYTES / this.values.length)));
    while (this.past.length > most) this.past.shift();
  }

  undo() {
    return this.#step(this.past, this.future);
  }

  redo() {
    return this.#step(this.future, this.past);
  }

  #step(from, to) {
    if (!from.length) return false;
    to.push(this.values);
    this.values = from.pop();
    return true;
  }

  /** A round dot of `size` cells across. */
  dot(x, y, size, value) {
    const radius = size / 2;
    const [cx, cy] = size % 2 ? [x, y] : [x - 0.5, y - 0.5];
    for (let row = Math.ceil(cy - radius); row <= cy + radius; row++) {
      for (let column = Math.ceil(cx - radius); column <= cx + radius; column++) {
        const inside = (column - cx) ** 2 + (row - cy) ** 2 <= radius * radius - (size > 2 ? 0.2 : 0);
        if (inside && column >= 0 && row >= 0 && column < this.width && row < this.height) this.values[row * this.width + column] = value;
      }
    }
  }

  /** Dots from one cell to the next, without gaps. */
  stroke(x0, y0, x1, y1, size, value) {
    const steps = Math.max(Math.abs(x1 - x0), Math.abs(y1 - y0), 1);
    for (let i = 0; i <= steps; i++) {
      this.dot(Math.round(x0 + ((x1 - x0) * i) / steps), Math.round(y0 + ((y1 - y0) * i) / steps), size, value);
    }
  }

  rectangle(x0, y0, x1, y1, value) {
    for (let y = Math.max(0, Math.min(y0, y1)); y <= Math.min(this.height - 1, Math.max(y0, y1)); y++) {
      const from = y * this.width + Math.max(0, Math.min(x0, x1));
      this.values.fill(value, from, y * this.width + Math.min(this.width - 1, Math.max(x0, x1)) + 1);
    }
  }

  /** The connected area around a cell. */
  fill(x, y, value) {
    const old = this.at(x, y);
    if (old === value) return;
    const open = [y * this.width + x];
    while (open.length) {
      const at = open.pop();
      if (this.values[at] !== old) continue;
      this.values[at] = value;
      const column = at % this.width;
      if (column > 0) open.push(at - 1);
      if (column < this.width - 1) open.push(at + 1);
      if (at >= this.width) open.push(at - this.width);
      if (at + this.width < this.values.length) open.push(at + this.width);
    }
  }

  /** Take over another raster's numbers, each cell the nearest of theirs. */
  take({ values, width, height }) {
    for (let y = 0; y < this.height; y++) {
      const row = Math.floor(((y + 0.5) * height) / this.height) * width;
      for (let x = 0; x < this.width; x++) this.values[y * this.width + x] = values[row + Math.floor(((x + 0.5) * width) / this.width)];
    }
  }

  get blank() {
    return this.values.every((value) => value === this.background);
  }
}
