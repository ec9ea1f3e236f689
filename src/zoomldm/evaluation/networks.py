"""Figures of the networks on held-out slides: autoencoder, patch encoder, denoiser."""

from typing import Any

import numpy as np
import torch

from zoomldm.evaluation.fidelity import psnr, sharpness
from zoomldm.evaluation.judge import Describe, retrieval
from zoomldm.evaluation.tiles import SlideTiles
from zoomldm.pipeline import ZoomLDMPipeline
from zoomldm.pixels import to_pixels, to_signed
from zoomldm.statistics import auc, bootstrap, colour_statistics, cosine


def round_trip(pipeline: ZoomLDMPipeline, pixels: np.ndarray) -> np.ndarray:
    """Tiles (n, 256, 256, 3) uint8 through the autoencoder and back."""
    parts = []
    for start in range(0, len(pixels), 8):
        x = to_signed(pixels[start : start + 8]).to(pipeline.device)
        y = pipeline.decode_latents(pipeline.encode_pictures(x))
        parts.append(to_pixels(y))
    return np.concatenate(parts)


def measure_autoencoder(pipeline: ZoomLDMPipeline, slides: list[SlideTiles]) -> list[dict]:
    """PSNR of the round trip at 20x and how much detail it keeps, a row a slide."""
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
    """Embeddings (n, D) of tiles."""
    return np.concatenate(
        [pipeline.encode_tiles(pixels[i : i + 32]) for i in range(0, len(pixels), 32)]
    )


def measure_encoder(
    pipeline: ZoomLDMPipeline, slides: list[SlideTiles], seed: int = 0
) -> list[dict]:
    """Whether neighbours look alike to the patch encoder, and what flips and colour do to it.

    For each slide the AUC of the cosine, adjacent tiles against tiles at least 2 mm apart; the
    same about the slide's mean embedding (`auc_centred`), and for six colour statistics
    (standardised over the slide); the mean cosine of a tile with
    its flip and with itself under a mild change of colour, beside that of random pairs.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for slide in slides:
        codes = embed(pipeline, slide.pixels)
        colours = colour_statistics(slide.pixels)
        colours = (colours - colours.mean(0)) / (colours.std(0) + 1e-6)
        near, far = slide.pairs()
        gain = rng.uniform(0.92, 1.08, (len(slide.pixels), 1, 1, 3)).astype(np.float32)
        tinted = 255 * (slide.pixels / np.float32(255)) ** gain
        flipped = np.ascontiguousarray(slide.pixels[:, :, ::-1])
        scores = cosine(codes, codes)
        shades = cosine(colours, colours)
        centred = cosine(codes - codes.mean(0), codes - codes.mean(0))

        def pick(matrix: np.ndarray, pairs: np.ndarray) -> np.ndarray:
            return matrix[pairs[:, 0], pairs[:, 1]]

        def same(other: np.ndarray, codes: np.ndarray = codes) -> float:
            return float(np.diagonal(cosine(codes, embed(pipeline, other))).mean())

        rows.append(
            {
                "slide": slide.name,
                "near_pairs": len(near),
                "far_pairs": len(far),
                "auc": auc(pick(scores, near), pick(scores, far)),
                "auc_centred": auc(pick(centred, near), pick(centred, far)),
                "auc_colour": auc(pick(shades, near), pick(shades, far)),
                "cosine_flip": same(flipped),
                "cosine_colour": same(tinted.round().astype(np.uint8)),
                "cosine_far": float(pick(scores, far).mean()) if len(far) else float("nan"),
            }
        )
    return rows


def generate_tiles(
    pipeline: ZoomLDMPipeline,
    embeddings: np.ndarray,
    steps: int,
    guidance: float,
    seed: int = 0,
    batch: int = 16,
) -> np.ndarray:
    """One 20x patch from noise for each embedding (n, D): (n, 256, 256, 3) uint8."""
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
    """Share of generated 20x patches whose nearest real tile is their source (chance 1/n).

    Returns:
        A row a slide and kind (generated, round trip, colour alone is a judge of its own), and
        the generated patches by slide name.
    """
    rows: list[dict[str, Any]] = []
    pictures: dict[str, np.ndarray] = {}
    for slide in slides:
        real, sources = slide.pixels, np.arange(len(slide.pixels))
        made = generate_tiles(pipeline, embed(pipeline, real), steps, guidance)
        pictures[slide.name] = made
        for kind, shown in (("generated", made), ("round trip", round_trip(pipeline, real))):
            row: dict[str, Any] = {"slide": slide.name, "pictures": kind, "tiles": len(real)}
            for name, describe in judges.items():
                hits = retrieval(shown, real, sources, describe)
                row[name] = float(hits.mean())
                row[f"{name}_low"], row[f"{name}_high"] = bootstrap(hits.astype(float))
            rows.append(row)
    return rows, pictures
