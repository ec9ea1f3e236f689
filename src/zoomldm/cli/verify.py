"""`zoomldm verify`: whether archives are sound."""

from pathlib import Path
from typing import Annotated

import typer


def verify(
    archives: Annotated[list[Path], typer.Argument(metavar="ARCHIVE...", show_default=False)],
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Check every byte of archives against their digests; exit code 2 if any is damaged."""
    from zoomldm.archive import verify_archive
    from zoomldm.cli.output import print_json

    found = {str(path): verify_archive(path) for path in archives}
    if json:
        print_json({"archives": found, "sound": not any(found.values())})
    else:
        for path, problems in found.items():
            typer.echo(f"{path}: {'sound' if not problems else 'DAMAGED'}")
            for problem in problems:
                typer.echo(f"  {problem}", err=True)
    if any(found.values()):
        raise typer.Exit(2)
