"""`zoomldm demo`: the package at work on the shipped archive."""

from pathlib import Path
from typing import Annotated

import typer

from zoomldm.cli.options import Device, Json


def demo(
    out: Annotated[
        Path,
        typer.Option("-o", "--out", help="Folder for the files; created if its parent exists."),
    ] = Path("demo"),
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Render the shipped archive and compress the result again.

    Writes one place at all levels beside the real pixels, a region as a pyramidal TIFF, and
    that TIFF's archive.
    """
    from zoomldm.cli.demonstration import demonstrate
    from zoomldm.cli.output import megabytes, print_json, print_table, progress
    from zoomldm.pipeline import load_pipeline

    with progress(quiet=json) as advance:
        report = demonstrate(out, pipeline=load_pipeline(device=device), progress=advance)
    if json:
        print_json(report.as_dict())
        return
    rows = [
        [part.name, megabytes(part.source_bytes), megabytes(part.bytes), f"{part.seconds:.0f}"]
        for part in report.parts
    ]
    title = f"demo: {report.slide}, {report.bytes_per_tile:.0f} bytes per tissue tile"
    print_table(title, ["step", "input", "output", "seconds"], rows)
    typer.echo(f"look at {report.compare} and {report.region}")
    typer.echo("to see the whole slide in the browser: pip install 'zoomldm[viewer]'")
    typer.echo(f"zoomldm view {report.source}")
