/** What is drawn over an image: stand-ins, origin, confidence, GeoJSON, similar places. */

import { getJSON, getTile, tilePath } from "./api.js";
import { named, ramp } from "./colours.js";

const BLOCK = 64; // tiles per side of one request for confidence
const MOST_MEASURED = 64;
const HATCH = 18; // px between the lines over tiles not yet generated

/** A rectangle of raster px in CSS px of a pane. */
function boxOf(frame, x, y, w, h) {
  return [
    frame.left + x * frame.scale,
    frame.top + y * frame.scale,
    w * frame.scale,
    h * frame.scale,
  ];
}

/** Hatches tiles that a coarser level stands in for until they are generated. */
export function standIns(pen, pane, frame) {
  const { level, real } = pane.level();
  if (real) return;
  const side = pane.page.tile << level;
  pen.lineWidth = 1;
  for (const [col, row] of pane.standIns()) {
    const [x, y, w, h] = boxOf(frame, col * side, row * side, side, side);
    pen.save();
    pen.beginPath();
    pen.rect(x, y, w, h);
    pen.clip();
    // All lines lie on one lattice over the pane, so the hatching has no seams.
    const first = -h + HATCH - ((((x + y) % HATCH) + HATCH) % HATCH);
    for (const [shift, colour] of [[0, "rgb(255 255 255 / .3)"], [1.5, "rgb(60 30 60 / .12)"]]) {
      pen.strokeStyle = colour;
      pen.beginPath();
      for (let at = first - HATCH; at < w; at += HATCH) {
        pen.moveTo(x + at + shift, y + h);
        pen.lineTo(x + at + h + shift, y);
      }
      pen.stroke();
    }
    pen.restore();
  }
}

/** An archive's tissue: which tiles of the grid hold tissue. */
export class Tissue {
  constructor(slide) {
    this.rows = slide.archive.rows;
    this.cols = slide.archive.cols;
    this.cells = null;
    const image = new Image();
    image.onload = () => {
      const canvas = document.createElement("canvas");
      canvas.width = this.cols;
      canvas.height = this.rows;
      const pen = canvas.getContext("2d");
      pen.drawImage(image, 0, 0);
      const { data } = pen.getImageData(0, 0, this.cols, this.rows);
      this.cells = Uint8Array.from({ length: data.length / 4 }, (_, i) => data[4 * i] > 127);
    };
    image.src = `api/slides/${slide.id}/${slide.version}/tissue.png`;
  }

  at(row, col) {
    return Boolean(this.cells?.[row * this.cols + col]);
  }
}

/** Marks each tile in view as stored, generated or enlarged background. */
export function origin(tissueOf) {
  return (pen, pane, frame) => {
    const { real } = pane.level();
    const tissue = tissueOf(pane);
    pen.lineWidth = 2;
    if (real || !tissue) {
      const box = boxOf(frame, 0, 0, pane.slide.width, pane.slide.height);
      pen.strokeStyle = named("real");
      pen.fillStyle = "rgb(0 114 178 / .10)";
      pen.fillRect(...box);
      pen.strokeRect(...box);
      return;
    }
    const side = pane.page.tile;
    for (const [col, row] of pane.tilesInView(0)) {
      const [x, y, w, h] = boxOf(frame, col * side, row * side, side, side);
      const made = tissue.at(row, col);
      pen.strokeStyle = named(made ? "generated" : "enlarged");
      pen.fillStyle = made ? "rgb(213 94 0 / .12)" : "rgb(120 120 120 / .08)";
      pen.setLineDash(made ? [6, 4] : [2, 4]);
      pen.fillRect(x, y, w, h);
      pen.strokeRect(x + 1.5, y + 1.5, w - 3, h - 3);
    }
    pen.setLineDash([]);
  };
}

