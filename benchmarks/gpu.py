"""What one GPU does at full size: rendering, a ViT-L patch encoder, the denoiser, training.

Usage: python benchmarks/gpu.py [--only NAMES] [--seconds 100] [--slide SLIDE] [--peak 989]
       python benchmarks/gpu.py --device cpu --tiny

Prints a Markdown table, a row as soon as it is known; what fails says so in its row, and no figure
is begun after `--seconds`. Without a slide, one is painted from a region that the demo renders, as
tiled JPEG at 0.5 mpp. Weights of the large networks are random, which changes no time. A training
step is the stage's own, with AdamW and the moving average, and without reading data.
"""

import argparse
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch
from diffusers import UNet2DConditionModel
from diffusers.utils import logging
from gpu_training import count_flops, training
from slide_cost import measured, tissue_tiles

from zoomldm.compression.compress import CompressOptions, compress
from zoomldm.encoders import EncoderOptions
from zoomldm.encoders.encoder import NetworkEncoder
from zoomldm.encoders.table import ENCODERS
from zoomldm.generation.options import RenderOptions
from zoomldm.geometry.lattice import densest_point
from zoomldm.geometry.levels import TILE
from zoomldm.networks.octave_denoiser import OctaveDenoiser
from zoomldm.networks.patch_vit import PatchViT, ViTSizes
from zoomldm.pipeline import KINDS, load_pipeline
from zoomldm.pipeline.presets import preset
from zoomldm.rendering import RenderedSlide
from zoomldm.training.compiling import compile_modules

ARCHIVE = Path(str(resources.files("zoomldm") / "weights" / "demo.zldm"))
USUAL = {"unet": "unet", "vae": "folded", "summarizer": "cnn"}
Row = tuple[str, str, str]  # what, how, result


class Bench:
    """Settings of a run, and its clock."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.device, self.tiny = torch.device(given.device), given.tiny
        self.peak, self.slide = given.peak * 1e12, given.slide
        self.end = time.monotonic() + given.seconds
        self.long = 0.05 if given.tiny else 1.5
        # Processors without bfloat16 emulate it, a hundred times slower.
        self.half = torch.float32 if given.tiny else torch.bfloat16
        self.presets = ("tiny", "tiny-octaves") if given.tiny else ("paper", "base")
        self.batches = (4, 2) if given.tiny else (128, 64, 32)

    def left(self) -> float:
        """Seconds until nothing new is begun."""
        return self.end - time.monotonic()

    def seconds(self, call: Callable[[], object], warm: int = 2) -> float:
        """Median time of a call: by events on a GPU, by the clock elsewhere."""
        for _ in range(warm):
            call()
        self.wait()
        times: list[float] = []
        start = time.perf_counter()
        while len(times) < 3 or (time.perf_counter() - start < self.long and len(times) < 50):
            times.append(self._once(call))
        return statistics.median(times)

    def _once(self, call: Callable[[], object]) -> float:
        if self.device.type != "cuda":
            start = time.perf_counter()
            call()
            return time.perf_counter() - start
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record()
        call()
        last.record()
        last.synchronize()
        return first.elapsed_time(last) / 1e3

    def wait(self) -> None:
        """Until the device has done what it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def network(self, name: str, part: str) -> Any:
        """An untrained network of a preset, made on the device."""
        settings = dict(preset(name)[part])
        kind = settings.pop("kind", USUAL[part])
        torch.manual_seed(0)
        with self.device:
            return KINDS[kind](**settings)

    def rate(self, flops: float, seconds: float) -> str:
        """TFLOP/s, and their share of the peak."""
        of_peak = (
            f", {flops / seconds / self.peak:.1%} of peak" if self.device.type == "cuda" else ""
        )
        return f"{flops / seconds / 1e12:.1f} TFLOP/s{of_peak}"


