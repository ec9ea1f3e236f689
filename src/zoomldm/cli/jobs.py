"""What verbs do to each slide of a cohort, as plain values to send to other processes."""

import hashlib
import math
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoomldm.cohort.items import Item
from zoomldm.errors import DamagedError, SlideError
from zoomldm.remote import as_path, local_copy
from zoomldm.verbs import Progress

# Processes of `verify` load no network and import nothing that networks need.
if TYPE_CHECKING:
    from zoomldm.compression.compress import CompressOptions
    from zoomldm.encoders import EncoderOptions
    from zoomldm.features.extract import FeatureOptions
    from zoomldm.features.to_archive import ImportOptions
    from zoomldm.rendering.exports import DecompressOptions

_SAME = 0.01  # relative difference up to which two scales count as the same
_ENDS = 1 << 16  # bytes hashed at each end of a weights file


def identity(pipeline: str) -> str:
    """Hash the files of a saved pipeline: their sizes, and the beginning and end of each.

    Gigabytes of weights need not be read whole, since any training changes their last values.
    """
    from zoomldm.pipeline.loading import find_pipeline

    folder = find_pipeline(pipeline)
    if folder is None:
        return "untrained"
    sha = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.suffix in (".json", ".safetensors")):
        size = path.stat().st_size
        sha.update(f"{path.relative_to(folder).as_posix()}\0{size}\0".encode())
        with path.open("rb") as file:
            sha.update(file.read(_ENDS))
            file.seek(max(0, size - _ENDS))
            sha.update(file.read(_ENDS))
    return sha.hexdigest()[:16]


@dataclass(frozen=True)
class CompressJob:
    """`zoomldm compress`.

    Attributes:
        out: file or folder.
        options: what to store.
        pipeline: name of the pipeline.
        files: the pipeline's `identity`.
        encoder: patch encoder that replaces the pipeline's.
        device: where networks run.
        running: how the patch encoder runs.
        many: whether `options.mpp` is for several slides; then none may state another.
    """

    verb = "compress"  # of the class: not a field
    out: Path
    options: "CompressOptions"
    pipeline: str
    files: str
    encoder: str | None
    device: str
    running: "EncoderOptions | None" = None
    many: bool = False

    @property
    def settings(self) -> dict[str, Any]:
        """Settings that archives depend on."""
        named = {"pipeline": self.pipeline, "pipeline files": self.files, "encoder": self.encoder}
        if self.running is not None and self.running.precision != "float32":
            named["encoder precision"] = self.running.precision
        return {**named, **asdict(self.options)}

    def load(self) -> Any:
        """Load the pipeline and the patch encoder."""
        from zoomldm.encoders import load_encoder
        from zoomldm.pipeline import load_pipeline

        model = load_pipeline(self.pipeline, self.device)
        if not self.encoder:
            return model, None
        return model, load_encoder(self.encoder, self.device, self.running)

    def output(self, item: Item) -> Path | None:
        """The archive."""
        from zoomldm.compression.compress import archive_path

        return archive_path(Path(item.source), self.out, self.options.turn)

    def run(self, loaded: Any, item: Item, progress: Progress) -> Mapping[str, Any]:
        """Compress a slide."""
        from zoomldm.compression.compress import compress

        model, encoder = loaded
        if self.many and self.options.mpp is not None:
            check_mpp(item.source, self.options.mpp)
        return compress(
            item.source,
            self.out,
            self.options,
            pipeline=model,
            name=self.pipeline,
            encoder=encoder,
            encoder_options=self.running,
            progress=progress,
        ).as_dict()


def check_mpp(slide: str, mpp: float) -> None:
    """Refuse a common scale if a slide states another, so that scales are not mixed up.

    Raises:
        SlideError: the stated scale differs by over 1 %.
    """
    from zoomldm.slides.slide import open_slide

    try:
        with warnings.catch_warnings(action="ignore"), open_slide(slide) as opened:
            own, source = math.sqrt(opened.mpp_x * opened.mpp_y), opened.mpp_source
    except SlideError:
        return  # no scale, or not a slide: reported on compression
    if not math.isclose(own, mpp, rel_tol=_SAME):
        raise SlideError(
            f"{slide}: states {own:g} micrometres per pixel ({source}), and --mpp {mpp:g} is for "
            "all slides; compress those that state none, or a wrong one, separately"
        )


