"""A folder of archives or slides as what a run reads."""

import hashlib
from pathlib import Path

from zoomldm.archive import Archive, open_archive
from zoomldm.cohort.items import SLIDES
from zoomldm.errors import ConfigError
from zoomldm.pipeline import ZoomLDMPipeline
from zoomldm.pipeline.compatibility import check_encoder, check_latents


def find_sources(data: Path, archives: bool, stage: str) -> dict[str, Path]:
    """Files of a folder by the name of their slide.

    Args:
        data: the folder.
        archives: whether archives are wanted, or slides.
        stage: that wants them, for the error.

    Raises:
        ConfigError: no folder, none of the wanted files in it, or two archives of one slide.
    """
    if not data.is_dir():
        what = "is not a folder" if data.exists() else "no such folder"
        raise ConfigError(f"{data}: {what}; --data takes a folder of archives or slides")
    visible = sorted(p for p in data.iterdir() if p.is_file() and not p.name.startswith("."))
    of_archives = [p for p in visible if p.suffix.lower() == ".zldm"]
    of_slides = [p for p in visible if p.suffix.lower() in SLIDES]
    found, other = (of_archives, of_slides) if archives else (of_slides, of_archives)
    wanted, others = ("archives", "slides") if archives else ("slides", "archives")
    if not found:
        hint = f"; it holds {len(other)} {others}" if other else ""
        todo = (
            "make them with `zoomldm compress --for-training`"
            if archives
            else f"the stage {stage} takes slides"
        )
        raise ConfigError(f"{data}: holds no {wanted}{hint}; {todo}")
    if not archives:
        return {p.name: p for p in found}
    named: dict[str, Path] = {}
    for path in found:
        with open_archive(path) as archive:
            name, turn = archive.manifest.slide.name, archive.turn
        if turn:
            name = f"{Path(name).stem}.turn{turn}{Path(name).suffix}"
        if name in named:
            raise ConfigError(f"{named[name]} and {path} are of one slide, {name}; remove one")
        named[name] = path
    return named


def identity(files: dict[str, Path]) -> str:
    """Digest of what is trained on: archives by their content, slides by name and size."""
    sha = hashlib.sha256()
    for name, path in files.items():
        if path.suffix.lower() == ".zldm":
            with open_archive(path) as archive:
                mark = archive.digest
        else:
            mark = str(path.stat().st_size)
        sha.update(f"{name}\0{mark}\0".encode())
    return sha.hexdigest()


def open_archives(
    base: ZoomLDMPipeline, files: dict[str, Path], latents: bool
) -> dict[str, Archive]:
    """Archives that the pipeline's frozen networks made, by slide.

    Args:
        base: the pipeline.
        files: archives by slide.
        latents: whether its autoencoder must have made theirs, too.

    Raises:
        ArchiveError: made by other networks.
    """
    opened: dict[str, Archive] = {}
    for name, path in files.items():
        archive = opened[name] = open_archive(path)
        check_encoder(archive, base)
        if latents:
            check_latents(archive, base)
    return opened
