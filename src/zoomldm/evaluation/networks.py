"""Measures of the networks on held-out slides: autoencoder, patch encoder, denoiser."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from zoomldm.evaluation.fidelity import psnr, sharpness
from zoomldm.evaluation.judge import Describe, retrieval
from zoomldm.evaluation.tiles import SlideTiles
from zoomldm.pipeline import ZoomLDMPipeline
from zoomldm.pixels import to_pixels, to_signed
from zoomldm.statistics import auc, bootstrap, colour_statistics, paired_cosine


def round_trip(pipeline: ZoomLDMPipeline, pixels: np.ndarray) -> np.ndarray:
    """Encode and decode tiles (n, 256, 256, 3) uint8 with the autoencoder."""
    parts = []
    for start in range(0, len(pixels), 8):
        x = to_signed(pixels[start : start + 8]).to(pipeline.device)
        y = pipeline.decode_latents(pipeline.encode_images(x))
        parts.append(to_pixels(y))
    return np.concatenate(parts)


def measure_autoencoder(pipeline: ZoomLDMPipeline, slides: list[SlideTiles]) -> list[dict]:
    """Measure PSNR and detail kept by the round trip at 20x, one row per slide."""
    rows = []
    for slide in slides:
        back = round_trip(pipeline, slide.pixels)
        values = psnr(slide.pixels, back)
        low, high = bootstrap(values)
        rows.append(
            {
                "slide": slide.name,
                "tiles": len(values),
                "psnr": float(values.mean()),
                "psnr_low": low,
                "psnr_high": high,
                "detail_kept": sharpness(back) / sharpness(slide.pixels),
            }
        )
    return rows


def embed(pipeline: ZoomLDMPipeline, pixels: np.ndarray) -> np.ndarray:
    """Embed tiles: (n, D)."""
    return np.concatenate(
        [pipeline.encode_tiles(pixels[i : i + 32]) for i in range(0, len(pixels), 32)]
    )


def measure_encoder(
    pipeline: ZoomLDMPipeline, slides: list[SlideTiles], seed: int = 0
) -> list[dict]:
    """Measure whether neighbours have similar embeddings, and the effect of flips and colour.

    For each slide: the AUC of the cosine, adjacent tiles against tiles at least 2 mm apart; the
    same after subtracting the slide's mean embedding (`auc_centred`), and for six colour
    statistics (standardised over the slide); the mean cosine of a tile with its flip and with
    itself under a mild change of colour, and that of the pairs at least 2 mm apart.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for slide in slides:
        codes = embed(pipeline, slide.pixels)
        colours = _in_parts(slide.pixels, colour_statistics)
        colours = (colours - colours.mean(0)) / (colours.std(0) + 1e-6)
        near, far = slide.pairs()
        centred = codes - codes.mean(0)

        def same(
            change: Callable[[np.ndarray], np.ndarray],
            pixels: np.ndarray = slide.pixels,
            codes: np.ndarray = codes,
        ) -> float:
            other = _in_parts(pixels, lambda part: embed(pipeline, change(part)))
            return float(paired_cosine(codes, other).mean())

        def of(values: np.ndarray, pairs: np.ndarray) -> np.ndarray:
            return paired_cosine(values[pairs[:, 0]], values[pairs[:, 1]])

        distant = of(codes, far)
        rows.append(
            {
                "slide": slide.name,
                "near_pairs": len(near),
                "far_pairs": len(far),
                "auc": auc(of(codes, near), distant),
                "auc_centred": auc(of(centred, near), of(centred, far)),
                "auc_colour": auc(of(colours, near), of(colours, far)),
                "cosine_flip": same(_flipped),
                "cosine_colour": same(lambda part: _tinted(part, rng)),
                "cosine_far": float(distant.mean()) if len(far) else float("nan"),
            }
        )
    return rows


def _in_parts(
    pixels: np.ndarray, describe: Callable[[np.ndarray], np.ndarray], size: int = 32
) -> np.ndarray:
    """Apply `describe` to tiles (n, 256, 256, 3) in small batches: as floats they are large."""
    parts = [describe(pixels[i : i + size]) for i in range(0, len(pixels), size)]
    return np.concatenate(parts)


def _flipped(pixels: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(pixels[:, :, ::-1])


def _tinted(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Change the colour of each tile mildly and at random."""
    gain = rng.uniform(0.92, 1.08, (len(pixels), 1, 1, 3)).astype(np.float32)
    return (255 * (pixels / np.float32(255)) ** gain).round().astype(np.uint8)


def generate_tiles(
    pipeline: ZoomLDMPipeline,
    embeddings: np.ndarray,
    steps: int,
    guidance: float,
    seed: int = 0,
    batch: int = 16,
) -> np.ndarray:
    """Generate one 20x patch from noise for each embedding (n, D): (n, 256, 256, 3) uint8."""
    parts = []
    for start in range(0, len(embeddings), batch):
        part = embeddings[start : start + batch]
        generators = [
            torch.Generator().manual_seed(seed * 1_000_003 + start + i) for i in range(len(part))
        ]
        parts.append(
            to_pixels(
                pipeline(
                    part[:, None, None],
                    0,
                    num_inference_steps=steps,
                    guidance_scale=guidance,
                    generator=generators,
                    output_type="pt",
                ).images  # pyright: ignore[reportAttributeAccessIssue]
            )
        )
    return np.concatenate(parts)


def measure_retrieval(
    pipeline: ZoomLDMPipeline,
    slides: list[SlideTiles],
    judges: dict[str, Describe],
    steps: int,
    guidance: float,
) -> tuple[list[dict], dict[str, np.ndarray]]:
    """Measure the fraction of 20x patches with their source as nearest real tile (chance 1/n).

    Returns:
        A row per slide and kind (generated, round trip) with a fraction for each judge (evaluation
        feature extractor; colour alone is one), and the generated patches by slide name.
    """
    rows: list[dict[str, Any]] = []
    images: dict[str, np.ndarray] = {}
    for slide in slides:
        real, sources = slide.pixels, np.arange(len(slide.pixels))
        generated = generate_tiles(pipeline, embed(pipeline, real), steps, guidance)
        images[slide.name] = generated
        for kind, shown in (("generated", generated), ("round trip", round_trip(pipeline, real))):
            row: dict[str, Any] = {"slide": slide.name, "pictures": kind, "tiles": len(real)}
            for name, describe in judges.items():
                hits = retrieval(shown, real, sources, describe)
                row[name] = float(hits.mean())
                row[f"{name}_low"], row[f"{name}_high"] = bootstrap(hits.astype(float))
            rows.append(row)
    return rows, images
