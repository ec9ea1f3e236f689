"""Multiple-instance learning on slide features: models, protocols, the benchmark."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zoomldm.mil.bags import Bags, read_bags
    from zoomldm.mil.results import MilReport
    from zoomldm.mil.run import MilOptions, run_mil

__all__ = ["Bags", "MilOptions", "MilReport", "read_bags", "run_mil"]

_HOMES = {
    "Bags": "bags",
    "read_bags": "bags",
    "MilReport": "results",
    "run_mil": "run",
    "MilOptions": "run",
}


def __getattr__(name: str) -> object:
    """Import on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
