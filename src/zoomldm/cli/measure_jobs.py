"""What `zoomldm evaluate` does to each slide of a cohort; the figures become one page."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from zoomldm.cohort.items import Item
from zoomldm.verbs import Progress

if TYPE_CHECKING:
    from zoomldm.cli.cohort import Running
    from zoomldm.cohort.items import Cohort
    from zoomldm.cohort.runner import Result
    from zoomldm.evaluation.options import FidelityOptions, NetworksOptions, RatesOptions


@dataclass(frozen=True)
class MeasureJob:
    """Base class of all measures.

    Attributes:
        parts: folder of results, one file per slide.
    """

    parts: Path

    def output(self, item: Item) -> Path:
        """The file of figures and images."""
        return self.parts / f"{item.key}.npz"

    def put(self, item: Item, figures: Mapping[str, Any], images: Mapping[str, Any]) -> dict:
        """Write figures and images of a slide."""
        from zoomldm.evaluation.parts import write_part

        self.parts.mkdir(parents=True, exist_ok=True)
        write_part(self.output(item), figures, images)
        return {"part": self.output(item).name}


@dataclass(frozen=True)
class NetworksJob(MeasureJob):
    """`zoomldm evaluate networks`; other attributes as in `CompressJob`."""

    verb = "evaluate networks"
    options: "NetworksOptions"
    pipeline: str
    files: str
    device: str

    @property
    def settings(self) -> dict[str, Any]:
        """Settings that figures depend on."""
        return {
            "pipeline": self.pipeline,
            "pipeline files": self.files,
            "tiles": self.options.tiles,
            "judge": self.options.judge,
        }

    def load(self) -> Any:
        """Load the pipeline."""
        from zoomldm.pipeline import load_pipeline

        return load_pipeline(self.pipeline, self.device)

    def run(self, loaded: Any, item: Item, progress: Progress) -> Mapping[str, Any]:
        """Measure on a slide."""
        from zoomldm.evaluation.report import measure_networks

        figures, strips = measure_networks(
            loaded,
            [Path(item.source)],
            tiles=self.options.tiles,
            judge=self.options.judge,
            progress=progress,
        )
        return self.put(item, figures, {"strips": strips})


@dataclass(frozen=True)
class FidelityJob(MeasureJob):
    """`zoomldm evaluate fidelity`: slides whose mates are their archives."""

    verb = "evaluate fidelity"
    options: "FidelityOptions"
    pipeline: str
    files: str
    device: str

    @property
    def settings(self) -> dict[str, Any]:
        """Settings that figures depend on."""
        named = {"pipeline": self.pipeline, "pipeline files": self.files}
        return {**named, **asdict(self.options)}

    def load(self) -> Any:
        """Load the pipeline and the judges (evaluation feature extractors)."""
        from zoomldm.pipeline import load_pipeline

        pipeline = load_pipeline(self.pipeline, self.device)
        return pipeline, _judges(self.options.judge, pipeline.device)

    def run(self, loaded: Any, item: Item, progress: Progress) -> Mapping[str, Any]:
        """Measure a slide's archive."""
        from zoomldm.evaluation.verbs import fidelity_of
        from zoomldm.remote import as_path

        pipeline, judges = loaded
        pair = Path(item.source), as_path(item.mate or "")
        return self.put(item, *fidelity_of([pair], pipeline, judges, self.options, progress))


@dataclass(frozen=True)
class RatesJob(MeasureJob):
    """`zoomldm evaluate rates`.

    Attributes:
        keep: file that stores rows as they are measured, if a single process writes it.
        pipeline, files, device: for archives to be made; empty if there are none.
    """

    verb = "evaluate rates"
    options: "RatesOptions"
    keep: Path | None
    pipeline: str = ""
    files: str = ""
    device: str = "auto"

    @property
    def settings(self) -> dict[str, Any]:
        """Settings that figures depend on."""
        named = {"pipeline": self.pipeline, "pipeline files": self.files} if self.pipeline else {}
        return {**named, **asdict(self.options)}

    def load(self) -> Any:
        """Load the judges, and the pipeline if one is needed."""
        from zoomldm.pipeline.loading import load_pipeline, pick_device

        model = load_pipeline(self.pipeline, self.device) if self.pipeline else None
        return _judges(self.options.judge, pick_device(self.device)), model

    def run(self, loaded: Any, item: Item, progress: Progress) -> Mapping[str, Any]:
        """Measure a slide."""
        from zoomldm.evaluation.rate_study import rates_of

        self.parts.mkdir(parents=True, exist_ok=True)
        keep = self.keep or self.parts / f"{item.key}.rows.json"
        rows = rates_of(Path(item.source), loaded[0], self.options, loaded[1], keep, progress)
        return self.put(item, {"rows": rows}, {})


def _judges(folder: Path | None, device: Any) -> Any:
    from zoomldm.evaluation.comparison import Judges
    from zoomldm.evaluation.judge import load_judge
    from zoomldm.evaluation.public_features import PublicFeatures

    return Judges(PublicFeatures(device), load_judge(folder, device))


@dataclass(frozen=True)
class Measured:
    """Results of a measure over slides.

    Attributes:
        figures: merged figures of all measured slides.
        images: images of each measured slide, in order, by name.
        result: result of the run.
    """

    figures: dict[str, Any]
    images: list[dict[str, Any]]
    result: "Result"

    @property
    def slides(self) -> list[Path]:
        """Slides that could be measured."""
        return [Path(item.source) for item, _ in self.result.done]


@contextmanager
def measured(
    job_of: Callable[[Path], MeasureJob],
    cohort: "Cohort",
    running: "Running",
    page: Path,
    json: bool,
) -> Iterator[Measured]:
    """Measure each slide, let the caller write a page, then report failures.

    Args:
        job_of: returns the job for a folder of parts.
        cohort: the slides.
        running: how to run.
        page: the page; state and parts of a cohort go beside it, in `cohort-PAGE`.
        json: print nothing but errors.

    Raises:
        ZoomLDMError: no slide could be measured.
        SomeFailedError: some slides failed; raised after the page of the others is written.
    """
    from zoomldm.cli.cohort import end, run_slides
    from zoomldm.evaluation.parts import merge_figures, read_part

    plain = cohort.named and running.workers == 1 and running.ray is None
    if running.state is None and not plain:
        running = replace(running, state=page.parent / f"cohort-{page.stem}")
    state = running.state
    with TemporaryDirectory() if state is None else nullcontext(state / "parts") as folder:
        job: Any = job_of(Path(folder))
        result = run_slides(job, cohort, running, out=None, what="slides", json=json)
        if not result.done:
            end(result, "slides", "measured")
        parts = [read_part(job.output(item)) for item, _ in result.done]
        yield Measured(merge_figures([f for f, _ in parts]), [i for _, i in parts], result)
    end(result, "slides", "measured")