/** Cosines of the tiles that were generated at 20x so far. */
export class Confidence {
  constructor(pane) {
    this.pane = pane;
    this.on = false;
    this.known = new Map();
    pane.addEventListener("tile", (event) => {
      if (this.on && event.detail.level === 0) this.#later();
    });
    pane.addEventListener("settled", () => this.on && this.#later());
    this.paint = (pen, shown, frame) => this.#paint(pen, shown, frame);
  }

  /** Forget all values: another slide or seed is shown. */
  reset() {
    this.known.clear();
    if (this.on) this.#later();
  }

  setOn(on) {
    this.on = on;
    if (on) this.#ask();
    this.pane.paint();
  }

  #later() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.#ask(), 350);
  }

  async #ask() {
    const { slide, seed } = this.pane;
    if (!slide?.confidence) return;
    const inView = this.pane.tilesInView(0);
    if (!inView.length) return;
    const [col, row] = inView[0];
    const [lastCol, lastRow] = inView.at(-1);
    const query = new URLSearchParams({
      row,
      col,
      rows: Math.min(BLOCK, lastRow - row + 1),
      cols: Math.min(BLOCK, lastCol - col + 1),
    });
    const path = `api/slides/${slide.id}/${slide.version}/${seed}/confidence.json?${query}`;
    try {
      const { tiles } = await getJSON(path);
      if (slide !== this.pane.slide || seed !== this.pane.seed) return;
      for (const tile of tiles) this.known.set(`${tile.row}_${tile.col}`, tile);
      this.pane.paint();
    } catch (error) {
      this.pane.dispatchEvent(new CustomEvent("fault", { detail: error.message }));
    }
  }

  /** Generate the tiles in view at 20x, to measure their confidence. */
  async measure(tissue, onStep) {
    const { slide, seed, page } = this.pane;
    const wanted = this.pane
      .tilesInView(0)
      .filter(([col, row]) => tissue.at(row, col) && !this.known.has(`${row}_${col}`))
      .slice(0, MOST_MEASURED);
    let done = 0;
    for (const [col, row] of wanted) {
      onStep(done++, wanted.length);
      await getTile(tilePath(slide, seed, 0, col, row, page.format), 6);
      if (slide !== this.pane.slide || seed !== this.pane.seed) return 0;
      await this.#ask();
    }
    return done;
  }

  /** Mean over the measured tiles in view. */
  summary() {
    const found = this.pane
      .tilesInView(0)
      .map(([col, row]) => this.known.get(`${row}_${col}`)?.cosine)
      .filter((cosine) => cosine !== undefined);
    if (!found.length) return null;
    return { count: found.length, mean: found.reduce((a, b) => a + b, 0) / found.length };
  }

  #paint(pen, pane, frame) {
    const side = pane.page.tile;
    pen.font = "600 12px system-ui, sans-serif";
    pen.textBaseline = "top";
    for (const [col, row] of pane.tilesInView(0)) {
      const tile = this.known.get(`${row}_${col}`);
      if (!tile) continue;
      const [x, y, w, h] = boxOf(frame, col * side, row * side, side, side);
      pen.fillStyle = ramp(tile.cosine, 0.45);
      pen.fillRect(x, y, w, h);
      if (w < 56) continue;
      const text = tile.cosine.toFixed(2);
      pen.fillStyle = "rgb(20 15 25 / .78)";
      pen.fillRect(x + 6, y + 6, pen.measureText(text).width + 10, 18);
      pen.fillStyle = "#fff";
      pen.fillText(text, x + 11, y + 9);
    }
  }
}

/** Shapes of a GeoJSON file, in raster px. */
export class Shapes {
  constructor(features) {
    this.shapes = features.map(shapeOf).filter((shape) => shape);
  }

  static async fromServer(slide, number) {
    const { features } = await getJSON(`api/slides/${slide.id}/overlays/${number}.json`);
    return new Shapes(features);
  }

  /** From a file that the user chose; it stays in the browser. */
  static async fromFile(file) {
    const value = JSON.parse(await file.text());
    const features = Array.isArray(value) ? value : value.features ?? [value];
    return new Shapes(
      features.map((feature) => {
        const measured = feature.properties?.measurements ?? {};
        const value = measured.rank ?? Object.values(measured)[0];
        const name = feature.properties?.classification?.name ?? feature.properties?.name;
        return { ...feature.geometry, value, name };
      }),
    );
  }

