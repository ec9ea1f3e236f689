"""The page in a real browser, without a window; skipped where there is none."""

import json
import os
import shutil
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from viewer.conftest import ViewerSettings, create_app, open_catalogue
from zoomldm.viewer.overlays import read_overlay
from zoomldm.viewer.serve import address_of, bound, serve

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_FOUND = os.environ.get("ZOOMLDM_CHROMIUM") or next(filter(None, map(shutil.which, _NAMES)), None)
pytestmark = pytest.mark.skipif(
    not _FOUND, reason="no Chromium here: apt-get install chromium, or set ZOOMLDM_CHROMIUM"
)
SLOW = 180_000  # milliseconds; a loaded machine starts a browser slowly
DESK = {"width": 1280, "height": 800}
PHONE = {"width": 390, "height": 760}


@pytest.fixture(scope="module")
def overlay(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("overlay") / "attention.geojson"
    ring = [[100, 100], [600, 100], [600, 500], [100, 500], [100, 100]]
    square = {"type": "Polygon", "coordinates": [ring]}
    measured = {"measurements": {"attention": 0.1, "rank": 0.9}}
    features = [{"type": "Feature", "geometry": square, "properties": measured}]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def started(catalogue: Any, **settings: Any) -> tuple[str, Any, threading.Thread]:
    sock = bound("127.0.0.1", 0)
    servers: list[Any] = []
    app = create_app(catalogue, ViewerSettings(**settings))
    thread = threading.Thread(target=serve, args=(app, sock, None, servers.append), daemon=True)
    thread.start()
    return address_of(sock, "127.0.0.1"), servers, thread


@pytest.fixture(scope="module")
def address(archive: Path, slide: Path, pipeline: Any, overlay: Path) -> Iterator[str]:
    layers = [read_overlay(overlay)]
    url, servers, thread = started(open_catalogue([archive], [slide], layers, pipeline))
    yield url
    servers[0].should_exit = True
    thread.join(20)
    assert not thread.is_alive()  # it ends when it is told to


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=_FOUND, args=["--no-sandbox"])
        yield browser
        browser.close()


class Seen:
    """A page, and what its console said."""

    def __init__(self, browser: Any, url: str, size: dict[str, int], **options: Any) -> None:
        self.errors: list[str] = []
        self.page = browser.new_page(viewport=size, **options)
        self.page.set_default_timeout(SLOW)
        self.page.on("console", self._said)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.goto(url)

    def _said(self, message: Any) -> None:
        if message.type == "error":
            self.errors.append(message.text)

    def ready(self) -> "Seen":
        self.page.wait_for_selector('body[data-ready="yes"]')
        return self

    def ask(self, script: str) -> Any:
        return self.page.evaluate(script)

    def until(self, condition: str) -> None:
        # Playwright's own waiting evaluates text in the page, which the content policy forbids.
        end = time.monotonic() + SLOW / 1000
        while not self.ask(f"Boolean({condition})"):
            assert time.monotonic() < end, condition
            self.page.wait_for_timeout(50)

    def whole(self) -> None:
        """Wait until every tile in view is there."""
        self.until("zoomldm.shown.standIns().length === 0")
        self.until("!zoomldm.original.slide || zoomldm.original.standIns().length === 0")
        self.until("zoomldm.shown.viewer.world.getItemAt(0).getFullyLoaded()")

    def pixels(self, pane: str = "shown") -> list[int]:
        """Some pixels of what is drawn, RGB."""
        return self.ask(
            f"""(() => {{
              const canvas = document.querySelector('#{pane} .openseadragon-canvas canvas');
              const pen = canvas.getContext('2d');
              const found = [];
              for (let i = 1; i < 12; i++) for (let j = 1; j < 12; j++) {{
                const x = canvas.width * i / 12, y = canvas.height * j / 12;
                found.push(...pen.getImageData(x, y, 1, 1).data.slice(0, 3));
              }}
              return found;
            }})()"""
        )

    def checksum(self) -> int:
        """One number of every pixel that is drawn."""
        return self.ask(
            """(() => {
              const canvas = document.querySelector('#shown .openseadragon-canvas canvas');
              const { data } = canvas.getContext('2d').getImageData(
                0, 0, canvas.width, canvas.height);
              let sum = 0;
              for (let i = 0; i < data.length; i++) sum = (sum * 31 + data[i]) % 1000000007;
              return sum;
            })()"""
        )

    def overlay_pixels(self, pane: str = "shown") -> int:
        """Pixels of the canvas over a picture that something is drawn on."""
        return self.ask(
            f"""(() => {{
              const canvas = document.querySelector('#{pane} .over');
              const {{ data }} = canvas.getContext('2d').getImageData(
                0, 0, canvas.width, canvas.height);
              let count = 0;
              for (let i = 3; i < data.length; i += 4) count += data[i] > 0;
              return count;
            }})()"""
        )


