"""Options and arguments that several verbs share."""

from pathlib import Path
from typing import Annotated, Literal

import typer

Archives = Annotated[
    list[str],
    typer.Argument(
        metavar="ARCHIVE",
        show_default=False,
        help="Archives, folders or globs of them, or tables (slide,case,label,split).",
    ),
]
Slides = Annotated[
    list[str],
    typer.Argument(
        metavar="SLIDE",
        show_default=False,
        help="Slides, folders or globs of them, or tables (slide,case,label,split).",
    ),
]
ArchiveOut = Annotated[
    str, typer.Option("-o", "--out", help="A .zldm file, an existing folder, or a URL of either.")
]
Pipeline = Annotated[
    str, typer.Option(help="demo, tiny, a folder, a URL, or hf:OWNER/NAME@REVISION.")
]
Precision = Annotated[
    Literal["float32", "bfloat16"], typer.Option(help="float32, or bfloat16 (faster).")
]
Batch = Annotated[
    int | None, typer.Option(help="Patches per network call. Default: 1 on a CPU, 32 on a GPU.")
]
Judge = Annotated[
    Path | None, typer.Option(help="Folder of another judge (evaluation feature extractor).")
]
Device = Annotated[
    str, typer.Option(help="cpu, cuda, cuda:1, ...; auto takes a GPU if there is one.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