  paint = (pen, pane, frame, dense) => {
    const { x, y, w, h } = pane.seen();
    const line = 1.6 / frame.scale;
    pen.save();
    pen.setTransform(
      frame.scale * dense, 0, 0, frame.scale * dense, frame.left * dense, frame.top * dense,
    );
    pen.lineWidth = line;
    for (const shape of this.shapes) {
      const [x0, y0, x1, y1] = shape.box;
      if (x1 < x || y1 < y || x0 > x + w || y0 > y + h) continue;
      if (shape.value !== undefined) {
        pen.fillStyle = ramp(shape.value, 0.5);
        pen.fill(shape.path);
      } else {
        pen.strokeStyle = "rgb(255 255 255 / .9)";
        pen.lineWidth = 2 * line;
        pen.stroke(shape.path);
        pen.strokeStyle = named("accent");
        pen.lineWidth = line;
        pen.stroke(shape.path);
      }
    }
    pen.restore();
  };
}

function shapeOf({ type, coordinates, value, name }) {
  const depth = { Point: 0, MultiPoint: 1, LineString: 1, MultiLineString: 2, Polygon: 2, MultiPolygon: 3 }[type];
  if (depth === undefined) return null;
  const path = new Path2D();
  const box = [Infinity, Infinity, -Infinity, -Infinity];
  const meet = ([x, y]) => {
    box[0] = Math.min(box[0], x);
    box[1] = Math.min(box[1], y);
    box[2] = Math.max(box[2], x);
    box[3] = Math.max(box[3], y);
  };
  const walk = (part, left) => {
    if (left === 0 || (left === 1 && type === "MultiPoint")) {
      for (const point of left ? part : [part]) {
        meet(point);
        path.rect(point[0] - 8, point[1] - 8, 16, 16);
      }
    } else if (left === 1) {
      part.forEach((point, i) => {
        meet(point);
        if (i) path.lineTo(point[0], point[1]);
        else path.moveTo(point[0], point[1]);
      });
    } else {
      for (const inner of part) walk(inner, left - 1);
    }
  };
  walk(coordinates, depth);
  return { path, box, value, name };
}

/** Marks the chosen tile and those most similar to it. */
export class Similar {
  constructor() {
    this.asked = null;
    this.places = [];
    this.paint = (pen, pane, frame) => this.#paint(pen, pane, frame);
  }

  set(asked, places) {
    this.asked = asked;
    this.places = places;
  }

  #paint(pen, pane, frame) {
    const archive = pane.archiveId ?? pane.slide.id;
    const side = pane.page.tile;
    const mark = (place, text, colour) => {
      let [x, y, w, h] = boxOf(frame, place.col * side, place.row * side, side, side);
      const grow = Math.max(0, (16 - w) / 2); // never too small to be seen
      [x, y, w, h] = [x - grow, y - grow, w + 2 * grow, h + 2 * grow];
      pen.lineWidth = 5;
      pen.strokeStyle = "rgb(255 255 255 / .95)";
      pen.strokeRect(x, y, w, h);
      pen.lineWidth = 2.5;
      pen.strokeStyle = colour;
      pen.strokeRect(x, y, w, h);
      const width = pen.measureText(text).width + 10;
      pen.fillStyle = colour;
      pen.fillRect(x - 1, y - 18, width, 18);
      pen.fillStyle = "#fff";
      pen.fillText(text, x + 4, y - 15);
    };
    pen.font = "600 12px system-ui, sans-serif";
    pen.textBaseline = "top";
    this.places.forEach((place, i) => {
      if (place.slide === archive) mark(place, String(i + 1), "#0060a0");
    });
    if (this.asked?.slide === archive) mark(this.asked, "here", "#8a2f6b");
  }
}
