"""The `zoomldm evaluate` commands: take measures and write them as pages and data."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zoomldm.archive import open_archive
from zoomldm.cohort.cases import group_cases, split_cases
from zoomldm.errors import ConfigError, TargetError
from zoomldm.evaluation.comparison import Judges, spread
from zoomldm.evaluation.copies import copies_table, measure_copies
from zoomldm.evaluation.fidelity_page import check_page, write_fidelity
from zoomldm.evaluation.judge import load_judge
from zoomldm.evaluation.losses import measure_losses
from zoomldm.evaluation.nuclei import find_nuclei, nuclei_sheet
from zoomldm.evaluation.options import (
    CopiesOptions,
    EvaluateReport,
    FidelityOptions,
    NetworksOptions,
    SamplesOptions,
)
from zoomldm.evaluation.public_features import PublicFeatures
from zoomldm.evaluation.regeneration import measure_regeneration
from zoomldm.evaluation.report import measure_networks, write_report
from zoomldm.evaluation.samples import measure_samples, samples_table
from zoomldm.evaluation.tiles import load_tiles
from zoomldm.files import atomic_path
from zoomldm.geometry.levels import COUNT, parse_level
from zoomldm.pipeline import SHIPPED, ZoomLDMPipeline, load_pipeline
from zoomldm.remote import RemotePath
from zoomldm.verbs import Progress, plain, silent


def evaluate_networks(
    slides: Sequence[Path],
    out: Path | str,
    options: NetworksOptions | None = None,
    *,
    pipeline: str | ZoomLDMPipeline = SHIPPED,
    progress: Progress | None = None,
    command: str = "zoomldm.evaluation",
) -> EvaluateReport:
    """Measure autoencoder, patch encoder and denoiser on held-out slides.

    Args:
        slides: held-out slides.
        out: existing folder for `results.md`, `.json` and `.jpg`.
        options: see NetworksOptions.
        pipeline: the pipeline, its id or its directory.
        progress: called as work goes on.
        command: command that the page names.

    Raises:
        ConfigError: no slides.
        TargetError: no such folder.
    """
    out, options = _folder(out), options or NetworksOptions()
    figures, image = measure_networks(
        _loaded(pipeline),
        slides,
        options.archives,
        tiles=options.tiles,
        judge=options.judge,
        progress=progress or silent,
    )
    return EvaluateReport(figures, tuple(write_report(figures, image, out, command)))


def networks_page(
    figures: dict[str, Any],
    strips: Sequence[NDArray[np.uint8]],
    out: Path,
    options: NetworksOptions,
    pipeline: tuple[str, str],
    command: str,
) -> EvaluateReport:
    """Write the page of `evaluate_networks` for slides that were measured one by one.

    Args:
        figures: figures of `measure_networks`, merged over all slides.
        strips: its image of each slide.
        out: existing folder.
        options: give the archives to measure losses on.
        pipeline: name and device; loaded if there are archives.
        command: command that the page names.
    """
    if options.archives:
        opened = [open_archive(path) for path in options.archives]
        figures["losses"] = measure_losses(load_pipeline(*pipeline), opened)
    files = write_report(figures, np.concatenate(strips), out, command)
    return EvaluateReport(figures, tuple(files))


def evaluate_copies(
    data: Path | str,
    out: Path | str,
    options: CopiesOptions | None = None,
    *,
    pipeline: str | ZoomLDMPipeline = SHIPPED,
    progress: Progress | None = None,
    command: str = "zoomldm.evaluation",
) -> EvaluateReport:
    """Count samples that come nearer to a training patch than withheld tissue does.

    Args:
        data: folder of the training archives.
        out: existing folder for `copies.md`, `.json` and `.jpg`.
        options: see CopiesOptions.
        pipeline: the pipeline, its id or its directory.
        progress: called as work goes on.
        command: command that the page names.

    Raises:
        ConfigError: no archives, or cases that do not match them.
        ArchiveError: archives without latents, or of other networks.
        TargetError: no such folder.
    """
    data, out, options = Path(data), _folder(out), options or CopiesOptions()
    archives = {path.name: path for path in sorted(data.glob("*.zldm"))}
    if not archives:
        raise ConfigError(f"{data}: holds no archives; --data takes a folder of training archives")
    split = split_cases(archives, options.holdout, options.cases)
    figures, image = measure_copies(
        _loaded(pipeline),
        [archives[name] for name in split.training],
        [archives[name] for name in split.held_out],
        n=options.n,
        share=options.fraction,
        options=options.samples,
        progress=progress or silent,
    )
    caption = "Eight pairs nearest to their limit: sample above, its nearest training patch below"
    files = _write(out, "copies", figures, copies_table(figures), image, caption, command)
    return EvaluateReport(figures, files)


def evaluate_samples(
    slides: Sequence[Path],
    out: Path | str,
    options: SamplesOptions,
    *,
    pipeline: str | ZoomLDMPipeline = SHIPPED,
    progress: Progress | None = None,
    command: str = "zoomldm.evaluation",
) -> EvaluateReport:
    """Measure Fréchet distance and KID of samples to real patches of held-out slides.

    Args:
        slides: validation slides.
        out: existing folder for `samples.md`, `.json` and `.jpg`.
        options: see SamplesOptions.
        pipeline: the pipeline, its id or its directory.
        progress: called as work goes on.
        command: command that the page names.

    Raises:
        ConfigError: a slide has no archive, or there is too little to compare with.
        ArchiveError: archives of another patch encoder, or that don't fit their slides.
        TargetError: no such folder.
    """
    out = _folder(out)
    by_name = {path.name: path for path in options.other}
    grouped = group_cases(by_name, options.cases)
    files = [f for p in options.archives for f in (sorted(p.glob("*.zldm")) if p.is_dir() else [p])]
    figures, images = measure_samples(
        _loaded(pipeline),
        slides,
        {case: [by_name[name] for name in names] for case, names in grouped.items()},
        files,
        n=options.n,
        levels=_levels(options.levels, range(COUNT)),
        options=options.samples,
        judge=options.judge,
        progress=progress or silent,
    )
    strips = [
        np.concatenate(list(kind[:4]), 1) for sets in images.values() for kind in sets.values()
    ]
    sheet = np.array(Image.fromarray(np.concatenate(strips)).reduce(2))
    shown = ", ".join(next(iter(images.values()), {}))
    caption = f"Four of each kind, level by level from 20x; rows: {shown}"
    return EvaluateReport(
        figures, _write(out, "samples", figures, samples_table(figures), sheet, caption, command)
    )


def evaluate_fidelity(
    pairs: Sequence[tuple[Path, Path]],
    out: Path | str,
    options: FidelityOptions | None = None,
    *,
    pipeline: str | ZoomLDMPipeline = SHIPPED,
    progress: Progress | None = None,
    command: str = "zoomldm.evaluation",
) -> EvaluateReport:
    """Compare what archives show with their slides, beside a codec at the same bytes.

    Args:
        pairs: slides and their archives.
        out: the page, .md; figures and images are written beside it.
        options: see FidelityOptions.
        pipeline: the pipeline, its id or its directory.
        progress: called as work goes on.
        command: command that the page names.

    Raises:
        ConfigError: nothing to measure.
        ArchiveError: an archive does not fit its slide or the pipeline.
        TargetError: the page can't be written.
    """
    out, options = Path(out), options or FidelityOptions()
    check_page(out)
    model = _loaded(pipeline)
    judges = Judges(PublicFeatures(model.device), load_judge(options.judge, model.device))
    figures, sheets = fidelity_of(pairs, model, judges, options, progress or silent)
    return EvaluateReport(figures, tuple(write_fidelity(figures, sheets, out, command)))


def fidelity_of(
    pairs: Sequence[tuple[Path, Path | RemotePath]],
    pipeline: ZoomLDMPipeline,
    judges: Judges,
    options: FidelityOptions,
    progress: Progress = silent,
) -> tuple[dict[str, Any], dict[str, NDArray[np.uint8]]]:
    """Measure for `evaluate_fidelity`; see `measure_regeneration`."""
    return measure_regeneration(
        pairs,
        pipeline,
        judges,
        levels=_levels(options.levels, (0, 1, 2)),
        tiles=options.tiles,
        regions=options.regions,
        options=options.render,
        codec=options.codec,
        alone=options.alone,
        progress=progress,
    )


def draw_nuclei(slides: Sequence[Path], out: Path | str, tiles: int = 10) -> EvaluateReport:
    """Draw outlines of the nuclei found on tiles of slides, for inspection.

    Args:
        slides: the slides.
        out: .jpg or .png file.
        tiles: tiles per slide.

    Returns:
        Figures: the number of nuclei on each tile, by slide.

    Raises:
        TargetError: `out` can't be written.
    """
    out = Path(out)
    if out.suffix.lower() not in (".jpg", ".png") or not out.parent.is_dir():
        raise TargetError(f"{out}: expected a name that ends in .jpg or .png in an existing folder")
    sheets, counts = [], {}
    for path in slides:
        pixels = spread(load_tiles(path).pixels, tiles)
        counts[path.name] = [len(find_nuclei(p)) for p in pixels]
        sheets.append(nuclei_sheet(pixels))
    with atomic_path(out) as part:
        Image.fromarray(np.concatenate(sheets)).save(
            part, format="PNG" if out.suffix.lower() == ".png" else "JPEG", quality=85
        )
    return EvaluateReport(counts, (out,))


def _levels(labels: Sequence[str] | None, every: Sequence[int]) -> Sequence[int]:
    return [parse_level(label) for label in labels] if labels else every


def _loaded(pipeline: str | ZoomLDMPipeline) -> ZoomLDMPipeline:
    return load_pipeline(pipeline) if isinstance(pipeline, str) else pipeline


def _folder(out: Path | str) -> Path:
    out = Path(out)
    if not out.is_dir():
        raise TargetError(f"{out}: is no folder; expected one that exists")
    return out


def _write(
    out: Path,
    name: str,
    figures: Mapping[str, object],
    table: str,
    image: NDArray[np.uint8] | None,
    caption: str,
    command: str,
) -> tuple[Path, ...]:
    """Write figures as JSON, the table as a page, and the image beside it."""
    page = [f"# {name.capitalize()}", "", f"Printed by `{command}`; pipeline digest"]
    page += [f"`{str(figures['digest'])[:16]}`.", "", table]
    files = [out / f"{name}.md", out / f"{name}.json"]
    if image is not None:
        files.append(out / f"{name}.jpg")
        with atomic_path(files[-1]) as part:
            Image.fromarray(image).save(part, format="JPEG", quality=80)
        page += ["", f"![{caption}]({name}.jpg)", "", f"{caption}."]
    texts = "\n".join(page) + "\n", json.dumps(plain(figures), indent=1) + "\n"
    for file, text in zip(files, texts, strict=False):
        with atomic_path(file) as part:
            part.write_text(text, encoding="utf-8")
    return tuple(files)
