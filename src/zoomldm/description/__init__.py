"""Archive and pipeline to numbers: a slide as a few features, written for other tools."""

from zoomldm.description.extract import FeatureOptions, FeatureReport, features

__all__ = ["FeatureOptions", "FeatureReport", "features"]
