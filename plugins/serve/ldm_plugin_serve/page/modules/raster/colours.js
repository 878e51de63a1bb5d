/* Colours of classes: the run's own palette, else by the colour's word in the name, else spread hues. */
const WORDS = {
  red: "#d6322f", orange: "#ee8420", yellow: "#f1cf2b", green: "#35a04a", cyan: "#2fb9c4", blue: "#2f62d0",
  purple: "#8745b8", pink: "#ea79ae", gold: "#d9a520", teal: "#1c8a85", violet: "#7a4fc4", brown: "#8b5a33", black: "#26241f", white: "#f7f5ef", grey: "#8e8a83", gray: "#8e8a83",
  background: "#d8d4ca", sky: "#8fc3ea", sea: "#2a7da8", water: "#3b8fbd", tree: "#3c7a3f", grass: "#7fb24a",
  road: "#77736c", building: "#b08968", person: "#d1495b", sand: "#e0c58f", snow: "#eef3f6",
};

const hex = (text) => [1, 3, 5].map((i) => Number.parseInt(text.slice(i, i + 2), 16));

function spread(index) {
  const hue = (index * 137.508) % 360;
  const light = [0.55, 0.4, 0.68][index % 3];
  const part = (n) => {
    const k = (n + hue / 30) % 12;
    return Math.round(255 * (light - 0.6 * Math.min(light, 1 - light) * Math.max(-1, Math.min(k - 3, 9 - k, 1))));
  };
  return [part(0), part(8), part(4)];
}

/** RGB triples, one a class; a palette has rows [r, g, b, class]. */
export function colours(names, palette) {
  const seen = new Map();
  const own = new Map((palette ?? []).map(([r, g, b, index], place) => [index ?? place, [r, g, b]]));
  return names.map((name, index) => {
    if (own.has(index)) return own.get(index);
    const word = String(name).toLowerCase().split(/[^a-z]+/).find((part) => WORDS[part]);
    if (!word) return spread(index);
    const times = seen.get(word) ?? 0;
    seen.set(word, times + 1);
    const shade = [1, 0.78, 1.22, 0.62, 1.4][times % 5]; // several classes of one word stay apart
    return hex(WORDS[word]).map((v) => Math.max(0, Math.min(255, Math.round(v * shade))));
  });
}

export const css = ([r, g, b]) => `rgb(${r} ${g} ${b})`;

/** The one of black and white that is read on a colour. */
export const above = ([r, g, b]) => (0.2126 * (r / 255) ** 2.2 + 0.7152 * (g / 255) ** 2.2 + 0.0722 * (b / 255) ** 2.2 > 0.2 ? "#000" : "#fff");
