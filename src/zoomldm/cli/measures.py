"""`zoomldm evaluate fidelity`, `rates` and `nuclei`: measures that see cells, as pages."""

from pathlib import Path
from typing import Annotated

import typer

from zoomldm.cli.device import Device

_Page = Annotated[
    Path, typer.Option("-o", "--out", metavar="PAGE.md", help="The page; pictures beside it.")
]
_Judge = Annotated[Path | None, typer.Option(help="Folder of another judge.")]
_Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


def fidelity(
    files: Annotated[list[Path], typer.Argument(metavar="SLIDE ARCHIVE...", show_default=False)],
    out: _Page,
    pipeline: Annotated[str, typer.Option(help="Pipeline id or directory.")] = "demo",
    level: Annotated[list[str] | None, typer.Option(help="20x, 10x, ...; several.")] = None,
    tiles: Annotated[int, typer.Option(min=4, help="Patches of each level.")] = 100,
    regions: Annotated[int, typer.Option(min=0, help="Squares of 1,024 px.")] = 2,
    codec: Annotated[str, typer.Option(help="avif, jxl, webp or jpeg.")] = "avif",
    alone: Annotated[
        bool, typer.Option("--alone/--no-alone", help="Also without the base layer.")
    ] = True,
    seed: Annotated[int, typer.Option(help="Of the noise, 0 or more.")] = 0,
    steps: Annotated[int | None, typer.Option(help="As in decompress.")] = None,
    guidance: Annotated[float | None, typer.Option(help="As in decompress.")] = None,
    method: Annotated[str, typer.Option(help="auto, pyramid or cascade.")] = "auto",
    precision: Annotated[str, typer.Option(help="float32, or bfloat16 (faster).")] = "float32",
    batch: Annotated[int | None, typer.Option(help="Patches per network call.")] = None,
    judge: _Judge = None,
    device: Device = "auto",
    json: _Json = False,
) -> None:
    """Hold what archives show against their slides: pairs of SLIDE ARCHIVE, one or several."""
    from zoomldm.cli.evaluate import _command, _say
    from zoomldm.cli.output import print_json
    from zoomldm.errors import ConfigError
    from zoomldm.evaluation.codecs import find_codec
    from zoomldm.evaluation.comparison import Judges
    from zoomldm.evaluation.fidelity_page import check_page, write_fidelity
    from zoomldm.evaluation.judge import load_judge
    from zoomldm.evaluation.public_features import PublicFeatures
    from zoomldm.evaluation.regeneration import measure_regeneration
    from zoomldm.geometry.levels import parse_level
    from zoomldm.pipeline import load_pipeline
    from zoomldm.rendering import RenderOptions

    check_page(out)
    find_codec(codec)
    if len(files) % 2:
        raise ConfigError(
            f"{len(files)} files; expected pairs of a slide and its archive: SLIDE ARCHIVE ..."
        )
    options = RenderOptions(
        seed=seed,
        steps=steps,
        guidance=guidance,
        precision=precision,  # type: ignore[arg-type]
        batch=batch,
        method=method,  # type: ignore[arg-type]
    )
    figures, sheets = measure_regeneration(
        list(zip(files[::2], files[1::2], strict=True)),
        load_pipeline(pipeline, device),
        Judges(PublicFeatures(), load_judge(judge)),
        levels=[parse_level(v) for v in level] if level else (0, 1, 2),
        tiles=tiles,
        regions=regions,
        options=options,
        codec=codec,
        alone=alone,
        say=_say,
    )
    written = write_fidelity(figures, sheets, out, _command())
    print_json(figures) if json else typer.echo("\n".join(map(str, written)))


def rates(
    slides: Annotated[list[Path], typer.Argument(metavar="SLIDE...", show_default=False)],
    out: _Page,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CODEC:LEVEL:BYTES",
            help="avif:5x:235, or none:5x; several. [default: those of archives of 100 to 30:1]",
            show_default=False,
        ),
    ] = None,
    level: Annotated[list[str] | None, typer.Option(help="Measured at; several.")] = None,
    tiles: Annotated[int, typer.Option(min=4, help="Patches of each level.")] = 100,
    regions: Annotated[int, typer.Option(min=0, help="Squares of 1,024 px.")] = 2,
    judge: _Judge = None,
    json: _Json = False,
) -> None:
    """Measure slides stored by codecs at many rates; rows are kept, so it goes on if stopped."""
    from zoomldm.cli.evaluate import _command, _say
    from zoomldm.cli.output import print_json
    from zoomldm.evaluation.codecs import parse_setting
    from zoomldm.evaluation.comparison import Judges
    from zoomldm.evaluation.fidelity_page import check_page, write_rates
    from zoomldm.evaluation.judge import load_judge
    from zoomldm.evaluation.public_features import PublicFeatures
    from zoomldm.evaluation.rates import (
        archive_settings,
        between_cases,
        bytes_per_tile,
        measure_settings,
    )
    from zoomldm.geometry.levels import parse_level

    check_page(out)
    given = [parse_setting(s) for s in setting or []]
    judges = Judges(PublicFeatures(), load_judge(judge))
    levels = [parse_level(v) for v in level] if level else (0, 1, 2)
    archives = {} if given else {s.name: archive_settings(bytes_per_tile(s)) for s in slides}
    rows = []
    for path in slides:
        every = given or list(
            dict.fromkeys(s for group in archives[path.name].values() for s in group)
        )
        rows += measure_settings(
            path,
            every,
            judges,
            tiles=tiles,
            regions=regions,
            levels=levels,
            keep=out.with_suffix(".rows.json"),
            say=_say,
        )
    between = between_cases(slides, judges, tiles)
    written = write_rates(rows, between, out, _command(), archives)
    if json:
        print_json({"rows": rows, "between": between})
    else:
        typer.echo("\n".join(map(str, written)))


def nuclei(
    slides: Annotated[list[Path], typer.Argument(metavar="SLIDE...", show_default=False)],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="SHEET.jpg")],
    tiles: Annotated[int, typer.Option(min=1, help="Tiles of each slide.")] = 10,
    json: _Json = False,
) -> None:
    """Draw outlines of the nuclei that are found on tiles of slides, to be looked at."""
    import numpy as np
    from PIL import Image

    from zoomldm.cli.output import print_json
    from zoomldm.errors import TargetError
    from zoomldm.evaluation.comparison import spread
    from zoomldm.evaluation.nuclei import find_nuclei, nuclei_sheet
    from zoomldm.evaluation.tiles import load_tiles

    if out.suffix.lower() not in (".jpg", ".png") or not out.parent.is_dir():
        raise TargetError(f"{out}: expected a name that ends in .jpg or .png in an existing folder")
    sheets, counts = [], {}
    for path in slides:
        pixels = spread(load_tiles(path).pixels, tiles)
        counts[path.name] = [len(find_nuclei(p)) for p in pixels]
        sheets.append(nuclei_sheet(pixels))
    Image.fromarray(np.concatenate(sheets)).save(out, quality=85)
    print_json(counts) if json else typer.echo(str(out))
