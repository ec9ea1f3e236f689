"""Measure the networks of a pipeline on held-out slides and write data and a page."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from zoomldm.archive import open_archive
from zoomldm.diffusion.schedule import GUIDANCE, STEPS
from zoomldm.errors import ConfigError
from zoomldm.evaluation.judge import colour_judge, load_judge
from zoomldm.evaluation.losses import measure_losses
from zoomldm.evaluation.networks import (
    measure_autoencoder,
    measure_encoder,
    measure_retrieval,
    round_trip,
)
from zoomldm.evaluation.tiles import SlideTiles, load_tiles
from zoomldm.files import atomic_path
from zoomldm.pipeline import ZoomLDMPipeline
from zoomldm.tables import as_markdown
from zoomldm.verbs import Progress, silent


def measure_networks(
    pipeline: ZoomLDMPipeline,
    slides: Sequence[Path],
    archives: Sequence[Path] = (),
    *,
    tiles: int = 100,
    judge: Path | None = None,
    progress: Progress = silent,
) -> tuple[dict[str, Any], np.ndarray]:
    """Measure autoencoder, patch encoder and denoiser on held-out slides.

    Args:
        pipeline: the pipeline.
        slides: held-out slides.
        archives: their archives made with `--for-training`, for the loss per level.
        tiles: real tiles per slide for round trip and retrieval.
        judge: folder of an evaluation feature extractor (judge) to use instead of the shipped one.
        progress: called as work goes on.

    Returns:
        The figures, and an image with three rows per slide: real, round-trip and generated tiles.
    """
    if not slides:
        raise ConfigError("no held-out slides to evaluate on; give at least one")
    figures: dict[str, Any] = {"steps": STEPS, "guidance": GUIDANCE, "digest": pipeline.digest()}
    some, encoder = [], []
    for done, path in enumerate(slides):  # one slide at a time: ten thousand tiles take 2 GB
        progress("slides through the patch encoder", done, len(slides))
        every = load_tiles(path)
        some.append(_subset(every, tiles))
        encoder += measure_encoder(pipeline, [every])
    progress("autoencoder, retrieval, losses", 0, 3)
    figures["autoencoder"] = measure_autoencoder(pipeline, some)
    figures["encoder"] = encoder
    progress("autoencoder, retrieval, losses", 1, 3)
    judges = {"judge": load_judge(judge, pipeline.device), "colour": colour_judge}
    figures["retrieval"], generated = measure_retrieval(pipeline, some, judges, STEPS, GUIDANCE)
    if archives:
        progress("autoencoder, retrieval, losses", 2, 3)
        figures["losses"] = measure_losses(pipeline, [open_archive(a) for a in archives])
    strips = []
    for slide in some:
        shown = np.linspace(0, len(slide.pixels) - 1, 10).astype(int)
        for rows in (
            slide.pixels[shown],
            round_trip(pipeline, slide.pixels[shown]),
            generated[slide.name][shown],
        ):
            strips.append(np.concatenate(list(rows), 1))
    return figures, np.concatenate(strips)


def _subset(slide: SlideTiles, count: int) -> SlideTiles:
    """Choose random tiles, mostly tissue-coloured if there are enough, in grid order."""
    spread = slide.pixels.max(-1) - slide.pixels.min(-1)
    coloured = (spread > 20).mean((1, 2)) > 0.5
    pool = np.nonzero(coloured)[0]
    if len(pool) < count:
        pool = np.arange(len(slide.pixels))
    chosen = np.sort(np.random.default_rng(0).choice(pool, min(count, len(pool)), replace=False))
    return SlideTiles(slide.name, slide.places[chosen], slide.pixels[chosen])


def _interval(row: dict[str, Any], key: str, digits: int, scale: float = 1) -> str:
    return (
        f"{row[key] * scale:.{digits}f} "
        f"({row[f'{key}_low'] * scale:.{digits}f} to {row[f'{key}_high'] * scale:.{digits}f})"
    )


def write_report(
    figures: dict[str, Any], sheet: np.ndarray, folder: Path, command: str
) -> list[Path]:
    """Write `results.md`, `results.json` and `results.jpg` to an existing folder."""
    parts = [
        "# Results on held-out cases",
        f"Printed by `{command}`; pipeline digest `{figures['digest'][:16]}`. Intervals are 95 % "
        "bootstrap intervals over tiles.",
        "## Autoencoder: round trip at 20x",
        as_markdown(
            ["slide", "tiles", "PSNR (dB)", "fine detail kept"],
            [
                [r["slide"], str(r["tiles"]), _interval(r, "psnr", 2), f"{r['detail_kept']:.0%}"]
                for r in figures["autoencoder"]
            ],
        ),
        "Fine detail is the mean absolute Laplacian of the luminance, as a share of the real "
        "tiles'.",
        "## Patch encoder: do neighbours look alike?",
        as_markdown(
            [
                "slide",
                "AUC, adjacent against 2 mm apart",
                "about the slide's mean",
                "six colour statistics",
                "cosine with the flipped tile",
                "with mild colour change",
                "tiles 2 mm apart",
            ],
            [
                [
                    r["slide"],
                    f"{r['auc']:.3f}",
                    f"{r['auc_centred']:.3f}",
                    f"{r['auc_colour']:.3f}",
                    f"{r['cosine_flip']:.3f}",
                    f"{r['cosine_colour']:.3f}",
                    f"{r['cosine_far']:.3f}",
                ]
                for r in figures["encoder"]
            ],
        ),
        "## Denoiser: is a generated 20x patch recognised?",
        f"Each tile is generated from noise from its own embedding ({figures['steps']} steps, "
        f"guidance {figures['guidance']}); counted is the share whose nearest real tile of the "
        "same slide is its source, by the judge (another method, grey and colour-jittered tiles) "
        "and by six colour statistics. Chance is 1/n.",
        as_markdown(
            ["slide", "n", "images", "judge (%)", "colour alone (%)"],
            [
                [
                    r["slide"],
                    str(r["tiles"]),
                    r["pictures"],
                    _interval(r, "judge", 0, 100),
                    _interval(r, "colour", 0, 100),
                ]
                for r in figures["retrieval"]
            ],
        ),
        "![Real tiles, their round trip, and tiles generated from their embedding](results.jpg)",
        "Rows: real, round trip, generated; three a slide.",
    ]
    if "losses" in figures:
        parts += [
            "## Denoiser: held-out loss per level",
            as_markdown(
                ["level", "evaluations", "loss", "loss without context"],
                [
                    [r["level"], str(r["patches"]), f"{r['loss']:.4f}", f"{r['loss_null']:.4f}"]
                    for r in figures["losses"]
                ],
            ),
        ]
    page, data, image = (folder / f"results.{e}" for e in ("md", "json", "jpg"))
    half = sheet.shape[1] // 2, sheet.shape[0] // 2
    with atomic_path(image) as part:
        shown = Image.fromarray(sheet).resize(half, Image.Resampling.LANCZOS)
        shown.save(part, format="JPEG", quality=85)
    for file, text in ((data, json.dumps(figures, indent=1)), (page, "\n\n".join(parts) + "\n")):
        with atomic_path(file) as part:
            part.write_text(text, encoding="utf-8")
    return [page, data, image]
