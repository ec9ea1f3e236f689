/** Numbers and words as people read them. */

export const REGENERATED = "Regenerated, not for diagnosis";

/** A length in micrometres. */
export function length(micrometres) {
  if (Math.abs(micrometres) >= 1000) return `${trim(micrometres / 1000)} mm`;
  return `${trim(micrometres)} µm`;
}

export function bytes(count) {
  if (count >= 1e9) return `${trim(count / 1e9)} GB`;
  if (count >= 1e6) return `${trim(count / 1e6)} MB`;
  return `${trim(count / 1e3)} kB`;
}

/** Magnification of a scale: 20x is 0.5 µm a px. */
export function magnification(mpp) {
  return `${trim(10 / mpp)}x`;
}

export function whole(number) {
  return Math.round(number).toLocaleString("en");
}

function trim(number) {
  const digits = Math.abs(number) >= 100 ? 0 : Math.abs(number) >= 10 ? 1 : 2;
  return Number(number.toFixed(digits)).toLocaleString("en");
}

/** The largest of 1, 2, 5, 10 ... micrometres up to `most`. */
export function roundLength(most) {
  const power = 10 ** Math.floor(Math.log10(most));
  return [5, 2, 1].map((n) => n * power).find((n) => n <= most);
}
