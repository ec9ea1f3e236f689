"""Outputs to URLs: written here whole, then uploaded in one piece."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from zoomldm.cli.jobs import CompressJob, DecompressJob, FeaturesJob, ImportJob
from zoomldm.cohort.items import Item
from zoomldm.errors import ConfigError, TargetError
from zoomldm.remote import RemotePath, check_target, check_writable, upload
from zoomldm.verbs import Progress

if TYPE_CHECKING:
    from zoomldm.cli.cohort import Running
    from zoomldm.cohort.items import Cohort

Uploadable = CompressJob | DecompressJob | FeaturesJob | ImportJob


@dataclass(frozen=True)
class UploadJob:
    """Another job whose outputs go to a URL.

    Attributes:
        job: the other job; its `out` is ignored.
        url: URL of a folder, ending in `/`, or of the output file of a single slide.
    """

    job: Uploadable
    url: str

    @property
    def verb(self) -> str:
        """The other job's verb."""
        return self.job.verb

    @property
    def settings(self) -> dict[str, Any]:
        """The other job's settings, and the URL."""
        return {**self.job.settings, "out": self.url}

    def load(self) -> Any:
        """Load what the other job needs."""
        return self.job.load()

    def _within(self, folder: str) -> Uploadable:
        return replace(self.job, out=Path(folder) / self.url.rpartition("/")[2])

    def output(self, item: Item) -> RemotePath:
        """The output's URL."""
        if not self.url.endswith("/"):
            return RemotePath(self.url)
        with TemporaryDirectory(prefix="zoomldm-") as folder:  # names depend on existing folders
            path = self._within(folder).output(item)
        return RemotePath(self.url + (path.name if path else item.key))

    def run(self, loaded: Any, item: Item, progress: Progress) -> Mapping[str, Any]:
        """Run the other job and upload its files, the requested one last."""
        with TemporaryDirectory(prefix="zoomldm-") as folder:
            job = self._within(folder)
            report = dict(job.run(loaded, item, progress))
            file = job.output(item)
            assert file is not None
            target = self.output(item).url
            beside = (p for p in sorted(Path(folder).iterdir()) if p != file and p.is_file())
            for path in (*(p for p in beside if not p.name.startswith(".")), file):
                progress("uploading", 0, 1)
                upload(path, target.rpartition("/")[0] + "/" + path.name)
            if "output" in report:
                report["output"] = target
            return {k: target if v == str(file) else v for k, v in report.items()}


def uploaded(
    job: Uploadable, url: str, cohort: "Cohort", running: "Running", endings: tuple[str, ...]
) -> UploadJob:
    """Return a job that uploads its outputs to a URL, checked before work begins.

    Args:
        job: the job; its `out` is ignored.
        url: URL of a folder or of a file.
        cohort: the inputs.
        running: how to run.
        endings: endings that the file's name may have; empty if only a folder will do.

    Raises:
        TargetError: not such a URL, or one of a kind that isn't written to.
        ConfigError: a cohort without a state folder.
        RemoteError: the URL is not writable.
    """
    check_target(url)
    if not url.endswith("/"):
        if len(cohort.items) > 1 or not endings:
            raise TargetError(f"{url}: expected the URL of a folder, which ends in /")
        if not url.lower().endswith(endings):
            known = ", ".join(endings)
            raise TargetError(f"{url}: expected a name ending in {known}, or in / for a folder")
    alone = cohort.named and running.workers == 1 and running.ray is None
    if not alone and running.state is None:
        raise ConfigError(
            f"{url}: needs --state FOLDER, where progress is recorded so that the same command "
            "can resume"
        )
    if not running.dry_run:
        check_writable(url)
    return UploadJob(job, url)
