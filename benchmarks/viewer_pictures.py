"""The pictures of docs/viewer.md and README's first: the viewer over the held-out demo slide.

    python benchmarks/viewer_pictures.py ../shared/slides/giardia__HE.svs [--cache FOLDER]

Needs the extra `viewer`, playwright and Chromium. Writes docs/viewer.jpg (original beside
regenerated at 20x), docs/viewer-layers.jpg (confidence and places that look alike, dark) and
docs/viewer-phone.jpg. Tiles that were made before are taken from the cache.
"""

import argparse
import io
import os
import shutil
import threading
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

from zoomldm.pipeline import load_pipeline
from zoomldm.viewer.app import ViewerSettings, create_app
from zoomldm.viewer.catalogue import open_catalogue
from zoomldm.viewer.serve import address_of, bound, serve

ROOT = Path(__file__).parents[1]
DEMO = ROOT / "src" / "zoomldm" / "weights" / "demo.zldm"
DOCS = ROOT / "docs"
PLACE = "x=7950&y=9640"  # villi, cut and lengthwise
WAIT = 3_600_000  # milliseconds: generating is slow on a busy machine
MOST = 400_000  # bytes of a picture
CHROMIUM = os.environ.get("ZOOMLDM_CHROMIUM") or shutil.which("chromium")


def whole(page: Any) -> None:
    """Wait until every tile in view is drawn."""
    page.wait_for_selector('body[data-ready="yes"]', timeout=WAIT)
    for _ in range(WAIT // 500):
        page.wait_for_timeout(500)
        if page.evaluate(
            "zoomldm.shown.standIns().length === 0 && zoomldm.original.standIns().length === 0"
        ):
            break
    page.wait_for_timeout(3000)


def save(page: Any, name: str) -> None:
    """A screenshot as a JPEG of at most MOST bytes."""
    image = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    for quality in (90, 85, 80, 72, 64):
        out = io.BytesIO()
        image.save(out, "JPEG", quality=quality, optimize=True, subsampling=0)
        if out.tell() <= MOST:
            break
    (DOCS / name).write_bytes(out.getvalue())
    print(f"docs/{name}: {image.width} x {image.height}, {out.tell() / 1e3:.0f} kB", flush=True)


def draw(browser: Any, url: str) -> None:
    """All pictures."""
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    page.goto(f"{url}#{PLACE}&mpp=0.5&mode=beside")
    whole(page)
    save(page, "viewer.jpg")
    page.close()
    page = browser.new_page(viewport={"width": 1440, "height": 900}, color_scheme="dark")
    page.goto(f"{url}#{PLACE}&mpp=0.5&mode=beside")
    whole(page)
    page.click('[data-layer="confidence"]')
    page.click("#middle")
    page.wait_for_selector("#places li")
    page.wait_for_timeout(3000)
    save(page, "viewer-layers.jpg")
    page.close()
    page = browser.new_page(viewport={"width": 390, "height": 760}, color_scheme="dark")
    page.goto(f"{url}#{PLACE}&mpp=1&mode=swipe")
    whole(page)
    save(page, "viewer-phone.jpg")
    page.close()


def main() -> None:
    """Serve, look, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("slide", type=Path)
    parser.add_argument("--cache", type=Path)
    args = parser.parse_args()
    catalogue = open_catalogue([DEMO], [args.slide], pipeline=load_pipeline("demo"))
    sock = bound("127.0.0.1", 0)
    app = create_app(catalogue, ViewerSettings(cache=args.cache))
    servers: list[Any] = []
    thread = threading.Thread(target=serve, args=(app, sock, None, servers.append), daemon=True)
    thread.start()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        draw(browser, address_of(sock, "127.0.0.1"))
        browser.close()
    servers[0].should_exit = True
    thread.join(30)


if __name__ == "__main__":
    main()
