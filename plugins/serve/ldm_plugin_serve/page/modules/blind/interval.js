/* The share of preferences with its interval. */
const Z = 1.959964; // of 95 percent

/**
 * Wilson's interval of the share of `wins` among `count` decided pairs: {share, low, high}.
 * E. B. Wilson, "Probable inference, the law of succession, and statistical inference", 1927.
 */
export function wilson(wins, count) {
  if (!count) return { share: 0.5, low: 0, high: 1 };
  const share = wins / count;
  const middle = (share + (Z * Z) / (2 * count)) / (1 + (Z * Z) / count);
  const half = (Z / (1 + (Z * Z) / count)) * Math.sqrt((share * (1 - share)) / count + (Z * Z) / (4 * count * count));
  return { share, low: Math.max(0, middle - half), high: Math.min(1, middle + half) };
}

/** The counts of a study's answers: {first, second, tie}. */
export function counts(answers) {
  const found = { first: 0, second: 0, tie: 0 };
  for (const { preferred } of answers) found[preferred]++;
  return found;
}