@pytest.fixture(scope="module")
def seen(browser: Any, address: str) -> Iterator[Seen]:
    view = Seen(browser, f"{address}#x=500&y=400&mpp=0.5&mode=beside", DESK).ready()
    view.whole()
    yield view
    view.page.close()


def test_at_20x_there_is_tissue_on_both_sides(seen: Seen) -> None:
    assert seen.ask("zoomldm.shown.level().label") == "20x"
    for pane in ("shown", "original"):
        seen.until(f"document.querySelector('#{pane} .openseadragon-canvas canvas')")
        values = seen.pixels(pane)
        assert len(set(values)) > 10, pane
        assert sum(value < 235 for value in values) > len(values) / 10, pane
    assert seen.page.locator("#shown .notice").is_visible()
    assert "seed 0" in seen.page.locator("#shown .where").inner_text()
    assert not seen.errors


def test_both_sides_keep_in_step(seen: Seen) -> None:
    for script in (
        "zoomldm.shown.setView({x: 300, y: 500, mpp: 1})",
        "zoomldm.original.setView({x: 700, y: 300, mpp: 0.5})",
    ):
        seen.ask(script)
        seen.page.wait_for_timeout(900)
        one, other = seen.ask("[zoomldm.shown.view(), zoomldm.original.view()]")
        assert abs(one["x"] - other["x"]) < 2 and abs(one["y"] - other["y"]) < 2
        assert abs(one["mpp"] / other["mpp"] - 1) < 0.01
    seen.ask("zoomldm.shown.setView({x: 500, y: 400, mpp: 0.5}, true)")
    assert not seen.errors


@pytest.mark.parametrize("mode", ["swipe", "blink", "alone", "beside"])
def test_every_way_to_show_both(seen: Seen, mode: str) -> None:
    seen.page.click(f'[data-mode="{mode}"]:is(button)')
    assert seen.page.get_attribute("#stage", "data-mode") == mode
    assert seen.page.locator("#swipe").is_visible() == (mode == "swipe")
    if mode == "swipe":
        seen.page.focus("#swipe")
        seen.page.keyboard.press("ArrowRight")
        assert seen.page.get_attribute("#swipe", "aria-valuenow") == "52"
    if mode == "blink":
        before = seen.page.locator("#shown").is_visible()
        seen.page.keyboard.press("b")
        assert seen.page.locator("#shown").is_visible() != before
    seen.page.wait_for_timeout(200)
    assert not seen.errors


def test_layers_are_drawn(seen: Seen) -> None:
    seen.whole()
    seen.until("zoomldm.shown.frameAsked !== true")
    plain = seen.overlay_pixels()
    for name in ("origin", "confidence", "attention.geojson"):
        box = seen.page.locator(f'[data-layer="{name}"]')
        box.check()
        if name == "confidence":
            seen.until("zoomldm.confidence.known.size > 0")
            assert seen.page.locator("#confidence-legend").is_visible()
        else:
            seen.page.wait_for_timeout(400)
        seen.until("zoomldm.shown.frameAsked !== true")
        assert seen.overlay_pixels() > plain + 100, name
        box.uncheck()
    seen.page.wait_for_timeout(200)
    assert seen.overlay_pixels() == plain
    assert not seen.errors


def test_places_that_look_alike_light_up(seen: Seen) -> None:
    seen.page.click("#middle")
    seen.until("document.querySelectorAll('#places li').length > 0")
    assert seen.page.locator("#clear-like").is_visible()
    seen.page.locator("#places button").first.click()
    seen.page.wait_for_timeout(300)
    seen.page.click("#clear-like")
    assert seen.page.locator("#places li").count() == 0
    assert not seen.errors


def test_another_seed_is_another_tissue_at_the_same_place(seen: Seen) -> None:
    seen.ask("zoomldm.shown.setView({x: 500, y: 400, mpp: 0.5}, true)")
    seen.whole()
    seen.page.wait_for_timeout(300)
    before, view = seen.checksum(), seen.ask("zoomldm.shown.view()")
    seen.page.click("#next-seed")
    seen.until("zoomldm.seed === 1 && zoomldm.shown.seed === 1")
    seen.whole()
    seen.page.wait_for_timeout(300)
    after = seen.ask("zoomldm.shown.view()")
    for _ in range(40):  # tiles fade in
        if seen.checksum() != before:
            break
        seen.page.wait_for_timeout(250)
    assert seen.checksum() != before
    assert abs(after["x"] - view["x"]) < 1 and abs(after["mpp"] / view["mpp"] - 1) < 1e-3
    assert "seed 1" in seen.page.locator("#shown .where").inner_text()
    seen.page.fill("#seed", "-3")
    seen.page.click("#set-seed")
    assert "whole number" in seen.page.locator("#status").inner_text()
    assert not seen.errors


