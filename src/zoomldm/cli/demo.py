"""`zoomldm demo`: what it does, shown on the shipped archive."""

from pathlib import Path
from typing import Annotated

import typer


def demo(
    out: Annotated[
        Path, typer.Option("-o", "--out", help="Folder for what it makes; made if it isn't there.")
    ] = Path("demo"),
) -> None:
    """Show one place at all levels beside the real one, a pyramidal TIFF, and it compressed."""
    from zoomldm.cli.demonstration import main

    main(out)
