"""Multiple-instance learning on the features of slides: models, protocols, the benchmark."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoomldm.mil.bags import Bags, read_bags
    from zoomldm.mil.report import Report
    from zoomldm.mil.run import run_mil

__all__ = ["Bags", "Report", "read_bags", "run_mil"]

_HOMES = {"Bags": "bags", "read_bags": "bags", "Report": "report", "run_mil": "run"}


def __getattr__(name: str) -> Any:
    """Import on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
