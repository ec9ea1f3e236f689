"""Pages of `evaluate fidelity` and `evaluate rates`: tables, image sheets and curves."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zoomldm.errors import TargetError
from zoomldm.evaluation.rates import settings_table
from zoomldm.files import atomic_path
from zoomldm.tables import as_markdown

_MEASURES = (
    ("psnr", "PSNR (dB)", 1, 1.0, False),
    ("ssim", "SSIM", 3, 1.0, False),
    ("detail", "detail (%)", 0, 100.0, False),
    ("f1", "nuclei F1", 2, 1.0, True),
    ("f1_by_chance", "by chance", 2, 1.0, False),
    ("density_correlation", "density", 2, 1.0, True),
    ("retrieval", "public retrieval (%)", 0, 100.0, True),
    ("retrieval_floored", "with floor (%)", 0, 100.0, False),
    ("retrieval_own", "own judge (%)", 0, 100.0, True),
    ("frechet", "Fréchet", 0, 1.0, True),
    ("kernel", "kernel", 2, 1.0, True),
    ("perceptual", "perceptual", 3, 1.0, False),
    ("embedding", "embedding, cosine", 3, 1.0, True),
)
_REGIONS = (
    ("luminance_4um", "luminance, 4 um", 2),
    ("luminance_2um", "luminance, 2 um", 2),
    ("haematoxylin_2um", "haematoxylin, 2 um", 2),
    ("seams", "seams", 2),
    ("seams_worst", "worst", 2),
    ("seams_real", "real tissue's", 2),
    ("seams_real_worst", "its worst", 2),
    ("lost", "lost", 4),
    ("invented", "invented", 4),
    ("child_10x", "10x from 20x", 1),
    ("child_5x", "5x from 10x", 1),
)
LEGEND = (
    "Intervals are 95 % bootstrap intervals, tissue resampled in squares of 2,048 px at 20x. "
    "*Detail*: mean absolute Laplacian over that of the real tiles. *Nuclei F1*: centroids within "
    "3 um, matched one to one; *by chance* against the next tile's. *Density*: correlation of "
    "nuclei per mm^2 over tiles. *Retrieval*: share of images whose nearest real tile is their "
    "source (chance 1/n), by EfficientNet-Lite0 trained on ImageNet (features in units of the real "
    "tiles' deviation; *with floor*: of a twentieth of the usual one at least) and by the "
    "project's own judge. *Fréchet*, *kernel*: distances of the same features, in one unit, the "
    "real tiles' deviation; comparable at equal n only. *Perceptual*: mean difference of feature "
    "maps."
)
REGION_LEGEND = (
    "Squares of 1,024 px with most tissue. Correlations with the slide, averaged over squares of "
    "so many um. *Seams*: differences across lines of the 256 px lattice over those beside them. "
    "*Lost*: share of cells of 16 um that are tissue in the base layer and white in the image; "
    "*invented*: the reverse. *10x from 20x*: greatest difference of a child's average from its "
    "parent, in 1/255."
)


def _cell(measure: Mapping[str, float] | None, digits: int, scale: float, interval: bool) -> str:
    if measure is None:
        return "-"
    value, low, high = (measure[k] * scale for k in ("value", "low", "high"))
    if not np.isfinite(value):
        return "-"
    text = f"{value:.{digits}f}"
    return f"{text} ({low:.{digits}f} to {high:.{digits}f})" if interval else text


def fidelity_table(level: Mapping[str, Any]) -> str:
    """Format the measures of one level, with a row for each rendition of the slide."""
    rows = level["rows"]
    shown = [m for m in _MEASURES if any(m[0] in row["measures"] for row in rows)]
    return as_markdown(
        ["images", *(title for _, title, *_ in shown)],
        [
            [
                row["pictures"],
                *(
                    _cell(row["measures"].get(name), digits, scale, interval)
                    for name, _, digits, scale, interval in shown
                ),
            ]
            for row in rows
        ],
    )


def regions_table(level: Mapping[str, Any]) -> str | None:
    """Format the measures of regions; None if none were measured."""
    rows = [row for row in level["rows"] if row.get("regions")]
    if not rows:
        return None
    shown = [m for m in _REGIONS if any(m[0] in row["regions"] for row in rows)]
    return as_markdown(
        ["images", *(title for _, title, _ in shown)],
        [
            [
                row["pictures"],
                *(
                    f"{row['regions'][name]:.{digits}f}" if name in row["regions"] else "-"
                    for name, _, digits in shown
                ),
            ]
            for row in rows
        ],
    )


def write_fidelity(
    figures: Mapping[str, Any],
    sheets: Mapping[str, NDArray[np.uint8]],
    page: Path,
    command: str,
) -> list[Path]:
    """Write a page, its data and its sheets: PAGE.md, PAGE.json and PAGE-SLIDE-LEVEL.jpg.

    Args:
        figures: returned by `measure_regeneration`.
        sheets: image sheets by name.
        page: file of the page, .md; the other files are written beside it.
        command: command that the page names.

    Raises:
        TargetError: the name does not end in .md, or its folder does not exist.
    """
    check_page(page)
    images = {n: page.with_name(f"{page.stem}-{n}.jpg") for n in sheets}
    parts = [
        "# What archives show",
        f"Printed by `{command}`; pipeline digest `{figures['digest'][:16]}`.",
        LEGEND,
        REGION_LEGEND,
    ]
    for slide in figures["slides"]:
        ways = [
            f"- {c['name']}: {c['bytes']:.0f} bytes a tissue tile"
            + (f", {c['note']}" if c["note"] else "")
            for c in slide["columns"]
            if c["bytes"] is not None
        ]
        parts += [
            f"## {slide['slide']}",
            f"`{slide['archive']}` is {slide['ratio']:.1f} times smaller than the slide "
            f"({slide['bytes']:.0f} bytes a tissue tile).",
            "\n".join(ways),
        ]
        for level in slide["levels"]:
            name = f"{Path(slide['slide']).stem}-{level['level']}"
            parts += [f"### {level['level']}, {level['patches']} patches", fidelity_table(level)]
            regions = regions_table(level)
            parts += [regions] if regions else []
            parts.append(f"![Places at {level['level']}]({images[name].name})")
    return _written(page, parts, figures, {images[n]: sheet for n, sheet in sheets.items()})


def write_rates(
    rows: Sequence[Mapping[str, Any]],
    between: Sequence[Mapping[str, Any]],
    page: Path,
    command: str,
    archives: Mapping[str, Mapping[tuple[int, int], Sequence[Any]]] | None = None,
) -> list[Path]:
    """Write the page of rates, its data and its curves: PAGE.md, .json and PAGE-SLIDE-LEVEL.png.

    Args:
        rows: rows of `measure_settings` for several slides and levels.
        between: rows of `between_cases`.
        page: file of the page, .md.
        command: command that the page names.
        archives: by slide, the result of `archive_settings`, for the table of ratios.
    """
    check_page(page)
    parts = ["# What bytes buy", f"Printed by `{command}`.", LEGEND]
    if between:
        parts += [
            "## Other real tissue, for comparison",
            as_markdown(
                ["slide", "images", "n", "Fréchet", "kernel"],
                [
                    [
                        *(r["slide"], r["pictures"], str(r["n"])),
                        *(f"{r['frechet']:.0f}", f"{r['kernel']:.2f}"),
                    ]
                    for r in between
                ],
            ),
        ]
    files = []
    for slide in dict.fromkeys(r["slide"] for r in rows):
        for level in dict.fromkeys(r["level"] for r in rows if r["slide"] == slide):
            chosen = [r for r in rows if r["slide"] == slide and r["level"] == level]
            parts += [f"## {slide} at {level}, {chosen[0]['patches']} patches"]
            parts.append(settings_table([dict(r) for r in chosen]))
            if archives and slide in archives:
                table = ratios_table(chosen, archives[slide])
                parts += [f"### Best of every ratio, {level}", table] if table else []
            curve = page.with_name(f"{page.stem}-{Path(slide).stem}-{level}.png")
            if draw_curves(chosen, curve):
                files.append(curve)
                parts.append(f"![Measures against bytes a tile]({curve.name})")
    data = {"rows": list(rows), "between": list(between)}
    return [*_written(page, parts, data, {}), *files]


_BEST = (
    ("f1", "nuclei F1", 2, 1.0),
    ("retrieval", "public retrieval (%)", 0, 100.0),
    ("frechet", "Fréchet", 0, 1.0),
    ("ssim", "SSIM", 3, 1.0),
    ("psnr", "PSNR (dB)", 1, 1.0),
)


def ratios_table(
    rows: Sequence[Mapping[str, Any]], archives: Mapping[tuple[int, int], Sequence[Any]]
) -> str | None:
    """For each ratio and embedding size, give the best result of the remaining bytes.

    Each cell names the codec and stored level that reach it. None if the table is empty.
    """
    known = {row["setting"]: row for row in rows}
    lines = []
    for (ratio, embedding), settings in archives.items():
        found = [known[str(s)] for s in settings if str(s) in known and known[str(s)]["reached"]]
        if not found:
            continue
        cells = [f"{ratio}", f"{embedding}", f"{settings[0].bytes_per_tile:.0f}"]
        for name, _, digits, scale in _BEST:
            have = [r for r in found if name in r["measures"]]
            if not have:
                cells.append("-")
                continue
            pick = min if name == "frechet" else max
            best = pick(have, key=lambda r, n=name: r["measures"][n]["value"])
            value = best["measures"][name]["value"] * scale
            cells.append(f"{value:.{digits}f} ({best['codec']} {best['stored']})")
        lines.append(cells)
    if not lines:
        return None
    columns = ["ratio", "embedding (bytes)", "left (bytes)", *(title for _, title, *_ in _BEST)]
    return as_markdown(columns, lines)


_CURVES = (
    ("f1", "nuclei F1"),
    ("retrieval", "public retrieval"),
    ("frechet", "Fréchet distance"),
    ("perceptual", "perceptual distance"),
    ("ssim", "SSIM"),
    ("psnr", "PSNR (dB)"),
)


def draw_curves(rows: Sequence[Mapping[str, Any]], target: Path) -> bool:
    """Plot measures against bytes per tile, a line for each codec and stored level.

    Returns:
        False, without a plot, if fewer than two rows are coded.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    coded = [r for r in rows if r["codec"] != "none"]
    if len(coded) < 2:
        return False
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import LogLocator, NullLocator, ScalarFormatter
    except ImportError as error:
        from zoomldm.errors import ConfigError

        raise ConfigError(
            "matplotlib is not installed; curves are drawn with `pip install 'zoomldm[evaluation]'`"
        ) from error
    figure = Figure(figsize=(12, 7), layout="constrained")
    for axis, (name, title) in zip(figure.subplots(2, 3).ravel(), _CURVES, strict=True):
        for key in dict.fromkeys((r["codec"], r["stored"]) for r in coded):
            line = sorted(
                (r["bytes"], *(r["measures"][name][k] for k in ("value", "low", "high")))
                for r in coded
                if (r["codec"], r["stored"]) == key and name in r["measures"]
            )
            if line:
                x, y, low, high = np.array(line).T
                axis.plot(x, y, "o-", label=" ".join(key), markersize=4)
                axis.fill_between(x, low, high, alpha=0.12)
        axis.set(title=title, xlabel="bytes a tissue tile", xscale="log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_minor_locator(NullLocator())
        axis.xaxis.set_major_formatter(ScalarFormatter())
        axis.grid(alpha=0.3)
    handles, labels = figure.axes[4].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=6)
    figure.savefig(target, dpi=100)
    return True


def check_page(page: Path) -> None:
    """Check that a page can be written.

    Raises:
        TargetError: the name does not end in .md, or its folder does not exist.
    """
    if page.suffix != ".md":
        raise TargetError(f"{page}: expected the name of a page, ending in .md")
    if not page.parent.is_dir():
        raise TargetError(f"{page}: folder {page.parent} does not exist; create it first")


def _written(
    page: Path,
    parts: Sequence[str],
    data: Mapping[str, Any],
    images: Mapping[Path, NDArray[np.uint8]],
) -> list[Path]:
    figures = page.with_suffix(".json")
    for path, pixels in images.items():
        with atomic_path(path) as part:
            Image.fromarray(pixels).save(part, format="JPEG", quality=85)
    texts = {page: "\n\n".join(parts) + "\n", figures: json.dumps(data, indent=1) + "\n"}
    for path, text in texts.items():
        with atomic_path(path) as part:
            part.write_text(text, encoding="utf-8")
    return [page, figures, *images]
