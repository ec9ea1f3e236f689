"""Find the archives or slides that a run reads, in a folder or table."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from zoomldm.archive import Archive, Encoder, open_archive
from zoomldm.cohort.cases import Split, read_cohort, split_cases
from zoomldm.cohort.items import ARCHIVES, SLIDES, TABLES
from zoomldm.errors import ArchiveError, ConfigError
from zoomldm.pipeline import ZoomLDMPipeline
from zoomldm.pipeline.compatibility import check_encoder, check_latents
from zoomldm.remote import is_url, listed

Source = Archive | Path
"""An opened archive, or a slide's file."""


def find_split(
    data: Path | str,
    archives: bool,
    stage: str,
    holdout: Sequence[str] = (),
    cases: Path | None = None,
) -> tuple[Mapping[str, Source], Split]:
    """Find the data to train on and the data to hold out.

    Args:
        data: as in `find_sources`, or a table (`slide,case,label,split`, CSV or Parquet). If
            it has splits, the train rows are trained on, the val rows held out, and the test rows
            not opened; if it has none, `holdout` names cases of its column `case`.
        archives: whether archives are wanted, or slides.
        stage: stage that wants them, for the error message.
        holdout: cases to hold out.
        cases: CSV of cases.

    Raises:
        ConfigError: as in `find_sources`, `split_cases` and `read_cohort`; cases to hold out
            although the table has splits.
    """
    if is_url(data) or Path(data).suffix.lower() not in TABLES or Path(data).is_dir():
        found = find_sources(data, archives, stage)
        return found, split_cases(found, holdout, cases)
    table = Path(data)
    endings, what = (ARCHIVES, "archives") if archives else (SLIDES, "slides")
    items = read_cohort(table, endings, what)
    sources = [item.source for item in items]
    found = _opened(sources) if archives else _slides(sources, stage)
    by_name = dict(zip(found, items, strict=True))
    if any(item.split for item in items):
        if holdout or cases:
            raise ConfigError(
                f"{table}: its column split says what is held out; leave out --holdout and --cases"
            )
        training, held_out = (
            [name for name, item in by_name.items() if item.split == split]
            for split in ("train", "val")
        )
        return found, Split(training, held_out)
    if cases is not None or not holdout:
        return found, split_cases(found, holdout, cases)
    known = {name: item.case for name, item in by_name.items() if item.case}
    return found, split_cases(found, holdout, table, known)


def find_sources(data: Path | str, archives: bool, stage: str) -> Mapping[str, Source]:
    """Return the archives (opened) or slides of a folder, by the name of their slide.

    Args:
        data: the folder; for archives also a URL, which ends in `/`.
        archives: whether archives are wanted, or slides.
        stage: stage that wants them, for the error message.

    Raises:
        ConfigError: no folder, none of the wanted files in it, or two archives of one slide.
        ArchiveError: a file that is not an archive.
        RemoteError: a URL that can't be listed.
    """
    if is_url(data):
        return _opened(_behind(str(data), archives, stage))
    data = Path(data)
    if not data.is_dir():
        what = "is not a folder" if data.exists() else "no such folder"
        raise ConfigError(
            f"{data}: {what}; --data takes a folder of archives or slides, or a table of them"
        )
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
    return _opened(found) if archives else {p.name: p for p in found}


def _slides(sources: Sequence[str], stage: str) -> Mapping[str, Path]:
    """Slide files listed in a table, by name."""
    named: dict[str, Path] = {}
    for source in sources:
        if is_url(source):
            raise ConfigError(f"{source}: the stage {stage} takes slides, which are read from disk")
        path = Path(source)
        if path.name in named:
            raise ConfigError(f"{named[path.name]} and {path} have one name; rename one")
        named[path.name] = path
    return named


def _behind(url: str, archives: bool, stage: str) -> Sequence[str]:
    """URLs of the archives in a remote folder."""
    if not archives:
        raise ConfigError(f"{url}: the stage {stage} takes slides, which are read from disk")
    if not url.endswith("/"):
        raise ConfigError(f"{url}: expected the URL of a folder of archives, which ends in /")
    found = listed(url, ARCHIVES)
    if not found:
        raise ConfigError(f"{url}: holds no archives")
    return found


def _opened(found: Sequence[Path | str]) -> Mapping[str, Archive]:
    """Archives by the names of their slides."""
    named: dict[str, Archive] = {}
    for path in found:
        archive = open_archive(path)
        name, orientation = archive.manifest.slide.name, archive.turn
        if orientation:
            name = f"{Path(name).stem}.turn{orientation}{Path(name).suffix}"
        if name in named:
            raise ConfigError(f"{named[name].path} and {path} are of one slide, {name}; remove one")
        named[name] = archive
    return named


def identity(sources: Mapping[str, Source]) -> str:
    """Digest of the training data: archives by their content, slides by name and size."""
    sha = hashlib.sha256()
    for name, source in sources.items():
        mark = source.digest if isinstance(source, Archive) else str(source.stat().st_size)
        sha.update(f"{name}\0{mark}\0".encode())
    return sha.hexdigest()


def common_encoder(archives: Iterable[Archive], wanted: str) -> Encoder:
    """Return the one patch encoder that made all of the archives.

    Args:
        archives: the archives.
        wanted: id of the encoder.

    Raises:
        ArchiveError: an archive made by another encoder, or by the same with other weights.
    """
    first: Encoder | None = None
    for archive in archives:
        encoder = archive.manifest.encoder
        if encoder.id != wanted:
            raise ArchiveError(
                f"{archive.path}: was made by patch encoder {encoder.id!r}, not {wanted!r}; name "
                "that one with --encoder, or leave the archive out"
            )
        if first is not None and (encoder.digest, encoder.dim) != (first.digest, first.dim):
            raise ArchiveError(
                f"{archive.path}: was made by other weights of {wanted!r} ({encoder.digest[:12]}) "
                f"than the archives before ({first.digest[:12]}); compress all with the same"
            )
        first = first or encoder
    assert first is not None  # find_sources has found some
    return first


def check_archives(base: ZoomLDMPipeline, archives: Iterable[Archive], latents: bool) -> None:
    """Refuse archives made by networks other than the pipeline's frozen ones.

    Args:
        base: the pipeline.
        archives: the archives.
        latents: whether its autoencoder must have encoded their latents as well.

    Raises:
        ArchiveError: made by other networks.
    """
    for archive in archives:
        check_encoder(archive, base)
        if latents:
            check_latents(archive, base)
