"""What the verbs of `zoomldm evaluate` are told, and what they report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from zoomldm.evaluation.codecs import find_codec
from zoomldm.generation.options import RenderOptions
from zoomldm.sampling.options import SampleOptions
from zoomldm.verbs import Report, plain

CodecName = Literal["avif", "jxl", "webp", "jpeg"]
_PLAIN = SampleOptions(context_guidance=1.0)  # guidance of contexts would cost variety


@dataclass(frozen=True)
class EvaluateReport(Report):
    """Figures, and where they were written.

    Attributes:
        figures: of the measure; what it returns says which.
        files: page, data and images.
    """

    figures: Mapping[str, object]
    files: tuple[Path, ...]

    def as_dict(self) -> dict[str, object]:
        """The figures, and `files`."""
        return {**{k: plain(v) for k, v in self.figures.items()}, "files": plain(self.files)}


@dataclass(frozen=True)
class NetworksOptions:
    """What `evaluate_networks` measures.

    Attributes:
        archives: of held-out slides, made with `--for-training`, for the loss at each level.
        tiles: real tiles of each slide for round trip and retrieval.
        judge: folder of another judge than the shipped one.
    """

    archives: Sequence[Path] = ()
    tiles: int = 100
    judge: Path | None = None


@dataclass(frozen=True)
class CopiesOptions:
    """What `evaluate_copies` compares.

    Attributes:
        n: samples a level.
        fraction: of each archive's tissue that was withheld from training.
        cases: CSV with the columns `file` and `case`.
        holdout: cases that were kept out of training.
        samples: see SampleOptions.
    """

    n: int = 64
    fraction: float = 0.1
    cases: Path | None = None
    holdout: Sequence[str] = ()
    samples: SampleOptions = field(default=_PLAIN)


@dataclass(frozen=True)
class SamplesOptions:
    """What `evaluate_samples` compares.

    Attributes:
        other: slides of other cases.
        archives: of all slides: files, or folders of them.
        cases: CSV with the columns `file` and `case`, where `other` is of several cases.
        n: images of each kind and level.
        levels: labels; None for all.
        judge: folder of another judge than the shipped one.
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
    """What `evaluate_fidelity` measures.

    Attributes:
        levels: labels; None for 20x, 10x and 5x.
        tiles: patches of each level.
        regions: squares of 1,024 px.
        codec: the plain alternative at the same bytes.
        alone: also from embeddings alone, without the base layer.
        judge: folder of another judge than the shipped one.
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
    """What `evaluate_rates` measures.

    Attributes:
        settings: `CODEC:LEVEL:BYTES` or `none:LEVEL`; none given for those of archives of 100:1
            to 30:1, or of `archives`.
        archives: `RATIO:LEVEL` of a base layer, or `none`: slides are made into such archives,
            drawn again and measured, each beside AVIF of 5x at as many bytes in all, and AVIF of
            20x at the most of them.
        levels: labels; None for 20x, 10x and 5x.
        tiles: patches of each level.
        regions: squares of 1,024 px.
        judge: folder of another judge than the shipped one.
    """

    settings: Sequence[str] = ()
    archives: Sequence[str] = ()
    levels: Sequence[str] | None = None
    tiles: int = 100
    regions: int = 2
    judge: Path | None = None
