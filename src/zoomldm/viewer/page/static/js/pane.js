/** One image: an OpenSeadragon viewer under a canvas for overlays. */

import { forgive, levelsOf, tileSource } from "./tiles.js";

const SHARPEST = 0.75; // least screen px per px of a level: finer levels are not requested
const MOST_ZOOM = 4; // screen px per px of 20x

export class Pane extends EventTarget {
  /**
   * @param {HTMLElement} element the figure
   * @param {object} page what the server reported
   * @param {object} options options of OpenSeadragon
   */
  constructor(element, page, options = {}) {
    super();
    this.element = element;
    this.page = page;
    this.slide = null;
    this.painters = [];
    this.loaded = new Set();
    this.viewer = OpenSeadragon({
      element: element.querySelector(".view"),
      drawer: "canvas",
      prefixUrl: "static/openseadragon/",
      showNavigationControl: false,
      keyboardNavEnabled: false,
      minPixelRatio: SHARPEST,
      maxZoomPixelRatio: MOST_ZOOM,
      visibilityRatio: 0.3,
      preserveImageSizeOnResize: true,
      preserveViewport: true, // a new seed keeps the view
      minZoomImageRatio: 0.6,
      animationTime: matchMedia("(prefers-reduced-motion: reduce)").matches ? 0 : 0.5,
      springStiffness: 10,
      gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: true },
      gestureSettingsTouch: { clickToZoom: false },
      imageLoaderLimit: 3,
      timeout: 600000,
      placeholderFillStyle: "#ffffff",
      ...options,
    });
    const canvas = this.viewer.canvas;
    canvas.setAttribute("role", "application");
    canvas.setAttribute("aria-roledescription", "zoomable image");
    this.over = element.querySelector(".over");
    forgive(this.viewer);
    this.viewer.addHandler("tile-loaded", (event) => this.#note(event.tile, true));
    this.viewer.addHandler("tile-unloaded", (event) => this.#note(event.tile, false));
    this.viewer.addHandler("update-viewport", () => this.paint());
    this.viewer.addHandler("viewport-change", () => this.#moved());
    this.viewer.addHandler("resize", () => requestAnimationFrame(() => this.paint()));
    this.viewer.addHandler("canvas-click", (event) => this.#clicked(event));
    new OpenSeadragon.MouseTracker({
      element: canvas,
      moveHandler: (event) => this.#pointed(event.position),
      leaveHandler: () => this.#emit("pointed", null),
    });
  }

  #emit(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }

  /** Show a slide; keep the view if `keep`. */
  open(slide, seed, keep = false) {
    this.slide = slide;
    this.seed = seed;
    this.loaded.clear();
    this.source?.prune(() => false);
    this.source = tileSource(slide, seed, this.page, {
      onChange: () => this.paint(),
      onFault: (reason) => this.#emit("fault", reason),
    });
    this.viewer.canvas.setAttribute(
      "aria-label",
      `${slide.kind === "archive" ? "Regenerated" : "Original"} ${slide.name}: arrow keys move, plus and minus zoom`,
    );
    const replace = keep && this.viewer.world.getItemCount() > 0;
    if (!replace) this.viewer.world.removeAll();
    return new Promise((resolve) => {
      this.viewer.addTiledImage({
        tileSource: this.source,
        index: 0,
        replace,
        success: () => {
          if (!keep) this.viewer.viewport.goHome(true);
          resolve();
        },
      });
    });
  }

  /** Resolves when OpenSeadragon has noticed the size of its element. */
  async sized() {
    for (let tries = 0; tries < 60; tries++) {
      const known = this.viewer.viewport.getContainerSize();
      const { clientWidth, clientHeight } = this.viewer.container;
      if (Math.abs(known.x - clientWidth) <= 1 && Math.abs(known.y - clientHeight) <= 1) return;
      await new Promise((resolve) => requestAnimationFrame(resolve));
    }
  }

  // -- geometry: px of the 0.5 mpp raster, CSS px of the pane ------------------------------------

  /** Micrometres of the slide per CSS px, and the raster px at the centre. */
  view() {
    const { viewport } = this.viewer;
    const centre = viewport.getCenter(true);
    const width = this.slide.width;
    const across = viewport.getContainerSize().x;
    return {
      x: centre.x * width,
      y: centre.y * width,
      mpp: (this.slide.mpp * width) / (viewport.getZoom(true) * across),
    };
  }

  setView({ x, y, mpp }, immediately = false) {
    const { viewport } = this.viewer;
    const width = this.slide.width;
    const zoom = (this.slide.mpp * width) / (mpp * viewport.getContainerSize().x);
    viewport.zoomTo(zoom, null, immediately);
    viewport.panTo(new OpenSeadragon.Point(x / width, y / width), immediately);
    viewport.applyConstraints(immediately);
  }

  /** Visible raster px (x, y, w, h), clipped to the slide. */
  seen() {
    const box = this.viewer.viewport.getBounds(true);
    const { width, height } = this.slide;
    const x = Math.max(0, box.x * width);
    const y = Math.max(0, box.y * width);
    return {
      x,
      y,
      w: Math.max(0, Math.min(width, (box.x + box.width) * width) - x),
      h: Math.max(0, Math.min(height, (box.y + box.height) * width) - y),
    };
  }

  /** CSS px per raster px, and where raster (0, 0) lies in the pane. */
  frame() {
    const { viewport } = this.viewer;
    const { mpp } = this.view();
    const origin = viewport.pixelFromPoint(new OpenSeadragon.Point(0, 0), true);
    return { scale: this.slide.mpp / mpp, left: origin.x, top: origin.y };
  }

  /** The level whose tiles this view requests. */
  level() {
    const { mpp } = this.view();
    const levels = levelsOf(this.slide);
    return levels.find((one) => one.mpp / mpp >= SHARPEST) ?? levels.at(-1);
  }

  /** Tiles [col, row] of a level that are in view. */
  tilesInView(level) {
    const { x, y, w, h } = this.seen();
    if (!w || !h) return [];
    const side = this.page.tile << level;
    const found = [];
    for (let row = Math.floor(y / side); row * side < y + h; row++) {
      for (let col = Math.floor(x / side); col * side < x + w; col++) found.push([col, row]);
    }
    return found;
  }

  /** Tiles of the view's own level that a coarser one stands in for. */
  standIns() {
    const { level } = this.level();
    return this.tilesInView(level).filter(
      ([col, row]) =>
        !this.loaded.has(`${level}/${col}_${row}`) &&
        this.source.tileExists(this.source.theirs(level), col, row),
    );
  }

  // -- events ------------------------------------------------------------------------------------

  #note(tile, there) {
    if (!this.source || tile.tiledImage?.source !== this.source) return;
    const level = this.source.ours(tile.level);
    const name = `${level}/${tile.x}_${tile.y}`;
    if (there) this.loaded.add(name);
    else this.loaded.delete(name);
    this.#emit("tile", { level, col: tile.x, row: tile.y });
    this.paint();
  }

  #moved() {
    this.#emit("moved");
    clearTimeout(this.settling);
    this.settling = setTimeout(() => this.#settled(), 200);
  }

  #settled() {
    if (!this.slide || !this.source) return;
    const { level } = this.level();
    const inView = new Set(this.tilesInView(level).map(([col, row]) => `${col}_${row}`));
    this.source.prune((one, col, row) => one === level && inView.has(`${col}_${row}`));
    this.#emit("settled");
  }

  #place(position) {
    const point = this.viewer.viewport.pointFromPixel(position, true);
    return { x: point.x * this.slide.width, y: point.y * this.slide.width };
  }

  #pointed(position) {
    if (this.slide) this.#emit("pointed", this.#place(position));
  }

  #clicked(event) {
    if (this.slide && event.quick) this.#emit("chosen", this.#place(event.position));
  }

  /** Draw the overlays at the next frame. */
  paint() {
    if (this.frameAsked) return;
    this.frameAsked = true;
    requestAnimationFrame(() => {
      this.frameAsked = false;
      if (!this.slide || this.viewer.world.getItemCount() === 0) return;
      const { clientWidth, clientHeight } = this.over;
      const dense = window.devicePixelRatio || 1;
      if (this.over.width !== Math.round(clientWidth * dense)) this.over.width = clientWidth * dense;
      if (this.over.height !== Math.round(clientHeight * dense)) this.over.height = clientHeight * dense;
      const pen = this.over.getContext("2d");
      pen.setTransform(dense, 0, 0, dense, 0, 0);
      pen.clearRect(0, 0, clientWidth, clientHeight);
      const frame = this.frame();
      for (const painter of this.painters) painter(pen, this, frame, dense);
      this.#emit("painted");
    });
  }
}
