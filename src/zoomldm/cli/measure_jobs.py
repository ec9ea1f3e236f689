"""What `zoomldm evaluate` does to each slide of a cohort; its figures are read as one page."""

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
    """What all measures have in common.

    Attributes:
        parts: folder of what is measured, a file a slide.
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
    """`zoomldm evaluate networks`; other attributes as of `CompressJob`."""

    verb = "evaluate networks"
    options: "NetworksOptions"
    pipeline: str
    files: str
    device: str

    @property
    def settings(self) -> dict[str, Any]:
        """What figures depend on."""
        return {
            "pipeline": self.pipeline,
            "pipeline files": self.files,
            "tiles": self.options.tiles,
            "judge": self.options.judge,
        }

    def load(self) -> Any:
        """The pipeline."""
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
        """What figures depend on."""
        named = {"pipeline": self.pipeline, "pipeline files": self.files}
        return {**named, **asdict(self.options)}

    def load(self) -> Any:
        """The pipeline and the judges."""
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
        keep: file in which rows are kept as they come, where one process writes it.
        pipeline, files, device: of archives that are made; empty where none are.
    """

    verb = "evaluate rates"
    options: "RatesOptions"
    keep: Path | None
    pipeline: str = ""
    files: str = ""
    device: str = "auto"

    @property
    def settings(self) -> dict[str, Any]:
        """What figures depend on."""
        named = {"pipeline": self.pipeline, "pipeline files": self.files} if self.pipeline else {}
        return {**named, **asdict(self.options)}

    def load(self) -> Any:
        """The judges, and the pipeline where there is one."""
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
    """What came of a measure over slides.

    Attributes:
        figures: of all that could be measured, as one.
        images: the same, by slide in order, each by name.
        result: of the run.
    """

    figures: dict[str, Any]
    images: list[dict[str, Any]]
    result: "Result"

    @property
    def slides(self) -> list[Path]:
        """What could be measured."""
        return [Path(item.source) for item, _ in self.result.done]


@contextmanager
def measured(
    job_of: Callable[[Path], MeasureJob],
    cohort: "Cohort",
    running: "Running",
    page: Path,
    json: bool,
) -> Iterator[Measured]:
    """Measure each slide; within it a page is written, and after it what failed is told.

    Args:
        job_of: from the folder of parts to what is done to a slide.
        cohort: the slides.
        running: how.
        page: state and parts of a cohort lie beside it, in `cohort-PAGE`.
        json: print nothing but errors.

    Raises:
        ZoomLDMError: no slide could be measured.
        SomeFailedError: some could not, after the page of the others.
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
