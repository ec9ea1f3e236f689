"""Outputs behind URLs: made here, whole, and then put there in one piece."""

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
    """Another job whose outputs go behind a URL.

    Attributes:
        job: the other one; its `out` doesn't count.
        url: of a folder, which ends in `/`, or of the file that one slide becomes.
    """

    job: Uploadable
    url: str

    @property
    def verb(self) -> str:
        """The other job's."""
        return self.job.verb

    @property
    def settings(self) -> dict[str, Any]:
        """The other job's, and where to."""
        return {**self.job.settings, "out": self.url}

    def load(self) -> Any:
        """What the other job loads."""
        return self.job.load()

    def _within(self, folder: str) -> Uploadable:
        return replace(self.job, out=Path(folder) / self.url.rpartition("/")[2])

    def output(self, item: Item) -> RemotePath:
        """The URL."""
        if not self.url.endswith("/"):
            return RemotePath(self.url)
        with TemporaryDirectory(prefix="zoomldm-") as folder:  # names depend on folders that exist
            made = self._within(folder).output(item)
        return RemotePath(self.url + (made.name if made else item.key))

    def run(self, loaded: Any, item: Item, progress: Progress) -> Mapping[str, Any]:
        """Do the other job and put there what it made, the file that is asked for last."""
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
    """A job with its outputs behind a URL, checked before work begins.

    Args:
        job: whose `out` doesn't count.
        url: of a folder, or of a file.
        cohort: what is worked on.
        running: how.
        endings: that the file's name may have; empty where it has to be a folder.

    Raises:
        TargetError: not such a URL, or one that isn't written to.
        ConfigError: a cohort that keeps no state.
        RemoteError: nothing can be written there.
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
            f"{url}: say with --state FOLDER where it is kept what was done, so that the same "
            "command goes on"
        )
    if not running.dry_run:
        check_writable(url)
    return UploadJob(job, url)