@dataclass(frozen=True)
class DecompressJob:
    """`zoomldm decompress`; other attributes as in `CompressJob`.

    Attributes:
        kind: ending of files written to a folder.
    """

    verb = "decompress"  # of the class: not a field
    out: Path
    options: "DecompressOptions"
    pipeline: str
    files: str
    device: str
    kind: str = ".tif"

    @property
    def settings(self) -> dict[str, Any]:
        """Settings that pixels depend on."""
        found = asdict(self.options)
        del found["workers"]
        named = {"pipeline": self.pipeline, "pipeline files": self.files, "format": self.kind}
        return {**named, **found}

    def load(self) -> Any:
        """Load the pipeline."""
        from zoomldm.pipeline import load_pipeline

        return load_pipeline(self.pipeline, self.device)

    def output(self, item: Item) -> Path | None:
        """The image."""
        from zoomldm.rendering.exports import target_of

        return target_of(self.out, as_path(item.source), self.kind)

    def run(self, loaded: Any, item: Item, progress: Progress) -> Mapping[str, Any]:
        """Render an archive."""
        from zoomldm.rendering.exports import decompress

        target = self.output(item)
        assert target is not None
        return decompress(
            item.source, target, self.options, pipeline=loaded, progress=progress
        ).as_dict()


@dataclass(frozen=True)
class FeaturesJob:
    """`zoomldm features`; attributes as in `CompressJob`."""

    verb = "features"  # of the class: not a field
    out: Path
    options: "FeatureOptions"
    pipeline: str
    files: str
    device: str

    @property
    def settings(self) -> dict[str, Any]:
        """Settings that features depend on."""
        found = asdict(self.options)
        if self.options.source != "tiles":
            found = {"pipeline": self.pipeline, "pipeline files": self.files, **found}
        return found

    def load(self) -> Any:
        """Load the pipeline if one is needed."""
        from zoomldm.pipeline import load_pipeline

        return None if self.options.source == "tiles" else load_pipeline(self.pipeline, self.device)

    def output(self, item: Item) -> Path | None:
        """The feature file."""
        return self.out / f"{item.key}.{self.options.format}"

    def run(self, loaded: Any, item: Item, progress: Progress) -> Mapping[str, Any]:
        """Extract features of an archive."""
        from zoomldm.features.extract import extract_features

        return extract_features(
            item.source,
            self.out,
            self.options,
            pipeline=self.pipeline if loaded is None else loaded,
            progress=progress,
        ).as_dict()


@dataclass(frozen=True)
class ImportJob:
    """`zoomldm import`.

    Attributes:
        out: file or folder.
        options: how features are imported.
        encoder: patch encoder that made the features; `auto` takes the one named in each file.
        device: where the encoder runs.
        how: precision of the encoder.
    """

    verb = "import"  # of the class: not a field
    out: Path
    options: "ImportOptions"
    encoder: str | None
    device: str
    how: "EncoderOptions"

    @property
    def settings(self) -> dict[str, Any]:
        """Settings that archives depend on."""
        named = {"encoder": self.encoder}
        if self.how.precision != "float32":
            named["encoder precision"] = self.how.precision
        return {**asdict(self.options), **named}

    def load(self) -> Any:
        """Return a function that loads a patch encoder by name, once."""
        from functools import cache

        from zoomldm.encoders import load_encoder
        from zoomldm.features.to_archive import AUTO

        load = cache(lambda name: load_encoder(name, self.device, self.how))
        if self.encoder not in (None, AUTO):
            load(self.encoder)
        return load

    def output(self, item: Item) -> Path | None:
        """The archive."""
        return self.out if self.out.suffix == ".zldm" else self.out / f"{item.key}.zldm"

    def run(self, loaded: Any, item: Item, progress: Progress) -> Mapping[str, Any]:
        """Turn a file of features into an archive."""
        from zoomldm.features.to_archive import AUTO, archive_from_features, encoder_of

        with local_copy(item.source) as file:
            name = encoder_of(file) if self.encoder == AUTO else self.encoder
            source = loaded(name) if name else None
            report = archive_from_features(
                file, self.out, self.options, encoder=source, progress=progress
            ).as_dict()
        return {**report, "source": item.source}


@dataclass(frozen=True)
class VerifyJob:
    """`zoomldm verify`."""

    verb = "verify"  # of the class: not a field

    @property
    def settings(self) -> dict[str, Any]:
        """None: there is nothing to set."""
        return {}

    def load(self) -> Any:
        """Load nothing."""

    def output(self, item: Item) -> Path | None:
        """None: nothing is written."""
        return None

    def run(self, loaded: Any, item: Item, progress: Progress) -> Mapping[str, Any]:
        """Check an archive.

        Raises:
            DamagedError: the archive is damaged; the error's `report` has all problems.
        """
        from zoomldm.archive.verify import verify

        report = verify(item.source, progress=progress)
        if not report.sound:
            count = len(report.problems)
            more = f" (and {count - 1} more)" if count > 1 else ""
            error = DamagedError(f"{report.problems[0]}{more}")
            error.report = report.as_dict()  # type: ignore[attr-defined]
            raise error
        return report.as_dict()
