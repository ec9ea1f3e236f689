/** Original and archive in one view: side by side, swiped, blinking, or one alone. */

export const MODES = ["beside", "swipe", "blink", "alone"];

export class Stage {
  constructor(element, original, shown) {
    this.element = element;
    this.original = original;
    this.shown = shown;
    this.mode = "alone";
    this.cut = 50;
    this.given = new Map(); // the view that a pane was last set to
    this.#couple(original, shown);
    this.#couple(shown, original);
    this.#swipe(document.getElementById("swipe"));
  }

  /** Each pane follows the other; a follower's own events move nothing. */
  #couple(leader, follower) {
    const follow = () => {
      if (this.moving || !follower.slide || !leader.slide || !this.paired) return;
      if (!sameSize(leader, follower)) return; // one of them has yet to notice a resize
      const from = leader.viewer.viewport;
      const to = follower.viewer.viewport;
      // A follower's event comes a frame later, when the leader may have moved on: ignore the echo.
      if (sameView(this.given.get(leader), from)) return;
      this.given.set(follower, { zoom: from.getZoom(true), centre: from.getCenter(true) });
      this.given.delete(leader);
      this.moving = true;
      to.zoomTo(from.getZoom(true), null, true);
      to.panTo(from.getCenter(true), true);
      this.moving = false;
    };
    leader.viewer.addHandler("viewport-change", follow);
    leader.viewer.addHandler("open", follow);
    this.follow = () => follow();
  }

  /** Whether there is an original to compare with. */
  set paired(value) {
    this.isPaired = value;
  }

  get paired() {
    return this.isPaired;
  }

  setMode(mode) {
    this.mode = this.paired ? mode : "alone";
    const { dataset } = this.element;
    dataset.mode = this.mode;
    dataset.alone = "shown";
    dataset.blink = this.mode === "blink" ? (dataset.blink ?? "shown") : "shown";
    document.getElementById("swipe").hidden = this.mode !== "swipe";
    this.#setCut(this.cut);
    for (const pane of [this.original, this.shown]) pane.viewer.forceResize();
  }

  /** Switch to the other image. */
  blink() {
    if (!this.paired) return;
    const { dataset } = this.element;
    if (this.mode !== "blink") {
      dataset.blink = "original";
      this.setMode("blink");
      return;
    }
    dataset.blink = dataset.blink === "original" ? "shown" : "original";
  }

  /** Panes that are visible now. */
  visible() {
    const { dataset } = this.element;
    if (this.mode === "beside" || this.mode === "swipe") return [this.original, this.shown];
    if (this.mode === "blink" && dataset.blink === "original") return [this.original];
    return [this.shown];
  }

  #setCut(percent) {
    this.cut = Math.min(100, Math.max(0, percent));
    this.element.style.setProperty("--cut", `${this.cut}%`);
    const handle = document.getElementById("swipe");
    handle.setAttribute("aria-valuenow", Math.round(this.cut));
    handle.setAttribute("aria-valuetext", `${Math.round(this.cut)} % original`);
  }

  #swipe(handle) {
    handle.addEventListener("pointerdown", (event) => {
      handle.setPointerCapture(event.pointerId);
      event.preventDefault();
      handle.focus();
    });
    handle.addEventListener("pointermove", (event) => {
      if (!handle.hasPointerCapture(event.pointerId)) return;
      const box = this.element.getBoundingClientRect();
      this.#setCut((100 * (event.clientX - box.left)) / box.width);
    });
    handle.addEventListener("keydown", (event) => {
      const steps = { ArrowLeft: -2, ArrowRight: 2, PageDown: -10, PageUp: 10, Home: -100, End: 100 };
      if (!(event.key in steps)) return;
      event.preventDefault();
      event.stopPropagation();
      this.#setCut(this.cut + steps[event.key]);
    });
  }
}

function sameView(given, viewport) {
  if (!given) return false;
  const centre = viewport.getCenter(true);
  const far = Math.hypot(centre.x - given.centre.x, centre.y - given.centre.y);
  return far < 1e-9 && Math.abs(viewport.getZoom(true) / given.zoom - 1) < 1e-9;
}

function sameSize(one, other) {
  const a = one.viewer.viewport.getContainerSize();
  const b = other.viewer.viewport.getContainerSize();
  return Math.abs(a.x - b.x) <= 1 && Math.abs(a.y - b.y) <= 1;
}
