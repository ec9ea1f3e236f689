/** The text beside the image. */

import { bytes, length, magnification, whole } from "./format.js";
import { levelsOf } from "./tiles.js";

/** Fill a list of terms; `[term, text, isCode]` each. */
export function fill(list, rows) {
  list.replaceChildren(
    ...rows
      .filter(([, text]) => text !== null && text !== undefined)
      .flatMap(([term, text, isCode]) => {
        const name = document.createElement("dt");
        const value = document.createElement("dd");
        name.textContent = term;
        value.textContent = text;
        if (isCode) {
          value.className = "code";
          value.title = text;
          value.textContent = `${text.slice(0, 12)}…`;
        }
        return [name, value];
      }),
  );
}

/** Metadata of an archive or of a slide. */
export function metadataOf(slide) {
  const shared = [
    ["Slide", slide.name],
    ["Size at 20x", `${whole(slide.width)} × ${whole(slide.height)} px`],
    ["Extent", `${length(slide.width * slide.mpp)} × ${length(slide.height * slide.mpp)}`],
  ];
  if (slide.archive) {
    const a = slide.archive;
    const quality = a.base_quality ? `, quality ${a.base_quality}` : "";
    return [
      ...shared,
      ["Archive", bytes(a.bytes)],
      ...(a.imaginary
        ? [["Slide", "imaginary: entirely generated"]]
        : [
            ["Original file", bytes(a.source_bytes)],
            ["Ratio", `1 : ${a.ratio}`],
          ]),
      ["Tissue", `${whole(a.tissue_tiles)} tiles`],
      ["Real from", a.base ? `${a.base} up (${a.base_codec}${quality})` : "no level"],
      ["Patch encoder", a.encoder],
      ["Encoder digest", a.encoder_digest, true],
      ["Pipeline digest", a.pipeline_digest, true],
      ["Archive digest", a.archive_digest, true],
      ["Made by", a.creator],
    ];
  }
  return [
    ...shared,
    ["File", bytes(slide.slide.bytes)],
    ["Scanner", slide.slide.vendor],
    ["Scanned at", `${slide.slide.mpp[0].toFixed(4)} µm/px (${slide.slide.mpp_source})`],
    ["Digest", slide.slide.digest, true],
  ];
}

/** What is shown, and where. */
export function placeOf(pane, pointed) {
  const view = pane.view();
  const level = pane.level();
  const at = pointed ?? view;
  const { mpp } = pane.slide;
  return [
    ["Magnification", magnification(view.mpp)],
    ["Scale", `${view.mpp.toPrecision(3)} µm/px`],
    [pointed ? "Pointer" : "Centre", `${length(at.x * mpp)}, ${length(at.y * mpp)}`],
    ["Pixel at 20x", `${whole(at.x)}, ${whole(at.y)}`],
    ["Level shown", level.label],
    ["Pixels are", level.real ? "real" : "generated"],
  ];
}

/** A button for each level; `onChoice(level)`. */
export function levelButtons(element, slide, onChoice) {
  element.replaceChildren(
    ...levelsOf(slide).map((level) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = level.label;
      button.dataset.level = level.level;
      button.setAttribute("aria-pressed", "false");
      button.addEventListener("click", () => onChoice(level));
      return button;
    }),
  );
}

/** The places most similar to the chosen one. */
export function listPlaces(list, places, nameOf, onChoice) {
  list.replaceChildren(
    ...places.map((place, i) => {
      const item = document.createElement("li");
      const button = document.createElement("button");
      button.type = "button";
      for (const [name, text] of [
        ["rank", `${i + 1}`],
        ["name", `${nameOf(place)} row ${place.row}, column ${place.col}`],
        ["cosine", place.cosine.toFixed(3)],
      ]) {
        const part = document.createElement("span");
        part.className = name;
        part.textContent = text;
        button.append(part);
      }
      button.addEventListener("click", () => onChoice(place));
      item.append(button);
      return item;
    }),
  );
}
