/** What each control, key and event of the panes does. */

import { drawRamp } from "./colours.js";
import { bindKeys } from "./keys.js";
import { Shapes } from "./layers.js";
import { MOST_SEED } from "./page.js";
import { MODES } from "./stage.js";
import { startTheme } from "./theme.js";

const byId = (id) => document.getElementById(id);

export function listen(page) {
  for (const pane of [page.original, page.shown]) {
    pane.addEventListener("moved", () => page.refresh());
    pane.addEventListener("painted", () => page.making());
    pane.addEventListener("fault", (event) => page.say(event.detail));
    pane.addEventListener("pointed", (event) => {
      page.pointed = event.detail;
      page.refresh();
    });
    pane.addEventListener("chosen", (event) => {
      if (byId("pick").getAttribute("aria-pressed") === "true") page.findSimilar(event.detail);
    });
  }
  page.shown.addEventListener("settled", () => {
    page.remember();
    page.summary();
  });
}

export function bindControls(page) {
  const on = (id, action) => byId(id).addEventListener("click", action);
  const select = byId("slide");
  for (const slide of page.choices()) select.append(new Option(slide.name, slide.id));
  select.addEventListener("change", () => page.open(select.value));
  const modes = [...byId("modes").children];
  for (const button of modes) {
    button.addEventListener("click", () => page.setMode(button.dataset.mode));
    button.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (!step) return;
      event.preventDefault();
      const next = modes[(modes.indexOf(button) + step + modes.length) % modes.length];
      page.setMode(next.dataset.mode);
      next.focus();
    });
  }
  on("closer", () => page.zoomBy(2));
  on("farther", () => page.zoomBy(0.5));
  on("whole", () => page.shown.viewer.viewport.goHome());
  on("share", () => page.share());
  on("help", () => byId("keys").showModal());
  on("fold", () => page.fold());
  on("set-seed", () => page.setSeed(byId("seed").value));
  on("next-seed", () => page.setSeed((page.seed + 1) % (MOST_SEED + 1)));
  byId("seed").addEventListener("keydown", (event) => {
    if (event.key === "Enter") page.setSeed(byId("seed").value);
  });
  byId("layers").addEventListener("change", (event) => page.toggled(event.target));
  byId("geojson").addEventListener("change", async (event) => {
    const [file] = event.target.files;
    if (!file) return;
    try {
      page.addShapes(file.name, await Shapes.fromFile(file));
    } catch (error) {
      page.say(`${file.name} is not usable GeoJSON (${error.message}).`);
    }
  });
  on("measure", () => page.measure());
  on("pick", () => page.pick());
  on("middle", () => page.findSimilar(page.shown.view()));
  on("clear-like", () => page.clearSimilar());
  for (const button of document.querySelectorAll("[data-export]")) {
    button.addEventListener("click", () => page.exportView(button.dataset.export));
  }
  byId("measure").hidden = !page.metadata.live;
  drawRamp(byId("ramp"));
  if (matchMedia("(max-width: 760px)").matches) page.fold();
  startTheme(byId("theme"), () => {
    page.shown.paint();
    page.original.paint();
  });
}

export function bindPageKeys(page) {
  const modeKey = (step) => () => {
    if (!page.stage.paired) return;
    page.setMode(MODES[(MODES.indexOf(page.stage.mode) + step) % MODES.length]);
  };
  const toggle = (name) => () => page.setLayer(name, !page.layers.has(name));
  const levelKey = (event) => {
    const level = page.slide.levels[Number(event.key) - 1];
    if (level && level.level >= (page.slide.finest ?? 0)) page.toScale(level.mpp);
  };
  bindKeys(
    [
      [["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown"], "move", (event) => arrow(page, event)],
      [["+", "="], "zoom in", () => page.zoomBy(2)],
      [["-", "_"], "zoom out", () => page.zoomBy(0.5)],
      [["0", "Home"], "whole slide", () => page.shown.viewer.viewport.goHome()],
      [["1", "2", "3", "4", "5", "6", "7", "8"], "20x, 10x, 5x, 2.5x … 0.15625x", levelKey],
      [["b"], "blink: original, regenerated", () => page.blink()],
      [["m"], "next way to show both images", modeKey(1)],
      [["r"], "layer: real and generated", toggle("origin")],
      [["c"], "layer: confidence", () => page.slide.confidence && toggle("confidence")()],
      [["n"], "another seed", () => page.setSeed((page.seed + 1) % (MOST_SEED + 1))],
      [["l"], "find places like the centre", () => page.metadata.live && page.slide.archive && page.findSimilar(page.shown.view())],
      [["o"], "overview on or off", () => page.overview()],
      [["d"], "details on or off", () => page.fold()],
      [["s"], "copy a link to this view", () => page.share()],
      [["?"], "these keys", () => byId("keys").showModal()],
    ],
    byId("key-table"),
  );
}

function arrow(page, { key }) {
  const [x, y] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[key];
  page.moveBy(x * 0.2, y * 0.2);
}
