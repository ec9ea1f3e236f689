"""The option `--device`, which all verbs that run networks have."""

from typing import Annotated

import typer

Device = Annotated[
    str, typer.Option(help="cpu, cuda, cuda:1, ...; auto takes a GPU where there is one.")
]
