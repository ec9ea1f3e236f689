"""`zoomldm info`: contents and origin of an archive."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from zoomldm.cli.options import Json

if TYPE_CHECKING:
    from zoomldm.archive import BaseLayer, Manifest


def info(
    archive: Annotated[
        str, typer.Argument(metavar="ARCHIVE", show_default=False, help="A file or a URL.")
    ],
    json: Json = False,
) -> None:
    """Show what an archive holds and where it comes from."""
    from zoomldm.archive import open_archive
    from zoomldm.cli.output import print_json, print_table
    from zoomldm.geometry.levels import NAMES

    with open_archive(archive) as opened:
        m = opened.manifest
        size, base = opened.file_bytes, opened.base
    metadata = {
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
        "imaginary": imaginary(m),
        "levels_real": list(NAMES[base.level :]) if base and not m.generated else [],
        "base": _base_metadata(m, base) if base else None,
        "latent_levels": [NAMES[part.level] for part in m.latents],
        "turn": m.slide.turn,
        "edits": [edit.model_dump(mode="json") for edit in m.edits],
        "format_version": m.version,
        "creator": m.creator,
    }
    if json:
        print_json(metadata)
    else:
        print_table(
            str(archive),
            ["", ""],
            [[k, _words(v) if k == "base" else v] for k, v in metadata.items() if k != "archive"],
        )


def imaginary(manifest: "Manifest") -> dict[str, Any] | None:
    """Return the origin of an imaginary slide, without reference embedding; None for others."""
    spec = manifest.generated
    if spec is None:
        return None
    like = spec.reference.source if spec.reference else None
    return {**spec.model_dump(mode="json", exclude={"reference"}), "like": like}


def _base_metadata(manifest: "Manifest", base: "BaseLayer") -> dict[str, Any]:
    """Describe the base layer and its size."""
    from zoomldm.geometry.levels import NAMES

    cost = manifest.base_bytes
    return {
        "level": NAMES[base.level],
        "codec": base.codec,
        "quality": base.quality,
        "size": list(base.size),
        "chunks": sum(m.name.startswith("overview/c/") for m in manifest.members),
        "bytes": cost,
        "bytes_per_tile": round(cost / max(1, manifest.tissue_tiles), 1),
    }


def _words(base: dict[str, Any] | None) -> str:
    if base is None:
        return "none"
    quality = "lossless" if base["quality"] is None else f"quality {base['quality']}"
    return (
        f"{base['level']}, {base['codec']} {quality}, {base['size'][0]} x {base['size'][1]} px in "
        f"{base['chunks']} chunks, {base['bytes']} bytes, {base['bytes_per_tile']} per tissue tile"
    )
