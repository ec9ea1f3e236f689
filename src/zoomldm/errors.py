"""Errors for the user: what was found, what was expected, what to do."""


class ZoomLDMError(Exception):
    """An error that the user can act on; printed in one line, exit code 2."""

    exit_code = 2


class SlideError(ZoomLDMError):
    """A slide that can't be opened, has no scale, no tissue or too many unreadable tiles."""


class ArchiveError(ZoomLDMError):
    """A file that is not an archive, is of a newer format, or does not fit the pipeline."""


class DamagedError(ArchiveError):
    """Bytes that differ from their recorded digest."""


class PipelineError(ZoomLDMError):
    """A pipeline that can't be loaded or can't do what was requested."""


class RegionError(ZoomLDMError):
    """A region or level that a slide or archive does not have."""


class TargetError(ZoomLDMError):
    """An output that can't be written."""


class ConfigError(ZoomLDMError):
    """An option or setting that is out of range."""


class SomeFailedError(ZoomLDMError):
    """Some of several inputs failed and some succeeded; the message lists them."""

    exit_code = 3
