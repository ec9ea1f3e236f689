/** Colours with a meaning, chosen so that everybody can tell them apart. */

// Cividis (Nunez, Anderton and Renslow 2018), designed for red-green colour blindness: nine of its steps.
const RAMP = [
  [0, 34, 78], [26, 56, 111], [67, 78, 108], [96, 101, 111], [125, 124, 120],
  [155, 148, 118], [188, 174, 108], [222, 201, 88], [254, 232, 56],
];

/** CSS colour of a value in 0..1. */
export function ramp(value, alpha = 1) {
  const place = Math.min(1, Math.max(0, value)) * (RAMP.length - 1);
  const low = Math.min(RAMP.length - 2, Math.floor(place));
  const mixed = RAMP[low].map((c, i) => Math.round(c + (RAMP[low + 1][i] - c) * (place - low)));
  return `rgb(${mixed.join(" ")} / ${alpha})`;
}

/** A colour of the style sheet. */
export function named(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

export function drawRamp(canvas) {
  const pen = canvas.getContext("2d");
  for (let x = 0; x < canvas.width; x++) {
    pen.fillStyle = ramp(x / (canvas.width - 1));
    pen.fillRect(x, 0, 1, canvas.height);
  }
}
