/** The view in the page's address, so that a link restores it. */

/** The view in the address; missing parts are undefined. */
export function readAddress() {
  const found = new URLSearchParams(location.hash.slice(1));
  const number = (name) => {
    const value = Number.parseFloat(found.get(name));
    return Number.isFinite(value) ? value : undefined;
  };
  return {
    token: found.get("token") ?? undefined,
    slide: found.get("slide") ?? undefined,
    seed: number("seed"),
    x: number("x"),
    y: number("y"),
    mpp: number("mpp"),
    mode: found.get("mode") ?? undefined,
    layers: found.get("layers")?.split(",").filter(Boolean) ?? [],
  };
}

export function writeAddress({ slide, seed, x, y, mpp, mode, layers }) {
  const said = new URLSearchParams({
    slide,
    seed,
    x: Math.round(x),
    y: Math.round(y),
    mpp: Number(mpp.toPrecision(5)),
    mode,
  });
  if (layers.length) said.set("layers", layers.join(","));
  history.replaceState(null, "", `#${said}`);
}
