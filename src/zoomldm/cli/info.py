"""`zoomldm info`: what an archive holds."""

from pathlib import Path
from typing import Annotated

import typer


def info(
    archive: Annotated[Path, typer.Argument(metavar="ARCHIVE", show_default=False)],
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Show what an archive holds and where it comes from."""
    from zoomldm.archive import open_archive
    from zoomldm.cli.output import print_json, print_table
    from zoomldm.levels import NAMES

    with open_archive(archive) as opened:
        m = opened.manifest
        size = opened.file_bytes
    facts = {
        "archive": str(archive),
        "slide": m.slide.name,
        "tissue_tiles": m.tissue_tiles,
        "unreadable_tiles": len(m.unreadable),
        "grid": [m.grid.rows, m.grid.cols],
        "size": list(m.slide.size),
        "bytes": size,
        "source_bytes": m.slide.file_bytes,
        "raw_bytes": m.slide.size[0] * m.slide.size[1] * 3,
        "ratio": round(m.slide.file_bytes / size, 2),
        "mpp": [m.slide.mpp_x, m.slide.mpp_y],
        "mpp_source": m.slide.mpp_source,
        "icc": m.slide.icc,
        "encoder": m.encoder.model_dump(),
        "precision": m.quantisation.precision,
        "cosine_min": m.quantisation.cosine_min,
        "levels_real": list(NAMES[m.overview.level :]) if m.overview else [],
        "latent_levels": [NAMES[part.level] for part in m.latents],
        "format_version": m.version,
        "creator": m.creator,
    }
    if json:
        print_json(facts)
    else:
        print_table(str(archive), ["", ""], [[k, v] for k, v in facts.items() if k != "archive"])
