/** State and actions of the page. */

import { writeAddress } from "./address.js";
import { getJSON } from "./api.js";
import { length, magnification, REGENERATED, roundLength } from "./format.js";
import { Confidence, origin, Shapes, Similar, standIns, Tissue } from "./layers.js";
import { Pane } from "./pane.js";
import { fill, levelButtons, listPlaces, metadataOf, placeOf } from "./panel.js";
import { MODES, Stage } from "./stage.js";

export const MOST_SEED = 2 ** 32 - 1;
const byId = (id) => document.getElementById(id);

export class Page {
  constructor(metadata) {
    this.metadata = metadata;
    this.slides = new Map(metadata.slides.map((slide) => [slide.id, slide]));
    this.layers = new Set();
    this.tissues = new Map();
    this.shapes = new Map();
    this.pointed = null;

    this.original = new Pane(byId("original"), metadata, { imageLoaderLimit: 2 });
    this.shown = new Pane(byId("shown"), metadata, {
      showNavigator: true,
      navigatorId: "overview",
      navigatorDrawer: "canvas",
    });
    this.stage = new Stage(byId("stage"), this.original, this.shown);
    this.confidence = new Confidence(this.shown);
    this.similar = new Similar();
    this.origin = origin((pane) => this.tissueOf(pane.slide));
    this.shown.painters.push(standIns);
  }

  // -- what is shown -----------------------------------------------------------------------------

  async open(id, { seed, view, mode } = {}) {
    const slide = this.slides.get(id) ?? this.choices()[0];
    const original = this.slides.get(slide.original) ?? null;
    this.slide = slide;
    this.seed = slide.kind === "archive" ? (seed ?? slide.seed) : 0;
    byId("slide").value = slide.id;
    document.title = `${slide.name} · ZoomLDM viewer`;
    this.stage.paired = Boolean(original);
    this.original.archiveId = slide.id;
    for (const button of byId("modes").children) button.disabled = !original;
    byId("modes").hidden = !original;
    this.setMode(mode ?? (original ? "beside" : "alone"));
    await nextFrame();
    await Promise.all([
      this.shown.open(slide, this.seed),
      original ? this.original.open(original, 0) : null,
    ]);
    await Promise.all([this.shown.sized(), original ? this.original.sized() : null]);
    if (view) this.shown.setView(view, true);
    else this.shown.viewer.viewport.goHome(true);
    this.confidence.reset();
    this.#describe();
    this.refresh();
  }

  /** Entries of the list; originals are shown with their archives. */
  choices() {
    const taken = new Set(this.metadata.slides.map((slide) => slide.original));
    return this.metadata.slides.filter((slide) => !taken.has(slide.id));
  }

  tissueOf(slide) {
    if (!slide?.archive) return null;
    if (!this.tissues.has(slide.id)) this.tissues.set(slide.id, new Tissue(slide));
    return this.tissues.get(slide.id);
  }

  setMode(mode) {
    this.stage.setMode(MODES.includes(mode) ? mode : "beside");
    for (const button of byId("modes").children) {
      const on = button.dataset.mode === this.stage.mode;
      button.setAttribute("aria-checked", on);
      button.tabIndex = on ? 0 : -1;
    }
    this.refresh();
  }

  async setSeed(seed) {
    if (this.slide.kind !== "archive" || !this.metadata.live) return;
    const whole = Math.round(Number(seed));
    if (!Number.isFinite(whole) || whole < 0 || whole > MOST_SEED) {
      this.say(`A seed is a whole number from 0 to ${MOST_SEED}.`);
      return;
    }
    this.seed = whole;
    byId("seed").value = whole;
    await this.shown.open(this.slide, whole, true);
    this.confidence.reset();
    this.refresh();
    this.say(`Seed ${whole}: other tissue with the same description.`);
  }

  // -- layers ------------------------------------------------------------------------------------

  setLayer(name, on) {
    if (on) this.layers.add(name);
    else this.layers.delete(name);
    const box = document.querySelector(`[data-layer="${CSS.escape(name)}"]`);
    if (box) box.checked = on;
    byId("origin-legend").hidden = !this.layers.has("origin");
    byId("confidence-legend").hidden = !this.layers.has("confidence");
    this.#paintersChanged();
    this.confidence.setOn(this.layers.has("confidence"));
    this.refresh();
  }