def rendering(bench: Bench) -> Iterator[tuple[str, str, Callable[[], str]]]:
    """Cold tiles and a cold region of the demo's archive."""
    pipeline = load_pipeline("demo", str(bench.device))
    side = 1 if bench.tiny else 4

    def run(precision: Any) -> str:
        options = RenderOptions(precision=precision)
        tiles, regions = [], []
        with RenderedSlide(ARCHIVE, pipeline, options=options) as slide:
            places = tissue_tiles(slide, 2 if bench.tiny else 10)
            measured(slide, *places.pop(), TILE)  # what is done once is done
            for place in places:
                tiles.append(measured(slide, *place, TILE)[2])
            x, y = densest_point(slide.archive.mask)
        x, y = (v // TILE * TILE - side // 2 * TILE for v in (x, y))
        for _ in range(2 if bench.tiny else 4):
            with RenderedSlide(ARCHIVE, pipeline, options=options) as slide:
                regions.append(measured(slide, x, y, side * TILE))
        taken = statistics.median(one[2] for one in regions[1:])
        return (
            f"{side * TILE} px region {taken:.2f} s ({regions[0][0]} windows); "
            f"256 px tile {statistics.median(tiles):.3f} s"
        )

    for precision in ("float32",) if bench.tiny else ("float32", "bfloat16"):
        yield "cold, at 20x, from the demo's archive", precision, partial(run, precision)


def painted_slide(bench: Bench, path: Path) -> None:
    """A tiled JPEG of a region of the demo's archive, over and over."""
    side, tiles = (256, 4) if bench.tiny else (1024, 64)
    with RenderedSlide(ARCHIVE, load_pipeline("demo", str(bench.device))) as slide:
        x, y = (v // TILE * TILE - side // 2 for v in densest_point(slide.archive.mask))
        pixels = np.asarray(slide.read_region((x, y), 0, (side, side)).convert("RGB"))
    whole = np.tile(pixels, (tiles * TILE // side, tiles * TILE // side, 1))
    tifffile.imwrite(
        path,
        whole,
        tile=(TILE, TILE),
        photometric="rgb",
        compression="jpeg",
        compressionargs={"level": 80},
        resolution=(20_000, 20_000),
        resolutionunit="CENTIMETER",
        maxworkers=os.cpu_count(),
    )


def encoder(bench: Bench) -> Iterator[tuple[str, str, Callable[[], str]]]:
    """Tiles a second of a ViT-L/16, from memory and out of a slide."""
    spec, half = ENCODERS["uni"], "float32" if bench.tiny else "float16"
    small = ViTSizes(dim=64, depth=1, heads=1, hidden=64)
    sizes = small if bench.tiny or spec.sizes is None else spec.sizes
    with bench.device:
        network = PatchViT(sizes)
    batch = 4 if bench.tiny else 256
    options = EncoderOptions(half, batch)  # type: ignore[arg-type]
    network_encoder = NetworkEncoder(
        "random", network, spec.preprocessing, sizes.dim, "0" * 64, bench.device, options
    )
    tiles = np.random.default_rng(0).integers(0, 256, (batch, TILE, TILE, 3), np.uint8)
    what = f"{spec.architecture}, {half}, batch {batch}"

    def from_memory() -> str:
        taken = bench.seconds(lambda: network_encoder.encode_tiles(tiles))
        side = spec.preprocessing.size
        x = torch.zeros(1, 3, side, side, device=bench.device, dtype=network_encoder.dtype)
        flops = count_flops(lambda: network_encoder.network(x)) * batch
        return f"{batch / taken:,.0f} tiles/s, {bench.rate(flops, taken)}"

    def from_memory_compiled() -> str:
        start = time.monotonic()
        network_encoder.encode_tiles(tiles)
        bench.wait()
        first = time.monotonic() - start
        taken = bench.seconds(lambda: network_encoder.encode_tiles(tiles))
        return f"{batch / taken:,.0f} tiles/s (first batch {first:.0f} s)"

    def from_slide() -> str:
        with tempfile.TemporaryDirectory() as folder:
            path = bench.slide or Path(folder) / "painted.tif"
            if bench.slide is None:
                painted_slide(bench, path)
            report = compress(
                path,
                Path(folder) / "a.zldm",
                CompressOptions(),
                pipeline="demo",
                encoder=network_encoder,
            )
        rate = report.tissue_tiles / report.seconds
        return f"{rate:,.0f} tiles/s ({report.tissue_tiles} tiles in {report.seconds:.1f} s)"

    yield what, "tiles of 256 px from memory, resized to 224 there", from_memory
    if not bench.tiny:
        plain = network_encoder.network
        network_encoder.network = torch.compile(plain)
        yield what, "the same, the network compiled", from_memory_compiled
        network_encoder.network = plain
    name = bench.slide.name if bench.slide else "a painted slide, JPEG"
    yield what, f"`compress` of {name}, base layer included", from_slide


@torch.no_grad()
def forward(bench: Bench) -> Iterator[tuple[str, str, Callable[[], str]]]:
    """The denoiser's forward at batch 16, beside diffusers' module on its own."""
    size = 2 if bench.tiny else 16
    for name in bench.presets:
        network: Any = bench.network(name, "unet").eval().requires_grad_(False)
        settings = {k: v for k, v in network.unet.config.items() if not k.startswith("_")}
        with bench.device:
            plain: Any = UNet2DConditionModel(**settings).eval().requires_grad_(False)
        x, time_, context = _inputs(network, size, bench.device)
        inner = torch.randn(
            size, plain.config.in_channels, *x.shape[2:], device=bench.device
        )  # what the module itself takes
        if not isinstance(network, OctaveDenoiser):
            fold = network.fold
            inner = inner[..., : x.shape[2] // fold, : x.shape[3] // fold]
        code = plain.config.projection_class_embeddings_input_dim
        labels = torch.randn(size, code, device=bench.device) if code else None

        def alone(kind: torch.dtype, plain=plain, inner=inner, rest=(time_, context, labels)):
            plain.to(kind)
            step, tokens, classes = rest
            classes = None if classes is None else classes.to(kind)
            taken = bench.seconds(
                torch.no_grad()(
                    lambda: plain(inner.to(kind), step, tokens.to(kind), class_labels=classes)
                )
            )
            return f"{taken * 1e3:.1f} ms"

        def ours(how: str, network: Any = network, given: Any = (x, time_, context)) -> str:
            if how == "autocast":
                with torch.autocast(bench.device.type, bench.half, enabled=not bench.tiny):
                    taken = bench.seconds(torch.no_grad()(lambda: network(*given)))
                return f"{taken * 1e3:.1f} ms"
            network.to(bench.half)
            if how == "compiled":
                network.to(memory_format=torch.channels_last)
                compile_modules([network.unet])
            latents, step, tokens = given
            start = time.monotonic()
            cast = latents.to(bench.half), step, tokens.to(bench.half)
            call = torch.no_grad()(lambda: network(*cast))
            call()
            bench.wait()
            first = time.monotonic() - start
            note = f" (first call {first:.0f} s)" if how == "compiled" else ""
            return f"{bench.seconds(call) * 1e3:.1f} ms{note}"

        what = f"denoiser of `{name}`, forward, batch {size}"
        yield what, "diffusers' module alone, float32", partial(alone, torch.float32)
        yield what, "diffusers' module alone, bfloat16", partial(alone, bench.half)
        yield what, "ours, bfloat16 by autocast (`--precision bfloat16`)", partial(ours, "autocast")
        yield what, "ours, `.to(torch.bfloat16)`", partial(ours, "whole")
        if not bench.tiny:
            yield what, "ours, that in channels-last, compiled", partial(ours, "compiled")


def _inputs(network: Any, size: int, device: torch.device) -> tuple[torch.Tensor, ...]:
    config = network.config
    shape = (size, config.latent_channels, config.sample_size, config.sample_size)
    tokens = 64 if config.spatial_context else 65
    return (
        torch.randn(shape, device=device),
        torch.randint(1000, (size,), device=device),
        torch.randn(size, tokens, config.context_dim, device=device),
    )


PARTS = {"rendering": rendering, "encoder": encoder, "forward": forward, "training": training}


def _clean(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:160].replace("|", "/")


def main() -> None:
    """Print the table, row by row."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", default=",".join(PARTS), help="parts, in this order")
    parser.add_argument("--seconds", type=float, default=100)
    parser.add_argument("--slide", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--peak", type=float, default=989, help="TFLOP/s, dense bfloat16")
    parser.add_argument("--tiny", action="store_true", help="small networks, to try the script")
    bench = Bench(given := parser.parse_args())
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # as `train` has it
    warnings.simplefilter("ignore")  # of what no deterministic kernel is there for
    logging.set_verbosity_error()  # of casting networks that are cast on purpose
    cuda = bench.device.type == "cuda"
    card = torch.cuda.get_device_name(bench.device) if cuda else bench.device.type
    print(f"{card}, torch {torch.__version__}, {os.cpu_count()} CPU cores\n")
    print("| what | how | result |\n|---|---|---|", flush=True)
    for part in given.only.split(","):
        rows = PARTS[part](bench)
        while True:
            try:
                what, how, run = next(rows)
            except StopIteration:
                break
            except Exception as error:
                print(f"| {part} | | {_clean(error)} |", flush=True)
                break
            try:
                result = run() if bench.left() > 0 else "not begun: time was up"
            except Exception as error:
                result = _clean(error)
            print(f"| {what} | {how} | {result} |", flush=True)


if __name__ == "__main__":
    main()