def test_a_link_opens_the_same_view(seen: Seen, browser: Any) -> None:
    seen.ask("zoomldm.shown.setView({x: 400, y: 300, mpp: 2}, true)")
    seen.until("location.hash.includes('x=400')")
    other = Seen(browser, seen.page.url, DESK).ready()
    one, two = (page.ask("zoomldm.shown.view()") for page in (seen, other))
    assert abs(one["x"] - two["x"]) < 2 and abs(one["mpp"] / two["mpp"] - 1) < 0.01
    assert other.ask("zoomldm.seed") == seen.ask("zoomldm.seed")
    other.page.close()


def test_keys(browser: Any, address: str) -> None:
    seen = Seen(browser, f"{address}#x=500&y=400&mpp=0.5&mode=beside", DESK).ready()

    def press(key: str) -> None:
        seen.page.keyboard.press(key)
        seen.page.wait_for_timeout(700)

    seen.page.focus("#stage")
    press("2")
    # towards 10x, as far as a slide this small goes
    seen.until("zoomldm.shown.view().mpp > 0.52")
    seen.ask("zoomldm.shown.setView({x: 350, y: 250, mpp: 0.15}, true)")
    before = seen.ask("zoomldm.shown.view()")
    press("-")
    seen.until(f"zoomldm.shown.view().mpp > {before['mpp'] * 1.5}")
    press("r")
    assert seen.page.locator("#origin-legend").is_visible()
    press("r")
    press("?")
    assert seen.page.locator("#keys").is_visible()
    seen.page.keyboard.press("Escape")
    assert not seen.page.locator("#keys").is_visible()
    assert not seen.errors
    seen.page.close()


def test_regions_are_saved_by_the_browser(seen: Seen, tmp_path: Path) -> None:
    seen.ask("zoomldm.shown.setView({x: 500, y: 400, mpp: 4}, true)")
    seen.page.wait_for_timeout(300)
    with seen.page.expect_download() as saved:
        seen.page.click('[data-export="png"]')
    assert saved.value.suggested_filename.endswith(".png")
    assert not seen.errors


@pytest.mark.parametrize(
    ("size", "scheme"), [(DESK, "light"), (DESK, "dark"), (PHONE, "light")], ids=str
)
def test_accessible(browser: Any, address: str, size: dict[str, int], scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    seen = Seen(browser, address, size, color_scheme=scheme).ready()
    if size is PHONE:
        assert seen.ask("document.documentElement.scrollWidth") <= PHONE["width"]
        assert seen.page.locator("#panel").is_hidden()
        stage = seen.page.locator("#stage").bounding_box()
        assert stage["height"] > PHONE["height"] / 2
        seen.page.click("#fold")
    assert seen.ask("document.documentElement.dataset.theme") == scheme
    seen.page.click('[data-layer="origin"]')
    seen.page.click('[data-layer="confidence"]')
    seen.page.wait_for_timeout(300)
    result = axe.Axe().run(seen.page)
    assert result.violations_count == 0, result.generate_report()
    assert not seen.errors
    seen.page.close()


def test_a_token_is_asked_for_and_remembered(
    browser: Any, archive: Path, slide: Path, pipeline: Any
) -> None:
    catalogue = open_catalogue([archive], [slide], pipeline=pipeline)
    url, servers, thread = started(catalogue, token="right")
    context = browser.new_context(viewport=DESK)
    page = context.new_page()
    page.set_default_timeout(SLOW)
    page.goto(url)
    page.wait_for_selector("#login[open]")
    page.fill("#token", "right")
    page.keyboard.press("Enter")
    page.wait_for_selector('body[data-ready="yes"]')
    page.goto(f"{url}?again")  # the cookie opens it now
    page.wait_for_selector('body[data-ready="yes"]')
    context.close()
    fresh = browser.new_context()
    page = fresh.new_page()
    page.goto(f"{url}#token=right")
    page.wait_for_selector('body[data-ready="yes"]', timeout=SLOW)
    assert "right" not in page.url
    fresh.close()
    servers[0].should_exit = True
    thread.join(20)


def test_an_exported_page_works_from_any_file_server(
    browser: Any, archive: Path, slide: Path, pipeline: Any, tmp_path: Path
) -> None:
    from zoomldm.viewer.app import PAGE
    from zoomldm.viewer.export import export_page

    catalogue = open_catalogue([archive], [slide], pipeline=pipeline)
    report = export_page(catalogue, PAGE, tmp_path / "page", region=(256, 256, 512, 300))
    catalogue.close()
    assert report.tiles == sum(1 for _ in (tmp_path / "page" / "tiles").rglob("*.jpg"))
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "page"))
    handler.log_message = lambda *_: None  # type: ignore[attr-defined]
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/#x=500&y=400&mpp=0.5"
    seen = Seen(browser, url, DESK).ready()
    seen.whole()
    seen.page.wait_for_timeout(300)
    assert len(set(seen.pixels())) > 10
    assert seen.page.locator("#shown .notice").is_visible()
    assert seen.page.locator("#s-seed").is_hidden() and seen.page.locator("#s-export").is_hidden()
    assert not seen.errors
    seen.page.close()
    server.shutdown()