  #paintersChanged() {
    const overlays = [...this.layers].map((name) => this.shapes.get(name)?.paint).filter(Boolean);
    const has = (name) => this.layers.has(name);
    this.shown.painters = [
      standIns,
      ...(has("confidence") ? [this.confidence.paint] : []),
      ...overlays,
      ...(has("origin") ? [this.origin] : []),
      this.similar.paint,
    ];
    this.original.painters = [...overlays, ...(has("origin") ? [this.origin] : []), this.similar.paint];
    this.shown.paint();
    this.original.paint();
  }

  addShapes(name, shapes) {
    this.shapes.set(name, shapes);
    if (!document.querySelector(`[data-layer="${CSS.escape(name)}"]`)) {
      const label = document.createElement("label");
      const box = document.createElement("input");
      box.type = "checkbox";
      box.dataset.layer = name;
      label.append(box, ` ${name}`);
      byId("layers").append(label);
    }
    this.setLayer(name, true);
  }

  /** Check boxes for the GeoJSON files that the server has for this slide. */
  #overlayBoxes() {
    for (const label of [...byId("layers").querySelectorAll("label[data-served]")]) label.remove();
    this.slide.overlays.forEach((overlay, number) => {
      const label = document.createElement("label");
      label.dataset.served = number;
      const box = document.createElement("input");
      box.type = "checkbox";
      box.dataset.layer = overlay.name;
      label.append(box, ` ${overlay.name}`);
      byId("layers").append(label);
    });
  }

  async toggled(box) {
    const name = box.dataset.layer;
    const served = box.parentElement.dataset.served;
    if (box.checked && served !== undefined && !this.shapes.has(name)) {
      try {
        this.shapes.set(name, await Shapes.fromServer(this.slide, Number(served)));
      } catch (error) {
        this.say(error.message);
      }
    }
    this.setLayer(name, box.checked);
  }

  // -- similar places ----------------------------------------------------------------------------

  async findSimilar({ x, y }) {
    const side = this.metadata.tile;
    const [row, col] = [Math.floor(y / side), Math.floor(x / side)];
    byId("pick").setAttribute("aria-pressed", "false");
    try {
      const query = new URLSearchParams({ row, col, count: 10 });
      const found = await getJSON(`api/slides/${this.slide.id}/similar.json?${query}`);
      this.similar.set({ slide: this.slide.id, row, col }, found.places);
      const many = new Set(found.places.map((place) => place.slide)).size > 1;
      const nameOf = (place) => (many ? `${this.slides.get(place.slide)?.name},` : "");
      listPlaces(byId("places"), found.places, nameOf, (place) => this.goTo(place));
      byId("clear-like").hidden = false;
      this.say(
        found.places.length
          ? `${found.places.length} places most similar to row ${row}, column ${col}.`
          : "There is no tissue here.",
      );
    } catch (error) {
      this.say(error.message);
    }
    this.#paintersChanged();
  }

  async goTo(place) {
    const side = this.metadata.tile;
    const view = { x: (place.col + 0.5) * side, y: (place.row + 0.5) * side };
    if (place.slide === this.slide.id) {
      this.shown.setView({ ...view, mpp: Math.min(this.shown.view().mpp, 1) });
      return;
    }
    await this.open(place.slide, { view: { ...view, mpp: 1 }, mode: this.stage.mode });
  }

  clearSimilar() {
    this.similar.set(null, []);
    byId("places").replaceChildren();
    byId("clear-like").hidden = true;
    this.#paintersChanged();
  }

  // -- words -------------------------------------------------------------------------------------

  say(text) {
    byId("status").textContent = text;
    clearTimeout(this.quiet);
    this.quiet = setTimeout(() => this.summary(), 6000);
  }

  summary() {
    const view = this.shown.view();
    const level = this.shown.level();
    const kind = level.real ? "real pixels" : "generated pixels, not for diagnosis";
    const known = this.layers.has("confidence") ? this.confidence.summary() : null;
    const mean = known ? ` · mean confidence ${known.mean.toFixed(2)} over ${known.count} tiles` : "";
    byId("status").textContent =
      `${magnification(view.mpp)} · ${view.mpp.toPrecision(3)} µm/px · ${kind}${mean}`;
  }

  #describe() {
    const { slide } = this;
    const isArchive = slide.kind === "archive";
    byId("seed").value = this.seed;
    byId("s-seed").hidden = !isArchive || !this.metadata.live;
    byId("s-like").hidden = !isArchive || !this.metadata.live;
    byId("s-export").hidden = !this.metadata.live;
    byId("l-confidence").hidden = !slide.confidence;
    byId("h-metadata").textContent = isArchive ? "Archive" : "Slide";
    fill(byId("metadata"), metadataOf(slide));
    levelButtons(byId("levels"), slide, (level) => this.toScale(level.mpp));
    this.#overlayBoxes();
    for (const name of [...this.layers]) this.setLayer(name, true);
  }

  /** Update everything that depends on the view. */
  refresh() {
    if (!this.shown.slide || !this.shown.viewer.world.getItemCount()) return;
    const level = this.shown.level();
    const isArchive = this.shown.slide.kind === "archive";
    const figure = byId("shown");
    const made = isArchive && !level.real;
    const kind = figure.querySelector(".kind");
    kind.textContent = isArchive ? "From the archive" : "Original";
    kind.hidden = made;
    figure.querySelector(".where").textContent = made
      ? `${level.label}, seed ${this.seed}`
      : `${level.label}, real`;
    figure.querySelector(".notice").hidden = !made;
    if (this.original.slide) {
      byId("original").querySelector(".where").textContent = this.original.level().label;
    }
    fill(byId("place"), placeOf(this.shown, this.pointed));
    for (const button of byId("levels").children) {
      button.setAttribute("aria-pressed", Number(button.dataset.level) === level.level);
    }
    this.#scaleBar();
    this.making();
  }

  #scaleBar() {
    const { mpp } = this.shown.view();
    const round = roundLength(130 * mpp);
    const bar = document.querySelector(".scale");
    bar.querySelector(".rule").style.width = `${round / mpp}px`;
    bar.querySelector(".length").textContent = length(round);
  }

  making() {
    const left = this.shown.level().real ? 0 : this.shown.standIns().length;
    const chip = document.querySelector(".making");
    chip.hidden = !left;
    chip.textContent = left
      ? `${left} ${left === 1 ? "tile is" : "tiles are"} being generated (hatched)`
      : "";
  }

  // -- view --------------------------------------------------------------------------------------

  toScale(mpp) {
    const view = this.shown.view();
    this.shown.setView({ ...view, mpp });
  }

  zoomBy(factor) {
    const { viewport } = this.shown.viewer;
    viewport.zoomBy(factor);
    viewport.applyConstraints();
  }

  moveBy(x, y) {
    const { viewport } = this.shown.viewer;
    const box = viewport.getBounds(false);
    viewport.panBy(new OpenSeadragon.Point(box.width * x, box.height * y));
    viewport.applyConstraints();
  }

  exportView(kind) {
    const level = this.shown.level();
    const { x, y, w, h } = this.shown.seen();
    const scale = 2 ** level.level;
    const left = Math.floor(x / scale);
    const top = Math.floor(y / scale);
    const query = new URLSearchParams({
      level: level.level,
      x: left,
      y: top,
      w: Math.min(level.width - left, Math.max(1, Math.round(w / scale))),
      h: Math.min(level.height - top, Math.max(1, Math.round(h / scale))),
    });
    const link = document.createElement("a");
    link.href = `regions/${this.slide.id}/${this.slide.version}/${this.seed}.${kind}?${query}`;
    link.download = "";
    document.body.append(link);
    link.click();
    link.remove();
    this.say(`${level.label}, ${query.get("w")} × ${query.get("h")} px: being prepared; the browser saves it.`);
  }

  async share() {
    this.remember();
    try {
      await navigator.clipboard.writeText(location.href);
      this.say("Link to this view copied.");
    } catch {
      this.say("Copy the link to this view from the address bar.");
    }
  }

  remember() {
    if (!this.shown.slide) return;
    writeAddress({
      slide: this.slide.id,
      seed: this.seed,
      ...this.shown.view(),
      mode: this.stage.mode,
      layers: [...this.layers],
    });
  }

  blink() {
    if (!this.stage.paired) return;
    if (this.stage.mode === "blink") this.stage.blink();
    else {
      this.stage.blink();
      this.setMode("blink");
    }
    const [pane] = this.stage.visible();
    const made = this.shown.level().real ? "From the archive" : REGENERATED;
    this.say(pane === this.original ? "Original" : made);
  }

  overview() {
    const { dataset } = byId("stage");
    dataset.overview = dataset.overview === "off" ? "on" : "off";
  }

  fold() {
    const folded = document.body.dataset.panel !== "folded";
    document.body.dataset.panel = folded ? "folded" : "";
    byId("fold").setAttribute("aria-expanded", !folded);
  }

  pick() {
    const on = byId("pick").getAttribute("aria-pressed") !== "true";
    byId("pick").setAttribute("aria-pressed", on);
    if (on) this.say("Click a place in either image.");
  }

  async measure() {
    const button = byId("measure");
    button.disabled = true;
    try {
      const done = await this.confidence.measure(this.tissueOf(this.slide), (i, n) =>
        this.say(`Generating tile ${i + 1} of ${n} at 20x …`),
      );
      const known = this.confidence.summary();
      this.say(known ? `Mean confidence ${known.mean.toFixed(2)} over ${known.count} tiles; ${done} newly generated.` : "There is no tissue in view.");
    } catch (error) {
      this.say(error.message);
    } finally {
      button.disabled = false;
    }
  }
}

function nextFrame() {
  return new Promise((resolve) => requestAnimationFrame(() => resolve()));
}
