/** A slide's tiles for OpenSeadragon: requested by urgency, cancelled when out of view. */

import { getTile, tilePath } from "./api.js";

const LEFT = "left"; // failure reason of a cancelled tile
const SOON = 2;

/** Our levels (0 is 20x) for which a slide has pixels, finest first. */
export function levelsOf(slide) {
  return slide.levels.filter((level) => level.level >= (slide.finest ?? 0));
}

/**
 * OpenSeadragon's TileSource of a slide and seed. Its levels count from the coarsest up.
 *
 * @param {object} slide metadata of the slide
 * @param {number} seed of the noise
 * @param {object} page `format` and `tile` of the server
 * @param {{onChange: Function, onFault: Function}} events
 */
export function tileSource(slide, seed, page, events) {
  const levels = levelsOf(slide);
  const finest = levels[0];
  const coarsest = levels.at(-1).level;
  const source = new OpenSeadragon.TileSource({
    width: finest.width,
    height: finest.height,
    tileSize: page.tile,
    tileOverlap: 0,
    minLevel: 0,
    maxLevel: coarsest - finest.level,
  });
  const pending = new Map();
  const ours = (level) => coarsest - level;

  source.ours = ours;
  source.theirs = (level) => coarsest - level;
  source.getTileUrl = (level, x, y) => tilePath(slide, seed, ours(level), x, y, page.format);
  source.hasTransparency = () => false;
  source.tileExists = (level, x, y) => exists(slide, page.tile, ours(level), x, y);

  source.downloadTileStart = (job) => {
    const control = new AbortController();
    const level = ours(job.tile.level);
    pending.set(job, { control, level, col: job.tile.x, row: job.tile.y });
    events.onChange();
    getTile(job.src, SOON, control.signal)
      .then((blob) => job.finish(blob, null, "rasterBlob"))
      .catch((error) => {
        const left = error.name === "AbortError";
        if (!left) events.onFault(error.message);
        job.fail(left ? LEFT : error.message, null);
      })
      .finally(() => {
        pending.delete(job);
        events.onChange();
      });
  };
  source.downloadTileAbort = (job) => pending.get(job)?.control.abort();

  /** Cancel tiles of generated levels for which `wanted(level, col, row)` is false. */
  source.prune = (wanted) => {
    for (const { control, level, col, row } of pending.values()) {
      if (!slide.levels[level].real && !wanted(level, col, row)) control.abort();
    }
  };
  return source;
}

/** Whether a tile was exported; a server has all tiles. */
function exists(slide, side, level, col, row) {
  const info = slide.levels[level];
  if (!info || col < 0 || row < 0) return false;
  if (col * side >= info.width || row * side >= info.height) return false;
  if (!slide.region || level >= slide.whole_from) return true;
  const [x, y, w, h] = slide.region;
  const span = side << level;
  return col * span < x + w && (col + 1) * span > x && row * span < y + h && (row + 1) * span > y;
}

/** Allow cancelled tiles to be requested again; OpenSeadragon would treat them as missing. */
export function forgive(viewer) {
  viewer.addHandler("tile-load-failed", (event) => {
    if (event.message !== LEFT && event.message !== "Image load aborted.") return;
    queueMicrotask(() => {
      event.tile.exists = true;
      viewer.forceRedraw();
    });
  });
}

/** Silence OpenSeadragon's errors for cancelled tiles. */
export function quieten() {
  const error = OpenSeadragon.console.error.bind(OpenSeadragon.console);
  OpenSeadragon.console.error = (...words) => {
    if (String(words[0]).includes("failed to load")) return;
    error(...words);
  };
}
