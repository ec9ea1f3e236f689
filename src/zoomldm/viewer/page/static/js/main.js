/** Starts the page. */

import { readAddress } from "./address.js";
import { getJSON, openSession, Unauthorised } from "./api.js";
import { bindControls, bindPageKeys, listen } from "./controls.js";
import { Page } from "./page.js";
import { quieten } from "./tiles.js";

const byId = (id) => document.getElementById(id);

/** Metadata of all slides; asks for the token if the server requires one. */
async function metadataFromServer(token) {
  if (token) await openSession(token);
  for (;;) {
    try {
      return await getJSON("api/slides.json");
    } catch (error) {
      if (!(error instanceof Unauthorised)) throw error;
      await openSession(await askForToken());
    }
  }
}

function askForToken() {
  const dialog = byId("login");
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(byId("token").value.trim()), { once: true });
  });
}

/** Without this element OpenSeadragon adds an inline style, which the content policy forbids. */
function standInForStyle() {
  const style = document.createElement("style");
  style.setAttribute("data-openseadragon-mobile-css", "true");
  document.head.append(style);
}

async function start() {
  standInForStyle();
  const asked = readAddress();
  if (asked.token) history.replaceState(null, "", location.pathname);
  quieten();
  try {
    const page = new Page(await metadataFromServer(asked.token));
    listen(page);
    bindControls(page);
    bindPageKeys(page);
    window.zoomldm = page; // for use from the console
    const view = asked.x !== undefined && asked.y !== undefined && asked.mpp ? asked : null;
    await page.open(asked.slide, { seed: asked.seed, view, mode: asked.mode });
    for (const name of asked.layers) {
      const box = document.querySelector(`[data-layer="${CSS.escape(name)}"]`);
      if (box) box.click();
    }
    document.body.dataset.ready = "yes";
  } catch (error) {
    byId("status").textContent = `The viewer can't start: ${error.message}`;
    document.body.dataset.ready = "no";
    throw error;
  }
}

start();
