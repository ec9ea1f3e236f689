"""Errors meant for the user: what was found, what was expected, what to do."""


class ZoomLDMError(Exception):
    """A mistake or fault that the user can act on; printed in one line, exit code 2."""

    exit_code = 2


class SlideError(ZoomLDMError):
    """A slide that can't be opened, has no scale, no tissue or too many unreadable tiles."""


class ArchiveError(ZoomLDMError):
    """An archive that is no archive, of a newer format, or does not fit the pipeline."""


class DamagedError(ArchiveError):
    """Bytes that differ from their recorded digest."""


class PipelineError(ZoomLDMError):
    """A pipeline that can't be loaded or does not do what was asked."""


class RegionError(ZoomLDMError):
    """A region or level outside what a slide or archive has."""


class TargetError(ZoomLDMError):
    """An output that can't be written."""


class ConfigError(ZoomLDMError):
    """An option or setting out of its range."""


class SomeFailedError(ZoomLDMError):
    """Of several inputs some failed and some succeeded; the message lists them."""

    exit_code = 3
