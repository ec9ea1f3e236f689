"""`zoomldm edit`: tissue transplanted, or interpolated between two places."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from zoomldm.cli.options import Json


def edit(
    archive: Annotated[
        str, typer.Argument(metavar="ARCHIVE", show_default=False, help="A file or a URL.")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="A .zldm file or an existing folder.")],
    replace: Annotated[
        str | None,
        typer.Option(
            metavar="X,Y,W,H", help="Region to replace, in pixels at 0.5 mpp, multiples of 256."
        ),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--with", metavar="[ARCHIVE@]X,Y", help="Corner of the region that takes its place."
        ),
    ] = None,
    interpolate: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,STEPS",
            help="Make a strip of STEPS squares from A to B. Each is ARCHIVE@X,Y, or X,Y in the "
            "same archive.",
        ),
    ] = None,
    side: Annotated[int, typer.Option(help="Tiles along each side of a square of the strip.")] = 4,
    base: Annotated[
        Literal["auto", "none"],
        typer.Option(
            help="auto keeps the real base layer if those of both archives have the same level and "
            "codec; none drops it, so that all pixels are generated."
        ),
    ] = "auto",
    json: Json = False,
) -> None:
    """Transplant tissue, or make a strip of it between two places."""
    from zoomldm.cli.decompress import parse_region
    from zoomldm.cli.output import megabytes, print_json, progress
    from zoomldm.editing.edit import EditOptions
    from zoomldm.editing.edit import edit as run
    from zoomldm.editing.places import parse_interpolation, parse_place

    a, b, steps = parse_interpolation(interpolate) if interpolate else (None, None, 8)
    options = EditOptions(
        replace=parse_region(replace) if replace else None,
        source=parse_place(source) if source else None,
        between=(a, b) if a and b else None,
        steps=steps,
        side=side,
        base=base,
    )
    with progress(quiet=json) as advance:
        report = run(archive, out, options, progress=advance)
    if json:
        print_json(report.as_dict())
        return
    before, after = report.tissue_tiles
    typer.echo(
        f"{report.output}: {report.edit['kind']}, {megabytes(report.bytes)}, tissue tiles "
        f"{before} -> {after}"
    )
    again = f" ({report.base_chunks[1]} of {report.base_chunks[0]} chunks re-encoded)"
    typer.echo(f"base layer {report.edit['base']}{again if report.base_level else ''}")
    if report.latents_dropped:
        typer.echo("latents for training dropped: they belong to the old grid")
    for number, (to_a, to_b) in enumerate(report.cosines):
        typer.echo(f"step {number}: cosine {to_a:.3f} to the first, {to_b:.3f} to the last")
