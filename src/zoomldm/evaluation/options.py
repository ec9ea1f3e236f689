"""Options and reports of the `zoomldm evaluate` commands."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from zoomldm.evaluation.codecs import find_codec
from zoomldm.generation.options import RenderOptions
from zoomldm.sampling.options import SampleOptions
from zoomldm.verbs import Report, plain

CodecName = Literal["avif", "jpegxl", "webp", "jpeg"]
_PLAIN = SampleOptions(context_guidance=1.0)  # context guidance would reduce variety


@dataclass(frozen=True)
class EvaluateReport(Report):
    """Figures, and the files that they were written to.

    Attributes:
        figures: figures as the measuring function returns them.
        files: page, data and images.
    """

    figures: Mapping[str, object]
    files: tuple[Path, ...]

    def as_dict(self) -> dict[str, object]:
        """Return the figures and `files`."""
        return {**{k: plain(v) for k, v in self.figures.items()}, "files": plain(self.files)}


@dataclass(frozen=True)
class NetworksOptions:
    """Options of `evaluate_networks`.

    Attributes:
        archives: archives of held-out slides, made with `--for-training`, for the loss per level.
        tiles: real tiles per slide for round trip and retrieval.
        judge: folder of an evaluation feature extractor (judge) to use instead of the shipped one.
    """

    archives: Sequence[Path] = ()
    tiles: int = 100
    judge: Path | None = None


@dataclass(frozen=True)
class CopiesOptions:
    """Options of `evaluate_copies`.

    Attributes:
        n: samples per level.
        fraction: fraction of each archive's tissue that was withheld from training.
        cases: CSV with the columns `file` and `case`.
        holdout: held-out cases.
        samples: see SampleOptions.
    """

    n: int = 64
    fraction: float = 0.1
    cases: Path | None = None
    holdout: Sequence[str] = ()
    samples: SampleOptions = field(default=_PLAIN)


@dataclass(frozen=True)
class SamplesOptions:
    """Options of `evaluate_samples`.

    Attributes:
        other: slides of other cases.
        archives: archives of all slides: files, or folders of them.
        cases: CSV with the columns `file` and `case`, if `other` covers several cases.
        n: images per kind and level.
        levels: level labels; None for all.
        judge: folder of a judge to use instead of the shipped one.
        samples: see SampleOptions.
    """

    other: Sequence[Path]
    archives: Sequence[Path]
    cases: Path | None = None
    n: int = 128
    levels: Sequence[str] | None = None
    judge: Path | None = None
    samples: SampleOptions = field(default=_PLAIN)


@dataclass(frozen=True)
class FidelityOptions:
    """Options of `evaluate_fidelity`.

    Attributes:
        levels: level labels; None for 20x, 10x and 5x.
        tiles: patches per level.
        regions: number of squares of 1,024 px.
        codec: plain codec at the same bytes, for comparison.
        alone: also regenerate from embeddings alone, without the base layer.
        judge: folder of a judge to use instead of the shipped one.
        render: see RenderOptions.
    """

    levels: Sequence[str] | None = None
    tiles: int = 100
    regions: int = 2
    codec: CodecName = "avif"
    alone: bool = True
    judge: Path | None = None
    render: RenderOptions = field(default_factory=RenderOptions)

    def __post_init__(self) -> None:
        find_codec(self.codec)


@dataclass(frozen=True)
class RatesOptions:
    """Options of `evaluate_rates`.

    Attributes:
        settings: `CODEC:LEVEL:BYTES` or `none:LEVEL`; empty for the settings of archives of 100:1
            to 30:1, or of `archives`.
        archives: `RATIO:LEVEL` of a base layer, or `none`. Slides are compressed to these
            archives, decompressed and measured, each beside AVIF of 5x at the same total bytes,
            and all beside AVIF of 20x at the largest of these.
        levels: level labels; None for 20x, 10x and 5x.
        tiles: patches per level.
        regions: number of squares of 1,024 px.
        judge: folder of a judge to use instead of the shipped one.
    """

    settings: Sequence[str] = ()
    archives: Sequence[str] = ()
    levels: Sequence[str] | None = None
    tiles: int = 100
    regions: int = 2
    judge: Path | None = None
