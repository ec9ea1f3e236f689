"""`zoomldm import`: other tools' features to archives."""

from pathlib import Path
from typing import Annotated, Literal

import typer


def import_features(
    files: Annotated[list[Path], typer.Argument(metavar="FILE.h5...", show_default=False)],
    out: Annotated[Path, typer.Option("-o", "--out", help="File .zldm, or an existing folder.")],
    mpp: Annotated[
        float | None, typer.Option(help="Micrometres per pixel, over what the file says.")
    ] = None,
    precision: Annotated[
        Literal["compact", "int8", "float16"], typer.Option(help="Of the embeddings.")
    ] = "int8",
    encoder: Annotated[
        str | None,
        typer.Option(
            metavar="ID|ID=PATH|PATH",
            help="Patch encoder that made the features; `zoomldm models` lists them.",
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Turn tile features of TRIDENT, CLAM or STAMP into archives."""
    from zoomldm.cli.output import megabytes, print_json, print_table
    from zoomldm.encoders import load_encoder
    from zoomldm.errors import SomeFailedError, TargetError, ZoomLDMError
    from zoomldm.features.to_archive import archive_from_features, slide_name

    if len(files) > 1 and not out.is_dir():
        raise TargetError(f"{out}: several files need an existing folder")
    if len({slide_name(f) for f in files}) < len(files):
        raise TargetError(f"{out}: two of the files are of the same name; take them apart")
    source = load_encoder(encoder, "cpu") if encoder else None
    made, failures = [], []
    for file in files:
        try:
            made.append(
                archive_from_features(
                    file,
                    out,
                    mpp=mpp,
                    precision=precision,
                    encoder=source,
                )
            )
        except ZoomLDMError as error:
            if len(files) == 1:
                raise
            failures.append((file, error))
            typer.echo(f"zoomldm: {error}", err=True)
    if json:
        failed = [{"features": str(f), "error": str(e)} for f, e in failures]
        print_json({"archives": made, "failed": failed})
    elif made:
        print_table(
            "archives of features",
            ["archive", "layout", "tissue tiles", "numbers", "encoder", "size"],
            [
                [
                    Path(m["archive"]).name,
                    m["layout"],
                    m["tissue_tiles"],
                    m["dim"],
                    m["encoder"]["id"],
                    megabytes(m["bytes"]),
                ]
                for m in made
            ],
        )
    if failures:
        if not made:
            raise ZoomLDMError(f"none of the {len(files)} files could be taken")
        raise SomeFailedError(
            f"{len(failures)} of {len(files)} files failed: "
            + ", ".join(str(f) for f, _ in failures)
        )
