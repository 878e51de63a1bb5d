/* A run's numbers as panels: what belongs together in one plot, the losses first. */
const FIRST = ["loss", "pixel", "perceptual", "nll", "regularization", "grad_norm", "lr", "images_per_second"];
const LAST = ["data_wait", "peak_memory_mib"];
const HELD = "_validation";
const WORDS = { "val_loss by part": "held-out loss by noise, t0 the least", lr: "learning rate", grad_norm: "gradient norm", images_per_second: "images per second", data_wait: "waiting for data, share", peak_memory_mib: "memory, MiB", fd_random: "Fréchet distance, random network", psnr: "PSNR, dB", ssim: "SSIM", evaluated_images: "pictures measured", held_out: "of these held out, share" };

/** The plot that a number belongs to, and its line's label there: val_loss_t3 -> ["val_loss by part", "t3"]. */
function placeOf(name, held) {
  const part = /^(.*?)_(t?\d+)$/.exec(name);
  if (part) return [`${part[1]} by part`, part[2]];
  if (held && name.startsWith("val_")) return [name.slice(4), "held out"];
  return [name, held ? "held out" : "training"];
}

const rank = (name) => {
  const [first, last] = [FIRST.indexOf(name), LAST.indexOf(name)];
  return first >= 0 ? first : last >= 0 ? 900 + last : name.endsWith("by part") ? 800 : 100;
};

/** [{stage, step, panels}] of series {stage: {name: points}}; a stage's numbers on held-out data go to its own plots. */
function grouped(series) {
  const stages = new Map();
  for (const [key, names] of Object.entries(series)) {
    const held = key.endsWith(HELD);
    const stage = held ? key.slice(0, -HELD.length) : key;
    if (!stages.has(stage)) stages.set(stage, { stage, step: 0, panels: new Map() });
    const entry = stages.get(stage);
    for (const [name, points] of Object.entries(names)) {
      const [panel, label] = placeOf(name, held);
      if (!entry.panels.has(panel)) entry.panels.set(panel, { name: WORDS[panel] ?? panel, rank: rank(panel), lines: [] });
      entry.panels.get(panel).lines.push({ label, points });
      entry.step = Math.max(entry.step, points.at(-1)?.[0] ?? 0);
    }
  }
  const sorted = (panels) => [...panels.values()].sort((a, b) => a.rank - b.rank);
  return [...stages.values()].map((entry) => ({ ...entry, panels: sorted(entry.panels) }));
}

/** The stages of an answer: panels as they are; or columns of numbers, {stage: {name: {step, value}}}. */
export function stagesOf({ stages = [] }) {
  if (Array.isArray(stages)) return stages;
  const points = ({ step, value }) => step.map((each, i) => [each, value[i]]).filter(([, each]) => each !== null);
  const series = Object.entries(stages).map(([stage, names]) => [stage, Object.fromEntries(Object.entries(names).map(([name, columns]) => [name, points(columns)]))]);
  return grouped(Object.fromEntries(series));
}
