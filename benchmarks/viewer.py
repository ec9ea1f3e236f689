"""How fast the viewer serves: cached tiles beside DeepZoomGenerator's, and cold ones.

    python benchmarks/viewer.py [--seconds 10] [--clients 32] [--soak 0]

Needs the extra `viewer`, and `wrk` (Debian: apt-get install wrk). All of it runs on this machine:
the server in one process, wrk in another.

- *cached*: tiles of the demo archive and of a TIFF of it that the viewer has made once.
- *DeepZoomGenerator*: tiles of the same TIFF, cut and encoded at each request by
  openslide.deepzoom, served by the same framework and server; what a plain tile server does.
- *cold*: tiles that must be made: stored pixels, and generated ones, one after another.
"""

import argparse
import http.client
import io
import json
import multiprocessing
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
from paths import painted

from zoomldm.geometry.levels import TILE
from zoomldm.pipeline import load_pipeline
from zoomldm.viewer.app import ViewerSettings, create_app
from zoomldm.viewer.catalogue import open_catalogue
from zoomldm.viewer.serve import bound, serve

DEMO = Path(__file__).parents[1] / "src" / "zoomldm" / "weights" / "demo.zldm"
QUALITY = 88  # of both servers' JPEG


def viewer(paths: Sequence[Path], folder: Path, port: int) -> None:
    """The viewer on a port."""
    catalogue = open_catalogue(paths, pipeline=load_pipeline("demo"))
    app = create_app(catalogue, ViewerSettings(cache=folder))
    serve(app, bound("127.0.0.1", port))


def deep_zoom(path: Path, port: int) -> None:
    """DeepZoomGenerator on a port, as its documentation serves it, in the viewer's framework."""
    import openslide
    from fastapi import FastAPI, Response
    from openslide.deepzoom import DeepZoomGenerator

    generator = DeepZoomGenerator(openslide.OpenSlide(str(path)), tile_size=TILE, overlap=0)
    app = FastAPI()

    @app.get("/health")
    def health() -> dict[str, int]:
        return {"levels": generator.level_count}

    @app.get("/tiles/{level}/{col}_{row}.jpeg")
    def tile(level: int, col: int, row: int) -> Response:
        out = io.BytesIO()
        generator.get_tile(level, (col, row)).save(out, "JPEG", quality=QUALITY)
        return Response(out.getvalue(), media_type="image/jpeg")

    serve(app, bound("127.0.0.1", port))


def started(target: Any, *args: Any) -> tuple[multiprocessing.Process, int]:
    """A server in its own process, and its port, once it answers."""
    free = bound("127.0.0.1", 0)
    port = free.getsockname()[1]
    free.close()
    process = multiprocessing.get_context("spawn").Process(target=target, args=(*args, port))
    process.start()
    for _ in range(600):
        try:
            get(port, "/health")
            return process, port
        except OSError:
            time.sleep(0.2)
    raise RuntimeError("the server does not answer")


def get(port: int, path: str) -> bytes:
    """The body of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    connection.request("GET", path)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    if answer.status != 200:
        raise RuntimeError(f"{path}: {answer.status} {body[:200]!r}")
    return body


def load(port: int, paths: Sequence[str], seconds: int, clients: int, folder: Path) -> str:
    """Requests a second and the latency's 99th percentile, by wrk."""
    script = folder / "paths.lua"
    listed = ",".join(json.dumps(path) for path in paths)
    script.write_text(
        f"local paths = {{{listed}}}\nlocal i = 0\n"
        "request = function() i = i % #paths + 1; return wrk.format('GET', paths[i]) end\n"
    )
    command = ["wrk", "-t1", f"-c{clients}", f"-d{seconds}s", "--latency", "-s", str(script)]
    done = subprocess.run(
        [*command, f"http://127.0.0.1:{port}"], capture_output=True, text=True, check=True
    )
    rate = re.search(r"Requests/sec:\s+([\d.]+)", done.stdout)
    late = re.search(r"99%\s+([\d.]+\w+)", done.stdout)
    median = re.search(r"50%\s+([\d.]+\w+)", done.stdout)
    bad = re.search(r"Non-2xx.*", done.stdout)
    assert rate and late and median
    fault = f", {bad.group(0)}" if bad else ""
    return (
        f"{float(rate.group(1)):6.0f} tiles/s, median {median.group(1)}, p99 {late.group(1)}{fault}"
    )


def places(metadata: dict[str, Any], level: int, most: int, seed: int = 0) -> list[str]:
    """Paths of a level's tiles, from its middle on."""
    size = metadata["levels"][level]
    cols, rows = -(-size["width"] // TILE), -(-size["height"] // TILE)
    middle = (rows / 2, cols / 2)
    cells = sorted(
        ((r, c) for r in range(rows) for c in range(cols)),
        key=lambda cell: abs(cell[0] - middle[0]) + abs(cell[1] - middle[1]),
    )
    name = f"/tiles/{metadata['id']}/{metadata['version']}/{seed}/{level}"
    return [f"{name}/{col}_{row}.jpg" for row, col in cells[:most]]


def cold(port: int, paths: Sequence[str]) -> str:
    """Tiles a second and the slowest, asked for one after another."""
    times = []
    for path in paths:
        start = time.perf_counter()
        get(port, path)
        times.append(time.perf_counter() - start)
    mean = sum(times) / len(times)
    return (
        f"{1 / mean:6.2f} tiles/s (mean {mean:.3f} s, slowest {max(times):.3f} s, n = {len(times)})"
    )


def main() -> None:
    """Print all figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--soak", type=int, default=0, help="seconds with 200 clients")
    args = parser.parse_args()
    if not shutil.which("wrk"):
        raise SystemExit("wrk is not here: apt-get install wrk")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tiff = painted(folder, 6000, 5000, tissue=0.9)
        server, port = started(viewer, [DEMO, tiff], folder / "cache")
        plain, other = started(deep_zoom, tiff)
        try:
            slides = json.loads(get(port, "/api/slides.json"))["slides"]
            archive = next(s for s in slides if s["kind"] == "archive")
            slide = next(s for s in slides if s["kind"] == "slide")
            print("cold, stored pixels of an archive ", cold(port, places(archive, 2, 60)))
            print("cold, a slide's                   ", cold(port, places(slide, 0, 60)))
            print("cold, generated, neighbours       ", cold(port, places(archive, 0, 16)))
            cached = places(archive, 2, 60) + places(slide, 0, 60)
            levels = json.loads(get(other, "/health"))["levels"]
            cut = [p.split("/")[-1].replace("jpg", "jpeg") for p in places(slide, 0, 60)]
            theirs = [f"/tiles/{levels - 1}/{place}" for place in cut]
            for _ in range(3):
                print(
                    "cached, viewer                    ",
                    load(port, cached, args.seconds, args.clients, folder),
                )
                print(
                    "DeepZoomGenerator, the same TIFF  ",
                    load(other, theirs, args.seconds, args.clients, folder),
                )
            if args.soak:
                memory = psutil.Process(server.pid)
                before = memory.memory_info().rss
                result = load(port, cached, args.soak, 200, folder)
                after = memory.memory_info().rss
                grown = f"memory {before / 1e6:.0f} -> {after / 1e6:.0f} MB"
                print(f"200 clients for {args.soak} s".ljust(34), result + ";", grown)
        finally:
            server.terminate()
            plain.terminate()
            server.join(20)
            plain.join(20)


if __name__ == "__main__":
    main()
